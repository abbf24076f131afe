"""Show progress: a line that is rewritten on a terminal and repeated now and then in a log."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO, TypeVar

Say = Callable[[str], None]
Clock = Callable[[], float]
Item = TypeVar("Item")

_SECONDS_ON_A_TERMINAL = 0.2  # between rewrites
_SECONDS_IN_A_LOG = 10.0  # between lines
_SECONDS_BETWEEN_STAGES = 5.0  # between two lines of a stage that is still at work
_CLEAR = "\r\x1b[2K"


class StatusLine:
    """One line of progress.

    Args:
        seconds: shortest time between two lines where the output is not a terminal.
        stream: where to write; default: standard output at the time of writing. None (a closed
            output) writes nothing.
        quiet: write nothing.
        at_once: whether the first line may appear at once, or only after ``seconds``.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        *,
        seconds: float = _SECONDS_IN_A_LOG,
        stream: Callable[[], TextIO | None] = lambda: sys.stdout,
        quiet: bool = False,
        at_once: bool = True,
        clock: Clock = time.monotonic,
    ) -> None:
        self._seconds, self._stream, self._quiet, self._clock = seconds, stream, quiet, clock
        self._shown = -float("inf") if at_once else clock()
        self._open = False

    def show(self, text: str, *, last: bool = False) -> None:
        """Show ``text`` unless a line was shown a moment ago; the last line is always shown."""
        stream, now = self._stream(), self._clock()
        if self._quiet or stream is None:
            return
        terminal = stream.isatty()
        pause = min(self._seconds, _SECONDS_ON_A_TERMINAL) if terminal else self._seconds
        if now - self._shown < pause and not last:
            return
        self._shown = now
        if not terminal:
            print(text, file=stream, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1  # a wrapped line cannot be rewritten
        print(_CLEAR + text[:width], end="\n" if last else "", file=stream, flush=True)
        self._open = not last

    def say(self, text: str) -> None:
        """Write a message on a line of its own."""
        stream = self._stream()
        if self._quiet or stream is None:
            return
        print((_CLEAR if self._open else "") + text, file=stream, flush=True)
        self._open = False


class WorkProgress:
    """Amount done, rate and time left of one long step, on standard error.

    Args:
        label: what is being done.
        total: amount in all, in ``unit``; 0 if unknown.
        unit: name of the amount; "MB" counts bytes.
        seconds: shortest time between two lines of a log.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        label: str,
        *,
        total: float = 0,
        unit: str = "MB",
        seconds: float = 5.0,
        clock: Clock = time.monotonic,
    ) -> None:
        self._label, self._total, self._unit, self._clock = label, total, unit, clock
        self._line = StatusLine(
            seconds=seconds, stream=lambda: sys.stderr, at_once=False, clock=clock
        )
        self._start = self._rate_from = clock()
        self._done = self._found = 0.0

    def advance(self, amount: float) -> None:
        """Count ``amount`` as done."""
        self._done += amount
        self._line.show(self._text())

    def found(self, amount: float) -> None:
        """Count ``amount`` as done by an earlier start: part of the total, not of the rate."""
        self._found += amount
        if not self._done:  # reading what exists is not work either
            self._rate_from = self._clock()
        self._line.show(self._text())

    def finish(self, summary: str) -> None:
        """Write the last line: the result and the seconds it took."""
        self._line.say(f"{self._label}: {summary} in {self._clock() - self._start:.1f} s")

    def _text(self) -> str:
        scale = 1e6 if self._unit == "MB" else 1
        done, seconds = self._found + self._done, self._clock() - self._rate_from
        amount = f"{done / scale:,.1f}"
        if self._total:
            amount += f" of {self._total / scale:,.1f}"
        text = f"{self._label}: {amount} {self._unit}"
        if self._done > 0 and seconds > 0:
            rate = self._done / seconds
            text += f", {rate / scale:,.2f} {self._unit}/s"
            if done < self._total:
                text += f", {duration((self._total - done) / rate)} left"
        return text


def flush_output() -> None:
    """Write out what standard output and error still hold; one whose reader has gone is passed."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # None, broken, closed
            stream.flush()


def announce(number: int, steps: int, title: str) -> None:
    """Print the title of a step: ``[2/6] title``."""
    print(f"[{number}/{steps}] {title}", flush=True)


def duration(seconds: float) -> str:
    """Format seconds as "42 s", "3:05", "2:00:05" or "4 d 03:00"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 24:
        days, hour = divmod(hours, 24)
        return f"{days} d {hour:02d}:{minute:02d}"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def silent(text: str) -> None:
    """Discard a message: the default ``say`` of library functions."""


def now_and_then(say: Say) -> Say:
    """Return a ``say`` that drops messages sent within 5 seconds of the last one it passed on."""
    last = time.monotonic()

    def sparing(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_STAGES:
            say(text)
            last = time.monotonic()

    return sparing


def counted(items: Sequence[Item], say: Say, what: str) -> Iterator[Item]:
    """Yield the items one by one; say now and then how many are done."""
    sparing = now_and_then(say)
    for done, item in enumerate(items):
        if done:
            sparing(f"  {done} of {len(items)} {what}")
        yield item
