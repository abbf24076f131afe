"""The progress line of an evaluation, and of other verbs that measure checkpoints."""

from __future__ import annotations

import time

from lossline.terminal import Clock, StatusLine, duration

_SECONDS_OF_A_RATE = 10.0  # until then, compilation is most of the time


class EvaluationProgress(StatusLine):
    """Share done, rate and time left, in tokens; the total may grow.

    The first piece of work compiles, so it counts in the rate only until the second is done. Later
    the rate is that of at least the newest half of the time.

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
        self._done = 0
        self._total = 0
        self._marks = [(0.0, 0), (0.0, 0)]  # seconds and tokens; the rate counts from the first

    def expect(self, tokens: int) -> None:
        """Add tokens to the total.

        If all earlier work is done, a new count begins: time spent waiting for a checkpoint does
        not count.
        """
        if self._done >= self._total:
            self._start, self._done, self._total = None, 0, 0
            self._marks = [(0.0, 0), (0.0, 0)]
        self._total += tokens

    def start(self) -> None:
        """Start the clock of the rate, once per count: restoring does not count."""
        if self._start is None:
            self._start = self._clock()

    def advance(self, tokens: int, what: str) -> None:
        """Count tokens as done; ``what`` names the run and step."""
        self._done += tokens
        elapsed = self._elapsed()
        self.show(self._text(elapsed, what))
        if elapsed > 2 * self._marks[1][0]:
            now = (elapsed, self._done)
            self._marks = [self._marks[1] if self._marks[1][1] else now, now]

    def _elapsed(self) -> float:
        return 0.0 if self._start is None else self._clock() - self._start

    def _text(self, elapsed: float, what: str) -> str:
        share = self._done / self._total if self._total else 1.0
        parts = [f"{self._label} {share:4.0%}"]
        since, before = self._marks[0] if elapsed > self._marks[0][0] else (0.0, 0)
        if self._done > before and elapsed > since:
            rate = (self._done - before) / (elapsed - since)
            left = max(0, self._total - self._done) / rate
            parts.append(f"{rate / 1e3:,.0f}k tokens/s")
            to_go = f", about {duration(left)} to go" if elapsed >= _SECONDS_OF_A_RATE else ""
            parts.append(f"{duration(elapsed)} gone{to_go}")
        return "  ".join([*parts, what])
