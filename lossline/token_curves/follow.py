"""Measure the losses of a fixed sample of tokens under every checkpoint of every run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lossline.errors import UserError
from lossline.evaluation.measured_runs import checkpoint_columns, find_runs
from lossline.evaluation.options import Devices, require_runs, use_compilation_cache
from lossline.evaluation.progress import EvaluationProgress
from lossline.evaluation.restoring import MeasurementFailed, not_finite
from lossline.evaluation.sets import EvaluationSet, SetLibrary
from lossline.evaluation.token_values import TokenMeasurer
from lossline.runs.checkpoints import parameters_fingerprint
from lossline.runs.run_directory import RunDirectory
from lossline.stores.token_store import TokenStore
from lossline.token_curves.options import FollowOptions
from lossline.token_curves.sample import DrawnWindows, draw_windows
from lossline.token_dynamics.results import RunCurves
from lossline.token_dynamics.trends import FEWEST_CHECKPOINTS
from lossline.training.options import Documents


@dataclass(frozen=True, kw_only=True)
class Model:
    """A run with the checkpoints to measure, and the parameters' fingerprint of each."""

    run: RunDirectory
    steps: tuple[int, ...]
    parameters: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Followed:
    """Measured losses.

    Attributes:
        curves: one item per run.
        measured: the same runs with the checkpoints that could be measured.
        reference: run and step of the reference, in words; "" for none.
        reference_nats: losses under the reference, float32 [N]; None without one.
        notes: sentences on what was left out.
    """

    curves: tuple[RunCurves, ...]
    measured: tuple[Model, ...]
    reference: str
    reference_nats: np.ndarray | None
    notes: tuple[str, ...]


class Follower:
    """The runs, the reference and the sample of one call of ``lossline.dynamics``.

    Args:
        options: options.
        progress: progress line.

    Attributes:
        models: runs and checkpoints to measure.
        reference: the reference with its checkpoint; None without one.
        store: the validation store.
        drawn: the sample.

    Raises:
        UserError: a run, checkpoint or store is missing, a run has too few checkpoints, two runs
            differ in vocabulary, or the reference is a run or checkpoint that is followed. Nothing
            is measured before.
    """

    def __init__(
        self, options: FollowOptions, *, progress: EvaluationProgress | None = None
    ) -> None:
        self._options = options
        require_runs(options.runs, verb="dynamics")
        self._devices = Devices(options, verb="dynamics")
        self._progress = progress or EvaluationProgress(label="dynamics")
        runs = find_runs(options.runs)
        _require_different_names(runs)
        self.models = tuple(_followed(run, options) for run in runs)
        self.reference = _reference(options, self.models)
        every = [*runs, *([self.reference.run] if self.reference else [])]
        self.store = _store(options, self._devices, every)
        self._length = options.context_length or _common(runs, "context_length")
        self._separate = _documents(options, runs) is Documents.SEPARATE
        self._models = {run.path: self._devices.model(run) for run in every}
        self._measurers = {
            path: TokenMeasurer(model, batch_size=self._devices.layout.batch_size)
            for path, model in self._models.items()
        }
        for measurer in self._measurers.values():
            measurer.require_length(self._length, where="dynamics.context_length")
        self.drawn: DrawnWindows = draw_windows(self.store, options, context_length=self._length)

    @property
    def form(self) -> dict[str, Any]:
        """Form of the windows: ``context_length`` and ``documents``."""
        rule = Documents.SEPARATE if self._separate else Documents.JOINED
        return {"context_length": self._length, "documents": rule.value}

    def follow(self) -> Followed:
        """Measure everything and return it.

        A checkpoint that cannot be measured is left out by name.

        Raises:
            UserError: the reference cannot be measured, or fewer than 5 checkpoints of a run can.
        """
        use_compilation_cache(self._options.compilation_cache, beside=self.models[0].run.path)
        models = [*([self.reference] if self.reference else []), *self.models]
        tokens = self.drawn.batch.targets.size
        self._progress.expect(tokens * sum(len(model.steps) for model in models))
        reference = None
        if self.reference is not None:
            _, losses, failed = self._measured(self.reference)
            if failed:
                raise UserError(f"dynamics.reference: {failed[0]}")
            reference = losses[0]
        curves, measured, notes = [], [], []
        for model in self.models:
            kept, losses, failed = self._measured(model)
            notes += [f"Left out: {reason}" for reason in failed]
            if len(kept.steps) < FEWEST_CHECKPOINTS:
                raise UserError(
                    f"run {model.run.path}: only {len(kept.steps)} checkpoints can be measured; a "
                    f"slope needs {FEWEST_CHECKPOINTS}. First failure: {failed[0]}"
                )
            seen = [checkpoint_columns(model.run, step)["tokens"] for step in kept.steps]
            measured.append(kept)
            curves.append(
                RunCurves(
                    run=model.run.name, steps=kept.steps, tokens=tuple(seen),
                    nats=np.stack(losses),
                )
            )  # fmt: skip
        return Followed(
            curves=tuple(curves),
            measured=tuple(measured),
            reference=_name(self.reference),
            reference_nats=reference,
            notes=tuple(notes),
        )

    def _measured(self, model: Model) -> tuple[Model, list[np.ndarray], list[str]]:
        """Return the checkpoints that could be measured, their losses [N], and the failures."""
        kept, losses, failed = [], [], []
        batch = self.drawn.batch
        measurer = self._measurers[model.run.path]
        for step, state in self._models[model.run.path].states(model.steps):
            where = f"{model.run.name} step {step}"
            self._progress.start()
            try:
                nats = measurer.measure(
                    state,
                    batch.inputs,
                    batch.targets,
                    batch.segment_ids if self._separate else None,
                )["nats"].ravel()
                if not np.isfinite(total := nats.sum(dtype=np.float64)):
                    raise MeasurementFailed(not_finite(total))
            except MeasurementFailed as error:
                failed.append(f"{where}: {' '.join(str(error).split())}")
                self._progress.say(f"dynamics: left out {failed[-1]}")
            else:
                kept.append(step)
                losses.append(nats)
            self._progress.advance(batch.targets.size, where)
        known = dict(zip(model.steps, model.parameters, strict=True))
        found = Model(
            run=model.run, steps=tuple(kept), parameters=tuple(known[step] for step in kept)
        )
        return found, losses, failed


def _followed(run: RunDirectory, options: FollowOptions) -> Model:
    steps = run.kept_checkpoint_steps()
    if missing := sorted(set(options.steps) - set(steps)):
        raise UserError(
            f"dynamics.steps: run {run.path} has no kept checkpoint {missing[0]}. It has "
            f"{_listed(steps)}."
        )
    steps = sorted(set(options.steps)) or steps
    if len(steps) < FEWEST_CHECKPOINTS:
        raise UserError(
            f"run {run.path} has {len(steps)} kept checkpoints: a slope needs at least "
            f"{FEWEST_CHECKPOINTS}. Leave the run out, or train it with more kept checkpoints."
        )
    return _with_fingerprints(run, steps)


def _reference(options: FollowOptions, models: Sequence[Model]) -> Model | None:
    if not options.reference:
        return None
    run = RunDirectory.open(options.reference)
    steps = run.kept_checkpoint_steps()
    step = options.reference_step
    if step is None and steps:
        step = steps[-1]
    if step is None or step not in steps:
        wanted = "kept checkpoint" if step is None else f"kept checkpoint {step}"
        raise UserError(
            f"dynamics.reference: run {run.path} has no {wanted}. It has {_listed(steps)}."
        )
    found = _with_fingerprints(run, [step])
    for model in models:
        same = run.path.resolve() == model.run.path.resolve()
        if same or found.parameters[0] in model.parameters:
            raise UserError(
                f"dynamics.reference: {run.path} step {step} is run {model.run.path} itself or one "
                "of its checkpoints, so its excess loss says nothing. Give another run."
            )
    return found


def _with_fingerprints(run: RunDirectory, steps: Sequence[int]) -> Model:
    parameters = tuple(parameters_fingerprint(run, step) for step in steps)
    return Model(run=run, steps=tuple(steps), parameters=parameters)


def _store(options: FollowOptions, devices: Devices, runs: Sequence[RunDirectory]) -> TokenStore:
    """Return the store, which must be the same for all runs and have their vocabulary."""
    source = EvaluationSet(name="dynamics", path=options.store)
    library = SetLibrary(devices.layout)
    stores = [(run, library.store(source, run.facts)) for run in runs]
    first_run, first = stores[0]
    for run, store in stores[1:]:
        if store.manifest.fingerprint != first.manifest.fingerprint:
            raise UserError(
                f"dynamics.store: {options.store} is {first.location} for run {first_run.path} and "
                f"{store.location} for run {run.path}. Follow runs of one vocabulary, on one store."
            )
    assert isinstance(first, TokenStore)
    return first


def _documents(options: FollowOptions, runs: Sequence[RunDirectory]) -> Documents:
    if options.documents is not None:
        return options.documents
    # Runs that lossline.convert wrote record no training, so nothing on its documents.
    rules = {run.config.get("documents", Documents.JOINED.value) for run in runs}
    if len(rules) > 1:
        raise UserError(
            "dynamics.documents: the runs were trained with joined and with separate documents. "
            "Set dynamics.documents to one of them, for all runs."
        )
    return Documents(rules.pop())


def _common(runs: Sequence[RunDirectory], fact: str) -> int:
    values = sorted({int(run.facts[fact]) for run in runs})
    if len(values) > 1:
        raise UserError(
            f"dynamics.{fact}: the runs have {_listed(values)}, and their windows must be the "
            f"same. Set dynamics.{fact} to {values[0]}."
        )
    return values[0]


def _require_different_names(runs: Sequence[RunDirectory]) -> None:
    found: dict[str, Path] = {}
    for run in runs:
        if found.setdefault(run.name, run.path) is not run.path:
            raise UserError(
                f"dynamics.runs: {found[run.name]} and {run.path} are both named {run.name!r}. "
                "Rename one."
            )


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values)) if values else "none"


def _name(model: Model | None) -> str:
    return "" if model is None else f"{model.run.name} step {model.steps[0]}"
