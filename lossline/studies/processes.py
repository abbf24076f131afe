"""Child processes of a study: our own verbs, one or several at a time, that never outlive the
study.

A verb runs as its own process, as a person would start it, so that a crash, a leak or a kill
touches one run only. Children are killed with their parent (Linux), so a study that is killed
leaves no second writer behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lossline import child_process
from lossline.errors import UserError

# glibc gives a step's buffers back to the system and faults them in again at every step: on a CPU
# that is a fifth of the time. It reads these before Python starts, so only a parent can set them.
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(32 << 30),
}


class ChildFailed(Exception):
    """A verb ended with a non-zero status; the message says which and shows the end of its log."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One verb to run.

    Attributes:
        name: shown in progress, and the log's file name.
        verb: the module under ``lossline`` to run.
        arguments: its command line.
    """

    name: str
    verb: str
    arguments: Sequence[str] = field(default_factory=tuple)

    @property
    def command(self) -> list[str]:
        return [sys.executable, *self.shown[1:]]

    @property
    def shown(self) -> list[str]:
        """The command as a person would type it."""
        return ["python", "-m", f"lossline.{self.verb}", *self.arguments]


def run(job: Job) -> None:
    """Runs one verb in the foreground, its output going where ours goes.

    Raises:
        UserError: it ended with status 2 (it has said why).
        ChildFailed: it ended otherwise.
    """
    code = subprocess.run(_as_child(job, None), check=False).returncode
    if code == 2:
        raise UserError(
            f"the step {job.name} refused its input (see the line above); mend it and start again"
        )
    if code != 0:
        raise ChildFailed(f"{job.name} ended with {_ending(code)}: {' '.join(job.command)}")


def run_many(
    jobs: Sequence[Job],
    *,
    logs: Path,
    at_once: int,
    tick: Callable[[list[str], int], None],
    seconds: float = 0.5,
) -> None:
    """Runs verbs side by side, each on its own share of the cores, each into its own log file.

    Args:
        jobs: started in this order.
        logs: folder of ``<name>.log`` files, appended to.
        at_once: how many run at a time.
        tick: called every ``seconds`` with the names of the running jobs and the number of those
            done.

    Raises:
        ChildFailed: one failed; the others that were running have been stopped (each goes on at the
            next start).
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting, done = list(jobs), 0
    running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
    shares = _core_shares(at_once)
    try:
        while waiting or running:
            for slot in range(at_once):
                if slot not in running and waiting:
                    job = waiting.pop(0)
                    running[slot] = (job, _start(job, logs, shares[slot]))
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
            process.terminate()
        for _, process in running.values():
            process.wait()


def _start(job: Job, logs: Path, cores: set[int] | None) -> subprocess.Popen[bytes]:
    with (logs / f"{job.name}.log").open("ab") as log:
        log.write(f"$ {' '.join(job.command)}\n".encode())
        log.flush()
        return subprocess.Popen(
            _as_child(job, cores),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**ALLOCATOR, **os.environ},
        )


def _as_child(job: Job, cores: set[int] | None) -> list[str]:
    """The job's command behind the program that ties it to this process and to its cores."""
    share = ",".join(map(str, sorted(cores))) if cores else "-"
    return [sys.executable, child_process.__file__, str(os.getpid()), share, *job.command]


def _core_shares(at_once: int) -> list[set[int] | None]:
    """Disjoint sets of cores, one per job: two single-core trainings beat one after the other on
    two cores.
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
            f"{job.name} ended with {_ending(code)}; the end of {log}:",
            *(f"    {line}" for line in lines),
        ]
    )


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
