"""Weighted least squares with priors and bounds, for many weightings of one set of points at once.

Both stages of a prediction are fitted to the same resamples of the runs, so that their errors move
together: resample b gives run r the weight w[b, r] in either stage. The solver of ``lossline.laws``
draws its own weights for one law; here they are given, and a parameter may have a Gaussian prior.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

Array = np.ndarray
# theta (B, P) -> value (B, M) and its derivative by theta (B, P, M)
Model = Callable[[Array], tuple[Array, Array]]

_EASE, _STIFFEN = 0.2, 6.0  # factors of the damping after a step that helped, or did not
_STUCK = 1e10  # damping at which a row gives up
_CHUNK = 400_000  # numbers of one Jacobian; more rows are done one chunk after the other


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What is known of P parameters before the data.

    Attributes:
        low: lower bounds (P,).
        high: upper bounds (P,).
        mean: means of the Gaussian priors (P,).
        sd: their standard deviations (P,); inf for a parameter without a prior.
    """

    low: Array
    high: Array
    mean: Array
    sd: Array

    @property
    def precision(self) -> Array:
        """1 / sd^2 (P,)."""
        return 1.0 / np.square(self.sd)


def descend(
    model: Model,
    theta: Array,
    target: Array,
    weights: Array,
    limits: Limits,
    *,
    iterations: int = 100,
    tolerance: float = 1e-10,
) -> tuple[Array, Array]:
    """Minimize sum_m w_m (f_m - y_m)^2 + sum_p ((theta_p - mean_p) / sd_p)^2 for B weightings.

    Levenberg-Marquardt; a parameter at its bound whose slope points outward is held.

    Args:
        model: values and derivatives.
        theta: starts (B, P).
        target: measurements (M,).
        weights: weights (B, M), or (1, M) for all rows.
        limits: bounds and priors.
        iterations: limit of the iterations.
        tolerance: relative decrease of the objective that ends a row.

    Returns:
        The optima (B, P) and their objectives (B,).
    """
    rows = max(1, _CHUNK // max(1, theta.shape[1] * len(target)))
    weights = np.broadcast_to(weights, (len(theta), len(target)))
    parts = [
        _descend(
            model, theta[i : i + rows], target, weights[i : i + rows], limits, iterations, tolerance
        )
        for i in range(0, len(theta), rows)
    ]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _descend(
    model: Model,
    theta: Array,
    target: Array,
    weights: Array,
    limits: Limits,
    iterations: int,
    tolerance: float,
) -> tuple[Array, Array]:
    low, high, mean, precision = limits.low, limits.high, limits.mean, limits.precision
    theta = np.clip(np.array(theta, float), low, high)
    identity = np.eye(theta.shape[1])

    def objective(at: Array, value: Array, rows: Array) -> Array:
        misses = np.einsum("bm,bm->b", weights[rows], np.square(value - target))
        return misses + np.square(at - mean) @ precision

    active = np.arange(len(theta))
    value, jacobian = model(theta)
    cost = objective(theta, value, active)
    damping = np.full(len(theta), 1e-2)
    for _ in range(iterations):
        here, weight, slopes = theta[active], weights[active], jacobian[active]
        weighted = slopes * weight[:, None, :]
        gradient = np.einsum("bpm,bm->bp", weighted, value[active] - target)
        gradient += precision * (here - mean)
        normal = weighted @ slopes.transpose(0, 2, 1) + precision * identity
        free = ~((here <= low) & (gradient > 0) | (here >= high) & (gradient < 0))
        scale = np.einsum("bpp->bp", normal) + 1e-12
        damped = normal + (damping[active, None] * scale)[:, :, None] * identity
        damped = np.where(free[:, :, None] & free[:, None, :], damped, identity)
        step = np.linalg.solve(damped, np.where(free, gradient, 0.0)[..., None])[..., 0]
        there = np.clip(here - step, low, high)
        new_value, new_jacobian = model(there)
        new_cost = objective(there, new_value, active)
        better = np.isfinite(new_cost) & (new_cost <= cost[active])
        settled = better & (cost[active] - new_cost <= tolerance * cost[active] + 1e-18)
        moved = active[better]
        theta[moved], cost[moved] = there[better], new_cost[better]
        value[moved], jacobian[moved] = new_value[better], new_jacobian[better]
        damping[active] = np.where(
            better, np.maximum(damping[active] * _EASE, 1e-9), damping[active] * _STIFFEN
        )
        active = active[~settled & (damping[active] < _STUCK)]
        if not len(active):
            break
    return theta, cost
