"""The text of a grid of runs, and of a study whose other parts a person fills in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lossline.design import Candidate
from lossline.studies.grid import INCLUDE, LEVELS
from lossline.tables.schema import SHARE


@dataclass(frozen=True, kw_only=True)
class StudyText:
    """A study as gin text.

    Attributes:
        text: the text of a gin file.
        notes: what a person should look at before starting it.
    """

    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Macro:
    """A part that stands under a name in the gin file: ``%NAME``."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


def listed_text(runs: Sequence[Mapping[str, Any]], scope: str = "") -> str:
    """Return ``listed.runs`` with one run per line."""
    owner = f"{scope}/listed" if scope else "listed"
    lines = [f"    {_gin(run)}," for run in runs]
    return "\n".join([f"{owner}.runs = [", *lines, "]"]) + "\n"


def study_to_fill_in(picks: Sequence[Candidate]) -> StudyText:
    """Return a study of these runs for a table that no study here has made.

    Sizes, tokens and levels are given. What the table cannot know (models, token stores,
    measurements) is a macro that is not set; ``study`` names the first one that is missing.

    Args:
        picks: the runs.
    """
    parts: dict[str, str] = {
        "RUN": "one training run: batch, optimizer, schedule; as gin_configs/runs/quickstart.gin",
        "EVALUATE": "what is measured; as gin_configs/evaluation/quickstart.gin",
    }
    runs = [_run(pick, parts) for pick in _numbered(picks)]
    parts = dict(sorted(parts.items(), key=lambda part: part[0].startswith("MODEL")))
    width = max(len(name) for name in parts)
    missing = [f'# {name:{width}s} = "…"  # {what}' for name, what in parts.items()]
    text = "\n".join(
        [
            "# Fill in: take away the # of each line below, and give the path of your file.",
            *missing,
            "",
            'study.name = "next-runs"',
            "study.run_gin_file = %RUN",
            "study.grid = @listed()",
            "study.evaluate = @measure/command()",
            "study.fit = @fit/command()",
            'measure/command.verb = "evaluate"',
            'measure/command.title = "measure every checkpoint on every set"',
            "measure/command.gin_file = %EVALUATE",
            'fit/command.verb = "fit"',
            'fit/command.title = "fit the lines"',
            'fit/command.gin_file = "gin_configs/fits/default.gin"',
            "",
            listed_text(runs),
        ]
    )
    return StudyText(
        text=text,
        notes=(f"The grid needs {len(parts)} parts that the table does not have: see its top.",),
    )


def _numbered(picks: Sequence[Candidate]) -> list[tuple[Candidate, int]]:
    """Return each run with the number of equal ones before it: its seed."""
    return [(pick, sum(pick == other for other in picks[:k])) for k, pick in enumerate(picks)]


def _run(planned: tuple[Candidate, int], parts: dict[str, str]) -> dict[str, Any]:
    """Return a run of the grid; adds what a person must fill in to ``parts``."""
    pick, seed = planned
    shares = {
        name.removeprefix(SHARE): float(share)
        for name, share in pick.facts.items()
        if name.startswith(SHARE)
    }
    facts = {name: value for name, value in pick.facts.items() if not name.startswith(SHARE)}
    family = facts.get("architecture", "model")
    model = _macro("MODEL", *(family,) * ("architecture" in facts), short(pick.params))
    parts[model.name] = f"gin file of the {family} with {pick.params:.4g} parameters"
    levels = {"size": short(pick.params), "tokens": short(pick.tokens), **facts}
    run: dict[str, Any] = {LEVELS: levels, INCLUDE: model}
    if shares:
        parts["COMPONENTS"] = f"{{name: token store}} of {', '.join(shares)}"
        levels["mixture"] = "-".join(f"{name}{share:.3g}" for name, share in shares.items())
        run["train.store"] = "@mixture()"
        run["mixture.components"] = Macro("COMPONENTS")
        run["mixture.shares"] = shares
    else:
        text = {k: v for k, v in facts.items() if k in ("pretraining_data", "tokenizer")}
        store = _macro("STORE", *text.values())
        parts[store.name] = f"token store of {', '.join(text.values()) or 'the training text'}"
        run["train.store"] = store
    run["train.tokens"] = round(pick.tokens)
    if seed:
        levels["seed"] = f"seed-{seed}"
        run["train.seed"] = seed
    return run


def short(value: float) -> str:
    """Return a count for the name of a level: 417M, 1.24B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _macro(*parts: str) -> Macro:
    return Macro("_".join(re.sub(r"\W+", "_", part).strip("_") for part in parts if part).upper())


def _gin(value: Any) -> str:
    """Return a tree of dictionaries, lists, macros and plain values as gin text."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_gin(key)}: {_gin(item)}' for key, item in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_gin, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
