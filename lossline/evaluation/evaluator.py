"""Measure every checkpoint of every run on every set, once, into the runs' loss tables."""

from __future__ import annotations

import enum
import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from lossline import tables
from lossline.errors import UserError
from lossline.evaluation.losses import MeasurementKey, RunLosses, failed_row, measured_row
from lossline.evaluation.measures import Layout, Measure
from lossline.evaluation.packing import RowLayout
from lossline.evaluation.progress import EvaluationProgress
from lossline.evaluation.restoring import CheckpointUnreadable, RunModel
from lossline.evaluation.scoring import Scorer
from lossline.evaluation.sets import EvaluationSet, SetLibrary
from lossline.evaluation.windows import LongDocuments, WindowRule
from lossline.options.columns import option_columns
from lossline.runs.run_directory import RunDirectory, RunState
from lossline.sharding import BATCH_AXES, MeshOptions, make_mesh, make_rules
from lossline.sharding.mesh import require_divisible
from lossline.stores.task_store import TaskStore
from lossline.tables.schema import FACTS, of_run
from lossline.training.text import component_tokens


class AccuracyAt(enum.Enum):
    """Checkpoints for which the wrong answers of a benchmark are scored too, for the accuracy.

    LAST: the last checkpoint of a run that has ended. ALL: every checkpoint. NONE: no checkpoint.
    """

    LAST = "last"
    ALL = "all"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of ``lossline.evaluate``.

    Attributes:
        runs: run directories, or folders of run directories.
        sets: evaluation sets.
        context: tokens of a window. None: the context length of the run's training.
        stride: tokens by which windows move forward in a longer document. None: half the context.
        long_documents: rule for documents longer than the context.
        batch_size: rows per call of the model. It does not change results.
        rows: several texts per row ("packed"), or one ("padded").
        accuracy: checkpoints that get an accuracy in addition to the loss of the gold answers. A
            benchmark whose questions have one answer each (HumanEval, MBPP) never gets one.
        activations: type to compute in, whatever the run was trained in. With float32 (and products
            in full precision) the sums do not depend on the shape of the batch, except for the last
            rounding; on accelerators it takes several times as long as bfloat16. "": the model's
            own type.
        steps: measure only these checkpoints. Empty: all kept checkpoints.
        watch: keep running and measure new checkpoints until all runs have ended.
        poll_seconds: seconds between two searches for new checkpoints.
        mesh: devices; rows are split over ``data`` and ``fsdp``.
        compilation_cache: folder of compiled programs. Default: .compilation_cache next to the
            first run; "off": none.
    """

    runs: tuple[str, ...]
    sets: tuple[EvaluationSet, ...]
    context: int | None = None
    stride: int | None = None
    long_documents: LongDocuments = LongDocuments.SLIDE
    batch_size: int = 16
    rows: RowLayout = RowLayout.PACKED
    accuracy: AccuracyAt = AccuracyAt.LAST
    activations: str = "float32"
    steps: tuple[int, ...] = ()
    watch: bool = False
    poll_seconds: float = 10.0
    mesh: MeshOptions = field(default_factory=MeshOptions)
    compilation_cache: str | None = None


@dataclass(frozen=True)
class _Measurement:
    """A row of the loss table to measure: one set at one checkpoint."""

    set: EvaluationSet
    key: MeasurementKey
    measure: Measure


def evaluate(options: EvaluateOptions) -> None:
    """Measure what is not measured yet, and print a summary.

    Raises:
        UserError: a run or set is missing, or a set is empty or has another vocabulary; raised
            before anything is measured.
    """
    Evaluator(options).run()


class Evaluator:
    """The runs and sets of one call of ``lossline.evaluate``."""

    def __init__(
        self, options: EvaluateOptions, *, progress: EvaluationProgress | None = None
    ) -> None:
        _check(options)
        self._options = options
        self._mesh = make_mesh(options.mesh)
        self._rules = make_rules(options.mesh.rules)
        groups = math.prod(self._mesh.shape[axis] for axis in BATCH_AXES)
        require_divisible(
            "evaluate.batch_size",
            options.batch_size,
            "devices along data × fsdp",
            groups,
            devices=self._mesh.size,
        )
        layout = Layout(batch_size=options.batch_size, groups=groups, rows=options.rows)
        self._library = SetLibrary(layout)
        self._progress = progress or EvaluationProgress()
        self._measured = 0
        self._failures: list[str] = []

    def run(self) -> None:
        """Measure until nothing is left; with ``watch``, until all runs have ended."""
        runs = find_runs(self._options.runs)
        self._use_compilation_cache(runs[0])
        with ExitStack() as stack:
            losses = {run.path: stack.enter_context(RunLosses(run.path)) for run in runs}
            for run in runs:
                losses[run.path].restate(run_columns(run))
            while True:
                # Check this before listing checkpoints: a run that ends in between gets one more
                # round.
                waiting = self._options.watch and any(not has_ended(run) for run in runs)
                self._round(runs, losses)
                if not waiting:
                    break
                time.sleep(self._options.poll_seconds)
        self._report(runs)

    def _round(self, runs: Sequence[RunDirectory], losses: Mapping[Path, RunLosses]) -> None:
        """Measure everything that exists now and is not measured."""
        work = [(run, steps) for run in runs if (steps := self._pending(run, losses[run.path]))]
        for _, steps in work:
            self._progress.expect(
                sum(m.measure.texts.num_tokens for ms in steps.values() for m in ms)
            )
        # Runs of one shape follow each other, so that they use the same compiled program.
        for run, steps in sorted(work, key=lambda item: shape_key(item[0])):
            self._measure_run(run, steps, losses[run.path])

    def _pending(self, run: RunDirectory, losses: RunLosses) -> dict[int, list[_Measurement]]:
        """Return what is not measured yet, by checkpoint.

        Opens every set first, so that an error in one stops the program before any work.
        """
        steps = run.kept_checkpoint_steps()
        if not steps:
            return {}
        facts = run.facts
        last = steps[-1] if has_ended(run) else None
        wanted = [step for step in steps if not self._options.steps or step in self._options.steps]
        measurements = {
            step: [self._measurement(s, facts, step, last=step == last) for s in self._options.sets]
            for step in wanted
        }
        pending = {
            step: [m for m in some if not losses.holds(m.key)]
            for step, some in measurements.items()
        }
        return {step: some for step, some in pending.items() if some}

    def _measurement(
        self, evaluation_set: EvaluationSet, facts: Mapping[str, Any], step: int, *, last: bool
    ) -> _Measurement:
        options = self._options
        store = self._library.store(evaluation_set, facts)
        with_accuracy = (
            isinstance(store, TaskStore)
            and store.has_choices
            and (
                options.accuracy is AccuracyAt.ALL or (last and options.accuracy is AccuracyAt.LAST)
            )
        )
        context = options.context or int(facts["context_length"])
        rule = WindowRule(
            context=context,
            stride=options.stride or max(1, context // 2),
            long_documents=evaluation_set.long_documents or options.long_documents,
        )
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

    def _measure_run(
        self, run: RunDirectory, steps: Mapping[int, Sequence[_Measurement]], losses: RunLosses
    ) -> None:
        model = RunModel(
            run, activations=self._options.activations, mesh=self._mesh, rules=self._rules
        )
        for step, state in model.states(list(steps)):
            self._progress.start()
            checkpoint = checkpoint_columns(run, step)
            rows = []
            for measurement in steps[step]:
                rows.append(self._row(checkpoint, measurement, model.scorer, state))
                self._progress.advance(
                    measurement.measure.texts.num_tokens, f"{run.name} step {step}"
                )
            losses.put(rows)
        losses.flush()

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
        if isinstance(state, CheckpointUnreadable):
            row = failed_row(checkpoint, key, kind, str(state))
        else:
            try:
                nats = scorer.nats_per_text(state, measurement.measure.texts)
                row = measured_row(checkpoint, key, kind, measurement.measure.sums(nats))
            except jax.errors.JaxRuntimeError as error:  # out of memory, a lost device
                row = failed_row(checkpoint, key, kind, f"{type(error).__name__}: {error}")
        if row["status"] == tables.Status.FAILED:
            where = f"{checkpoint['run_id']} step {key.step} on {key.eval_set}"
            self._failures.append(where)
            self._progress.say(f"evaluate: {where} failed: {row['message']}")
        else:
            self._measured += 1
        return row

    def _use_compilation_cache(self, run: RunDirectory) -> None:
        """Set the cache before the first compilation; JAX reads it only once."""
        folder = self._options.compilation_cache or str(run.path.parent / ".compilation_cache")
        if folder != "off":
            jax.config.update("jax_compilation_cache_dir", str(Path(folder).resolve()))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

    def _report(self, runs: Sequence[RunDirectory]) -> None:
        empty = [run.name for run in runs if not run.kept_checkpoint_steps()]
        if empty:
            self._progress.say(f"evaluate: no checkpoint yet in {', '.join(empty)}")
        failed = (
            f"; {len(self._failures)} failed (the reason is in the column message)"
            if self._failures
            else ""
        )
        what = f"{self._measured} measured" if self._measured else "nothing left to measure"
        self._progress.say(f"evaluate: {len(runs)} runs: {what}{failed}")


def find_runs(paths: Sequence[str]) -> list[RunDirectory]:
    """Return the run directories among ``paths``, and those directly inside the other folders.

    Raises:
        UserError: a path is missing, or is neither a run directory nor a folder of run directories.
    """
    found: dict[Path, RunDirectory] = {}
    for name in paths:
        path = Path(name)
        inside = sorted(path.glob("*/config.json")) if path.is_dir() else []
        if (path / "config.json").is_file() or not inside:
            candidates = [path]  # RunDirectory.open says what is wrong with it
        else:
            candidates = [config.parent for config in inside]
        for candidate in candidates:
            found.setdefault(candidate.resolve(), RunDirectory.open(candidate))
    return list(found.values())


def has_ended(run: RunDirectory) -> bool:
    """Return whether no more checkpoints will come.

    The run records that it has ended, or it records "running" but no process is alive (killed).
    """
    return run.status.state is not RunState.RUNNING or not run.is_locked()


def run_columns(run: RunDirectory) -> dict[str, Any]:
    """Return the run's columns of the loss table: its facts, and every option of its identity."""
    facts = run.facts
    named = {name: facts.get(name) for name in (*FACTS, *of_run(facts))}
    return named | option_columns(run.config)


def checkpoint_columns(run: RunDirectory, step: int) -> dict[str, Any]:
    """Return the columns known before measuring: of the run, and of the checkpoint."""
    facts = run.facts
    tokens = step * facts["tokens_per_step"]
    return run_columns(run) | {
        "step": step,
        "tokens": tokens,
        "flops": tokens * facts["flops_per_token"],
        **component_tokens(facts, step),
    }


def shape_key(run: RunDirectory) -> str:
    """Return a key that is equal for runs that share a compilation."""
    return json.dumps([run.config["model"], run.facts["vocabulary_hash"]], sort_keys=True)


def _check(options: EvaluateOptions) -> None:
    if not options.runs:
        raise UserError("evaluate.runs is empty. Give a run directory, or a folder of them.")
    if not options.sets:
        raise UserError("evaluate.sets is empty. Give at least one evaluation set.")
    names = [s.name for s in options.sets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"evaluate.sets: two sets are named {twice[0]!r}. Give every set its own name."
        )
    if options.batch_size < 1:
        raise UserError(f"evaluate.batch_size = {options.batch_size}: must be at least 1")
