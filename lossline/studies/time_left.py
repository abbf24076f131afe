"""Time left of the trainings of a study: start-ups and compilation apart from training.

A run that has just started compiles and trains nothing. Its seconds must not count as slow training
of all that is left, and the runs that follow will compile too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lossline.studies.planned_run import PlannedRun

_SHORTEST = 1.0  # seconds of training that tell a rate


@dataclass(kw_only=True)
class Pace:
    """What was seen of one run since this start of the study.

    Attributes:
        run: the planned run.
        done: tokens trained, also before this start of the study.
        began: time at which its process was first seen; None: not started.
        first: time and tokens at its first new row of metrics; None: no row yet.
        latest: the same at its newest row.
        ended: whether it has reached its last step.
    """

    run: PlannedRun
    done: int = 0
    began: float | None = None
    first: tuple[float, int] | None = None
    latest: tuple[float, int] | None = None
    ended: bool = False

    def look(self, now: float, *, tokens: int, start: int, running: bool, ended: bool) -> None:
        """Note the state of the run.

        Args:
            now: seconds.
            tokens: tokens trained.
            start: tokens trained before the study started.
            running: whether its process runs.
            ended: whether it has reached its last step.
        """
        if running and self.began is None:
            self.began = now
        if tokens > max(start, self.done if self.first else 0) and not self.ended:
            self.first = self.first or (now, tokens)
            self.latest = (now, tokens)
        self.done, self.ended = tokens, ended

    @property
    def trained(self) -> tuple[float, int]:
        """Seconds and tokens between the first and the newest row."""
        if self.first is None or self.latest is None:
            return 0.0, 0
        return self.latest[0] - self.first[0], self.latest[1] - self.first[1]

    @property
    def start_up(self) -> float | None:
        """Seconds from the start of the process to its first row; None if not seen."""
        if self.first is None or self.began is None:
            return None
        return self.first[0] - self.began

    def flops(self, tokens: float) -> float:
        """Training FLOPs of so many tokens."""
        return tokens * self.run.flops / self.run.tokens


def tokens_per_second(paces: Sequence[Pace], at_once: int) -> float | None:
    """Return the rate of ``at_once`` trainings together; None if no training has told it yet."""
    seconds = sum(pace.trained[0] for pace in paces)
    tokens = sum(pace.trained[1] for pace in paces)
    return at_once * tokens / seconds if seconds >= _SHORTEST and tokens else None


def seconds_left(paces: Sequence[Pace], at_once: int, now: float) -> float | None:
    """Return the seconds until all runs have ended; None if no training has told a rate yet.

    A run that has told its own rate continues at it; the others take the mean FLOPs per second and
    the mean start-up.

    Args:
        paces: all runs of the study.
        at_once: number of trainings at a time.
        now: seconds.
    """
    seconds = sum(pace.trained[0] for pace in paces)
    flops = sum(pace.flops(pace.trained[1]) for pace in paces)
    if seconds < _SHORTEST or not flops:
        return None
    seen = [pace.start_up for pace in paces if pace.start_up is not None]
    start_up = sum(seen) / len(seen) if seen else 0.0
    parts = []
    for pace in paces:
        if pace.ended:
            continue
        own_seconds, own_tokens = pace.trained
        own = own_seconds >= _SHORTEST and own_tokens > 0
        rate = pace.flops(own_tokens) / own_seconds if own else flops / seconds
        part = pace.flops(pace.run.tokens - pace.done) / rate
        if pace.began is None:
            part += start_up
        elif pace.first is None:
            part += max(0.0, start_up - (now - pace.began))
        elif pace.latest is not None:
            part = max(0.0, part - (now - pace.latest[0]))  # rows come now and then
        parts.append(part)
    return max(sum(parts) / max(1, at_once), max(parts, default=0.0))
