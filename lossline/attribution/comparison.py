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

import numpy as np
from scipy import stats

from lossline.attribution.cluster_variance import ClusterVariance, cluster_variance

Array = np.ndarray

# Assumed ratio of v to the variance within runs; it sets the weights of the fit. Estimates are
# unbiased for any value. A large value suits smooth loss curves.
_RATIO = 25.0
# Widen the common range by this share at each end, so that interpolation can use the next point
# outside.
_MARGIN = 0.1
_NARROW = 0.3  # a common range below this share of the whole range is widened to about this share
_NEIGHBOURS = 6  # number of points wanted in such a range
# Number of points of a group from which its line is a polynomial of degree 2, 3 and 4. A parabola
# does not fit the curve of a whole training. Between levels that start at different x, its misfit
# looks like a move, and more checkpoints make that false move more significant.
_BENDS_FROM = (8, 16, 32)
_TILT_FROM = 3  # number of points of a level from which it has a tilt
_ROUNDING = 1e-9  # relative size of rounding errors in y
_HIDDEN = 0.05  # ClusterVariance.hidden above which the variance of a move is unknown


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatchedPoints:
    """Points of one matched group.

    Attributes:
        x: (M,) losses on the x set.
        y: (M,) losses on the y set.
        run: (M,) label of the run of each point.
        d: (M,) level of the run, as a number.
        given: (M, k) further columns of the runs, whose effects are held equal.
    """

    x: Array
    y: Array
    run: Array
    d: Array
    given: Array | None = None

    def keep(self, mask: Array) -> MatchedPoints:
        """Return the points where a mask (M,) is true."""
        given = None if self.given is None else self.given[mask]
        return MatchedPoints(
            x=self.x[mask], y=self.y[mask], run=self.run[mask], d=self.d[mask], given=given
        )


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
        return 2.0 * float(stats.t.sf(abs(move) / self.error, self.degrees))

    def reach(self, alpha: float) -> float:
        """Return half the width of the interval of level 1 - alpha; NaN if unknown."""
        if not self.known:
            return float("nan")
        return float(stats.t.isf(alpha / 2.0, self.degrees)) * self.error

    def p_equivalent(self, move: float, margin: float) -> float:
        """Return the p-value of "the move is at least as large as the margin".

        It is the larger p-value of two one-sided t tests (Schuirmann 1987); NaN if the error is
        unknown.
        """
        if not self.known:
            return float("nan")
        if self.error == 0.0:
            return 0.0 if abs(move) < margin else 1.0
        return float(stats.t.sf((margin - abs(move)) / self.error, self.degrees))

    def detectable(self, alpha: float, power: float = 0.8) -> float:
        """Return the smallest move that a two-sided test of level ``alpha`` finds with this power.

        NaN if the error is unknown.
        """
        if not self.known:
            return float("nan")
        quantiles = stats.t.isf([alpha / 2.0, 1.0 - power], self.degrees)
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


def _comparable(points: MatchedPoints) -> MatchedPoints | None:
    """Return the points at x that more than one level covers; None if too few are left.

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
    kept = points.keep(keep)
    enough = len(kept.x) >= 4 and len(np.unique(kept.d)) >= 2
    return kept if enough and np.ptp(kept.x) > 0 else None


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


def compare(groups: list[MatchedPoints], *, resamples: int = 0, seed: int = 0) -> Comparison | None:
    """Compare the levels within each group, and pool the move over groups.

    Args:
        groups: points of each matched group.
        resamples: number of permutations for ``p_resampled``; 0 for none.
        seed: seed of these permutations.

    Returns:
        The comparison, or None if no group has a common range of x.
    """
    inside = [points for points in map(_comparable, groups) if points is not None]
    if not inside:
        return None
    rows = _Rows.of(inside)
    solved = _solve(rows)
    if solved is None:
        return None
    comparison = Comparison(
        **solved,
        runs=len(rows.weight),
        groups=len(inside),
        fewest=_fewest(inside),
        x_low=min(float(points.x.min()) for points in inside),
        x_high=max(float(points.x.max()) for points in inside),
        y_middle=float(np.mean([points.y.mean() for points in inside])),
    )
    if resamples and comparison.degrees >= 4:
        p_value = _permuted(rows, resamples, np.random.default_rng(seed))
        comparison = dataclasses.replace(comparison, p_resampled=p_value)
    return comparison


def line_scatter(groups: list[MatchedPoints]) -> Noise:
    """Return the noise of runs about the line of their group, pooled; ``d`` is ignored."""
    squares = degrees = 0.0
    for points in groups:
        _, number = np.unique(points.run, return_inverse=True)
        alone = np.bincount(number).max() == 1  # every run is one point of the line
        together = (
            points if alone else _comparable(dataclasses.replace(points, d=number.astype(float)))
        )
        if together is None or len(np.unique(together.run)) < 2 or len(together.x) < 3:
            continue
        rows = _Rows.of([dataclasses.replace(together, d=np.zeros(len(together.x)))])
        scatter = _scatter(rows, _Solved.of(rows))
        squares, degrees = squares + scatter[0], degrees + scatter[1]
    if degrees <= 0:
        return NO_NOISE
    return Noise(deviation=float(np.sqrt(squares / degrees)), degrees=degrees)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rows:
    """Rows of the regression: weighted means of runs, and deviations from them. Column 0 is d.

    Axes: R runs, M points, P columns.
    """

    mean_RxP: Array  # means of runs, times sqrt(weight)
    mean_y_R: Array
    deviation_MxP: Array
    deviation_y_M: Array
    weight: Array  # (R,)
    run: Array  # (M,) index of the run of each deviation
    x: Array
    shared: int  # number of columns of the levels (d, perhaps d u); the rest are lines of groups

    @classmethod
    def of(cls, groups: list[MatchedPoints]) -> _Rows:
        design, y, shared = _design(groups)
        numbers, start = [], 0
        for points in groups:
            _, number = np.unique(points.run, return_inverse=True)
            numbers.append(number + start)
            start += int(number.max()) + 1
        run = np.concatenate(numbers)
        count = np.bincount(run)
        mean = np.stack([np.bincount(run, weights=column) / count for column in design.T], axis=1)
        mean_y = np.bincount(run, weights=y) / count
        # With s² the variance within runs, the mean of n points has variance v + s²/n, which is
        # s² (1 + n v/s²) / n. Rows are weighted by the inverse, in units of 1/s².
        weight = count / (1.0 + count * _RATIO)
        root = np.sqrt(weight)
        many = count[run] > 1  # with one checkpoint, the deviation from the mean is zero
        return cls(
            mean_RxP=mean * root[:, None],
            mean_y_R=mean_y * root,
            deviation_MxP=(design - mean[run])[many],
            deviation_y_M=(y - mean_y[run])[many],
            weight=weight,
            run=run[many],
            shared=shared,
            x=np.concatenate([points.x for points in groups])[many],
        )

    def stacked(self) -> tuple[Array, Array]:
        """Design matrix and y, the rows of means first."""
        return np.vstack([self.mean_RxP, self.deviation_MxP]), np.concatenate(
            [self.mean_y_R, self.deviation_y_M]
        )


def _design(groups: list[MatchedPoints]) -> tuple[Array, Array, int]:
    """Columns: d, d u (if every level has points enough), then the polynomial of each group."""
    tilt = all(
        np.unique(points.x[points.d == level]).size >= _TILT_FROM
        for points in groups
        for level in np.unique(points.d)
    )
    blocks = []
    for index, points in enumerate(groups):
        levels = np.unique(points.d)
        middle = float(np.mean([points.x[points.d == level].mean() for level in levels]))
        u = (points.x - middle) / max(float(np.ptp(points.x)), 1e-300)
        own = np.zeros((len(u), len(groups), len(_BENDS_FROM) + 2))
        degree = _degree(u)
        own[:, index, : degree + 1] = u[:, None] ** np.arange(degree + 1)
        leading = [points.d, points.d * u * np.ptp(points.x)] if tilt else [points.d]
        given = [] if points.given is None else [points.given]
        blocks.append(np.column_stack([*leading, *given, own.reshape(len(u), -1)]))
    design = np.vstack(blocks)
    used = np.flatnonzero(np.abs(design).sum(axis=0) > 0)
    shared = int(np.sum(used < (2 if tilt else 1)))
    return design[:, used], np.concatenate([points.y for points in groups]), shared


def _degree(u: Array) -> int:
    """Degree of a group's polynomial, by its number of points."""
    degree = 1 + sum(len(u) >= points for points in _BENDS_FROM)
    return max(1, min(degree, (np.unique(u).size - 1) // 2))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Solved:
    """Least-squares solution of the stacked rows."""

    basis: Array  # (N, r) orthonormal, of the columns
    inverse: Array  # (P, N) pseudo-inverse of the columns
    residual: Array  # (N,)

    @classmethod
    def of(cls, rows: _Rows) -> _Solved:
        stacked, y = rows.stacked()
        left, singular, right = np.linalg.svd(stacked, full_matrices=False)
        used = singular > 1e-10 * singular[0] if singular.size else singular > 0
        basis = left[:, used]
        return cls(
            basis=basis,
            inverse=(right[used].T / singular[used]) @ basis.T,
            residual=y - basis @ (basis.T @ y),
        )

    def leverage(self) -> Array:
        """Diagonal of the hat matrix, (N,)."""
        return np.einsum("ij,ij->i", self.basis, self.basis)


def _solve(rows: _Rows) -> dict[str, float] | None:
    stacked, y = rows.stacked()
    solved = _Solved.of(rows)
    gain = solved.inverse[0]
    if abs(float(gain @ stacked[:, 0]) - 1.0) > 1e-6:
        return None  # d is a combination of the other columns: the move is not identified
    count = len(rows.weight)
    squares, degrees = _scatter(rows, solved)
    within = _within_variance(rows, solved.residual[count:], solved.leverage()[count:])
    own = _own_variance(rows, solved, gain)
    return {
        "move": float(gain @ y),
        "variance": own.variance,
        "own_degrees": own.degrees if own.hidden < _HIDDEN else 0.0,
        "squares": squares,
        "degrees": degrees,
        "between": float(np.sum(gain[:count] ** 2 * rows.weight)),
        "within": float(np.sum(gain[count:] ** 2)) * within,
    }


def _own_variance(rows: _Rows, solved: _Solved, gain: Array) -> ClusterVariance:
    count = len(rows.weight)
    cluster = np.concatenate([np.arange(count), rows.run])
    d = rows.mean_RxP[:, 0] / np.sqrt(rows.weight)
    high = d > (d.min() + d.max()) / 2.0
    return cluster_variance(gain, solved.basis, solved.residual, cluster, high[cluster])


def _scatter(rows: _Rows, solved: _Solved) -> tuple[float, float]:
    """Sum of squared heights of runs about their lines, and its degrees: E(sum) = v * degrees.

    A between row has variance weight * v. Its residual has 1 - leverage times that.
    """
    count = len(rows.weight)
    degrees = float(np.clip(1.0 - solved.leverage()[:count], 0.0, 1.0).sum())
    if degrees < 0.5:
        return 0.0, 0.0
    return float(np.sum(solved.residual[:count] ** 2 / rows.weight)), degrees


def _within_variance(rows: _Rows, residual: Array, leverage: Array) -> float:
    """Variance within runs, corrected for correlated neighbouring checkpoints (AR(1)).

    With lag-1 correlation r, the variance of a mean grows by (1 + r) / (1 - r).
    """
    left = len(residual) - len(np.unique(rows.run)) - float(leverage.sum())
    if left < 1:
        return 0.0
    order = np.lexsort((rows.x, rows.run))
    ordered, same = residual[order], np.diff(rows.run[order]) == 0
    power = float(np.sum(ordered**2))
    if power == 0.0:
        return 0.0
    correlation = float(np.sum((ordered[1:] * ordered[:-1])[same])) / power
    correlation = min(max(correlation, 0.0), 0.9)
    return power / left * (1.0 + correlation) / (1.0 - correlation)


def _permuted(rows: _Rows, resamples: int, generator: np.random.Generator) -> float:
    """Permutation p-value (Freedman and Lane 1983).

    Permute the deviations of runs from the one-line model, refit, and compare t.
    """
    stacked, y = rows.stacked()
    count = len(rows.weight)
    null = stacked[:, rows.shared :]
    fitted = null @ (np.linalg.pinv(null, rcond=1e-10) @ y)
    heights = (y - fitted)[:count] / np.sqrt(rows.weight)
    order = np.argsort(generator.random((resamples, count)), axis=1)
    drawn = np.concatenate([heights[None], heights[order]]).T * np.sqrt(rows.weight)[:, None]
    inverse = np.linalg.pinv(stacked, rcond=1e-10)
    # Only the rows of means differ between resamples, so the within rows are multiplied once.
    still = inverse[:, count:] @ y[count:]
    samples = fitted[:count, None] + drawn
    coefficients = inverse[:, :count] @ samples + still[:, None]
    left = (samples - stacked[:count] @ coefficients) / np.sqrt(rows.weight)[:, None]
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


def run_residuals(points: MatchedPoints) -> RunResiduals:
    """Return the height of each run above one line plus the effects of the ``given`` columns.

    ``d`` is ignored.
    """
    rows = _Rows.of([dataclasses.replace(points, d=np.zeros(len(points.x)))])
    solved = _Solved.of(rows)
    count = len(rows.weight)
    free = np.clip(1.0 - solved.leverage()[:count], 0.0, 1.0)
    heights = solved.residual[:count] / np.sqrt(rows.weight)
    return RunResiduals(
        heights=heights,
        free=free,
        squares=float(np.sum(heights**2)),
        degrees=float(free.sum()),
    )
