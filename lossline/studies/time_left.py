"""Time left of the trainings of a study: start-ups and compilation apart from training.

A run that has just started compiles and trains nothing. Its seconds must not count as slow training
of all that is left. Once a run of a size has trained, the later ones find its compiled program.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lossline.studies.planned_run import PlannedRun

_SHORTEST = 1.0  # seconds of training that tell a rate


@dataclass(kw_only=True)
class Pace:
    """What was seen of one run since this start of the study.

    Attributes:
        run: the planned run.
        earlier: whether it had trained before this start of the study.
        done: tokens trained, also before this start of the study.
        began: time at which its process was first seen; None: not started.
        compiling: time at which its new run directory was first seen, which is made before the step
            compiles; None: not seen.
        first: time and tokens at its first new row of metrics; None: no row yet.
        latest: the same at its newest row.
        ended: whether it has reached its last step.
    """

    run: PlannedRun
    earlier: bool = False
    done: int = 0
    began: float | None = None
    compiling: float | None = None
    first: tuple[float, int] | None = None
    latest: tuple[float, int] | None = None
    ended: bool = False

    def look(
        self, now: float, *, tokens: int, start: int, running: bool, made: bool, ended: bool
    ) -> None:
        """Note the state of the run.

        Args:
            now: seconds.
            tokens: tokens trained.
            start: tokens trained before the study started.
            running: whether its process runs.
            made: whether its process has made a new run directory.
            ended: whether it has reached its last step.
        """
        if running and self.began is None:
            self.began = now
        if made and self.compiling is None:
            self.compiling = now
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
    def preparation(self) -> float | None:
        """Seconds from the start of the process until it compiles; None if not seen."""
        return None if self.began is None or self.compiling is None else self.compiling - self.began

    @property
    def start_up(self) -> float | None:
        """Seconds from the start of the process to its first row; None if not seen."""
        if self.first is None or self.began is None:
            return None
        return self.first[0] - self.began


def tokens_per_second(paces: Sequence[Pace], at_once: int) -> float | None:
    """Return the rate of ``at_once`` trainings together; None if no training has told it yet."""
    rate = _tokens_per_second(paces)
    return None if rate is None else at_once * rate


def seconds_left(paces: Sequence[Pace], at_once: int, now: float) -> float | None:
    """Return the seconds until all runs have ended; None if no training has told a rate yet.

    A run continues at its own rate. One that has not told a rate takes that of its size, and one
    whose size has told none takes the mean FLOPs per second. Start-ups take the mean of those seen,
    with compilation for runs that start before any of their size has trained.

    Args:
        paces: all runs of the study.
        at_once: number of trainings at a time.
        now: seconds.
    """
    flops_per_second = _flops_per_second(paces)
    if flops_per_second is None:
        return None
    sizes: dict[float, list[Pace]] = {}
    for pace in paces:
        sizes.setdefault(pace.run.flops_per_token, []).append(pace)
    cold, warm = _start_ups(sizes.values())
    parts = []
    for flops_per_token, alike in sizes.items():
        rate = _tokens_per_second(alike) or flops_per_second / flops_per_token
        compiled = _compiled(alike)
        # Of the runs that have not started, the first one compiles if no earlier one does.
        compiles = compiled == math.inf and all(pace.began is None for pace in alike)
        for pace in alike:
            if pace.ended:
                continue
            part = (pace.run.tokens - pace.done) / (_tokens_per_second([pace]) or rate)
            if pace.latest is not None:
                part = max(0.0, part - (now - pace.latest[0]))  # rows come now and then
            elif pace.began is not None:
                start_up = cold if pace.began < compiled else warm
                part += max(0.0, start_up - (now - pace.began))
            else:
                part += cold if compiles else warm
                compiles = False
            parts.append(part)
    return max(sum(parts) / max(1, at_once), max(parts, default=0.0))


def _start_ups(sizes: Collection[Sequence[Pace]]) -> tuple[float, float]:
    """Return the mean start-up with compilation, and without.

    Until one without is seen, it is taken to be as long as the preparation before a compilation.
    """
    cold: list[float] = []
    warm: list[float] = []
    preparations: list[float] = []
    for alike in sizes:
        compiled = _compiled(alike)
        for pace in alike:
            if pace.began is not None and pace.start_up is not None:
                (cold if pace.began < compiled else warm).append(pace.start_up)
            if pace.preparation is not None:
                preparations.append(pace.preparation)
    return _mean(cold or warm), _mean(warm or preparations or cold)


def _compiled(alike: Sequence[Pace]) -> float:
    """Return the time from which runs of this size find a compiled program."""
    if any(pace.earlier for pace in alike):
        return -math.inf
    return min((pace.first[0] for pace in alike if pace.first is not None), default=math.inf)


def _tokens_per_second(paces: Sequence[Pace]) -> float | None:
    """Return the tokens per second of one training; None if it is not known yet."""
    seconds = sum(pace.trained[0] for pace in paces)
    tokens = sum(pace.trained[1] for pace in paces)
    return tokens / seconds if seconds >= _SHORTEST and tokens else None


def _flops_per_second(paces: Sequence[Pace]) -> float | None:
    """Return the FLOPs per second of one training; None if it is not known yet."""
    seconds = sum(pace.trained[0] for pace in paces)
    flops = sum(pace.trained[1] * pace.run.flops_per_token for pace in paces)
    return flops / seconds if seconds >= _SHORTEST and flops else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
