"""Regression of ``comparison``, as far as it does not depend on y.

Many evaluation sets are measured on the same checkpoints. Their regressions have the same columns,
so that these are built and factorized once and serve every set.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from lossline.attribution.cluster_variance import ClusterVariances

Array = np.ndarray

# Assumed ratio of v to the variance within runs; it sets the weights of the fit. Estimates are
# unbiased for any value. A large value suits smooth loss curves.
_RATIO = 25.0
# Share of the largest singular value below which a direction is a combination of the others.
_NEGLIGIBLE = 1e-10
# Number of points of a group from which its line is a polynomial of degree 2, 3 and 4. A parabola
# does not fit the curve of a whole training. Between levels that start at different x, its misfit
# looks like a move, and more checkpoints make that false move more significant.
_BENDS_FROM = (8, 16, 32)
_TILT_FROM = 3  # number of points of a level from which it has a tilt


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
class Regression:
    """Rows of the regression: weighted means of runs, then deviations from them. Column 0 is d.

    Axes: R runs, M points of runs with two points or more, P columns of rank r, N = R + M rows. The
    columns of all rows are ``basis @ factor``; these N x P numbers are not kept, because a table of
    many runs has hundreds of regressions.

    Attributes:
        basis: orthonormal basis of the columns (N, r).
        factor: coordinates of the columns in it (r, P).
        means: the columns of the means (R, P), multiplied by sqrt(weight).
        identified: whether d is no combination of the other columns.
        weight: weights of the means (R,).
        run: index of the run of each deviation (M,).
        x: x of each deviation (M,).
        shared: number of columns of the levels (d, perhaps d u); the rest are lines of groups.
        run_of_point: index of the run of each point, those of runs with one point included.
        many: mask of the points that have a deviation.
    """

    basis: Array
    factor: Array
    means: Array
    identified: bool
    weight: Array
    run: Array
    x: Array
    shared: int
    run_of_point: Array
    many: Array

    @classmethod
    def of(cls, groups: list[MatchedPoints]) -> Regression:
        """Build the regression of the points of matched groups."""
        design, shared = _design(groups)
        numbers, start = [], 0
        for points in groups:
            _, number = np.unique(points.run, return_inverse=True)
            numbers.append(number + start)
            start += int(number.max()) + 1
        run = np.concatenate(numbers)
        count = np.bincount(run)
        mean = np.stack([np.bincount(run, weights=column) / count for column in design.T], axis=1)
        # With s² the variance within runs, the mean of n points has variance v + s²/n, which is
        # s² (1 + n v/s²) / n. Rows are weighted by the inverse, in units of 1/s².
        weight = count / (1.0 + count * _RATIO)
        many = count[run] > 1  # with one checkpoint, the deviation from the mean is zero
        means = mean * np.sqrt(weight)[:, None]
        stacked = np.vstack([means, (design - mean[run])[many]])
        left, singular, right = np.linalg.svd(stacked, full_matrices=False)
        used = singular > _NEGLIGIBLE * singular[0] if singular.size else singular > 0
        basis, factor = left[:, used], singular[used, None] * right[used]
        back_of_d = right[used, 0] / singular[used]
        return cls(
            basis=basis,
            factor=factor,
            means=means,
            identified=abs(float(back_of_d @ (basis.T @ stacked[:, 0])) - 1.0) <= 1e-6,
            weight=weight,
            run=run[many],
            x=np.concatenate([points.x for points in groups])[many],
            shared=shared,
            run_of_point=run,
            many=many,
        )

    def rows(self, groups: list[MatchedPoints]) -> Array:
        """Return y of all rows (N,), from the points that the regression was built of."""
        y, run = np.concatenate([points.y for points in groups]), self.run_of_point
        mean = np.bincount(run, weights=y) / np.bincount(run)
        return np.concatenate([mean * np.sqrt(self.weight), (y - mean[run])[self.many]])

    @functools.cached_property
    def back(self) -> Array:
        """Coefficients (P, r) of coordinates in the basis: the inverse of the columns."""
        return np.linalg.pinv(self.factor, rcond=_NEGLIGIBLE)

    @functools.cached_property
    def back_of_lines(self) -> Array:
        """The same for a model without the columns of the levels (P - shared, r)."""
        return np.linalg.pinv(self.factor[:, self.shared :], rcond=_NEGLIGIBLE)

    @functools.cached_property
    def gain(self) -> Array:
        """Weights (N,) that give the coefficient of d."""
        return self.basis @ self.back[0]

    @functools.cached_property
    def leverage(self) -> Array:
        """Diagonal of the hat matrix (N,)."""
        return np.einsum("ij,ij->i", self.basis, self.basis)

    @functools.cached_property
    def degrees_within(self) -> float:
        """Degrees of freedom of the deviations from the means of runs."""
        leverage = self.leverage[len(self.weight) :]
        return len(self.run) - len(np.unique(self.run)) - float(leverage.sum())

    @functools.cached_property
    def neighbours(self) -> tuple[Array, Array]:
        """Order (M,) of the deviations by run and x, and whether the next has the same run."""
        order = np.lexsort((self.x, self.run))
        return order, np.diff(self.run[order]) == 0

    def residual(self, y: Array) -> Array:
        """Return y of all rows (N,) minus its fit."""
        return y - self.basis @ (self.basis.T @ y)

    @functools.cached_property
    def cluster_variances(self) -> ClusterVariances:
        """CR2 variance of the coefficient of d, with runs as clusters, of two kinds by their d."""
        count = len(self.weight)
        cluster = np.concatenate([np.arange(count), self.run])
        d = self.means[:, 0] / np.sqrt(self.weight)
        high = d > (d.min() + d.max()) / 2.0
        return ClusterVariances(self.gain, self.basis, cluster, high[cluster])


def _design(groups: list[MatchedPoints]) -> tuple[Array, int]:
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
        u = (points.x - middle) / (float(np.ptp(points.x)) or 1.0)
        own = np.zeros((len(u), len(groups), len(_BENDS_FROM) + 2))
        degree = _degree(u)
        own[:, index, : degree + 1] = u[:, None] ** np.arange(degree + 1)
        leading = [points.d, points.d * u * np.ptp(points.x)] if tilt else [points.d]
        given = [] if points.given is None else [points.given]
        blocks.append(np.column_stack([*leading, *given, own.reshape(len(u), -1)]))
    design = np.vstack(blocks)
    used = np.flatnonzero(np.abs(design).sum(axis=0) > 0)
    shared = int(np.sum(used < (2 if tilt else 1)))
    return design[:, used], shared


def _degree(u: Array) -> int:
    """Degree of a group's polynomial, by its number of points."""
    degree = 1 + sum(len(u) >= points for points in _BENDS_FROM)
    return max(1, min(degree, (np.unique(u).size - 1) // 2))
