"""Measure every checkpoint of every run on every set, once, into the runs' loss tables.

With several processes, the first one holds the tables: it says what to measure and writes it. The
others open the same runs and sets, and compute their rows of every batch.
"""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lossline import tables
from lossline.errors import UserError
from lossline.evaluation.losses import MeasurementKey, RunLosses, failed_row, measured_row
from lossline.evaluation.measured_runs import (
    checkpoint_columns,
    has_ended,
    run_columns,
    runs_of_all,
    shape_key,
)
from lossline.evaluation.measures import Measure
from lossline.evaluation.options import (
    Devices,
    MeasureOptions,
    require_runs,
    use_compilation_cache,
)
from lossline.evaluation.progress import EvaluationProgress
from lossline.evaluation.restoring import MeasurementFailed, nats_of
from lossline.evaluation.scorer import Scorer
from lossline.evaluation.sets import EvaluationSet, SetLibrary
from lossline.heap import give_back_above
from lossline.runs.run_directory import RunDirectory
from lossline.sharding import ProcessGroup, joined
from lossline.stores.task_store import TaskStore


class AccuracyAt(enum.Enum):
    """Checkpoints for which the wrong answers of a benchmark are scored too, for the accuracy.

    LAST: the last checkpoint of a run that has ended. ALL: every checkpoint. NONE: no checkpoint.
    """

    LAST = "last"
    ALL = "all"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(MeasureOptions):
    """Options of ``lossline.evaluate``: those of ``MeasureOptions``, and these.

    Attributes:
        sets: evaluation sets.
        accuracy: checkpoints that get an accuracy in addition to the loss of the gold answers. A
            benchmark whose questions have one answer each (HumanEval, MBPP) never gets one.
        steps: measure only these checkpoints. Empty: all kept checkpoints.
        watch: keep running and measure new checkpoints until all runs have ended.
        poll_seconds: seconds between two searches for new checkpoints.
    """

    sets: tuple[EvaluationSet, ...]
    accuracy: AccuracyAt = AccuracyAt.LAST
    steps: tuple[int, ...] = ()
    watch: bool = False
    poll_seconds: float = 10.0


@dataclass(frozen=True)
class _Measurement:
    """A row of the loss table to measure: one set at one checkpoint."""

    set: EvaluationSet
    key: MeasurementKey
    measure: Measure


@dataclass(frozen=True)
class _RunWork:
    """A run, and what is not measured yet, by checkpoint."""

    run: RunDirectory
    losses: RunLosses | None  # None: another process writes them
    steps: Mapping[int, Sequence[_Measurement]]


def evaluate(options: EvaluateOptions) -> None:
    """Measure what is not measured yet, and print a summary.

    Raises:
        UserError: a run or set is missing, or a set is empty or has another vocabulary; raised
            before anything is measured.
    """
    with joined(options.launch, verb="evaluate") as group:
        with group.agreed():
            evaluator = Evaluator(options, group=group)
        evaluator.run()


class Evaluator:
    """The runs and sets of one call of ``lossline.evaluate``.

    Args:
        options: options.
        progress: progress line.
        group: the processes that measure together. None: this process alone.
    """

    def __init__(
        self,
        options: EvaluateOptions,
        *,
        progress: EvaluationProgress | None = None,
        group: ProcessGroup | None = None,
    ) -> None:
        _check(options)
        self._options = options
        self._group = group or ProcessGroup()
        require_runs(options.runs, verb="evaluate")
        self._devices = Devices(options, verb="evaluate", rows=options.rows, group=group)
        self._library = SetLibrary(self._devices.layout)
        self._progress = progress or EvaluationProgress(quiet=not self._group.first)
        self._measured = 0
        self._failures: list[str] = []

    def run(self) -> None:
        """Measure until nothing is left; with ``watch``, until all runs have ended."""
        runs = runs_of_all(self._group, self._options)
        use_compilation_cache(self._options.compilation_cache, beside=runs[0].path)
        with ExitStack() as stack:
            losses: dict[Path, RunLosses] = {}
            with self._group.agreed():
                for run in runs if self._group.first else ():
                    losses[run.path] = stack.enter_context(RunLosses(run.path))
                    losses[run.path].restate(run_columns(run))
            while True:
                # Check this before listing checkpoints: a run that ends in between gets one more
                # round.
                waiting = self._options.watch and self._group.first_says(
                    lambda: any(not has_ended(run) for run in runs)
                )
                self._round(runs, losses)
                if not waiting:
                    break
                if self._group.first:  # the others wait for its next message
                    time.sleep(self._options.poll_seconds)
        self._report(runs)

    def _round(self, runs: Sequence[RunDirectory], losses: Mapping[Path, RunLosses]) -> None:
        """Measure everything that exists now and is not measured."""
        work = [self._work(run, losses.get(run.path)) for run in runs]
        for item in work:
            self._progress.expect(
                sum(m.measure.texts.num_tokens for ms in item.steps.values() for m in ms)
            )
        # Runs of one shape follow each other, so that they use the same compiled program.
        for item in sorted(work, key=lambda item: shape_key(item.run)):
            if item.steps:
                self._measure_run(item)

    def _work(self, run: RunDirectory, losses: RunLosses | None) -> _RunWork:
        """Return what is not measured yet of a run: the first process says what.

        Opens every set first, so that an error in one stops the program before any work.
        """
        if self._group.count == 1:
            assert losses is not None
            return _RunWork(run, losses, self._pending(run, losses))
        mine: dict[int, list[_Measurement]] = {}

        def keys() -> list[list[Any]]:
            assert losses is not None
            mine.update(self._pending(run, losses))
            return [
                [self._options.sets.index(m.set), asdict(m.key)] for ms in mine.values() for m in ms
            ]

        theirs = [
            (self._options.sets[number], MeasurementKey(**key))
            for number, key in self._group.first_says(keys)
        ]
        with self._group.agreed():
            facts = run.facts
            for evaluation_set, key in () if self._group.first else theirs:
                made = self._measurement(
                    evaluation_set, facts, key.step, with_accuracy=key.with_accuracy
                )
                if made.key != key:
                    raise UserError(
                        f"evaluation set {evaluation_set.name} differs between processes: process "
                        f"0 reads a store with fingerprint {key.store[:12]}, process "
                        f"{self._group.index} one with {made.key.store[:12]}. Give all hosts the "
                        "same stores."
                    )
                mine.setdefault(key.step, []).append(made)
        return _RunWork(run, losses, mine)

    def _pending(self, run: RunDirectory, losses: RunLosses) -> dict[int, list[_Measurement]]:
        """Return what is not measured yet, by checkpoint."""
        steps = run.kept_checkpoint_steps()
        if not steps:
            return {}
        facts = run.facts
        last = steps[-1] if has_ended(run) else None
        wanted = [step for step in steps if not self._options.steps or step in self._options.steps]
        measurements = {
            step: [
                self._measurement(
                    s, facts, step, with_accuracy=self._wants_accuracy(s, facts, last=step == last)
                )
                for s in self._options.sets
            ]
            for step in wanted
        }
        pending = {
            step: [m for m in some if not losses.holds(m.key)]
            for step, some in measurements.items()
        }
        return {step: some for step, some in pending.items() if some}

    def _wants_accuracy(
        self, evaluation_set: EvaluationSet, facts: Mapping[str, Any], *, last: bool
    ) -> bool:
        store, at = self._library.store(evaluation_set, facts), self._options.accuracy
        wanted = at is AccuracyAt.ALL or (last and at is AccuracyAt.LAST)
        return wanted and isinstance(store, TaskStore) and store.has_choices

    def _measurement(
        self,
        evaluation_set: EvaluationSet,
        facts: Mapping[str, Any],
        step: int,
        *,
        with_accuracy: bool,
    ) -> _Measurement:
        options = self._options
        store = self._library.store(evaluation_set, facts)
        rule = options.rule(facts, long_documents=evaluation_set.long_documents)
        measure = self._library.measure(evaluation_set, facts, rule, with_accuracy=with_accuracy)
        limit = f" of {evaluation_set.max_documents}" if evaluation_set.max_documents else ""
        key = MeasurementKey(
            step=step,
            eval_set=evaluation_set.name,
            store=store.manifest.fingerprint,
            rule=f"{rule}{limit}",
            activations=options.activations or "model",
            with_accuracy=with_accuracy,
        )
        return _Measurement(set=evaluation_set, key=key, measure=measure)

    def _measure_run(self, work: _RunWork) -> None:
        run = work.run
        with self._group.agreed():
            model = self._devices.model(run)
        for step, state in model.states(list(work.steps)):
            self._progress.start()
            checkpoint = checkpoint_columns(run, step)
            rows = []
            for measurement in work.steps[step]:
                rows.append(self._row(checkpoint, measurement, model.scorer, state))
                self._progress.advance(
                    measurement.measure.texts.num_tokens, f"{run.name} step {step}"
                )
            give_back_above()
            if work.losses is not None:
                work.losses.put(rows)
        if work.losses is not None:
            work.losses.flush()

    def _row(
        self,
        checkpoint: Mapping[str, Any],
        measurement: _Measurement,
        scorer: Scorer,
        state: Any,
    ) -> dict[str, Any]:
        """Return a row of the loss table: measured, or failed with the reason.

        A failure does not stop the other rows.
        """
        key, kind = measurement.key, measurement.set.kind
        try:
            with self._group.agreed(MeasurementFailed):
                nats = nats_of(scorer, state, measurement.measure.texts)
            row = measured_row(checkpoint, key, kind, measurement.measure.sums(nats))
        except MeasurementFailed as error:
            row = failed_row(checkpoint, key, kind, str(error))
        if row["status"] == tables.Status.FAILED:
            where = f"{checkpoint['run_id']} step {key.step} on {key.eval_set}"
            self._failures.append(where)
            self._progress.say(f"evaluate: {where} failed: {row['message']}")
        else:
            self._measured += 1
        return row

    def _report(self, runs: Sequence[RunDirectory]) -> None:
        empty = [run.name for run in runs if not run.kept_checkpoint_steps()]
        if empty:
            self._progress.say(f"evaluate: no checkpoint yet in {', '.join(empty)}")
        there = {step for run in runs for step in run.kept_checkpoint_steps()}
        if nowhere := [str(step) for step in self._options.steps if step not in there]:
            self._progress.say(f"evaluate: no run has a checkpoint at step {', '.join(nowhere)}")
        failed = (
            f"; {len(self._failures)} failed (the reason is in the column message)"
            if self._failures
            else ""
        )
        what = f"{self._measured} measured" if self._measured else "nothing left to measure"
        self._progress.say(f"evaluate: {len(runs)} runs: {what}{failed}")


def _check(options: EvaluateOptions) -> None:
    if not 0 <= options.poll_seconds < math.inf:
        raise UserError(
            f"evaluate.poll_seconds = {options.poll_seconds}: must be a finite number, at least 0"
        )
    if not options.sets:
        raise UserError("evaluate.sets is empty. Give at least one evaluation set.")
    names = [s.name for s in options.sets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"evaluate.sets: two sets are named {twice[0]!r}. Give every set its own name."
        )
