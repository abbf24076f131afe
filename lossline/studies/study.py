"""A study from text to report: gather, prepare, train the grid, evaluate, fit.

Every step is one of our verbs in its own process and resumes by itself; what has been done is noted
in ``study.json``, keyed by everything that the step depends on, so that a finished step is not even
started again.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from lossline.cli.configuration import binding
from lossline.errors import UserError
from lossline.options.identity import identity
from lossline.options.roles import OWN_PREFIX
from lossline.places import local_path
from lossline.studies.grid import Grid, Point, unique
from lossline.studies.planned_run import PlannedRun, plan_run
from lossline.studies.processes import Job, run, run_many
from lossline.studies.progress import LogProgress, StudyProgress
from lossline.studies.record import StudyRecord, content_key, single
from lossline.tables import load, write
from lossline.terminal import announce


@dataclass(frozen=True, kw_only=True)
class Command:
    """One verb of a study with its gin file and bindings.

    Attributes:
        verb: ``gather``, ``prepare``, ….
        title: what it does, in a few words, for the person who watches.
        gin_file: the verb's gin file.
        flags: extra command-line flags, as ``--train_vocabulary``.
        bindings: gin key -> value. ``{study}`` in a text stands for the study's folder.
    """

    verb: str
    title: str
    gin_file: str
    flags: Sequence[str] = ()
    bindings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """A study.

    Attributes:
        name: the study's folder under ``root``.
        root: where studies live.
        before: commands before training (gathering, vocabularies, stores), in order.
        run_gin_file: base gin file of every run; the grid's points refine it.
        grid: the runs.
        evaluate: command that measures every checkpoint; the study binds its ``evaluate.runs``.
        fit: command that fits the lines and writes the report; the study binds its table and
            folder.
        processes: trainings at a time; 0 = one per core (8 at most) on a CPU, one on an
            accelerator.
        dry_run: print what would run, and stop.
        commands: print the command of every training that is not finished, and stop: for a cluster
            that runs them side by side. Started again afterwards, the study goes on from there.
    """

    name: str
    root: str = "runs"
    before: Sequence[Command] = ()
    run_gin_file: str
    grid: Grid
    evaluate: Command
    fit: Command
    processes: int = 0
    dry_run: bool = False
    commands: bool = False

    @property
    def folder(self) -> Path:
        return local_path(self.root, "study.root") / self.name


def run_study(options: StudyOptions) -> None:
    """Runs what is not done yet, printing each step's name, its progress and, at the end, the
    verdict and the report's path.

    Raises:
        UserError: a binding of the study or of any of its runs is wrong (checked before anything
            starts), another process works on the study, a step refused its input, or a run's store
            does not exist after the commands before training.
        ChildFailed: a step broke; what it had done is kept.
    """
    folder = options.folder
    runs = [_planned(options, point) for point in unique(options.grid.points())]
    steps = len(options.before) + 3
    if options.commands:
        _print_commands(options, runs)
        return
    if options.dry_run:
        _print_plan(options, runs)
        return
    with single(folder):
        record = StudyRecord(folder / "study.json")
        for number, command in enumerate(options.before, start=1):
            announce(number, steps, command.title)
            _once(record, f"{number}-{command.verb}", command, _job(options, command))
        announce(steps - 2, steps, f"train {len(runs)} runs")
        runs = _identified(options)
        at_once = _at_once(options)
        _train(options, runs, at_once)
        announce(steps - 1, steps, options.evaluate.title)
        _evaluate(options, runs, record, at_once)
        announce(steps, steps, options.fit.title)
        _fit(options, runs, record)


def _identified(options: StudyOptions) -> list[PlannedRun]:
    """The runs again, now that their stores are there."""
    runs = [_planned(options, point) for point in unique(options.grid.points())]
    for item in runs:
        if item.missing:
            raise UserError(f"run {item.name}: {item.missing}")
    return runs


def _planned(options: StudyOptions, point: Point) -> PlannedRun:
    bindings = {"train.name": point.name, "train.root": "{study}/runs", **point.bindings}
    gin_files = (options.run_gin_file, *point.gin_files)
    return plan_run(
        point.name,
        gin_files,
        [binding(key, value) for key, value in _filled(options, bindings).items()],
        point.factors,
    )


def _filled(options: StudyOptions, bindings: Mapping[str, Any]) -> dict[str, Any]:
    """``{study}`` replaced in every text, however deep."""

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace("{study}", str(options.folder))
        if isinstance(value, Mapping):
            return {key: fill(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [fill(item) for item in value]
        return value

    return {key: fill(value) for key, value in bindings.items()}


def _job(
    options: StudyOptions, command: Command, more: Mapping[str, Any] | None = None, name: str = ""
) -> Job:
    bindings = {**_filled(options, command.bindings), **(more or {})}
    arguments = [f"--gin_file={command.gin_file}", *command.flags]
    arguments += [f"--gin.{key}={value!r}" for key, value in bindings.items()]
    return Job(name=name or command.verb, verb=command.verb, arguments=arguments)


def _once(record: StudyRecord, name: str, command: Command, job: Job) -> None:
    """Runs a job unless it is noted as done with the same command line and gin file."""
    key = content_key([list(job.arguments)], [command.gin_file])
    if record.holds(name, key):
        print("  done before: nothing to do", flush=True)
        return
    run(job)
    record.note(name, key)


def _train(options: StudyOptions, runs: Sequence[PlannedRun], at_once: int) -> None:
    todo = [item for item in runs if not item.finished()]
    if not todo:
        print(f"  done before: all {len(runs)} runs are finished", flush=True)
        return
    progress = StudyProgress(runs)
    longest_first = sorted(todo, key=lambda item: item.flops, reverse=True)
    jobs = [Job(name=item.name, verb="train", arguments=item.arguments) for item in longest_first]
    run_many(jobs, logs=options.folder / "logs", at_once=at_once, tick=progress.show)


def _evaluate(
    options: StudyOptions, runs: Sequence[PlannedRun], record: StudyRecord, at_once: int
) -> None:
    """Splits the runs over as many evaluators as trainings ran at a time, each on its own cores."""
    key = content_key(
        [identity(options.evaluate), [item.fingerprint for item in runs]],
        [options.evaluate.gin_file],
    )
    if record.holds("evaluate", key) and all(item.measured() for item in runs):
        print(f"  done before: all {len(runs)} runs are measured", flush=True)
        return
    shares = _shares(runs, at_once)
    jobs = [
        _job(
            options,
            options.evaluate,
            {"evaluate.runs": [str(item.folder) for item in share]},
            f"evaluate-{number}",
        )
        for number, share in enumerate(shares, start=1)
    ]
    logs = options.folder / "logs"
    run_many(jobs, logs=logs, at_once=len(shares), tick=LogProgress(logs).show)
    record.note("evaluate", key)


def _shares(runs: Sequence[PlannedRun], count: int) -> list[list[PlannedRun]]:
    """The runs in shares of about equal work: the most expensive first, to the least laden."""
    shares: list[list[PlannedRun]] = [[] for _ in range(min(count, len(runs)))]
    for item in sorted(runs, key=lambda item: item.flops, reverse=True):
        min(shares, key=lambda share: sum(other.flops for other in share)).append(item)
    return shares


def _fit(options: StudyOptions, runs: Sequence[PlannedRun], record: StudyRecord) -> None:
    table = options.folder / "losses.parquet"
    write(with_factors(load([item.folder for item in runs]), runs), table)
    out = options.folder / "report"
    job = _job(options, options.fit, {"fit.table": str(table), "fit.out": str(out)})
    key = content_key([list(job.arguments)], [options.fit.gin_file, table])
    if record.holds("fit", key) and (out / "report.html").exists():
        print("  done before: nothing has changed since", flush=True)
        print((out / "verdict.txt").read_text(encoding="utf-8").rstrip())
    else:
        run(job)
        record.note("fit", key)
    print(f"Loss table: {table}\nReport:     {out / 'report.html'}", flush=True)


def with_factors(table: pd.DataFrame, runs: Sequence[PlannedRun]) -> pd.DataFrame:
    """The loss table with a column ``factor.<name>`` for each factor of the grid: the run's level,
    empty for runs that have none.
    """
    of_run = {item.folder.resolve().name: item.factors for item in runs}
    names = dict.fromkeys(name for item in runs for name in item.factors)
    levels = {
        OWN_PREFIX + name: table["run_id"].map(lambda run, n=name: of_run.get(run, {}).get(n))
        for name in names
    }
    return table.assign(**levels)


def _at_once(options: StudyOptions) -> int:
    """Trainings side by side. JAX is asked in a process of its own: here it would take the
    device."""
    if options.processes:
        return options.processes
    question = "import jax; print(jax.default_backend())"
    answer = subprocess.run(
        [sys.executable, "-c", question], capture_output=True, text=True, check=True
    )
    if answer.stdout.strip() != "cpu":
        return 1
    return min(
        os.process_cpu_count()
        if hasattr(os, "process_cpu_count")
        else len(os.sched_getaffinity(0)),
        8,
    )


def _print_commands(options: StudyOptions, runs: Sequence[PlannedRun]) -> None:
    """Prints the training command of each run that is not finished and whose store exists.

    Raises:
        UserError: after printing, where stores are missing: it names the commands that make them.
    """
    for item in runs:
        if not item.missing and not item.finished():
            print(shlex.join(["python", "-m", "lossline.train", *item.arguments]))
    if missing := [item for item in runs if item.missing]:
        first = "; ".join(shlex.join(_job(options, item).shown) for item in options.before)
        raise UserError(
            f"no command for {len(missing)} of {len(runs)} runs, whose stores do not exist yet "
            f"({missing[0].name}: {missing[0].missing.partition(';')[0]}). Run first: "
            f"{first or 'python -m lossline.prepare --gin_file=…'}"
        )


def _print_plan(options: StudyOptions, runs: Sequence[PlannedRun]) -> None:
    for command in options.before:
        print(f"{command.verb:10s} {command.title}  ({command.gin_file})")
    for item in runs:
        print(f"{'train':10s} {item.folder.name}  {'finished' if item.finished() else 'to do'}")
    print(f"{'evaluate':10s} {options.evaluate.title}  ({options.evaluate.gin_file})")
    print(f"{'fit':10s} {options.fit.title}  ({options.fit.gin_file})")
    if missing := {item.missing.partition(";")[0] for item in runs if item.missing}:
        print(
            f"A name that ends in ? lacks its hash: the run's store does not exist yet, and its "
            f"contents are part of the run's identity. Missing: {'; '.join(sorted(missing))}."
        )
