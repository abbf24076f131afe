"""How far a long step is: rate and time left, now and then, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


class Progress:
    """Counts work done and prints a line at most every ``every`` seconds.

    Args:
        label: what is being done.
        total: work in all, in ``unit``s; 0 where unknown.
        unit: name of what is counted; "MB" counts bytes.
        every: seconds between lines; default: half a second on a terminal, five elsewhere.
        clock: for tests.
    """

    def __init__(
        self,
        label: str,
        *,
        total: float = 0,
        unit: str = "MB",
        every: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label, self._total, self._unit, self._clock = label, total, unit, clock
        self._terminal = sys.stderr.isatty()
        self._every = every if every is not None else (0.5 if self._terminal else 5.0)
        self._start = self._last = self._rate_from = clock()
        self._done = self._found = 0.0

    def advance(self, amount: float) -> None:
        """Notes that ``amount`` more is done."""
        self._done += amount
        self._show()

    def found(self, amount: float) -> None:
        """Notes ``amount`` that an earlier start has done: part of the total, not of the rate."""
        self._found += amount
        if not self._done:  # looking through it is no work either
            self._rate_from = self._clock()
        self._show()

    def _show(self) -> None:
        now = self._clock()
        if now - self._last >= self._every:
            self._last = now
            print(
                self._line(now),
                end="\r" if self._terminal else "\n",
                file=sys.stderr,
                flush=True,
            )

    def finish(self, summary: str) -> None:
        """Prints the last line: what came out, and the seconds it took."""
        seconds = self._clock() - self._start
        print(f"{self._label}: {summary} in {seconds:.1f} s", file=sys.stderr, flush=True)

    def _line(self, now: float) -> str:
        scale = 1e6 if self._unit == "MB" else 1
        done, seconds = self._found + self._done, now - self._rate_from
        amount = f"{done / scale:,.1f}"
        if self._total:
            amount += f" of {self._total / scale:,.1f}"
        line = f"{self._label}: {amount} {self._unit}"
        if self._done > 0 and seconds > 0:
            rate = self._done / seconds
            line += f", {rate / scale:,.2f} {self._unit}/s"
            if done < self._total:
                line += f", {(self._total - done) / rate:,.0f} s left"
        return line.ljust(78) if self._terminal else line
