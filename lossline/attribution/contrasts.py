"""Contrasts of one factor on one evaluation set.

A contrast is one tested difference: between two levels, between one level and the others, between a
trend and a straight line, or between the moves in two groups of runs.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterator, Sequence

import numpy as np

from lossline.attribution.comparison import (
    NO_NOISE,
    UNKNOWN,
    Comparison,
    Noise,
    Uncertainty,
    pooled_noise,
)
from lossline.attribution.matched import Losses, Matched, by_level
from lossline.attribution.options import AttributionOptions
from lossline.matching.groups import TREND_FROM, Design, MatchedGroup

# Borrowed noise is multiplied by this. The value was set in advance. In two published sweeps, the
# noise of one group is up to 3.1 times that of the other groups
# (experiments/attribution/noise_of_groups.py).
BORROWED = 3.0
_FEW_DEGREES = 4.0  # below this, borrowed noise is also tried
_EACH_LEVEL_UP_TO = 8  # a trend of more levels is not tested level by level
# With more pairs of levels than this, groups are not compared: Holm's correction would leave no
# test a usable level.
_PAIRS_BY_GROUP = 45


class Kind(enum.StrEnum):
    """Kind of difference that a contrast tests."""

    LEVELS = "levels"  # between two levels, or between the ends of a trend
    REST = "one level against the others"
    BEND = "bend of the trend"
    OFF_TREND = "one level against the trend"
    GROUPS = "groups"  # between the moves in two groups of runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """Mean move in the groups of runs that have certain levels of another factor.

    The mean is over levels, so that differences between levels do not count as run-to-run noise.

    Attributes:
        factor: the other factor.
        level: name of its level or levels in a sentence.
        comparisons: one per level, or one for all levels where single levels cannot show run-to-run
            noise.
        scale: ``scale`` of the contrast.
    """

    factor: str
    level: str
    comparisons: tuple[Comparison, ...]
    scale: float

    @property
    def share(self) -> float:
        """Weight of each comparison's move in the mean."""
        return self.scale / len(self.comparisons)

    @property
    def move(self) -> float:
        """Mean move, in the unit of y."""
        return sum(part.move for part in self.comparisons) * self.share


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrast:
    """One tested difference on one evaluation set.

    Attributes:
        factor: factor under test (column of the loss table).
        unit: "loss" (nats per token) or "bits_per_byte".
        y_set: evaluation set of the y axis.
        kind: kind of difference.
        low_level: ``move`` is y at the high level minus y at this level.
        high_level: see ``low_level``. REST and OFF_TREND: this level minus all others. BEND: the
            middle of the trend minus the straight line between its ends. GROUPS: the move in
            ``sides[0]`` minus the move in ``sides[1]``.
        comparison: comparison of the runs. GROUPS: the first one of ``sides[0]``.
        scale: ``move`` is the move of ``comparison`` times this: 1 for a pair, the log ratio of the
            ends for a trend.
        pairs: number of pairs of levels; the interval holds for all of them together.
        by_group: move of each matched group, by name.
        spread: standard deviation of these moves, minus the part that runs with different seeds
            show as noise.
        pooled_sizes: whether groups hold runs of all sizes.
        runs_used: runs of its groups.
        sides: the two groups of a GROUPS contrast.
        alpha: level of the tests.
        margin: a move below this is small, in ``unit``.
        uncertainty: standard error that is used: ``own`` or ``lent``.
        own: standard error of ``move`` from the runs compared.
        lent: standard error of ``move`` from the noise of other runs.
        run_noise: standard deviation of a run about its line.
        p_value: p-value of "no move".
        p_corrected: the same after Holm's correction.
        detectable: smallest move that the test would have found with a power of 80%.
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
    uncertainty: Uncertainty = UNKNOWN
    own: Uncertainty = UNKNOWN
    lent: Uncertainty = UNKNOWN
    run_noise: Noise = NO_NOISE
    p_value: float = float("nan")
    p_corrected: float = float("nan")
    detectable: float = float("nan")

    @property
    def move(self) -> float:
        """Difference of y, in ``unit``."""
        if self.sides:
            return self.sides[0].move - self.sides[1].move
        return self.comparison.move * self.scale

    @property
    def p_equivalent(self) -> float:
        """p-value of "the move is not within the margin"; uses only the runs compared."""
        return self.own.p_equivalent(self.move, self.margin)

    @property
    def fewest(self) -> tuple[str, int]:
        """Level with the fewest runs, and their number; ("", 0) for a trend."""
        if self.scale != 1.0:
            return "", 0
        d, runs = self.comparison.fewest
        return (self.low_level if d <= 0.0 else self.high_level), runs

    @property
    def clarity(self) -> tuple[float, float]:
        """Sort key: smallest p-value first (NaN last), then largest move first."""
        return (math.inf if math.isnan(self.p_value) else self.p_value), -abs(self.move)

    @property
    def significant(self) -> bool:
        """Whether the move differs from zero after correction."""
        return self.p_corrected < self.alpha

    @property
    def equivalent(self) -> bool:
        """Whether the move is shown to lie within the margin (two one-sided tests)."""
        return self.p_equivalent < self.alpha

    def interval(self) -> tuple[float, float]:
        """Return the bounds of the move, simultaneous over the pairs of levels (Bonferroni)."""
        reach = self.uncertainty.reach(self.alpha / self.pairs)
        return self.move - reach, self.move + reach

    def with_uncertainty(self, noise: Noise, run_noise: Noise) -> Contrast:
        """Return the contrast with its standard errors and p-value.

        Args:
            noise: noise of other runs, borrowed where the runs compared have too few degrees of
                freedom.
            run_noise: noise of the runs that this factor compares.
        """
        own = (
            self._sides_uncertainty()
            if self.sides
            else self._scaled(self.comparison.own_uncertainty())
        )
        lent = UNKNOWN
        if own.degrees < _FEW_DEGREES and noise.degrees >= 1.0:
            lent = self._borrowed(noise)
        shown = own if own.known else lent
        return dataclasses.replace(
            self, uncertainty=shown, own=own, lent=lent, p_value=shown.p_value(self.move),
            run_noise=run_noise if run_noise.degrees >= 1.0 else noise,
        )  # fmt: skip

    def with_lent(self) -> Contrast:
        """Return the contrast tested with the noise of other runs."""
        return dataclasses.replace(
            self, uncertainty=self.lent, p_value=self.lent.p_value(self.move)
        )

    def _scaled(self, uncertainty: Uncertainty) -> Uncertainty:
        return dataclasses.replace(uncertainty, error=uncertainty.error * abs(self.scale))

    def _sides_uncertainty(self) -> Uncertainty:
        """Standard error of the difference of two sides, as in Welch's test.

        It adds the parts' own variances. The degrees of freedom are Satterthwaite's for runs of one
        variance.
        """
        parts = [(side.share**2, part) for side in self.sides for part in side.comparisons]
        if not all(part.own_degrees > 0 for _, part in parts):
            return UNKNOWN
        variance = sum(share * part.variance for share, part in parts)
        even = [(share * part.between, part.own_degrees) for share, part in parts]
        degrees = sum(e for e, _ in even) ** 2 / sum(e**2 / own for e, own in even)
        return Uncertainty(error=float(np.sqrt(variance)), degrees=float(degrees))

    def _borrowed(self, noise: Noise) -> Uncertainty:
        if not self.sides:
            return self._scaled(self.comparison.borrowed_uncertainty(noise, BORROWED))
        errors = [
            side.share * part.borrowed_uncertainty(noise, BORROWED).error
            for side in self.sides
            for part in side.comparisons
        ]
        return Uncertainty(
            error=float(np.linalg.norm(errors)), degrees=noise.degrees, borrowed=True
        )


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
    """Yield every contrast of one factor that the losses on two sets allow.

    Standard errors and p-values are added later (``Contrast.with_uncertainty``).

    Args:
        plan: facts of the runs.
        matched: matched runs of the factor.
        all_matched: matched runs of every factor. The move may differ between their levels.
        losses: losses on the x set and this y set.
        options: options of the attribution.
        unit: "loss" (nats per token) or "bits_per_byte".
        y_set: evaluation set of the y axis.
        margin: a move below this is small on this set.
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
    if compared:  # otherwise no two levels have a range of loss in common
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
        """Compare two levels, or the trend over all; also return the groups used."""
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
        """Compare in groups of one model size, or in groups of all sizes.

        Groups of one size are used if they hold at least half of the runs that groups of all sizes
        hold.
        """
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
        """The two levels that a comparison names, and the difference of d between them."""
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
        """Yield contrasts between the moves at the levels of another factor.

        For a number with a trend, its lower half is compared with its upper half.
        """
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
        """Yield each of three or more levels against all others."""
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
        """Yield the bend of a trend in the logarithm, and each level against the trend."""
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
        # z is -1 and 1 at the ends, so the coefficient of z² is (line between the ends - middle);
        # scale = -1 turns it into the height of the middle above that line.
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
        """Groups with all levels: of one size, or of all sizes if the former hold less than half
        of the runs of the latter."""
        equal, pooled = (
            _of_levels(groups, self.matched.levels)
            for groups in (self.matched.equal, self.matched.pooled)
        )
        runs = [len({run for group in groups for run in group.runs}) for groups in (equal, pooled)]
        return equal if runs[0] >= 0.5 * runs[1] else pooled


def _of_levels(groups: Sequence[MatchedGroup], chosen: Sequence[str]) -> list[MatchedGroup]:
    """Groups reduced to these levels; only groups with at least two of them."""
    kept = [group.only(chosen) for group in groups]
    return [group for group in kept if len(group.levels) > 1]


def _spread(comparisons: Sequence[Comparison]) -> float:
    """Standard deviation of the moves of matched groups, beyond their estimated noise.

    The mean of the groups' own variances is subtracted. A group without one counts as 0, which errs
    towards a larger spread.
    """
    if len(comparisons) < 2:
        return 0.0
    own = [part.variance if part.own_degrees > 0 else 0.0 for part in comparisons]
    whole = float(np.var([part.move for part in comparisons], ddof=1))
    return math.sqrt(max(0.0, whole - float(np.mean(own))))


def _splits(
    plan: Design, other: str, levels: tuple[str, ...]
) -> Iterator[tuple[tuple[tuple[str, ...], str], ...]]:
    """Ways to split groups into two sides by another factor; a side is (levels, name).

    Two levels: one against the other. Three or more: each against the rest. A number with a trend:
    the lower half against the upper half.
    """
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
    """Return the noise of runs about the lines of a factor's matched groups."""
    main = [item for item in contrasts if item.kind is Kind.LEVELS]
    levels = {level for item in main for level in (item.low_level, item.high_level)}
    # Every run of a factor with L levels takes part in L - 1 pairs, so the pairs count the same
    # evidence L / 2 times.
    return pooled_noise(
        [item.comparison for item in main], share=min(1.0, 2.0 / max(len(levels), 1))
    )
