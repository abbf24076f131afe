"""Matched runs of a factor, and their losses on two evaluation sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lossline.attribution.comparison import Comparison, Plans, compare
from lossline.attribution.regression import MatchedPoints
from lossline.matching.groups import TREND_FROM, Design, MatchedGroup
from lossline.options.roles import SIZE
from lossline.run_order import run_numbers

Numbers = Mapping[str, float]  # run -> number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matched:
    """Runs of one factor that may be compared according to their facts, measured or not.

    Attributes:
        factor: column of the loss table.
        equal: matched groups of runs of one model size.
        pooled: matched groups of runs of all model sizes.
        levels: recorded levels of the factor.
        pairs: pairs of levels to compare; for a trend, one tuple of all levels.
        number: logarithm of the factor per run for a trend, else None.
    """

    factor: str
    equal: list[MatchedGroup]
    pooled: list[MatchedGroup]
    levels: tuple[str, ...]
    pairs: list[tuple[str, ...]]
    number: Numbers | None

    @classmethod
    def of(cls, plan: Design, factor: str) -> Matched:
        """Match the runs of a factor."""
        levels = plan.recorded_levels(factor)
        values = plan.trend_of(factor) if len(levels) >= TREND_FROM else None
        return cls(
            factor=factor,
            equal=plan.groups(factor),
            pooled=[] if factor == SIZE else plan.groups(factor, pool_sizes=True),
            levels=levels,
            pairs=plan.pairs(factor) if values is None else [levels],
            number=None if values is None else np.log(values[values > 0]).to_dict(),
        )

    def used(self, groups: Sequence[MatchedGroup]) -> list[str]:
        """Return the levels that occur in these groups, in order."""
        return [level for level in self.levels if any(level in group.levels for group in groups)]

    def middle(self, level: str, groups: Sequence[MatchedGroup]) -> float:
        """Return the number that represents a level of a trend: the median over its runs."""
        assert self.number is not None
        return float(
            np.median([self.number[run] for group in groups for run in group.levels.get(level, ())])
        )


def by_level(groups: Sequence[MatchedGroup], chosen: Mapping[str, float]) -> Numbers:
    """Return the number of each run: that of its level. Levels not in ``chosen`` are left out."""
    return {
        run: chosen[level] for group in groups for level, runs in group.levels.items()
        for run in runs if level in chosen
    }  # fmt: skip


class Losses:
    """Losses on two sets, by run.

    Runs are numbered by their losses, so that results do not depend on run names.

    Args:
        points: index (run_id, step), sorted; columns x and y (M,).
        plans: plans of comparisons on other sets of the same checkpoints, to save time.
    """

    def __init__(self, points: pd.DataFrame, plans: Plans | None = None) -> None:
        """Split the points by run."""
        self._plans = plans or Plans()
        run = np.asarray(points.index.get_level_values(0), dtype=str)
        names, start = np.unique(run, return_index=True)
        self._data = points.to_numpy(float)
        self._start, self._count = start, np.diff(start, append=len(run))
        self._rank = run_numbers(run, *self._data.T)[start]
        self._place = {str(name): place for place, name in enumerate(names)}

    def points(
        self, group: MatchedGroup, d: Numbers | None = None, given: Numbers | None = None
    ) -> MatchedPoints | None:
        """Return the points of those runs of a group that have losses and a number ``d``.

        Args:
            group: matched group of runs.
            d: number of each run (its level); without it, d is 0 for all runs.
            given: second number per run, whose effect is held equal.

        Returns:
            The points, or None if no run has any.
        """
        runs = [run for run in group.runs if run in self._place and (d is None or run in d)]
        if not runs:
            return None
        place = np.array([self._place[run] for run in runs])
        order = np.argsort(self._rank[place])
        place = place[order]
        count = self._count[place]
        ends = np.cumsum(count)
        row = np.repeat(self._start[place] - ends + count, count) + np.arange(ends[-1])

        def spread(numbers: Numbers) -> np.ndarray:
            return np.repeat(np.array([float(numbers[run]) for run in runs])[order], count)

        x, y = self._data[row].T
        return MatchedPoints(
            x=x, y=y, run=np.repeat(self._rank[place], count),
            d=np.zeros(len(x)) if d is None else spread(d),
            given=None if given is None else spread(given)[:, None],
        )  # fmt: skip

    def compare(
        self,
        groups: Sequence[MatchedGroup],
        d: Numbers,
        given: Numbers | None = None,
        *,
        resamples: int = 0,
        seed: int = 0,
    ) -> Comparison | None:
        """Compare the lines of the levels of these groups; None without a common range."""
        found = [points for group in groups if (points := self.points(group, d, given)) is not None]
        found.sort(key=lambda points: int(points.run[0]))
        if not found:
            return None
        return compare(found, resamples=resamples, seed=seed, plans=self._plans)
