"""Time left of the trainings of a study: start-ups and compilation apart from training.

A run that has just started compiles and trains nothing. Its seconds must not count as slow training
of all that is left. Only the first run of each size compiles: the others find its programs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
        compiles: time at which its run directory appeared, which is made before compilation; None:
            not seen, or it existed when the process started.
        first: time and tokens at its first new row of metrics; None: no row yet.
        latest: the same at its newest row.
        found: whether its run directory existed when its process started.
        ended: whether it has reached its last step.
    """

    run: PlannedRun
    done: int = 0
    began: float | None = None
    compiles: float | None = None
    first: tuple[float, int] | None = None
    latest: tuple[float, int] | None = None
    found: bool = True
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
            made: whether its run directory exists.
            ended: whether it has reached its last step.
        """
        if running and self.began is None:
            self.began = now
            self.found = made
        if made and not self.found and self.compiles is None:
            self.compiles = now
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
        return None if self.began is None or self.compiles is None else self.compiles - self.began

    @property
    def start_up(self) -> float | None:
        """Seconds from the start of the process to its first row; None if not seen."""
        if self.first is None or self.began is None:
            return None
        return self.first[0] - self.began


def tokens_per_second(paces: Sequence[Pace], at_once: int) -> float | None:
    """Return the rate of ``at_once`` trainings together; None if no training has told it yet."""
    rate = _rate(paces)
    return None if rate is None else at_once * rate


def seconds_left(paces: Sequence[Pace], at_once: int, now: float) -> float | None:
    """Return the seconds until all runs have ended; None if no training has told a rate yet.

    A run continues at its own rate. One that has not told a rate takes that of its size, and one
    whose size has told none takes the mean FLOPs per second. Start-ups take the mean of those seen,
    with compilation for the first run of a size.

    Args:
        paces: all runs of the study.
        at_once: number of trainings at a time.
        now: seconds.
    """
    flops_per_second = _rate(paces, flops=True)
    if flops_per_second is None:
        return None
    sizes: dict[float, list[Pace]] = {}
    for pace in paces:
        sizes.setdefault(pace.run.flops_per_token, []).append(pace)
    cold, warm = _start_ups(sizes.values())
    parts = []
    for flops_per_token, alike in sizes.items():
        common = _rate(alike) or flops_per_second / flops_per_token
        compiled = any(pace.ended or pace.start_up is not None for pace in alike)
        for pace in sorted(alike, key=lambda pace: pace.began is None):
            if pace.ended:
                continue
            part = (pace.run.tokens - pace.done) / (_rate([pace]) or common)
            if pace.latest is not None:
                part = max(0.0, part - (now - pace.latest[0]))  # rows come now and then
            else:
                gone = 0.0 if pace.began is None else now - pace.began
                part += max(0.0, (warm if compiled else cold) - gone)
                compiled = True  # the others find its program
            parts.append(part)
    return max(sum(parts) / max(1, at_once), max(parts, default=0.0))


def _rate(paces: Sequence[Pace], *, flops: bool = False) -> float | None:
    """Return the tokens (or FLOPs) per second of one training; None if it is not known yet."""
    seconds = sum(pace.trained[0] for pace in paces)
    amount = sum(pace.trained[1] * (pace.run.flops_per_token if flops else 1.0) for pace in paces)
    return amount / seconds if seconds >= _SHORTEST and amount else None


def _start_ups(sizes: Collection[Sequence[Pace]]) -> tuple[float, float]:
    """Return the mean start-up of runs that were the first of their size, and of later ones.

    Until a later one was seen, it is taken to be as long as a first one without its compilation.
    """
    cold: list[float] = []
    warm: list[float] = []
    for alike in sizes:
        seen = [(pace.began, pace.start_up) for pace in alike if pace.start_up is not None]
        times = [start_up for _, start_up in sorted(seen)]
        cold, warm = cold + times[:1], warm + times[1:]
    before = [pace.preparation for alike in sizes for pace in alike if pace.preparation is not None]
    return _mean(cold or warm), _mean(warm or before or cold)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
