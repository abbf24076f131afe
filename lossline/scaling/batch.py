"""Many rows (starts x resamples x problems) evaluated at once: objective, gradient, Gauss-Newton
matrix.

Rows go in chunks that fit a core's cache; the work per row is one call of the law on (rows, points)
arrays."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from lossline.scaling.laws import Columns
from lossline.scaling.problems import Stack

Array = np.ndarray

# Points x rows per chunk: Jacobian and temporaries stay within a core's cache.
_CHUNK_ELEMENTS = 24_000


@dataclasses.dataclass(frozen=True)
class Penalties:
    """Gaussian penalties of R rows: precision (R, Q) on g(theta[index]); kinds: "same", "log" (of
    an identity), "exp" (of a log)."""

    index: tuple[int, ...]
    kind: tuple[str, ...]
    center: Array
    precision: Array

    def terms(self, theta_RxP: Array, rows: Array) -> Iterator[tuple[int, Array, Array, Array]]:
        """(parameter, g - center, dg/dtheta, precision) per penalty."""
        for q, (i, kind) in enumerate(zip(self.index, self.kind, strict=True)):
            value = theta_RxP[:, i]
            slope = np.ones_like(value)
            if kind == "log":
                floor = np.maximum(value, 1e-12)
                value, slope = np.log(floor), 1 / floor
            elif kind == "exp":
                value = slope = np.exp(value)
            yield i, value - self.center[rows, q], slope, self.precision[rows, q]


@dataclasses.dataclass(frozen=True)
class Batch:
    """R rows over the problems of a stack. Weights (V, M) are referred to by row, so that resamples
    share the data."""

    stack: Stack
    problem: Array  # (R,) row -> problem
    weights: Array  # (V, M)
    weight: Array  # (R,) row -> row of weights
    fit: Array  # (R,) row -> fit it is a start of; rows merge within a fit only
    low: Array  # (R, P)
    high: Array
    penalties: Penalties

    def chunks(self, rows: Array) -> list[Array]:
        size = max(1, _CHUNK_ELEMENTS // self.weights.shape[1])
        return [rows[i : i + size] for i in range(0, len(rows), size)]

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
        parts = []
        start = 0
        for chunk in self.chunks(rows):
            theta = theta_RxP[start : start + len(chunk)]
            start += len(chunk)
            columns, goal, weights = self.take(chunk)
            o = self.stack.objective
            r = o.residuals(self.stack.law.value(theta, columns), goal)
            total = (o.rho(r) * weights).sum(axis=1)
            for _, gap, _, precision in self.penalties.terms(theta, chunk):
                total += 0.5 * precision * gap * gap
            parts.append(np.where(np.isfinite(total), total, np.inf))
        return np.concatenate(parts) if parts else np.zeros(0)

    def derivatives(self, theta: Array, rows: Array) -> tuple[Array, Array, Array]:
        """Objective (R,), gradient (R, P) and Gauss-Newton matrix (R, P, P) with the weights of
        reweighted least squares, for one chunk of rows."""
        columns, goal, weights = self.take(rows)
        o = self.stack.objective
        f, jacobian = self.stack.law.value_and_jacobian(theta, columns)
        r = o.residuals(f, goal)
        total = (o.rho(r) * weights).sum(axis=1)
        shrink = o.robust_weight(r)
        root = np.sqrt(weights if shrink is None else weights * shrink)
        slope = o.slope(f, goal)
        jacobian *= (root if slope is None else root * slope)[:, None, :]
        gradient = (jacobian @ (root * r)[:, :, None])[:, :, 0]
        normal = jacobian @ jacobian.transpose(0, 2, 1)
        for i, gap, dg, precision in self.penalties.terms(theta, rows):
            total = total + 0.5 * precision * gap * gap
            gradient[:, i] += precision * gap * dg
            normal[:, i, i] += precision * dg * dg
        return total, gradient, normal

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
