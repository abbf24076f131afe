"""Progress lines of a study: how far it is, the rate, and the time left."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lossline.places import in_bucket
from lossline.runs.run_directory import RunDirectory
from lossline.studies.planned_run import PlannedRun
from lossline.studies.time_left import Pace, seconds_left, tokens_per_second
from lossline.terminal import StatusLine, duration

_SECONDS_BETWEEN_LOOKS = 15.0  # at runs in a bucket


class StudyProgress:
    """All trainings of a study in one line, measured in tokens.

    Rate and time left use only the tokens trained since this start of the study, and count the
    start-up of each run apart: see ``time_left``.

    Args:
        runs: all runs of the study, also finished ones.
        now: clock in seconds, for tests.
    """

    def __init__(
        self, runs: Sequence[PlannedRun], *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._runs = [_TrainedTokens(run) for run in runs]
        self._total = sum(run.tokens for run in runs)
        self._now = now
        self._at_once = 1
        self._line = StatusLine()
        self._pause = _SECONDS_BETWEEN_LOOKS if any(in_bucket(run.folder) for run in runs) else 0.0
        self._next = now()

    def show(self, running: list[str], done: int) -> None:
        """Show the line; ``running`` are the names of the running jobs.

        Runs in a bucket are looked at now and then: each look takes several requests for each run.
        """
        if running and self._pause and self._now() < self._next:
            return
        self._next = self._now() + self._pause
        now, self._at_once = self._now(), max(self._at_once, len(running))
        finished = sum(run.update(now, running) for run in self._runs)
        paces = [run.pace for run in self._runs]
        tokens = sum(run.tokens for run in self._runs)
        text = f"{finished}/{len(self._runs)} runs, {tokens / self._total:.0%} of "
        text += f"{self._total / 1e6:.1f}M tokens"
        rate = tokens_per_second(paces, self._at_once)
        left = seconds_left(paces, self._at_once, now)
        if rate is not None and left is not None:
            text += f", {rate / 1e3:.1f}k tokens/s, {duration(left)} left"
        self._line.show(
            f"  {text}: {', '.join(running)}" if running else f"  {text}", last=not running
        )


class _TrainedTokens:
    """Tokens of one run, now and when the study started.

    A killed run continues from its newest checkpoint. Its metrics file may go beyond that
    checkpoint until the next start of the run truncates it. Those steps are trained again and must
    be counted only then.

    Attributes:
        tokens: tokens trained, at the last ``update``.
        start: tokens trained before the study started.
        pace: what was seen of the run since then.
    """

    def __init__(self, run: PlannedRun) -> None:
        self._run = run
        self._uncut: int | None = tokens_done(
            run
        )  # metrics not truncated yet; None: the run has started again
        self.tokens = self.start = run.tokens if run.finished() else tokens_kept(run)
        self.pace = Pace(run=run, earlier=self.start > 0)
        self._is_new = not _is_made(run)

    def update(self, now: float, running: Sequence[str]) -> bool:
        """Read the state of the run again; return whether it is finished."""
        ended = self._read()
        self.pace.look(
            now,
            tokens=self.tokens,
            start=self.start,
            running=self._run.name in running,
            made=self._has_made_its_folder(running),
            ended=ended,
        )
        return ended

    def _has_made_its_folder(self, running: Sequence[str]) -> bool:
        waits = self._is_new and self.pace.compiling is None and self._run.name in running
        return waits and _is_made(self._run)

    def _read(self) -> bool:
        if self._run.finished():
            self.tokens = self._run.tokens
            return True
        found = tokens_done(self._run)
        if found != self._uncut:
            self._uncut = None
            if (
                found < self.start
            ):  # it continued from an earlier checkpoint, because the newest one is corrupt
                self.start = min(self.start, tokens_kept(self._run))
            self.tokens = max(found, self.start)
        return False


class LogProgress:
    """The last line of each running job's log."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._line = StatusLine()

    def show(self, running: list[str], done: int) -> None:
        """Show the last lines of the ``running`` jobs, or the number of finished jobs."""
        lines = [f"{name}: {self._said(name)}" for name in running]
        self._line.show("  " + (" | ".join(lines) or f"{done} done"), last=not running)

    def _said(self, name: str) -> str:
        line = last_line(self._logs / f"{name}.log")
        return "starting" if line.startswith("$ ") else line  # `run_many` writes the command first


def _is_made(run: PlannedRun) -> bool:
    """Return whether the run directory of a run exists."""
    return (run.folder / "config.json").is_file()


def tokens_done(run: PlannedRun) -> int:
    """Return the tokens trained according to the last complete row of the run's metrics."""
    return _last_row(run)[1]


def tokens_kept(run: PlannedRun) -> int:
    """Return the tokens at the newest checkpoint, from which the next start continues."""
    step, tokens = _last_row(run)
    checkpoints = RunDirectory(run.folder).checkpoint_steps()
    return tokens // step * checkpoints[-1] if step and checkpoints else 0


def _last_row(run: PlannedRun) -> tuple[int, int]:
    """Return step and tokens of the last complete row; zeros if nothing is written yet."""
    row = last_row(run.folder)
    return int(row.get("step", 0)), int(row.get("tokens", 0))


def last_row(folder: Path) -> dict[str, float]:
    """Return the last complete row of a run's metrics; empty if nothing is written yet.

    Reads only the end of the file.
    """
    for line in reversed(last_lines(folder / "metrics.jsonl")):
        with contextlib.suppress(ValueError):  # still being written, or begins before the tail
            row = json.loads(line)
            whole = isinstance(row, dict) and (row.get("step"), row.get("tokens"))
            if whole and all(isinstance(number, int) for number in whole):
                return row
    return {}


def last_line(path: Path) -> str:
    """Return the last non-blank line of a text file, or "" if the file does not exist.

    Carriage returns count as line ends.
    """
    return next(iter(reversed(last_lines(path))), "")


def last_lines(path: Path, tail: int = 4096) -> list[str]:
    """Return the non-blank lines in the last ``tail`` bytes of a file."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - tail))
            lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    except FileNotFoundError:
        return []
    return [line.strip() for line in lines if line.strip()]
