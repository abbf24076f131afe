"""Child processes of a study: verbs of lossline, one or several at a time.

Each verb runs in its own process, as a user would start it, so that a crash, a memory leak or a
kill affects only one run. On Linux the children are killed when their parent dies, so a killed
study leaves no process that still writes.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lossline import child_process
from lossline.errors import UserError


class ChildFailed(Exception):
    """Raised when a verb ends with an error; the message contains the end of its log."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One verb to run.

    Attributes:
        name: name in the progress line, and of the log file.
        verb: module of ``lossline`` to run.
        arguments: its command line.
    """

    name: str
    verb: str
    arguments: Sequence[str] = field(default_factory=tuple)

    @property
    def command(self) -> list[str]:
        """Command with the path of this Python."""
        return [sys.executable, *self.shown[1:]]

    @property
    def shown(self) -> list[str]:
        """Command as a user would type it."""
        return ["python", "-m", f"lossline.{self.verb}", *self.arguments]


def run(job: Job) -> None:
    """Run one verb in the foreground; its output goes to this process's output.

    Raises:
        UserError: it ended with status 2, after it printed the reason.
        ChildFailed: it ended with another error.
    """
    # A session of its own, as in ``start``: it gets one signal, after which it may save its work.
    process = subprocess.Popen(_as_child(job, None), start_new_session=True)
    try:
        code = process.wait()
    finally:
        process.terminate()  # does nothing if it has ended
        process.wait()
    if code == 2:
        raise UserError(
            f"the step {job.name} refused its input: see the line above. Fix it and start again."
        )
    if code != 0:
        raise ChildFailed(f"{job.name} ended with {ending(code)}: {' '.join(job.command)}")


def first_of(jobs: Sequence[Job]) -> Job:
    """Return the first job."""
    return jobs[0]


def run_many(
    jobs: Sequence[Job],
    *,
    logs: Path,
    at_once: int,
    tick: Callable[[list[str], int], None],
    seconds: float = 0.5,
    choose: Callable[[Sequence[Job]], Job] = first_of,
) -> None:
    """Run verbs in parallel, each on its own part of the cores and with its own log file.

    Args:
        jobs: jobs to run.
        logs: folder of the ``<name>.log`` files, which are appended to.
        at_once: number of jobs at a time.
        tick: called every ``seconds`` with the names of the running jobs and the number of finished
            ones.
        seconds: interval between two calls of ``tick``.
        choose: which of the waiting jobs starts next; by default they start in their order.

    Raises:
        ChildFailed: a job failed. The other running jobs were stopped; each continues at the next
            start.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting, done = list(jobs), 0
    running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
    shares = core_shares(at_once)
    try:
        while waiting or running:
            for slot in range(at_once):
                if slot not in running and waiting:
                    job = choose(waiting)
                    waiting.remove(job)
                    running[slot] = (job, start(job, logs, shares[slot]))
            tick([job.name for job, _ in running.values()], done)
            time.sleep(seconds)
            for slot, (job, process) in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[slot]
                done += 1
                if code != 0:
                    raise ChildFailed(_failure(job, code, logs / f"{job.name}.log"))
        tick([], done)
    finally:
        for _, process in running.values():
            process.terminate()  # SIGTERM: a training saves a checkpoint before it ends
        for _, process in running.values():
            process.wait()


def start(
    job: Job,
    logs: Path,
    cores: set[int] | None,
    *,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start one verb, which is killed with this process.

    It has a session of its own: of the signals to this process's group, a terminal's Ctrl-C among
    them, none reaches it. The caller sends it one SIGTERM.

    Args:
        job: the verb.
        logs: existing folder of its ``<name>.log``, which is appended to.
        cores: its cores; None: all.
        environment: variables to add.
    """
    with (logs / f"{job.name}.log").open("ab") as log:
        log.write(f"$ {shlex.join(job.command)}\n".encode())
        log.flush()
        return subprocess.Popen(
            _as_child(job, cores),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )


def _as_child(job: Job, cores: set[int] | None) -> list[str]:
    """Return the command that ties the job to this process and to its cores."""
    share = ",".join(map(str, sorted(cores))) if cores else "-"
    # -P keeps the script's folder out of sys.path, where lossline/select.py would hide Python's.
    return [sys.executable, "-P", child_process.__file__, str(os.getpid()), share, *job.command]


def core_shares(at_once: int) -> list[set[int] | None]:
    """Return disjoint sets of cores, one per job; None for all cores.

    On two cores, two single-core trainings in parallel are faster than one after the other.
    """
    if at_once == 1 or not hasattr(os, "sched_getaffinity"):
        return [None] * at_once
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < at_once:
        return [None] * at_once
    return [set(cores[slot::at_once]) for slot in range(at_once)]


def _failure(job: Job, code: int, log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]
    return "\n".join(
        [
            f"{job.name} ended with {ending(code)}. The end of {log}:",
            *(f"    {line}" for line in lines),
        ]
    )


def ending(code: int) -> str:
    """Return how a process ended, in words."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
