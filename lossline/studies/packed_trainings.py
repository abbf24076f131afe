"""What one submitted job does: one training, or several side by side on one node.

submitit starts it on the node. When the job is preempted or its time ends, submitit calls
``checkpoint``, which lets the trainings save, and then asks Slurm to queue the same job again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lossline.studies.processes import Job, core_shares, ending, start

_STOPPED = 130  # exit status of a training that a signal stopped, after it saved a checkpoint
_SECONDS = 0.2  # between two looks at the trainings
_SECONDS_AFTER_A_SIGNAL = 600.0  # longest wait for the end of a job whose trainings were stopped
ENDED = "lossline study: the training ended with "  # start of a log's last line


class TrainingsFailed(Exception):
    """Raised at the end of a job in which a training failed; names the trainings and their logs."""


@dataclass(frozen=True, kw_only=True)
class PackedTrainings:
    """The trainings of one job, as a callable for submitit.

    Attributes:
        runs: trainings, all started at once.
        logs: folder of their ``<name>.log`` files.
        slots: number of equal parts in which the node's cores and GPUs are divided.
        gpus: GPUs of the node that the job has.
        seconds_to_save: seconds between the warning and the end of the job.
    """

    runs: Sequence[Job]
    logs: Path
    slots: int = 1
    gpus: int = 0
    seconds_to_save: int = 120
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, init=False)
    _asked: set[str] = field(default_factory=set, init=False)

    def __call__(self) -> None:
        """Run the trainings to their end.

        Raises:
            TrainingsFailed: a training failed; the others were not disturbed.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        # Slurm sends SIGTERM when it preempts a job, when a person cancels it, and at its end.
        before = signal.signal(signal.SIGTERM, lambda number, frame: self._ask_to_stop())
        try:
            for slot, (job, cores) in enumerate(
                zip(self.runs, core_shares(self.slots), strict=False)
            ):
                self._processes[job.name] = start(
                    job, self.logs, cores, environment=self._devices(slot)
                )
            codes = self._wait()
        finally:
            signal.signal(signal.SIGTERM, before)
            self._ask_to_stop()
        if failed := {name: code for name, code in codes.items() if code}:
            raise TrainingsFailed(
                "; ".join(
                    f"{name} ended with {ending(code)}, see {self.logs / f'{name}.log'}"
                    for name, code in failed.items()
                )
            )

    def checkpoint(self) -> Any:
        """Let the trainings save and end; return the same work for submitit to queue again.

        A training that does not end in three quarters of ``seconds_to_save`` continues later from
        the checkpoint before, so that there is time to queue the job again.
        """
        from submitit.helpers import DelayedSubmission

        self._ask_to_stop()
        deadline = time.monotonic() + 0.75 * self.seconds_to_save
        while None in self._codes().values() and time.monotonic() < deadline:
            time.sleep(_SECONDS)
        return DelayedSubmission(replace(self))

    def _ask_to_stop(self) -> None:
        """Send SIGTERM to every training: it saves a checkpoint and ends.

        Only once, because a signal after its last step ends it before its checkpoint is whole.
        """
        for name, process in self._processes.items():
            if name not in self._asked:
                self._asked.add(name)
                process.send_signal(signal.SIGTERM)  # does nothing if it has ended

    def _wait(self) -> dict[str, int]:
        """Return the exit status of every training when all have ended.

        A training that a signal stopped is not the end of the job: Slurm would take a preempted
        job for finished. It is queued again, or killed, a moment later; one of several nodes learns
        of it only through its training.
        """
        noted: set[str] = set()
        stopped = None
        while True:
            codes = self._codes()
            for name, code in codes.items():
                if code and name not in noted:
                    noted.add(name)
                    self._note(name, code)
            ended = {name: code for name, code in codes.items() if code is not None}
            if len(ended) == len(codes):
                stopped = stopped or time.monotonic()
                waited = time.monotonic() - stopped
                if _STOPPED not in ended.values() or waited > _SECONDS_AFTER_A_SIGNAL:
                    return ended
            time.sleep(_SECONDS)

    def _codes(self) -> dict[str, int | None]:
        with _no_signals():
            return {name: process.poll() for name, process in self._processes.items()}

    def _note(self, name: str, code: int) -> None:
        """Write how a training ended into its log, where the study's status finds it."""
        with (self.logs / f"{name}.log").open("a", encoding="utf-8") as log:
            log.write(f"{ENDED}{ending(code)}\n")

    def _devices(self, slot: int) -> dict[str, str]:
        """Return the variable that shows a training its part of the job's GPUs."""
        if self.slots == 1 or not self.gpus:
            return {}
        given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        devices = given.split(",") if given else [str(number) for number in range(self.gpus)]
        share = len(devices) // self.slots
        return {"CUDA_VISIBLE_DEVICES": ",".join(devices[slot * share : (slot + 1) * share])}


@contextmanager
def _no_signals() -> Iterator[None]:
    """Hold signals back: a handler that runs inside ``poll`` would never see the process end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
