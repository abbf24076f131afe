"""Submit the trainings of a study as Slurm jobs, through submitit.

submitit writes the job scripts and calls ``sbatch``; Slurm schedules, starts and queues again.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lossline.errors import UserError
from lossline.installing import install_extra
from lossline.runs.run_directory import RunDirectory
from lossline.studies.job_output import local_job_lives
from lossline.studies.packed_trainings import PackedTrainings
from lossline.studies.planned_run import PlannedRun
from lossline.studies.processes import Job
from lossline.studies.record import LOCAL, SLURM, Submission, SubmissionRecord

# Parameters of sbatch that a job depends on in more than one way.
_OWN_PARAMETERS = {
    "time": "slurm.hours",
    "nodes": "slurm.nodes",
    "array": "slurm.at_once",
    "signal": "slurm.seconds_to_save",
    "output": "slurm.folder",
    "error": "slurm.folder",
}
_LARGEST_ARRAY = 1000  # Slurm's own limit is 1001, unless MaxArraySize says otherwise


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """Jobs of a study. What is empty or 0 is left to Slurm's own defaults.

    Attributes:
        partition: partition of the jobs.
        account: account that pays.
        qos: quality of service.
        gpus: GPUs of a job, on each of its nodes.
        cpus: cores of a job, on each of its nodes.
        memory_gb: memory of a job, on each of its nodes.
        hours: time limit of a job. A training that needs longer saves a checkpoint and is queued
            again.
        seconds_to_save: seconds before the time limit at which the trainings are asked to save.
        requeues: how many times a job may reach its time limit.
        nodes: nodes of a job, one process each. The run must bind ``launch.how = "auto"``.
        runs_per_job: trainings side by side in a job; each gets an equal part of its cores and
            GPUs.
        at_once: largest number of jobs at a time.
        setup: shell commands before the training: ``["module load cuda"]``.
        parameters: further options of ``sbatch``: ``{"constraint": "h100", "exclusive": True}``;
            ``{"requeue": False}`` leaves one out.
        folder: folder of the job scripts and their output, on a disk that all nodes share; empty:
            ``slurm`` below the study's logs.
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    gpus: int = 0
    cpus: int = 0
    memory_gb: float = 0.0
    hours: float = 24.0
    seconds_to_save: int = 120
    requeues: int = 100
    nodes: int = 1
    runs_per_job: int = 1
    at_once: int = 256
    setup: Sequence[str] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""

    def __post_init__(self) -> None:
        for name in ("nodes", "runs_per_job", "at_once", "seconds_to_save"):
            if getattr(self, name) < 1:
                raise UserError(f"slurm.{name} = {getattr(self, name)}: must be at least 1")
        for name in ("gpus", "cpus", "memory_gb", "requeues"):
            if getattr(self, name) < 0:
                raise UserError(f"slurm.{name} = {getattr(self, name)}: must not be negative")
        for name in ("hours", "memory_gb"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"slurm.{name} = {getattr(self, name)}: must be a finite number")
        if self.minutes * 60 <= self.seconds_to_save:
            raise UserError(
                f"slurm.hours = {self.hours}: must be longer than slurm.seconds_to_save = "
                f"{self.seconds_to_save}"
            )
        for what, count in (("gpus", self.gpus), ("cpus", self.cpus)):
            if count % self.runs_per_job:
                raise UserError(
                    f"slurm.{what} = {count} cannot be divided among slurm.runs_per_job = "
                    f"{self.runs_per_job} trainings. Give a multiple of it."
                )
        for name, value in self.parameters.items():
            if name in _OWN_PARAMETERS or not isinstance(name, str) or value is None:
                ours = _OWN_PARAMETERS.get(name, "options of sbatch by name, with values")
                raise UserError(f"slurm.parameters has {name!r}: {value!r}. Bind {ours} instead.")
        if self.nodes > 1 and self.runs_per_job > 1:
            raise UserError(
                f"slurm.runs_per_job = {self.runs_per_job} needs slurm.nodes = 1, not {self.nodes}"
            )

    @property
    def minutes(self) -> int:
        """Time limit in whole minutes, as Slurm counts."""
        return math.ceil(self.hours * 60)

    def job_folder(self, logs: Path) -> Path:
        """Return the folder of the job scripts and their output.

        Args:
            logs: folder of the study's logs.
        """
        return Path(self.folder) if self.folder else logs / SLURM


def check_installed(on: str) -> None:
    """Check that jobs can be submitted from this machine.

    Raises:
        UserError: submitit is not installed, or this machine has no Slurm.
    """
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UserError(
            f"--submit={on} needs submitit, which is not installed: {install_extra('cluster')}"
        ) from None
    missing = [name for name in ("sbatch", "srun", "squeue") if not shutil.which(name)]
    if on == SLURM and missing:
        raise UserError(
            f"--submit=slurm: this machine has no {missing[0]}. Start the study on a login node of "
            "the cluster, or print the commands with --commands."
        )


def submit(
    runs: Sequence[PlannedRun], options: SlurmOptions, *, study: Path, logs: Path, on: str
) -> None:
    """Submit the trainings that are neither finished nor queued or running; say what was done.

    Args:
        runs: all runs of the study.
        options: of the jobs.
        study: folder of the study, for the record of the jobs.
        logs: folder of the trainings' logs.
        on: "slurm", or "local" for processes of this machine, all at once.

    Raises:
        UserError: Slurm does not answer or refuses the jobs.
    """
    record = SubmissionRecord(study)
    todo = [run for run in runs if not run.finished()]
    living = _living_jobs(on) if any(run.name in record.of_run for run in todo) else set()
    busy = {run.name for run in todo if _is_busy(run, record.of_run.get(run.name), on, living)}
    # Runs of about equal length share a job, and the longest start first.
    new = [run for run in todo if run.name not in busy]
    new.sort(key=lambda run: run.flops, reverse=True)
    folder = options.job_folder(logs)
    packs = [new[k : k + options.runs_per_job] for k in range(0, len(new), options.runs_per_job)]
    ids: list[str] = []
    for first in range(0, len(packs), _LARGEST_ARRAY):
        part = packs[first : first + _LARGEST_ARRAY]
        before = time.time()  # a job may write to its log before this process goes on
        jobs = _submitted(part, options, folder=folder, logs=logs, on=on, name=study.name)
        submissions = (Submission(on=on, job=job, time=before) for job in jobs)
        named = zip(part, submissions, strict=True)
        record.note({run.name: item for pack, item in named for run in pack})
        ids += jobs
    finished = len(runs) - len(todo)
    done = f"{finished} finished, {len(busy)} queued or running"
    noun = "job" if len(ids) == 1 else "jobs"
    if not ids:
        print(f"  nothing to submit: {done} of {len(runs)} runs", flush=True)
        return
    print(
        f"  submitted {len(new)} of {len(runs)} runs in {len(ids)} {noun} ({_short(ids)}); {done}\n"
        f"  logs: {logs} and {folder}",
        flush=True,
    )


def _is_busy(run: PlannedRun, last: Submission | None, on: str, living: set[str]) -> bool:
    """Return whether a job will train or a process trains the run."""
    queued = last is not None and last.on == on and last.job in living
    return queued or RunDirectory(run.folder).is_locked()


def _submitted(
    packs: Sequence[Sequence[PlannedRun]], options: SlurmOptions, *, folder: Path, logs: Path,
    on: str, name: str,
) -> list[str]:  # fmt: skip
    """Submit one job per pack, as one array; return their ids."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    work = [
        PackedTrainings(
            runs=[Job(name=run.name, verb="train", arguments=run.arguments) for run in pack],
            logs=logs.resolve(),
            slots=options.runs_per_job,
            gpus=options.gpus,
            seconds_to_save=options.seconds_to_save,
        )
        for pack in packs
    ]
    folder.mkdir(parents=True, exist_ok=True)
    executor = _executor(options, folder, on, name)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints sbatch's message too
            return [job.job_id for job in executor.submit_array(work)]
    except (FailedJobError, FailedSubmissionError) as error:
        _remove_unsubmitted(folder)
        raise UserError(f"Slurm refused the jobs: {_said(error)}") from None


def _executor(options: SlurmOptions, folder: Path, on: str, name: str) -> Any:
    """Return submitit's executor with the options of the jobs."""
    import submitit

    if on == LOCAL:
        local = submitit.LocalExecutor(folder, max_num_timeout=options.requeues)
        local.update_parameters(
            timeout_min=options.minutes,
            signal_delay_s=options.seconds_to_save,
            gpus_per_node=options.gpus,
            setup=list(options.setup),
        )
        return local
    slurm = submitit.SlurmExecutor(folder, max_num_timeout=options.requeues)
    slurm.update_parameters(**slurm_parameters(options, name))
    return slurm


def slurm_parameters(options: SlurmOptions, name: str) -> dict[str, Any]:
    """Return the options in the names of submitit's Slurm executor."""
    given = {
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "gpus_per_node": options.gpus,
        "cpus_per_task": options.cpus,
        "mem": f"{math.ceil(options.memory_gb * 1024)}M" if options.memory_gb else "",
        "setup": list(options.setup),
    }
    return {
        "job_name": name,
        "time": options.minutes,
        "nodes": options.nodes,
        "ntasks_per_node": 1,
        "signal_delay_s": options.seconds_to_save,
        "array_parallelism": options.at_once,
        # Also a job that is preempted, or whose node fails, is queued again by Slurm.
        # False leaves an option out, because sbatch has none that is false.
        "additional_parameters": {
            name: value
            for name, value in {"requeue": True, **options.parameters}.items()
            if value is not False
        },
        **{key: value for key, value in given.items() if value},
    }


def _living_jobs(on: str) -> set[str]:
    """Return the ids of the user's jobs that are queued or running."""
    if on == LOCAL:
        processes = (path.name for path in Path("/proc").iterdir() if path.name.isdigit())
        return {process for process in processes if local_job_lives(process)}
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = _last_line(error.stderr or "") or "no answer in 60 s"
        raise UserError(
            f"squeue does not tell which jobs are queued ({said}). Submit again when it answers: "
            "nothing was submitted."
        ) from None
    return set(answer.stdout.split())


def _remove_unsubmitted(folder: Path) -> None:
    """Remove the files that submitit wrote for jobs that Slurm refused."""
    for file in folder.iterdir():
        left = re.fullmatch(r"[0-9a-f]{32}\.pkl|\.submission_file_\w+\.sh", file.name)
        if left and not file.is_symlink():
            file.unlink()


def _said(error: Exception) -> str:
    """Return sbatch's first message that names a reason, without its prefix."""
    lines = [line.removeprefix("sbatch: error: ") for line in str(error).splitlines()]
    return next((line for line in lines if line.strip()), "sbatch gave no reason")


def _last_line(text: str | bytes) -> str:
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    return (text.strip().splitlines() or [""])[-1]


def _short(ids: Sequence[str]) -> str:
    """Return the ids for a message: arrays by their number only."""
    mains = list(dict.fromkeys(job.partition("_")[0] for job in ids))
    shown = ", ".join(mains[:3])
    return f"{shown}, …" if len(mains) > 3 else shown
