"""Implementation of ``python -m lossline.dynamics``."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence

import pandas as pd

from lossline.cli.table_inputs import fingerprint_of, provenance, say_since
from lossline.errors import UserError
from lossline.options.identity import not_identity
from lossline.places import to_path
from lossline.token_curves.follow import Follower, Model
from lossline.token_curves.options import FollowOptions
from lossline.token_dynamics.analysis import analyze
from lossline.token_dynamics.files import DYNAMICS_FOLDER, save_dynamics
from lossline.token_dynamics.results import TokenDynamics
from lossline.token_dynamics.summary import summary

# Packages whose code the results depend on.
_ROOMS = ("token_curves", "token_dynamics", "batches", "evaluation", "models", "ops")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicsCommand(FollowOptions):
    """Options of ``lossline.dynamics``: those of ``FollowOptions``, and these.

    Attributes:
        out: folder for the results.
        replace: whether to replace an earlier result of other inputs at ``out``; other folders are
            never replaced.
        report: whether to make figures, report.html and text.html.
    """

    out: str = not_identity("")
    replace: bool = not_identity(False)
    report: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.out:
            raise UserError("missing binding: dynamics.out. Add --out=FOLDER for the results.")


def dynamics(options: DynamicsCommand) -> TokenDynamics | None:
    """Follow the tokens, and write and print what is found.

    Returns:
        The results; None if the folder is up to date.

    Raises:
        UserError: an input is missing or wrong, or ``out`` contains something else.
    """
    out = to_path(options.out, "dynamics.out")
    follower = Follower(options)
    wanted = _fingerprint(options, follower, follower.models)
    if DYNAMICS_FOLDER.is_up_to_date(out, wanted, replace=options.replace):
        print((out / "summary.txt").read_text(encoding="utf-8").rstrip())
        print(f"{out} is up to date")
        return None
    started = time.monotonic()
    say = functools.partial(say_since, started)
    followed = follower.follow()
    # Of what could be measured: a checkpoint that was left out is tried again at the next start.
    fingerprint = _fingerprint(options, follower, followed.measured)
    with DYNAMICS_FOLDER.writing(out, fingerprint) as partial:
        say("classes and intervals")
        found = analyze(
            follower.drawn.sample,
            followed.curves,
            options,
            reference=followed.reference,
            reference_nats=followed.reference_nats,
            notes=[*_notes(follower, options), *followed.notes],
        )
        about = provenance("dynamics", [model.run.name for model in followed.measured], fingerprint)
        about = {"runs": about.pop("table"), "store": follower.store.location, **about}
        about |= follower.form
        save_dynamics(found, options, partial, about)
        text = summary(found, options)
        (partial / "summary.txt").write_text(text + "\n", encoding="utf-8")
        if options.report:
            from lossline.reporting.token_dynamics.report import write_dynamics_report

            say("figures and report")
            write_dynamics_report(found, options, partial, provenance=about, say=say)
    print(text)
    print(f"Results: {out / 'report.html' if options.report else out}", flush=True)
    return found


def _notes(follower: Follower, options: DynamicsCommand) -> list[str]:
    notes = []
    sample = follower.drawn.sample
    if len(sample.positions) < options.tokens:
        notes.append(
            f"The store has only {len(sample.positions):,} tokens in whole windows; "
            f"dynamics.tokens asks for {options.tokens:,}."
        )
    if sample.pieces is None:
        notes.append(
            f"No text is shown: name the tokenizer {follower.store.manifest.vocabulary.name} in "
            "dynamics.vocabulary."
        )
    return notes


def _fingerprint(options: DynamicsCommand, follower: Follower, models: Sequence[Model]) -> str:
    """Return the SHA-256 (hex) of everything that the results depend on."""
    store = follower.store.manifest.fingerprint
    named = [("run", model) for model in models]
    if follower.reference is not None:
        named.append(("reference", follower.reference))
    rows = [
        {"role": role, "run": model.run.name, "step": step, "parameters": parameters,
         "store": store, **follower.form}
        for role, model in named
        for step, parameters in zip(model.steps, model.parameters, strict=True)
    ]  # fmt: skip
    return fingerprint_of(pd.DataFrame(rows), options, _ROOMS)
