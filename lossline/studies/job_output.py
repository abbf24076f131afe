"""What a submitted job left on disk before its training started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lossline.studies.progress import last_lines
from lossline.studies.record import LOCAL, Submission


@dataclass(frozen=True, kw_only=True)
class JobOutput:
    """What is known of a job.

    Attributes:
        started: whether Slurm has started it.
        ended: whether it has ended for certain; one that ``slurm.setup`` ended looks alive.
        said: last line of its own output.
    """

    started: bool = False
    ended: bool = False
    said: str = ""

    @classmethod
    def of(cls, job: Submission, folder: Path) -> JobOutput:
        """Look at the files that Slurm and submitit write for a job.

        Args:
            job: the job.
            folder: folder of the job scripts and their output.
        """
        error, output, result = (
            folder / f"{job.job}_0_{end}" for end in ("log.err", "log.out", "result.pkl")
        )
        gone = job.on == LOCAL and not local_job_lives(job.job)
        # A process of this machine may have the number of an earlier one.
        written = {file for file in (error, output, result) if written_after(file, job.time)}
        lines = [line for file in (output, error) if file in written for line in last_lines(file)]
        return cls(
            started=bool(written),
            ended=gone or result in written,
            said=lines[-1] if lines else "",
        )


def local_job_lives(job: str) -> bool:
    """Return whether a job of submitit's local executor, a process of this machine, runs."""
    try:
        return b"submitit.local._local" in Path(f"/proc/{job}/cmdline").read_bytes()
    except OSError:
        return False


def written_after(file: Path, time: float) -> bool:
    """Return whether a file was written to after a time."""
    try:
        return file.stat().st_mtime >= time
    except FileNotFoundError:
        return False
