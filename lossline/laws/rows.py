"""Objective, gradient and Gauss-Newton matrix of many rows at once.

A row is one start of one fit: rows = starts x resamples x problems. Arrays of rows x points are
computed in chunks of rows that fit into a core's cache, with one call of the law per chunk. Small
arrays (rows x parameters) are computed for all rows at once.
"""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from lossline.laws.forms import Columns
from lossline.laws.problems import Stack

Array = np.ndarray

# Points from which a problem is fitted alone, by ways that save arithmetic and not calls.
MANY_POINTS = 2000
# Points x rows per chunk. Jacobian and temporaries stay within a core's cache. They also stay below
# the size at which glibc returns memory to the system at every free, which costs half the speed.
_CHUNK_ELEMENTS = 12_000


@dataclasses.dataclass(frozen=True)
class FitRows:
    """R rows over the problems of a stack.

    Resamples share the data: each row points to a row of ``weights``.

    Attributes:
        stack: the problems.
        problem: problem of each row (R,).
        weights: weightings of the points (V, M).
        weight: row of ``weights`` that each row uses (R,).
        fit: fit that each row is a start of (R,); only rows of one fit can merge.
        low: lower bounds (R, P), internal coordinates.
        high: upper bounds (R, P).
    """

    chunk: ClassVar[int] = _CHUNK_ELEMENTS
    stack: Stack
    problem: Array
    weights: Array
    weight: Array
    fit: Array
    low: Array
    high: Array

    def pieces(self, theta_RxP: Array, rows: Array) -> Iterator[tuple[slice, Array, Array]]:
        """Yield slice, theta and rows of each chunk, to make arrays of rows x points."""
        size = max(1, self.chunk // self.weights.shape[1])
        for first in range(0, len(rows), size):
            here = slice(first, first + size)
            yield here, theta_RxP[here], rows[here]

    def take(self, rows: Array) -> tuple[Columns, Array, Array]:
        """Return columns, goal and weights of the rows.

        With only one problem or one weighting, the arrays keep a first axis of 1, which broadcasts.
        """
        s = self.stack
        if len(s.goal) == 1:
            columns, goal = s.columns, s.goal
        else:
            u = self.problem[rows]
            columns, goal = tuple(c[u] for c in s.columns), s.goal[u]
        weights = self.weights if len(self.weights) == 1 else self.weights[self.weight[rows]]
        return columns, goal, weights

    def matrix(self, per_problem_UxPxP: Array, rows: Array) -> Array:
        """Return the matrix of each row's problem; with one problem the first axis is 1."""
        return (
            per_problem_UxPxP
            if len(per_problem_UxPxP) == 1
            else per_problem_UxPxP[self.problem[rows]]
        )

    def objective(self, theta_RxP: Array, rows: Array) -> Array:
        """Return the objective (R,) at theta; inf where the law has no finite value."""
        total = np.empty(len(rows))
        for here, theta, piece in self.pieces(theta_RxP, rows):
            columns, goal, weights = self.take(piece)
            o = self.stack.objective
            r = o.residuals(self.stack.law.value(theta, columns), goal)
            total[here] = np.vecdot(o.rho(r), weights)
        return np.where(np.isfinite(total), total, np.inf)

    def derivatives(self, theta_RxP: Array, rows: Array) -> tuple[Array, Array, Array]:
        """Return objective (R,), gradient (R, P) and Gauss-Newton matrix (R, P, P).

        The matrix has the weights of iteratively reweighted least squares.
        """
        count, size = theta_RxP.shape
        total, product = np.empty(count), np.empty((count, size, size + 1))
        for here, theta, piece in self.pieces(theta_RxP, rows):
            total[here], product[here] = self._sums(theta, piece)
        return total, product[:, :, 0], product[:, :, 1:]

    def _sums(self, theta: Array, rows: Array) -> tuple[Array, Array]:
        """Return objective (R,), and gradient next to Gauss-Newton matrix (R, P, 1 + P)."""
        columns, goal, weights = self.take(rows)
        o = self.stack.objective
        f, jacobian = self.stack.law.value_and_jacobian(theta, columns)
        r = o.residuals(f, goal)
        shrink = o.robust_weight(r)
        root = np.sqrt(weights if shrink is None else weights * shrink)
        slope = o.slope(f, goal)
        # The residual is row 0 of the scaled Jacobian, so that one product gives all sums. The two
        # factors start at different rows: for a matrix times its own transpose NumPy calls BLAS's
        # syrk, which is three times slower at this size.
        scaled = np.empty((len(f), jacobian.shape[1] + 1, f.shape[1]))
        np.multiply(root, r, out=scaled[:, 0])
        factor = root if slope is None else root * slope
        np.multiply(jacobian, factor[:, None, :], out=scaled[:, 1:])
        return np.vecdot(o.rho(r), weights), scaled[:, 1:] @ scaled.transpose(0, 2, 1)

    def gradient(self, theta_RxP: Array, rows: Array) -> Array:
        """Return the gradient (R, P) of the objective."""
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
        """Return theta (R, P) with values that rounding left just off a bound put on it."""
        low, high = self.low[rows], self.high[rows]
        theta = np.where(theta - low < 1e-12 * (1 + np.abs(low)), low, theta)
        return np.where(high - theta < 1e-12 * (1 + np.abs(high)), high, theta)

    def held(self, theta: Array, gradient: Array, rows: Array) -> Array:
        """Return a mask (R, P) of the parameters that cannot move.

        These are fixed ones, and those at a bound that the descent direction would cross.
        """
        low, high = self.low[rows], self.high[rows]
        return (
            ((theta <= low) & (gradient >= 0)) | ((theta >= high) & (gradient <= 0)) | (low == high)
        )
