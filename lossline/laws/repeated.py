"""Rows of a fit whose points repeat their inputs: the law is evaluated once per distinct input.

Runs of a grid share N and D, and differ in seed or settings. With thousands of points a law then
has few distinct inputs. Only the residuals are made at every point; their sums over the points of
one input enter gradient and matrix, which are products of the law's derivatives.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np

from lossline.laws.forms import Columns
from lossline.laws.objective import Residual
from lossline.laws.problems import Stack
from lossline.laws.rows import MANY_POINTS, FitRows

Array = np.ndarray

_REPEATS = 2  # points per distinct input from which sums per input save time


def fit_rows(stack: Stack, **rows: Any) -> FitRows:
    """Return rows over the problems of a stack, with ``rows`` as the other fields."""
    points = stack.goal.shape[1]
    alone = len(stack.goal) == 1 and stack.objective.residual is not Residual.RELATIVE
    if alone and points >= MANY_POINTS:
        # Points are sorted by their inputs.
        changes = np.any([np.diff(column[0]) != 0 for column in stack.columns], axis=0)
        first = np.flatnonzero(np.append(True, changes))
        if points >= _REPEATS * len(first):
            return RepeatedRows(stack=stack, **rows, first=first)
    return FitRows(stack=stack, **rows)


@dataclasses.dataclass(frozen=True)
class RepeatedRows(FitRows):
    """Rows over one problem of M points with K distinct inputs.

    Attributes:
        first: first point of each distinct input (K,); its other points follow.
    """

    # The law has few inputs: more rows at a time make its calls worth their cost.
    chunk: ClassVar[int] = 60_000
    first: Array

    @functools.cached_property
    def _columns(self) -> Columns:
        """Distinct inputs, each (1, K)."""
        return tuple(column[:, self.first] for column in self.stack.columns)

    @functools.cached_property
    def _count(self) -> Array:
        """Points of each input (K,)."""
        return np.diff(self.first, append=self.stack.goal.shape[1])

    def objective(self, theta_RxP: Array, rows: Array) -> Array:
        """Return the objective (R,) at theta; inf where the law has no finite value."""
        total = np.empty(len(rows))
        for here, theta, piece in self.pieces(theta_RxP, rows):
            f = self.stack.law.value(theta, self._columns)
            total[here] = np.vecdot(self.stack.objective.rho(self._residual(f)), self._of(piece))
        return np.where(np.isfinite(total), total, np.inf)

    def _sums(self, theta: Array, rows: Array) -> tuple[Array, Array]:
        """Return objective (R,), and gradient next to Gauss-Newton matrix (R, P, 1 + P)."""
        f, jacobian = self._value_and_slopes(theta)
        r, weights = self._residual(f), self._of(rows)
        shrink = self.stack.objective.robust_weight(r)
        pull = weights if shrink is None else weights * shrink
        sums = np.stack([self._per_input(pull * r), self._per_input(pull)])
        left = np.concatenate([sums[0][:, None], jacobian * sums[1][:, None]], axis=1)
        return (
            np.vecdot(self.stack.objective.rho(r), weights),
            jacobian @ left.transpose(0, 2, 1),
        )

    def gradient(self, theta_RxP: Array, rows: Array) -> Array:
        """Return the gradient (R, P) of the objective."""
        gradient = np.empty(theta_RxP.shape)
        for here, theta, piece in self.pieces(theta_RxP, rows):
            f, jacobian = self._value_and_slopes(theta)
            r = self._residual(f)
            shrink = self.stack.objective.robust_weight(r)
            pull = self._of(piece) * r if shrink is None else self._of(piece) * shrink * r
            gradient[here] = (jacobian @ self._per_input(pull)[:, :, None])[:, :, 0]
        return gradient

    def _value_and_slopes(self, theta: Array) -> tuple[Array, Array]:
        """Return f (R, K) and the derivatives (R, P, K) of the residual at the inputs."""
        f, jacobian = self.stack.law.value_and_jacobian(theta, self._columns)
        slope = self.stack.objective.slope(f, f)
        return f, jacobian if slope is None else jacobian * slope[:, None, :]

    def _residual(self, f: Array) -> Array:
        """Return the residuals (R, M) of predictions f (R, K)."""
        return np.repeat(self.stack.objective.target(f), self._count, axis=1) - self.stack.goal

    def _of(self, rows: Array) -> Array:
        return self.weights if len(self.weights) == 1 else self.weights[self.weight[rows]]

    def _per_input(self, points: Array) -> Array:
        """Return the sums (R, K) of values at points (R, M) over those of each input."""
        return np.add.reduceat(points, self.first, axis=1)
