"""One line or two? The distance of lines at equal x, with the run as the unit of evidence.

Model of the points of matched runs (point j of run i in group g):

    y_ij = c_g0 + c_g1 u_ij + c_g2 u_ij² + … + delta d_i + eta d_i u_ij + b_i + e_ij
    u_ij = x_ij - middle of the common range

    d      level of the run: 0 or 1, or a number
    delta  move at the middle of the common range
    eta    tilt
    b_i    deviation of run i from its line, variance v
    e_ij   deviation of a checkpoint from its run

Checkpoints of one run are far from independent, so more checkpoints teach nothing about v. As in a
split-plot analysis, the fit is therefore split into between rows (the means of the runs) and within
rows (deviations from these means).

The variance of delta is CR2 with the run as the cluster (``cluster_variance``). Levels of unequal
noise are then compared as in Welch's test, and pairs of runs as in a paired t test: t = delta / SE
has a t distribution with Satterthwaite's degrees of freedom. Where a single run determines delta
(one run against others), no residual shows its noise. The noise of other runs is then borrowed
(``Noise``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import special

from lossline.attribution.regression import MatchedPoints, Regression

Array = np.ndarray

# Widen the common range by this share at each end, so that interpolation can use the next point
# outside.
_MARGIN = 0.1
_NARROW = 0.3  # a common range below this share of the whole range is widened to about this share
_NEIGHBOURS = 6  # number of points wanted in such a range
_ROUNDING = 1e-9  # relative size of rounding errors in y
_HIDDEN = 0.05  # ClusterVariance.hidden above which the variance of a move is unknown


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """Run-to-run noise.

    Attributes:
        deviation: standard deviation of the height of a run about its line, in the unit of y.
        degrees: degrees of freedom of this estimate; 0 if unknown.
    """

    deviation: float
    degrees: float


NO_NOISE = Noise(deviation=float("nan"), degrees=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """Uncertainty of a move, for t tests and intervals.

    Attributes:
        error: standard error of the move.
        degrees: degrees of freedom of the standard error; 0 if it is unknown.
        borrowed: whether it comes from the noise of other runs.
    """

    error: float = float("nan")
    degrees: float = 0.0
    borrowed: bool = False

    @property
    def known(self) -> bool:
        """Whether there is a standard error."""
        return self.degrees > 0

    def p_value(self, move: float) -> float:
        """Return the two-sided p-value of "no move"; NaN if the error is unknown."""
        if not self.known:
            return float("nan")
        if self.error == 0.0:
            return 1.0 if move == 0.0 else 0.0
        return 2.0 * float(special.stdtr(self.degrees, -abs(move) / self.error))

    def reach(self, alpha: float) -> float:
        """Return half the width of the interval of level 1 - alpha; NaN if unknown."""
        if not self.known:
            return float("nan")
        return float(-special.stdtrit(self.degrees, alpha / 2.0)) * self.error

    def p_equivalent(self, move: float, margin: float) -> float:
        """Return the p-value of "the move is at least as large as the margin".

        It is the larger p-value of two one-sided t tests (Schuirmann 1987); NaN if the error is
        unknown.
        """
        if not self.known:
            return float("nan")
        if self.error == 0.0:
            return 0.0 if abs(move) < margin else 1.0
        return float(special.stdtr(self.degrees, -(margin - abs(move)) / self.error))

    def detectable(self, alpha: float, power: float = 0.8) -> float:
        """Return the smallest move that a two-sided test of level ``alpha`` finds with this power.

        NaN if the error is unknown.
        """
        if not self.known:
            return float("nan")
        quantiles = -special.stdtrit(self.degrees, [alpha / 2.0, 1.0 - power])
        return float(quantiles[0] - quantiles[1]) * self.error


UNKNOWN = Uncertainty()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Result of comparing two lines, or a trend over many.

    Attributes:
        move: delta, in the unit of y per unit of d.
        variance: CR2 variance of ``move``, from the runs compared.
        own_degrees: degrees of freedom of ``variance``; 0 where single runs determine ``move``.
        squares: sum of squared deviations of runs from their lines.
        degrees: degrees of freedom of ``squares``.
        between: part of the variance of ``move`` from between the runs, per unit of v, if all runs
            have one variance.
        within: part of the variance of ``move`` from within the runs, under the same model.
        runs: number of runs that took part.
        groups: number of matched groups that took part.
        fewest: d of the level with the fewest of these runs, and their number.
        x_low: lower end of the common ranges of all groups.
        x_high: upper end of the common ranges of all groups.
        y_middle: mean of y within these ranges.
        p_resampled: p-value by permuting the deviations of runs; NaN where ``degrees`` is below 4.
    """

    move: float
    variance: float
    own_degrees: float
    squares: float
    degrees: float
    between: float
    within: float
    runs: int
    groups: int
    fewest: tuple[float, int]
    x_low: float
    x_high: float
    y_middle: float
    p_resampled: float = float("nan")

    def own_uncertainty(self) -> Uncertainty:
        """Return the uncertainty from the runs compared; levels may have different noise."""
        # Lines that agree to the last digits differ by rounding only. That must not be significant.
        least = _ROUNDING * abs(self.y_middle)
        return Uncertainty(
            error=max(float(np.sqrt(self.variance)), least), degrees=self.own_degrees
        )

    def borrowed_uncertainty(self, noise: Noise, factor: float) -> Uncertainty:
        """Return the uncertainty from the noise of other runs, multiplied by ``factor``."""
        error = float(np.sqrt(self.between * (factor * noise.deviation) ** 2 + self.within))
        return Uncertainty(error=error, degrees=noise.degrees, borrowed=True)


def _fewest(groups: list[MatchedPoints]) -> tuple[float, int]:
    counts: dict[float, int] = {}
    for points in groups:
        for level in np.unique(points.d):
            runs = len(np.unique(points.run[points.d == level]))
            counts[float(level)] = counts.get(float(level), 0) + runs
    return min(counts.items(), key=lambda item: item[1])


def pooled(noises: list[Noise]) -> Noise:
    """Pool noise estimates that share no run."""
    degrees = sum(noise.degrees for noise in noises)
    if degrees <= 0:
        return NO_NOISE
    variance = sum(noise.deviation**2 * noise.degrees for noise in noises) / degrees
    return Noise(deviation=float(np.sqrt(variance)), degrees=degrees)


def pooled_noise(comparisons: list[Comparison], share: float = 1.0) -> Noise:
    """Pool the noise of comparisons.

    Only ``share`` of the summed degrees of freedom counts: comparisons that share runs are not
    independent evidence.
    """
    degrees = sum(item.degrees for item in comparisons)
    if degrees <= 0:
        return NO_NOISE
    variance = sum(item.squares for item in comparisons) / degrees
    return Noise(deviation=float(np.sqrt(variance)), degrees=share * degrees)


def comparable(points: MatchedPoints) -> Array | None:
    """Return a mask of the points at x that more than one level covers; None if they are too few.

    So every comparison interpolates. Two levels: the intersection of their ranges, slightly
    widened. More levels (a trend): the points within the range of another level.
    """
    levels = np.unique(points.d)
    spans = [
        (points.x[points.d == level].min(), points.x[points.d == level].max()) for level in levels
    ]
    if len(levels) == 2:
        window = _common_range(points.x, spans)
        if window is None:
            return None
        keep = (points.x >= window[0]) & (points.x <= window[1])
    else:
        keep = np.zeros(len(points.x), bool)
        for level, (low, high) in zip(levels, spans, strict=True):
            if high > low:
                keep |= (points.d != level) & (points.x >= low) & (points.x <= high)
    x = points.x[keep]
    enough = len(x) >= 4 and len(np.unique(points.d[keep])) >= 2
    return keep if enough and np.ptp(x) > 0 else None


def _common_range(x: Array, spans: list[tuple[float, float]]) -> tuple[float, float] | None:
    low, high = max(span[0] for span in spans), min(span[1] for span in spans)
    if low > high:
        return None
    hull = max(span[1] for span in spans) - min(span[0] for span in spans)
    if high - low > _NARROW * hull:
        margin = _MARGIN * (high - low)
    else:  # a single model on the line of others has a range of no width: use its neighbours
        distance = np.sort(np.maximum(np.maximum(low - x, x - high), 0.0))
        margin = max(_NARROW / 2.0 * hull, float(distance[min(_NEIGHBOURS, len(x) - 1)]))
    return low - margin, high + margin


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plan:
    """What a comparison needs of its points, except their y.

    Attributes:
        kept: mask of the points to compare, per group; None leaves a group out.
        regression: of these points.
        fewest: as in ``Comparison``.
        x_low: as in ``Comparison``.
        x_high: as in ``Comparison``.
    """

    kept: list[Array | None]
    regression: Regression
    fewest: tuple[float, int]
    x_low: float
    x_high: float

    @classmethod
    def of(cls, groups: list[MatchedPoints]) -> _Plan | None:
        """Plan a comparison; None if no group has a common range, or no move is identified."""
        kept = [comparable(points) for points in groups]
        inside = _inside(groups, kept)
        if not inside:
            return None
        regression = Regression.of(inside)
        if not regression.identified:
            return None
        return cls(
            kept=kept,
            regression=regression,
            fewest=_fewest(inside),
            x_low=min(float(points.x.min()) for points in inside),
            x_high=max(float(points.x.max()) for points in inside),
        )


def _inside(groups: list[MatchedPoints], kept: Sequence[Array | None]) -> list[MatchedPoints]:
    pairs = zip(groups, kept, strict=True)
    return [points.keep(mask) for points, mask in pairs if mask is not None]


def _bytes_of(points: MatchedPoints) -> list[bytes]:
    """Return all columns of points but y, as bytes."""
    columns = (points.x, points.run, points.d, points.given)
    return [b"" if column is None else column.tobytes() for column in columns]


class Plans:
    """Plans of comparisons, each made once for all evaluation sets of the same checkpoints."""

    def __init__(self) -> None:
        """Start without any."""
        self._known: dict[tuple[bytes, ...], _Plan | None] = {}

    def of(self, groups: list[MatchedPoints]) -> _Plan | None:
        """Return the plan of these points; their y has no effect."""
        key = tuple(part for points in groups for part in _bytes_of(points))
        if key not in self._known:
            self._known[key] = _Plan.of(groups)
        return self._known[key]


def compare(
    groups: list[MatchedPoints], *, resamples: int = 0, seed: int = 0, plans: Plans | None = None
) -> Comparison | None:
    """Compare the levels within each group, and pool the move over groups.

    Args:
        groups: points of each matched group.
        resamples: number of permutations for ``p_resampled``; 0 for none.
        seed: seed of these permutations.
        plans: plans of earlier comparisons, to save time.

    Returns:
        The comparison, or None if no group has a common range of x.
    """
    plan = (plans or Plans()).of(groups)
    if plan is None:
        return None
    inside, regression = _inside(groups, plan.kept), plan.regression
    y = regression.rows(inside)
    comparison = Comparison(
        **_solve(regression, y),
        runs=len(regression.weight),
        groups=len(inside),
        fewest=plan.fewest,
        x_low=plan.x_low,
        x_high=plan.x_high,
        y_middle=float(np.mean([points.y.mean() for points in inside])),
    )
    if resamples and comparison.degrees >= 4:
        p_value = _permuted(regression, y, resamples, np.random.default_rng(seed))
        comparison = dataclasses.replace(comparison, p_resampled=p_value)
    return comparison


def _one_line(
    points: MatchedPoints, known: dict[bytes, Regression] | None
) -> tuple[Regression, Array]:
    """Return the regression of one line through all points, and y of its rows; ``d`` is ignored.

    Args:
        points: the points.
        known: regressions of earlier calls, to save time where points differ in y only.
    """
    one_line = [dataclasses.replace(points, d=np.zeros(len(points.x)))]
    known = {} if known is None else known
    key = b"".join(_bytes_of(one_line[0]))
    if key not in known:
        known[key] = Regression.of(one_line)
    return known[key], known[key].rows(one_line)


def line_scatter(
    groups: list[MatchedPoints], known: dict[bytes, Regression] | None = None
) -> Noise:
    """Return the noise of runs about the line of their group, pooled; ``d`` is ignored.

    Args:
        groups: points of each group.
        known: as in ``run_residuals``.
    """
    squares = degrees = 0.0
    for points in groups:
        _, number = np.unique(points.run, return_inverse=True)
        alone = np.bincount(number).max() == 1  # every run is one point of the line
        kept = None if alone else comparable(dataclasses.replace(points, d=number.astype(float)))
        if not alone and kept is None:
            continue
        together = points if kept is None else points.keep(kept)
        if len(np.unique(together.run)) < 2 or len(together.x) < 3:
            continue
        regression, y = _one_line(together, known)
        scatter = _scatter(regression, regression.residual(y))
        squares, degrees = squares + scatter[0], degrees + scatter[1]
    if degrees <= 0:
        return NO_NOISE
    return Noise(deviation=float(np.sqrt(squares / degrees)), degrees=degrees)


def _solve(regression: Regression, y: Array) -> dict[str, float]:
    gain, residual = regression.gain, regression.residual(y)
    count = len(regression.weight)
    squares, degrees = _scatter(regression, residual)
    within = _within_variance(regression, residual[count:])
    own = regression.cluster_variances.of(residual)
    return {
        "move": float(gain @ y),
        "variance": own.variance,
        "own_degrees": own.degrees if own.hidden < _HIDDEN else 0.0,
        "squares": squares,
        "degrees": degrees,
        "between": float(np.sum(gain[:count] ** 2 * regression.weight)),
        "within": float(np.sum(gain[count:] ** 2)) * within,
    }


def _scatter(regression: Regression, residual: Array) -> tuple[float, float]:
    """Sum of squared heights of runs about their lines, and its degrees: E(sum) = v * degrees.

    A between row has variance weight * v. Its residual has 1 - leverage times that.
    """
    count = len(regression.weight)
    degrees = float(np.clip(1.0 - regression.leverage[:count], 0.0, 1.0).sum())
    if degrees < 0.5:
        return 0.0, 0.0
    return float(np.sum(residual[:count] ** 2 / regression.weight)), degrees


def _within_variance(regression: Regression, residual: Array) -> float:
    """Variance within runs, corrected for correlated neighbouring checkpoints (AR(1)).

    With lag-1 correlation r, the variance of a mean grows by (1 + r) / (1 - r).
    """
    left = regression.degrees_within
    if left < 1:
        return 0.0
    order, same = regression.neighbours
    ordered = residual[order]
    power = float(np.sum(ordered**2))
    if power == 0.0:
        return 0.0
    correlation = float(np.sum((ordered[1:] * ordered[:-1])[same])) / power
    correlation = min(max(correlation, 0.0), 0.9)
    return power / left * (1.0 + correlation) / (1.0 - correlation)


def _permuted(
    regression: Regression, y: Array, resamples: int, generator: np.random.Generator
) -> float:
    """Permutation p-value (Freedman and Lane 1983).

    Permute the deviations of runs from the one-line model, refit, and compare t.
    """
    means, weight, back = regression.means, regression.weight, regression.back
    count = len(weight)
    of_means, of_deviations = regression.basis[:count], regression.basis[count:]
    lines = regression.back_of_lines @ (regression.basis.T @ y)
    fitted = means[:, regression.shared :] @ lines
    heights = (y[:count] - fitted) / np.sqrt(weight)
    order = np.argsort(generator.random((resamples, count)), axis=1)
    drawn = np.concatenate([heights[None], heights[order]]).T * np.sqrt(weight)[:, None]
    samples = fitted[:, None] + drawn
    # Only the rows of means differ between resamples, so the within rows are multiplied once.
    still = of_deviations.T @ y[count:]
    coefficients = back @ (of_means.T @ samples + still[:, None])
    left = (samples - means @ coefficients) / np.sqrt(weight)[:, None]
    spread = np.sqrt(np.sum(left**2, axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(coefficients[0]) / spread
    # Column 0 is the observed order. Ties up to rounding count as at least as extreme.
    return float((1 + np.sum(t[1:] >= t[0] * (1 - 1e-12))) / (resamples + 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResiduals:
    """Heights of runs about one line, in the order of their labels.

    Attributes:
        heights: (R,) in the unit of y.
        free: (R,) share of the variance of each height that the fit does not absorb.
        squares: sum of squared heights.
        degrees: degrees of freedom of ``squares``.
    """

    heights: Array
    free: Array
    squares: float
    degrees: float


def run_residuals(
    points: MatchedPoints, known: dict[bytes, Regression] | None = None
) -> RunResiduals:
    """Return the height of each run above one line plus the effects of the ``given`` columns.

    ``d`` is ignored.

    Args:
        points: the points.
        known: regressions of earlier calls, to save time where points differ in y only.
    """
    regression, y = _one_line(points, known)
    count = len(regression.weight)
    free = np.clip(1.0 - regression.leverage[:count], 0.0, 1.0)
    residual = regression.residual(y)
    heights = residual[:count] / np.sqrt(regression.weight)
    return RunResiduals(
        heights=heights,
        free=free,
        squares=float(np.sum(heights**2)),
        degrees=float(free.sum()),
    )
