"""What a person sees while checkpoints are measured: how far, how fast, how long still."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from lossline.training.progress import duration

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts tokens against a total that may grow, and prints a line now and then (in place on a
    terminal).
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start: float | None = None
        self._printed = -float("inf")
        self._done = 0
        self._total = 0
        self._in_place = sys.stdout.isatty()

    def expect(self, tokens: int) -> None:
        """More work is known of. Where all before it is done, a new count begins: waiting for a
        checkpoint is no measuring."""
        if self._done >= self._total:
            self._start, self._done, self._total = None, 0, 0
        self._total += tokens

    def advance(self, tokens: int, what: str) -> None:
        """Work was done; ``what`` names where we are."""
        now = self._clock()
        self._done += tokens
        if self._in_place or now - self._printed >= _SECONDS_BETWEEN_LINES:
            self._printed = now
            print(
                ("\r\033[2K" if self._in_place else "") + self._line(what, now),
                end="" if self._in_place else "\n",
                flush=True,
            )

    def start(self) -> None:
        """The clock of the rate starts here, once for what is expected: what was spent before is
        not measuring."""
        if self._start is None:
            self._start = self._clock()

    def say(self, message: str) -> None:
        """A line of its own."""
        print(("\r\033[2K" if self._in_place else "") + message, flush=True)

    def _line(self, what: str, now: float) -> str:
        elapsed = now - (self._start if self._start is not None else now)
        share = self._done / self._total if self._total else 1.0
        parts = [f"evaluate {share:4.0%}"]
        if self._done > 0 and elapsed > 0:
            rate = self._done / elapsed
            left = max(0, self._total - self._done) / rate
            parts.append(f"{rate / 1e3:,.0f}k tokens/s")
            parts.append(f"{duration(elapsed)} gone, about {duration(left)} to go")
        return "  ".join([*parts, what])
