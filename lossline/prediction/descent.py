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
    found = np.clip(np.array(theta, float), low, high)
    identity = np.eye(found.shape[1])

    def objective(at: Array, value: Array, weights: Array) -> Array:
        misses = np.einsum("bm,bm->b", weights, np.square(value - target))
        return misses + np.square(at - mean) @ precision

    value, jacobian = model(found)
    costs = objective(found, value, weights)
    # Everything below is of the rows that still descend; ``active`` are their numbers.
    active, here, cost = np.arange(len(found)), found.copy(), costs.copy()
    damping = np.full(len(found), 1e-2)
    for _ in range(iterations):
        weighted = jacobian * weights[:, None, :]
        gradient = np.einsum("bpm,bm->bp", weighted, value - target)
        gradient += precision * (here - mean)
        normal = weighted @ jacobian.transpose(0, 2, 1) + precision * identity
        free = ~((here <= low) & (gradient > 0) | (here >= high) & (gradient < 0))
        scale = np.einsum("bpp->bp", normal) + 1e-12
        damped = normal + (damping[:, None] * scale)[:, :, None] * identity
        damped = np.where(free[:, :, None] & free[:, None, :], damped, identity)
        step = np.linalg.solve(damped, np.where(free, gradient, 0.0)[..., None])[..., 0]
        there = np.clip(here - step, low, high)
        new_value, new_jacobian = model(there)
        new_cost = objective(there, new_value, weights)
        better = np.isfinite(new_cost) & (new_cost <= cost)
        settled = better & (cost - new_cost <= tolerance * cost + 1e-18)
        if better.all():
            here, cost, value, jacobian = there, new_cost, new_value, new_jacobian
        else:
            here = np.where(better[:, None], there, here)
            cost = np.where(better, new_cost, cost)
            value = np.where(better[:, None], new_value, value)
            jacobian = np.where(better[:, None, None], new_jacobian, jacobian)
        damping = np.where(better, np.maximum(damping * _EASE, 1e-9), damping * _STIFFEN)
        found[active], costs[active] = here, cost
        left = ~settled & (damping < _STUCK)
        if not left.all():
            active, here, cost, damping = active[left], here[left], cost[left], damping[left]
            value, jacobian, weights = value[left], jacobian[left], weights[left]
        if not len(active):
            break
    return found, costs
