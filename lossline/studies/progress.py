"""What a study prints while it works: the step, how far it is, the rate, the time to go."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lossline.studies.planned_run import PlannedRun

_QUIET_SECONDS = 10.0  # between lines where the output is not a terminal


def announce(number: int, steps: int, title: str) -> None:
    """Prints a step's name."""
    print(f"[{number}/{steps}] {title}", flush=True)


def clock(seconds: float) -> str:
    """``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _Line:
    """One line that is rewritten on a terminal and repeated now and then elsewhere."""

    def __init__(self) -> None:
        self._shown_at = 0.0
        self._terminal = sys.stdout.isatty()

    def show(self, text: str, *, last: bool = False) -> None:
        now = time.monotonic()
        if self._terminal:
            width = shutil.get_terminal_size().columns - 3  # a line that wraps cannot be replaced
            print(f"\r\x1b[2K  {text[:width]}", end="\n" if last else "", flush=True)
        elif last or now - self._shown_at >= _QUIET_SECONDS:
            self._shown_at = now
            print(f"  {text}", flush=True)


class TrainingProgress:
    """All trainings of a study in one line, measured in tokens; work done in an earlier start does
    not count as rate.
    """

    def __init__(self, runs: Sequence[PlannedRun]) -> None:
        self._runs = runs
        self._total = sum(run.tokens for run in runs)
        self._began = time.monotonic()
        self._before = sum(tokens_done(run) for run in runs)
        self._line = _Line()

    def show(self, running: list[str], done: int) -> None:
        tokens = sum(tokens_done(run) for run in self._runs)
        finished = sum(run.finished() for run in self._runs)
        rate = (tokens - self._before) / max(time.monotonic() - self._began, 1e-9)
        left = clock((self._total - tokens) / rate) if rate > 0 else "?"
        text = f"{finished}/{len(self._runs)} runs, {tokens / self._total:.0%} of "
        text += f"{self._total / 1e6:.1f}M tokens"
        text += f", {rate / 1e3:.1f}k tokens/s, {left} left"
        self._line.show(f"{text}: {', '.join(running)}" if running else text, last=not running)


class LogProgress:
    """The last line that each running job has said."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._line = _Line()

    def show(self, running: list[str], done: int) -> None:
        lines = [f"{name}: {self._said(name)}" for name in running]
        self._line.show(" | ".join(lines) if lines else f"{done} done", last=not running)

    def _said(self, name: str) -> str:
        line = last_line(self._logs / f"{name}.log")
        return "starting" if line.startswith("$ ") else line  # its command, by `run_many`


def tokens_done(run: PlannedRun) -> int:
    """Tokens that a run has seen, read off the end of its metrics."""
    line = last_line(run.folder / "metrics.jsonl")
    try:
        return int(json.loads(line)["tokens"]) if line else 0
    except (ValueError, KeyError):
        return 0  # a line still being written; the next look has it


def last_line(path: Path, tail: int = 4096) -> str:
    """The last whole line of a text file, the last of its carriage-return updates; empty where
    there is no file.
    """
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - tail))
            lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
