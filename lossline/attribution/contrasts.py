"""What is asked of a factor on one evaluation set: its levels, one against the others, the shape of
a trend, and whether groups of runs answer alike."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterator, Sequence

import numpy as np

from lossline.attribution.comparison import (
    NO_NOISE,
    UNKNOWN,
    Chance,
    Comparison,
    Noise,
    pooled_noise,
)
from lossline.attribution.matched import Losses, Matched, by_level
from lossline.attribution.options import AttributionOptions
from lossline.matching.groups import TREND_FROM, Design, MatchedGroup

__all__ = ["BORROWED", "Contrast", "Kind", "Side", "contrasts_of", "factor_noise"]

# Noise that is borrowed from other runs counts so many times. Fixed beforehand; the groups of two
# published sweeps stray from their lines by up to 3.1 times as much as the other groups do
# (experiments/attribution/noise_of_groups.py).
BORROWED = 3.0
_FEW_DEGREES = 4.0  # below, the runs compared say too little about chance to be the only judges
_EACH_LEVEL_UP_TO = 8  # levels of a trend that are held against it one by one
# Pairs of levels up to which each is compared between groups; of more, no test would be left any
# of the level.
_PAIRS_BY_GROUP = 45


class Kind(enum.StrEnum):
    """What a contrast asks."""

    LEVELS = "levels"  # do two levels, or the ends of a trend, differ
    REST = "one level against the others"
    BEND = "bend of the trend"
    OFF_TREND = "one level against the trend"
    GROUPS = "groups"  # does the move differ between groups of runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """The move in the groups that share one of some levels of another factor: the mean over these
    levels, so that what they differ by is no chance.

    Attributes:
      factor: the other factor; level: how a sentence calls its levels.
      comparisons: one per level, or one for all where single levels cannot show chance.
      scale: as that of the contrast.
    """

    factor: str
    level: str
    comparisons: tuple[Comparison, ...]
    scale: float

    @property
    def share(self) -> float:
        """What the move of one comparison adds to the mean."""
        return self.scale / len(self.comparisons)

    @property
    def move(self) -> float:
        return sum(part.move for part in self.comparisons) * self.share


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrast:
    """One question on one set, and what the runs say.

    Attributes:
      low_level, high_level: `move` is y at the high level minus y at the low level. REST and
        OFF_TREND: `high_level` against all others. BEND: the middle of the trend against the line
        between its ends. GROUPS: the move in `sides`[0] minus that in `sides`[1].
      scale: the move is that of `comparison` times this (1 for a pair, the log ratio of the ends
        for a trend).
      pairs: comparisons that share the interval's level.
      comparison: the runs compared; of GROUPS, the first of `sides`[0].
      by_group: move per matched group; spread: standard deviation of these, less what runs that
        differ in their seeds alone show of chance; pooled_sizes: whether groups hold runs of all
        sizes.
      runs_used: the runs of its groups.
      alpha: level of the tests; margin: what counts as small.
      chance: what chance does to `move`: `own`, by the runs compared, or `lent`, by the noise of
        other runs; p_value, p_corrected: of "no move"; detectable: the smallest move that would
        have been found.
      run_noise: deviation of a run from its line.
    """

    factor: str
    unit: str
    y_set: str
    kind: Kind
    low_level: str
    high_level: str
    comparison: Comparison
    scale: float = 1.0
    pairs: int = 1
    by_group: dict[str, float] = dataclasses.field(default_factory=dict)
    spread: float = 0.0
    pooled_sizes: bool = False
    runs_used: tuple[str, ...] = ()
    sides: tuple[Side, ...] = ()
    alpha: float = 0.05
    margin: float = float("nan")
    chance: Chance = UNKNOWN
    own: Chance = UNKNOWN
    lent: Chance = UNKNOWN
    run_noise: Noise = NO_NOISE
    p_value: float = float("nan")
    p_corrected: float = float("nan")
    detectable: float = float("nan")

    @property
    def move(self) -> float:
        if self.sides:
            return self.sides[0].move - self.sides[1].move
        return self.comparison.move * self.scale

    @property
    def p_equivalent(self) -> float:
        """Of "the move is not within the margin", by its own runs alone."""
        return self.own.p_equivalent(self.move, self.margin)

    @property
    def fewest(self) -> tuple[str, int]:
        """Of two levels, the one of fewer runs, and how many; of a trend, none."""
        if self.scale != 1.0:
            return "", 0
        d, runs = self.comparison.fewest
        return (self.low_level if d <= 0.0 else self.high_level), runs

    @property
    def clarity(self) -> tuple[float, float]:
        """Sorts contrasts, the clearest first: by p-value (those without one last), then by
        size."""
        return (math.inf if math.isnan(self.p_value) else self.p_value), -abs(self.move)

    @property
    def significant(self) -> bool:
        """Whether the move is told from zero, after correction."""
        return self.p_corrected < self.alpha

    @property
    def equivalent(self) -> bool:
        """Whether the move is shown to lie within the margin."""
        return self.p_equivalent < self.alpha

    def interval(self) -> tuple[float, float]:
        """Bounds of the move, simultaneous over the pairs of levels."""
        reach = self.chance.reach(self.alpha / self.pairs)
        return self.move - reach, self.move + reach

    def with_chance(self, noise: Noise, run_noise: Noise) -> Contrast:
        """The same, with its chance.

        Args:
          noise: of other runs, to borrow where the runs compared say too little about chance.
          run_noise: of the runs that this factor compares.
        """
        own = self._sides_chance() if self.sides else self._scaled(self.comparison.own_chance())
        lent = UNKNOWN
        if own.degrees < _FEW_DEGREES and noise.degrees >= 1.0:
            lent = self._borrowed(noise)
        shown = own if own.known else lent
        return dataclasses.replace(
            self, chance=shown, own=own, lent=lent, p_value=shown.p_value(self.move),
            run_noise=run_noise if run_noise.degrees >= 1.0 else noise,
        )  # fmt: skip

    def with_lent(self) -> Contrast:
        """The same, judged by the noise of other runs."""
        return dataclasses.replace(self, chance=self.lent, p_value=self.lent.p_value(self.move))

    def _scaled(self, chance: Chance) -> Chance:
        return dataclasses.replace(chance, error=chance.error * abs(self.scale))

    def _sides_chance(self) -> Chance:
        """Welch: the own variances of all parts; degrees as if all runs had one variance."""
        parts = [(side.share**2, part) for side in self.sides for part in side.comparisons]
        if not all(part.own_degrees > 0 for _, part in parts):
            return UNKNOWN
        variance = sum(share * part.variance for share, part in parts)
        even = [(share * part.between, part.own_degrees) for share, part in parts]
        degrees = sum(e for e, _ in even) ** 2 / sum(e**2 / own for e, own in even)
        return Chance(error=float(np.sqrt(variance)), degrees=float(degrees))

    def _borrowed(self, noise: Noise) -> Chance:
        if not self.sides:
            return self._scaled(self.comparison.borrowed_chance(noise, BORROWED))
        errors = [
            side.share * part.borrowed_chance(noise, BORROWED).error
            for side in self.sides
            for part in side.comparisons
        ]
        return Chance(error=float(np.linalg.norm(errors)), degrees=noise.degrees, borrowed=True)


def contrasts_of(
    plan: Design,
    matched: Matched,
    all_matched: Sequence[Matched],
    losses: Losses,
    options: AttributionOptions,
    unit: str,
    y_set: str,
    margin: float,
) -> Iterator[Contrast]:
    """Every contrast of one factor that the losses on these two sets allow, without its chance.

    Args:
      plan: the facts of the runs.
      matched: the factor's runs.
      all_matched: of every factor: at the levels of the others, this one may move differently.
      losses: on the x set and this y set.
      margin: what counts as small on it.
    """
    ask = _Asker(
        plan=plan, matched=matched, losses=losses, options=options, unit=unit, y_set=y_set,
        margin=margin,
    )  # fmt: skip
    compared = False
    for chosen in matched.pairs:
        main = ask.levels(chosen)
        if main is None:
            continue
        compared = True
        contrast, groups = main
        yield contrast
        if len(matched.pairs) > _PAIRS_BY_GROUP:
            continue
        for other in all_matched:
            if other.factor != matched.factor:
                yield from ask.by_other(other.factor, other.levels, contrast, groups)
    if compared:  # else no two levels have a range of loss in common
        yield from ask.shape() if matched.number is not None else ask.rest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Asker:
    plan: Design
    matched: Matched
    losses: Losses
    options: AttributionOptions
    unit: str
    y_set: str
    margin: float

    def _contrast(self, **facts) -> Contrast:
        return Contrast(
            factor=self.matched.factor, unit=self.unit, y_set=self.y_set,
            alpha=self.options.alpha, margin=self.margin, **facts,
        )  # fmt: skip

    def levels(self, chosen: Sequence[str]) -> tuple[Contrast, list[MatchedGroup]] | None:
        """Two levels, or the trend over all, and the groups that they were compared in."""
        found = self._best(chosen)
        if found is None:
            return None
        comparison, groups, pooled_sizes = found
        low, high, scale = self._ends(chosen, groups)
        each = {group.name: self._compare([group], chosen) for group in groups}
        alone = {name: comparison for name, comparison in each.items() if comparison is not None}
        contrast = self._contrast(
            kind=Kind.LEVELS, low_level=low, high_level=high, scale=scale, comparison=comparison,
            pairs=len(self.matched.pairs), pooled_sizes=pooled_sizes,
            by_group={name: comparison.move * scale for name, comparison in alone.items()},
            spread=abs(scale) * _spread(list(alone.values())),
            runs_used=tuple(run for group in groups for run in group.runs),
        )  # fmt: skip
        return contrast, groups

    def _best(self, chosen: Sequence[str]) -> tuple[Comparison, list[MatchedGroup], bool] | None:
        """Groups of equal size where these hold at least half of the runs that groups of all sizes
        would."""
        found = []
        for pool_sizes, groups in ((False, self.matched.equal), (True, self.matched.pooled)):
            groups = _of_levels(groups, chosen)
            comparison = self._compare(groups, chosen, resamples=self.options.resamples)
            if comparison is not None:
                found.append((comparison, groups, pool_sizes))
        if not found:
            return None
        return found[0] if found[0][0].runs >= 0.5 * found[-1][0].runs else found[-1]

    def _compare(
        self, groups: Sequence[MatchedGroup], chosen: Sequence[str], resamples: int = 0
    ) -> Comparison | None:
        d = self.matched.number
        if d is None:
            d = by_level(groups, {chosen[0]: 0.0, chosen[1]: 1.0})
        return self.losses.compare(groups, d, resamples=resamples, seed=self.options.seed)

    def _ends(
        self, chosen: Sequence[str], groups: Sequence[MatchedGroup]
    ) -> tuple[str, str, float]:
        """The two levels that a comparison speaks of, and what d differs by between them."""
        if self.matched.number is None:
            return chosen[0], chosen[1], 1.0
        used = self.matched.used(groups)
        low, high = (self.matched.middle(level, groups) for level in (used[0], used[-1]))
        return used[0], used[-1], high - low

    def by_other(
        self,
        other: str,
        known: Sequence[str],
        main: Contrast,
        groups: Sequence[MatchedGroup],
    ) -> Iterator[Contrast]:
        """Whether the move is the same at each level of another factor; of a number with a
        trend, in its lower and its upper half."""
        chosen = (main.low_level, main.high_level)
        inside = {
            level: part
            for level in known
            if (part := [group for group in groups if group.facts.get(other) == level])
        }
        alone = {level: self._compare(part, chosen) for level, part in inside.items()}

        def side(levels: tuple[str, ...], name: str) -> Side | None:
            parts = [alone[level] for level in levels]
            if len(parts) > 1 and not all(part and part.own_degrees > 0 for part in parts):
                parts = [self._compare([g for level in levels for g in inside[level]], chosen)]
            found = tuple(part for part in parts if part is not None)
            if not found:
                return None
            return Side(factor=other, level=name, comparisons=found, scale=main.scale)

        for split in _splits(self.plan, other, tuple(inside)):
            sides = tuple(each for levels, name in split if (each := side(levels, name)))
            if len(sides) == 2:
                yield self._contrast(
                    kind=Kind.GROUPS, low_level=main.low_level, high_level=main.high_level,
                    comparison=sides[0].comparisons[0], sides=sides, runs_used=main.runs_used,
                )  # fmt: skip

    def rest(self) -> Iterator[Contrast]:
        """Each of three or more levels against all others."""
        if len(self.matched.levels) < 3:
            return
        for level in self.matched.levels:
            groups = [group for group in self._groups() if level in group.levels]
            d = by_level(groups, {other: float(other == level) for other in self.matched.levels})
            comparison = self.losses.compare(groups, d)
            if comparison is not None and len(self.matched.used(groups)) > 2:
                yield self._contrast(
                    kind=Kind.REST, low_level="the others", high_level=level,
                    comparison=comparison, runs_used=tuple(r for g in groups for r in g.runs),
                )  # fmt: skip

    def shape(self) -> Iterator[Contrast]:
        """Whether a trend is straight in the logarithm: its bend, and each level against it."""
        number = self.matched.number
        assert number is not None
        groups = self._groups()
        used = self.matched.used(groups)
        if len(used) < 3:
            return
        runs = tuple(run for group in groups for run in group.runs)
        ends = [self.matched.middle(level, groups) for level in (used[0], used[-1])]
        center, half = float(np.mean(ends)), float(np.ptp(ends)) / 2.0
        z = {run: (number[run] - center) / half for run in runs if run in number}
        bend = self.losses.compare(groups, {run: value**2 for run, value in z.items()}, z)
        if bend is not None:
            yield self._contrast(
                kind=Kind.BEND, low_level=used[0], high_level=used[-1], comparison=bend,
                scale=-1.0, runs_used=runs,
            )  # fmt: skip
        for level in used if len(used) <= _EACH_LEVEL_UP_TO else ():
            d = by_level(groups, {other: float(other == level) for other in used})
            comparison = self.losses.compare(groups, d, z)
            if comparison is not None:
                yield self._contrast(
                    kind=Kind.OFF_TREND, low_level="the trend", high_level=level,
                    comparison=comparison, runs_used=runs,
                )  # fmt: skip

    def _groups(self) -> list[MatchedGroup]:
        """All levels at once: groups of one size, or where these hold less than half of the runs,
        of all sizes."""
        equal, pooled = (
            _of_levels(groups, self.matched.levels)
            for groups in (self.matched.equal, self.matched.pooled)
        )
        runs = [len({run for group in groups for run in group.runs}) for groups in (equal, pooled)]
        return equal if runs[0] >= 0.5 * runs[1] else pooled


def _of_levels(groups: Sequence[MatchedGroup], chosen: Sequence[str]) -> list[MatchedGroup]:
    """The groups with these levels alone, where they have two of them at least."""
    kept = [group.only(chosen) for group in groups]
    return [group for group in kept if len(group.levels) > 1]


def _spread(comparisons: Sequence[Comparison]) -> float:
    """Standard deviation of the moves of matched groups, less their own variance where a group
    shows it."""
    if len(comparisons) < 2:
        return 0.0
    own = [part.variance if part.own_degrees > 0 else 0.0 for part in comparisons]
    whole = float(np.var([part.move for part in comparisons], ddof=1))
    return math.sqrt(max(0.0, whole - float(np.mean(own))))


def _splits(
    plan: Design, other: str, levels: tuple[str, ...]
) -> Iterator[tuple[tuple[tuple[str, ...], str], ...]]:
    """How groups are told apart by another factor, as two sides (levels, name): the one of two
    levels, each of three or more against the rest, and the halves of a number that has a trend."""
    if len(levels) >= TREND_FROM and plan.trend_of(other) is not None:
        half = len(levels) // 2
        yield tuple((part, f"{part[0]} to {part[-1]}") for part in (levels[:half], levels[half:]))
    elif len(levels) == 2:
        yield (levels[:1], levels[0]), (levels[1:], levels[1])
    elif len(levels) > 2:
        for level in levels:
            rest = tuple(name for name in levels if name != level)
            yield ((level,), level), (rest, f"other than {level}")


def factor_noise(contrasts: Sequence[Contrast]) -> Noise:
    """How far runs stray from the lines of a factor's matched groups, over its pairs of levels."""
    main = [item for item in contrasts if item.kind is Kind.LEVELS]
    levels = {level for item in main for level in (item.low_level, item.high_level)}
    # Every run of a factor with L levels takes part in L - 1 pairs: L/2 times more than there is to
    # learn.
    return pooled_noise(
        [item.comparison for item in main], share=min(1.0, 2.0 / max(len(levels), 1))
    )
