"""The progress line of an evaluation, and of other verbs that measure checkpoints."""

from __future__ import annotations

import time

from lossline.terminal import Clock, StatusLine, duration

_TELLING_SHARE = 0.1  # of the work, whatever part of its time was compilation


class EvaluationProgress(StatusLine):
    """Share done, rate and time left, in tokens; the total may grow.

    The first piece of work compiles. The time left is shown once that piece is at most half of the
    time, or a tenth of the work is done.

    Args:
        label: the verb.
        quiet: write nothing.
        clock: seconds, for tests.
    """

    def __init__(
        self, *, label: str = "evaluate", quiet: bool = False, clock: Clock = time.monotonic
    ) -> None:
        super().__init__(quiet=quiet, clock=clock)
        self._label = label
        self._start: float | None = None
        self._first: float | None = None  # seconds that the first piece took
        self._done = 0
        self._total = 0

    def expect(self, tokens: int) -> None:
        """Add tokens to the total.

        If all earlier work is done, a new count begins: time spent waiting for a checkpoint does
        not count.
        """
        if self._done >= self._total:
            self._start, self._first, self._done, self._total = None, None, 0, 0
        self._total += tokens

    def start(self) -> None:
        """Start the clock of the rate, once per count: restoring does not count."""
        if self._start is None:
            self._start = self._clock()

    def advance(self, tokens: int, what: str) -> None:
        """Count tokens as done; ``what`` names the run and step."""
        self._done += tokens
        elapsed = 0.0 if self._start is None else self._clock() - self._start
        if self._first is None:
            self._first = elapsed
        self.show(self._text(elapsed, compiled=elapsed >= 2 * self._first, what=what))

    def _text(self, elapsed: float, *, compiled: bool, what: str) -> str:
        share = self._done / self._total if self._total else 1.0
        parts = [f"{self._label} {share:4.0%}"]
        if self._done > 0 and elapsed > 0:
            rate = self._done / elapsed
            left = max(0, self._total - self._done) / rate
            parts.append(f"{rate / 1e3:,.0f}k tokens/s")
            told = compiled or share >= _TELLING_SHARE
            to_go = f", about {duration(left)} to go" if told else ""
            parts.append(f"{duration(elapsed)} gone{to_go}")
        return "  ".join([*parts, what])
