"""What a study prints while it works: the step, how far it is, the rate, the time to go."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lossline.runs.run_directory import RunDirectory
from lossline.studies.planned_run import PlannedRun
from lossline.terminal import StatusLine, duration


class StudyProgress:
    """All trainings of a study in one line, measured in tokens. The rate and the time left come
    from what this start has trained.

    Args:
        runs: of the study, finished ones too.
        now: for tests.
    """

    def __init__(
        self, runs: Sequence[PlannedRun], *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._runs = [_TrainedTokens(run) for run in runs]
        self._total = sum(run.tokens for run in runs)
        self._now = now
        self._began = now()
        self._line = StatusLine()

    def show(self, running: list[str], done: int) -> None:
        finished = sum(run.update() for run in self._runs)
        tokens = sum(run.tokens for run in self._runs)
        here = tokens - sum(run.start for run in self._runs)
        seconds = self._now() - self._began
        text = f"{finished}/{len(self._runs)} runs, {tokens / self._total:.0%} of "
        text += f"{self._total / 1e6:.1f}M tokens"
        if here > 0 and seconds > 0:
            left = (self._total - tokens) * seconds / here
            text += f", {here / seconds / 1e3:.1f}k tokens/s, {duration(left)} left"
        self._line.show(
            f"  {text}: {', '.join(running)}" if running else f"  {text}", last=not running
        )


class _TrainedTokens:
    """Tokens of one run, now and at the study's start.

    A run that was killed goes on from its newest checkpoint. Its metrics reach further, until its
    next start cuts them: those steps are trained again and count only then.

    Attributes:
        tokens: that the run has trained, as of the last ``update``.
        start: of these, before the study's start.
    """

    def __init__(self, run: PlannedRun) -> None:
        self._run = run
        self._uncut: int | None = tokens_done(run)  # None: the run has started again
        self.tokens = self.start = run.tokens if run.finished() else tokens_kept(run)

    def update(self) -> bool:
        """Looks at the run again; whether it is finished."""
        if self._run.finished():
            self.tokens = self._run.tokens
            return True
        found = tokens_done(self._run)
        if found != self._uncut:
            self._uncut = None
            if found < self.start:  # perhaps from an earlier checkpoint, the newest being corrupt
                self.start = min(self.start, tokens_kept(self._run))
            self.tokens = max(found, self.start)
        return False


class LogProgress:
    """The last line that each running job has said."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._line = StatusLine()

    def show(self, running: list[str], done: int) -> None:
        lines = [f"{name}: {self._said(name)}" for name in running]
        self._line.show("  " + (" | ".join(lines) or f"{done} done"), last=not running)

    def _said(self, name: str) -> str:
        line = last_line(self._logs / f"{name}.log")
        return "starting" if line.startswith("$ ") else line  # its command, by `run_many`


def tokens_done(run: PlannedRun) -> int:
    """Tokens that a run has seen, by the last whole row of its metrics."""
    return _last_row(run)[1]


def tokens_kept(run: PlannedRun) -> int:
    """Tokens that the next start of a run goes on from: those at its newest checkpoint."""
    step, tokens = _last_row(run)
    checkpoints = RunDirectory(run.folder).checkpoint_steps()
    return tokens // step * checkpoints[-1] if step and checkpoints else 0


def _last_row(run: PlannedRun) -> tuple[int, int]:
    """Step and tokens; zeros where nothing is written yet."""
    for line in reversed(_last_lines(run.folder / "metrics.jsonl")):
        try:
            row = json.loads(line)
            return int(row["step"]), int(row["tokens"])
        except (ValueError, KeyError, TypeError):
            continue  # a line still being written, or the end of one that began before the tail
    return 0, 0


def last_line(path: Path) -> str:
    """The last line of a text file that is not blank, the last of its carriage-return updates;
    empty where there is no file.
    """
    return next(iter(reversed(_last_lines(path))), "")


def _last_lines(path: Path, tail: int = 4096) -> list[str]:
    """The lines in the last ``tail`` bytes of a file, none of them blank."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - tail))
            lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    except FileNotFoundError:
        return []
    return [line.strip() for line in lines if line.strip()]
