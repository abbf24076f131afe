"""A study from text to report: gather, prepare, train the grid, evaluate, fit, compare.

Every step runs one verb in its own process and resumes by itself. ``study.json`` records the
finished steps, with a hash of everything that each depends on, so that a finished step is not
started again.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from lossline.cli.configuration import binding
from lossline.errors import UserError
from lossline.gin_files.parsed_files import ParsedFiles
from lossline.options.identity import identity
from lossline.options.roles import OWN_PREFIX
from lossline.places import check_folder_name, in_bucket, to_path
from lossline.runs.run_directory import RunDirectory
from lossline.studies.grid import Grid, Point, unique
from lossline.studies.planned_run import PlannedRun, plan_run
from lossline.studies.processes import Job, run, run_many
from lossline.studies.progress import LogProgress, StudyProgress
from lossline.studies.record import LOCAL, SLURM, StudyRecord, SubmissionRecord, content_key, single
from lossline.studies.run_times import equal_shares, next_run
from lossline.studies.skypilot import SKYPILOT, SkyOptions, write_tasks
from lossline.studies.slurm import SlurmOptions, check_installed, submit
from lossline.studies.status import status_lines, status_text, views_of
from lossline.tables import load, write
from lossline.terminal import announce


@dataclass(frozen=True, kw_only=True)
class Command:
    """One verb of a study with its gin file and bindings.

    Attributes:
        verb: ``gather``, ``prepare``, ….
        title: what the command does, in a few words, printed when it starts.
        gin_file: Gin file of the verb.
        flags: further command-line flags, such as ``--train_vocabulary``.
        bindings: Gin key -> value. ``{study}`` in a string is replaced by the study's folder.
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
        name: name of the study's folder below ``root``.
        root: folder of studies.
        before: commands before training (gathering, vocabularies, stores, a training or another
            study whose runs are needed), in order. A finished command is not started again, except
            a training, a study and the commands after it, which skip what is finished themselves.
        run_gin_file: base gin file of every run; the points of the grid change it.
        grid: the runs.
        evaluate: command that measures every checkpoint. The study binds its ``evaluate.runs``.
        fit: command, fit or predict, that fits the loss table and writes the report. The study
            binds its table and folder.
        after: commands after the fit, in order. The study binds their table and folder in the same
            way.
        processes: number of trainings at a time. 0: one per core (at most 8) on a CPU, one on an
            accelerator.
        dry_run: print what would run, and stop.
        commands: print the command of every training that is not finished, and stop. A cluster can
            run these commands in parallel; the study then continues when it is started again.
        submit: where to train, instead of here. "slurm": run the commands before training here,
            then submit the trainings that are not finished, queued or running as jobs, and stop.
            "local": the same with processes of this machine, all at once. "skypilot": write a task
            file for each training that is not finished, print the commands that launch them, and
            stop.
        slurm: the jobs of "slurm" and "local".
        sky: the machines of "skypilot".
        status: print the state of every run, and stop.
        json: print it for programs: one JSON object for each run, on a line of its own.
    """

    name: str
    root: str = "runs"
    before: Sequence[Command] = ()
    run_gin_file: str
    grid: Grid
    evaluate: Command
    fit: Command
    after: Sequence[Command] = ()
    processes: int = 0
    dry_run: bool = False
    commands: bool = False
    submit: str = ""
    slurm: SlurmOptions = field(default_factory=SlurmOptions)
    sky: SkyOptions = field(default_factory=SkyOptions)
    status: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        check_folder_name(self.name, "study.name")
        if self.processes < 0:
            raise UserError(f"study.processes = {self.processes}: must be 0 (automatic) or more")
        if self.json and not self.status:
            raise UserError("study.json changes how --status prints. Add --status.")
        if self.submit not in ("", SLURM, LOCAL, SKYPILOT):
            raise UserError(
                f"study.submit = {self.submit!r}: must be {SLURM}, {SKYPILOT} or {LOCAL}. For "
                "another scheduler, print the commands with --commands."
            )

    @property
    def folder(self) -> Path:
        """Folder of the study."""
        return to_path(self.root, "study.root") / self.name

    @property
    def logs(self) -> Path:
        """Folder of the logs: in the study's folder, or for a bucket ``logs/<name>`` here.

        Processes write them line by line, which a bucket cannot take.
        """
        return Path("logs") / self.name if in_bucket(self.folder) else self.folder / "logs"


def run_study(options: StudyOptions) -> None:
    """Run the steps that are not finished.

    Prints the progress of each step, and finally the verdict and the path of the report.

    Raises:
        UserError: a binding of the study or of one of its runs is wrong (checked before anything
            starts), another process runs the study, a step refused its input, or a run's store or
            origin does not exist after the commands before training.
        ChildFailed: a step failed; its finished work is kept.
    """
    folder = options.folder
    _check_commands(options)
    runs = _runs(options)
    steps = len(options.before) + 3 + len(options.after)
    last = steps - len(options.after)
    if options.status:
        submissions = SubmissionRecord(folder).of_run
        jobs = options.slurm.job_folder(options.logs)
        views = views_of(runs, logs=options.logs, submissions=submissions, jobs=jobs)
        print(status_lines(views) if options.json else status_text(views), flush=True)
        return
    if options.dry_run:
        _print_plan(options, runs)
        return
    if options.commands:
        _print_commands(options, runs)
        return
    if options.submit == SKYPILOT:
        _print_launches(options, runs)
        return
    if options.submit:
        check_installed(options.submit)
    with single(folder):
        record = StudyRecord(folder / "study.json")
        recorded = True
        for number, command in enumerate(options.before, start=1):
            announce(number, steps, command.title)
            # A study or a training knows what of it is finished. Commands after it read its runs,
            # which may be new, so they too decide by themselves what is left to do.
            recorded = recorded and command.verb not in ("study", "train")
            job = _job(options, command)
            if recorded:
                _once(record, f"{number}-{command.verb}", command, job)
            else:
                run(job)
        announce(last - 2, steps, f"train {len(runs)} runs")
        runs = _identified(options)
        if options.submit:
            submit(runs, options.slurm, study=folder, logs=options.logs, on=options.submit)
            print(
                "  --status shows how far they are. When they have ended, start the study again "
                "without --submit: it measures and fits.",
                flush=True,
            )
            return
        at_once = _at_once(options)
        _train(options, runs, at_once)
        announce(last - 1, steps, options.evaluate.title)
        _evaluate(options, runs, record, at_once)
        announce(last, steps, options.fit.title)
        table = folder / "losses.parquet"
        write(with_factors(load([item.folder for item in runs]), runs), table)
        _analyse(options, record, "fit", options.fit, folder / "report")
        print(f"Loss table: {table}\nReport:     {folder / 'report' / 'report.html'}", flush=True)
        for number, (name, command) in enumerate(_after(options).items(), start=last + 1):
            announce(number, steps, command.title)
            _analyse(options, record, f"after-{name}", command, folder / name)


def _check_commands(options: StudyOptions) -> None:
    """Check that verb and gin file of every command exist, so that none is missed hours later."""
    for command in (*options.before, options.evaluate, options.fit, *options.after):
        if not command.verb.isidentifier() or find_spec(f"lossline.{command.verb}") is None:
            raise UserError(
                f"command.verb = {command.verb!r} ({command.title}): no verb of lossline. Give one "
                "such as gather, prepare, evaluate, fit or compare."
            )
        if not Path(command.gin_file).is_file():
            raise UserError(
                f"command {command.verb} ({command.title}): no file {command.gin_file}. Give the "
                "path of an existing gin file, or start the study in the folder that contains it."
            )


def _identified(options: StudyOptions) -> list[PlannedRun]:
    """Plan the runs again after their stores and origins were made."""
    runs = _runs(options)
    for item in runs:
        if item.missing:
            raise UserError(f"run {item.name}: {item.missing}")
    return runs


def _runs(options: StudyOptions) -> list[PlannedRun]:
    """Return the runs of the grid, in order."""
    parsed = ParsedFiles()
    return [_planned(options, point, parsed) for point in unique(options.grid.points())]


def _planned(options: StudyOptions, point: Point, parsed: ParsedFiles | None = None) -> PlannedRun:
    return plan_run(point.name, *sources(options, point), point.factors, parsed=parsed)


def sources(options: StudyOptions, point: Point) -> tuple[tuple[str, ...], list[str]]:
    """Return the gin files of a run of the grid, and the binding lines that follow them."""
    bindings = {"train.name": point.name, "train.root": "{study}/runs", **point.bindings}
    filled = _filled(options, bindings, point.factors)
    return (
        (options.run_gin_file, *point.gin_files),
        [binding(key, value) for key, value in filled.items()],
    )


def _filled(
    options: StudyOptions, bindings: Mapping[str, Any], factors: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the bindings with names in braces replaced in every string, also in nested ones.

    ``{study}`` is the study's folder; a factor's name is the run's level.
    """
    names = {**(factors or {}), "study": str(options.folder)}

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            for name, text in names.items():
                value = value.replace(f"{{{name}}}", text)
            return value
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
    """Run a job unless it is recorded as finished with the same command line and gin file."""
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
    jobs = {item.name: Job(name=item.name, verb="train", arguments=item.arguments) for item in todo}

    def choose(waiting: Sequence[Job]) -> Job:
        return jobs[next_run(runs, [job.name for job in waiting])]

    run_many(
        list(jobs.values()), logs=options.logs, at_once=at_once, tick=progress.show, choose=choose
    )


def _evaluate(
    options: StudyOptions, runs: Sequence[PlannedRun], record: StudyRecord, at_once: int
) -> None:
    """Split the runs over several evaluators, as many as trainings ran at a time."""
    key = content_key(
        [identity(options.evaluate), [item.fingerprint for item in runs]],
        [options.evaluate.gin_file],
    )
    if record.holds("evaluate", key) and all(item.measured() for item in runs):
        print(f"  done before: all {len(runs)} runs are measured", flush=True)
        return
    shares = equal_shares(runs, at_once)
    jobs = [
        _job(
            options,
            options.evaluate,
            {"evaluate.runs": [str(item.folder) for item in share]},
            f"evaluate-{number}",
        )
        for number, share in enumerate(shares, start=1)
    ]
    tick = LogProgress(options.logs).show
    run_many(jobs, logs=options.logs, at_once=len(shares), tick=tick)
    record.note("evaluate", key)


def _analyse(
    options: StudyOptions, record: StudyRecord, step: str, command: Command, out: Path
) -> None:
    """Run a verb that turns the loss table into a results folder, unless nothing has changed."""
    verb, table = command.verb, options.folder / "losses.parquet"
    job = _job(options, command, {f"{verb}.table": str(table), f"{verb}.out": str(out)})
    key = content_key([list(job.arguments)], [command.gin_file, table])
    if record.holds(step, key) and (out / "report.html").exists():
        print("  done before: nothing has changed", flush=True)
        text = out / ("verdict.txt" if verb == "fit" else "summary.txt")
        print(text.read_text(encoding="utf-8").rstrip())
    else:
        run(job)
        record.note(step, key)


def _after(options: StudyOptions) -> dict[str, Command]:
    """Return the commands after the fit by the name of their folder: compare, compare-2, …"""
    named: dict[str, Command] = {}
    for command in options.after:
        names = [command.verb, *(f"{command.verb}-{n}" for n in range(2, len(options.after) + 2))]
        taken = {"report", "runs", "logs", *named}
        named[next(name for name in names if name not in taken)] = command
    return named


def with_factors(table: pd.DataFrame, runs: Sequence[PlannedRun]) -> pd.DataFrame:
    """Return the loss table with a column ``factor.<name>`` for each factor of the grid.

    A cell contains the run's level; it is empty for runs without that factor.
    """
    of_run = {item.folder.resolve().name: item.factors for item in runs}
    names = dict.fromkeys(name for item in runs for name in item.factors)
    levels = {
        OWN_PREFIX + name: table["run_id"].map(lambda run, n=name: of_run.get(run, {}).get(n))
        for name in names
    }
    return table.assign(**levels)


def _at_once(options: StudyOptions) -> int:
    """Return the number of trainings to run in parallel.

    A separate process asks JAX for its backend, because JAX in this process would occupy the
    device.
    """
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
    """Print the training command of each run that is not finished and whose store and origin exist.

    Raises:
        UserError: stores or origins are missing; raised after printing, with the commands that
            make them.
    """
    for item in runs:
        if not item.missing and not item.finished():
            print(shlex.join(["python", "-m", "lossline.train", *item.arguments]))
    _refuse_missing(options, runs)


def _print_launches(options: StudyOptions, runs: Sequence[PlannedRun]) -> None:
    """Write a task file per run that is not finished, and print the commands that launch them.

    Raises:
        UserError: as ``_print_commands``; or the run directories would be lost.
    """
    left = [
        item
        for item in runs
        if not item.missing and not item.finished() and not RunDirectory(item.folder).is_locked()
    ]
    folder = options.logs / SKYPILOT
    for command in write_tasks(left, options.sky, study=options.name, folder=folder):
        print(command)
    _refuse_missing(options, runs)


def _refuse_missing(options: StudyOptions, runs: Sequence[PlannedRun]) -> None:
    if missing := [item for item in runs if item.missing]:
        first = "; ".join(shlex.join(_job(options, item).shown) for item in options.before)
        raise UserError(
            f"no command for {len(missing)} of {len(runs)} runs: what they read does not exist yet "
            f"({missing[0].name}: {_problem(missing[0])}). Run first: "
            f"{first or 'python -m lossline.prepare --gin_file=…'}"
        )


def _problem(item: PlannedRun) -> str:
    """Return why a run cannot be planned yet, without the advice that follows."""
    return item.missing.partition(". ")[0]


def _print_plan(options: StudyOptions, runs: Sequence[PlannedRun]) -> None:
    for command in options.before:
        print(f"{command.verb:10s} {command.title}  ({command.gin_file})")
    for item in runs:
        print(f"{'train':10s} {item.folder.name}  {'finished' if item.finished() else 'to do'}")
    print(f"{'evaluate':10s} {options.evaluate.title}  ({options.evaluate.gin_file})")
    for command in (options.fit, *options.after):
        print(f"{command.verb:10s} {command.title}  ({command.gin_file})")
    if missing := {_problem(item) for item in runs if item.missing}:
        print(
            f"A name that ends in ? has no hash yet: the hash depends on the contents of the run's "
            f"store and origin, which do not exist yet. Missing: {'; '.join(sorted(missing))}."
        )
