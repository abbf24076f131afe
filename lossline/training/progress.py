"""The line that a training shows while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Progress:
    """One line, rewritten in place on a terminal, repeated every ``seconds`` elsewhere.

    Attributes:
        steps: of the whole run.
        seconds: between lines where the output is no terminal.
        quiet: say nothing (all processes but the first).
    """

    steps: int
    seconds: float
    quiet: bool = False
    clock: Callable[[], float] = time.monotonic
    _shown: float = field(default=float("-inf"), init=False)
    _open: bool = field(default=False, init=False)

    def say(self, text: str) -> None:
        """A line of its own."""
        if self.quiet:
            return
        print(f"\n{text}" if self._open else text, flush=True)
        self._open = False

    def show(
        self, step: int, *, loss: float, tokens_per_second: float | None, seconds_left: float | None
    ) -> None:
        """How far the run is; ``None`` where a rate is not known yet."""
        now, last = self.clock(), step == self.steps
        terminal = sys.stdout.isatty()
        if self.quiet or (now - self._shown < (0.2 if terminal else self.seconds) and not last):
            return
        self._shown = now
        parts = [f"step {step}/{self.steps}", f"loss {loss:.4f}"]
        if tokens_per_second:
            parts.append(f"{tokens_per_second:,.0f} tokens/s")
        if seconds_left is not None and not last:
            parts.append(f"{duration(seconds_left)} left")
        line = "  ".join(parts)
        if terminal:
            print(f"\r\x1b[K{line}", end="\n" if last else "", flush=True)
            self._open = not last
        else:
            print(line, flush=True)


def duration(seconds: float) -> str:
    """ "42 s", "3:05", "2:00:05", "4 d 03:00"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 24:
        days, hour = divmod(hours, 24)
        return f"{days} d {hour:02d}:{minute:02d}"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
