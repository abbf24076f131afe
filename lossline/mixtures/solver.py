"""Batched Levenberg-Marquardt for mixture laws: Huber's loss on logarithms, with a ridge.

A row is one start of one domain under one weighting of the checkpoints: rows = domains x starts x
resamples. All rows advance together. ``lossline.laws`` has its own solver: its laws have at most
seven parameters, two inputs, bounds and no ridge; the laws here have tens of parameters, one input
per component, and need the ridge.

Objective of a row, with log-residuals r: sum_m weight_m huber(r_m) + sum_p ridge_p / 2 (theta_p -
center_p)^2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

Array = np.ndarray

# log loss (R, M) and its Jacobian (R, P, M) at theta (R, P).
Model = Callable[[Array], tuple[Array, Array]]

DELTA = 1e-2  # residual at which Huber's loss turns linear; noise of losses is about 0.004
_LONGEST_STEP = 2.0
_EASE, _STIFFEN = 0.3, 4.0  # factors of the damping after a step that helped, or did not
_CHUNK = 400_000  # elements of a chunk's Jacobian: it stays within the cache


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """R rows to descend.

    Attributes:
        model: log loss and its Jacobian.
        target: logarithms of measured losses (J, M); any number where the weight is 0.
        domain: domain of each row (R,).
        weights: weightings of the checkpoints (V, J, M), 0 where nothing was measured.
        weighting: weighting of each row (R,).
        center: what the ridge pulls to (R, P).
        ridge: strength of the ridge (P,).
    """

    model: Model
    target: Array
    domain: Array
    weights: Array
    weighting: Array
    center: Array
    ridge: Array

    def derivatives(self, theta: Array, rows: Array) -> tuple[Array, Array, Array]:
        """Return objective (R,), gradient (R, P) and Gauss-Newton matrix (R, P, P) at theta."""
        count, size = theta.shape
        objective, gradient = np.empty(count), np.empty((count, size))
        normal = np.empty((count, size, size))
        step = max(1, _CHUNK // (size * self.target.shape[1]))
        for first in range(0, count, step):
            here = slice(first, first + step)
            piece = rows[here]
            weights = self.weights[self.weighting[piece], self.domain[piece]]
            value, jacobian = self.model(theta[here])
            residual = np.where(weights > 0, value - self.target[self.domain[piece]], 0.0)
            size_r = np.abs(residual)
            rho = np.where(size_r <= DELTA, 0.5 * residual**2, DELTA * (size_r - 0.5 * DELTA))
            robust = weights * np.minimum(1.0, DELTA / np.maximum(size_r, 1e-300))
            weighted = jacobian * robust[:, None, :]
            away = theta[here] - self.center[piece]
            objective[here] = (weights * rho).sum(1) + 0.5 * (self.ridge * away**2).sum(1)
            gradient[here] = (weighted @ residual[:, :, None])[:, :, 0] + self.ridge * away
            normal[here] = weighted @ jacobian.transpose(0, 2, 1)
        normal[:, np.arange(size), np.arange(size)] += self.ridge
        return objective, gradient, normal


@dataclasses.dataclass(frozen=True)
class Ends:
    """Where each row ended: theta (R, P), objective (R,), and whether it had settled (R,)."""

    theta: Array
    objective: Array
    settled: Array


def descend(rows: Rows, theta: Array, *, iterations: int = 200, tolerance: float = 1e-9) -> Ends:
    """Descend from theta (R, P).

    A row settles when a step with little damping lowers its objective by less than ``tolerance``
    of it, or when no step lowers it.
    """
    with np.errstate(all="ignore"):
        theta = np.array(theta, float)
        everything = np.arange(len(theta))
        objective, gradient, normal = rows.derivatives(theta, everything)
        broken = ~np.isfinite(objective) | ~np.isfinite(normal).all(axis=(1, 2))
        objective[broken] = np.inf
        damping, settled = np.full(len(theta), 1e-2), broken.copy()
        for _ in range(iterations):
            active = everything[~settled]
            if not len(active):
                break
            trial = theta[active] + _step(gradient[active], normal[active], damping[active])
            after, slope, matrix = rows.derivatives(trial, active)
            better = (after < objective[active]) & np.isfinite(matrix).all(axis=(1, 2))
            moved = active[better]
            gain = objective[active] - after
            small = better & (gain <= tolerance * objective[active]) & (damping[active] < 1)
            theta[moved], objective[moved] = trial[better], after[better]
            gradient[moved], normal[moved] = slope[better], matrix[better]
            damping[active] *= np.where(better, _EASE, _STIFFEN)
            damping[active] = np.maximum(damping[active], 1e-12)
            settled[active] = small | (damping[active] > 1e9)
        return Ends(theta, objective, settled & np.isfinite(objective))


def _step(gradient: Array, normal: Array, damping: Array) -> Array:
    """Return the damped Gauss-Newton step (R, P), with Marquardt's scaling."""
    system = normal.copy()
    diagonal = np.einsum("rpp->rp", system)  # a writable view
    diagonal += damping[:, None] * diagonal + 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300
    step = np.linalg.solve(system, -gradient[:, :, None])[:, :, 0]
    return np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)
