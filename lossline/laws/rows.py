"""Many rows (starts x resamples x problems) evaluated at once: objective, gradient, Gauss-Newton
matrix.

Arrays of rows x points are made for chunks of rows that fit a core's cache, each with one call of
the law; what is small per row is done for all rows at once."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from lossline.laws.forms import Columns
from lossline.laws.problems import Stack

Array = np.ndarray

# Points x rows per chunk: Jacobian and temporaries stay within a core's cache, and below the size
# from which glibc returns memory to the system at every free and faults it in again (half as slow).
_CHUNK_ELEMENTS = 12_000


@dataclasses.dataclass(frozen=True)
class Rows:
    """R rows over the problems of a stack. Weights (V, M) are referred to by row, so that resamples
    share the data."""

    stack: Stack
    problem: Array  # (R,) row -> problem
    weights: Array  # (V, M)
    weight: Array  # (R,) row -> row of weights
    fit: Array  # (R,) row -> fit it is a start of; rows merge within a fit only
    low: Array  # (R, P)
    high: Array

    def pieces(self, theta_RxP: Array, rows: Array) -> Iterator[tuple[slice, Array, Array]]:
        """Places, theta and rows chunk by chunk, for whatever makes arrays of rows x points."""
        size = max(1, _CHUNK_ELEMENTS // self.weights.shape[1])
        for first in range(0, len(rows), size):
            here = slice(first, first + size)
            yield here, theta_RxP[here], rows[here]

    def take(self, rows: Array) -> tuple[Columns, Array, Array]:
        """Columns, goal and weights of the rows, broadcasting where there is one problem or one
        weight vector."""
        s = self.stack
        if len(s.goal) == 1:
            columns, goal = s.columns, s.goal
        else:
            u = self.problem[rows]
            columns, goal = tuple(c[u] for c in s.columns), s.goal[u]
        weights = self.weights if len(self.weights) == 1 else self.weights[self.weight[rows]]
        return columns, goal, weights

    def matrix(self, per_problem_UxPxP: Array, rows: Array) -> Array:
        return (
            per_problem_UxPxP
            if len(per_problem_UxPxP) == 1
            else per_problem_UxPxP[self.problem[rows]]
        )

    def objective(self, theta_RxP: Array, rows: Array) -> Array:
        """Objective (R,) at theta of the rows; inf where the law has no value."""
        total = np.empty(len(rows))
        for here, theta, piece in self.pieces(theta_RxP, rows):
            columns, goal, weights = self.take(piece)
            o = self.stack.objective
            r = o.residuals(self.stack.law.value(theta, columns), goal)
            total[here] = np.vecdot(o.rho(r), weights)
        return np.where(np.isfinite(total), total, np.inf)

    def derivatives(self, theta_RxP: Array, rows: Array) -> tuple[Array, Array, Array]:
        """Objective (R,), gradient (R, P) and Gauss-Newton matrix (R, P, P) with the weights of
        reweighted least squares."""
        count, size = theta_RxP.shape
        total, product = np.empty(count), np.empty((count, size, size + 1))
        for here, theta, piece in self.pieces(theta_RxP, rows):
            total[here], product[here] = self._sums(theta, piece)
        return total, product[:, :, 0], product[:, :, 1:]

    def _sums(self, theta: Array, rows: Array) -> tuple[Array, Array]:
        """Sums over the points: the objective (R,), and gradient and Gauss-Newton matrix side by
        side (R, P, 1 + P)."""
        columns, goal, weights = self.take(rows)
        o = self.stack.objective
        f, jacobian = self.stack.law.value_and_jacobian(theta, columns)
        r = o.residuals(f, goal)
        shrink = o.robust_weight(r)
        root = np.sqrt(weights if shrink is None else weights * shrink)
        slope = o.slope(f, goal)
        # The residual goes in as a column more, and all sums are one product. Its factors begin at
        # different places: NumPy would hand a matrix times itself to BLAS's syrk, which is three
        # times slower at this size.
        scaled = np.empty((len(f), jacobian.shape[1] + 1, f.shape[1]))
        np.multiply(root, r, out=scaled[:, 0])
        factor = root if slope is None else root * slope
        np.multiply(jacobian, factor[:, None, :], out=scaled[:, 1:])
        return np.vecdot(o.rho(r), weights), scaled[:, 1:] @ scaled.transpose(0, 2, 1)

    def gradient(self, theta_RxP: Array, rows: Array) -> Array:
        """Gradient (R, P) of the objective."""
        gradient = np.empty(theta_RxP.shape)
        for here, theta, piece in self.pieces(theta_RxP, rows):
            columns, goal, weights = self.take(piece)
            o = self.stack.objective
            f, jacobian = self.stack.law.value_and_jacobian(theta, columns)
            r = o.residuals(f, goal)
            pull = weights * r
            for factor in (o.robust_weight(r), o.slope(f, goal)):
                pull = pull if factor is None else pull * factor
            gradient[here] = (jacobian @ pull[:, :, None])[:, :, 0]
        return gradient

    def inside(self, theta: Array, rows: Array) -> Array:
        """theta (R, P) within the bounds; what rounding keeps off a bound is put on it."""
        low, high = self.low[rows], self.high[rows]
        theta = np.where(theta - low < 1e-12 * (1 + np.abs(low)), low, theta)
        return np.where(high - theta < 1e-12 * (1 + np.abs(high)), high, theta)

    def held(self, theta: Array, gradient: Array, rows: Array) -> Array:
        """Mask (R, P) of parameters at a bound that the descent direction would leave through, or
        fixed."""
        low, high = self.low[rows], self.high[rows]
        return (
            ((theta <= low) & (gradient >= 0)) | ((theta >= high) & (gradient <= 0)) | (low == high)
        )
