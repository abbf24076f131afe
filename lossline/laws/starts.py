"""Starts by variable projection: grid the nonlinear parameters, solve for the linear ones.

The Gram matrices of all nodes and all weightings (resamples) are one matrix product. Starts for a
thousand resamples therefore cost about as much as one iteration of the solver.
"""

import dataclasses

import numpy as np

from lossline.laws.forms import Columns, Law
from lossline.laws.objective import FitObjective, Residual

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Nodes:
    """Grid nodes of one problem.

    Attributes:
        theta: internal parameters (G, P); the linear entries are not set.
        offset: part of the prediction that no linear parameter changes (G, M).
        basis: ``Law.basis`` (G, L, M).
    """

    theta: Array
    offset: Array
    basis: Array


def nodes(law: Law, columns: Columns, target: Array, low: Array, high: Array) -> Nodes:
    """Return the law's grid, clipped to the bounds, without nodes whose basis is not finite."""
    theta = law.grid(columns, target)
    nonlinear = [i for i in range(len(law.parameters)) if i not in law.linear_indices]
    theta[:, nonlinear] = np.clip(theta[:, nonlinear], low[nonlinear], high[nonlinear])
    theta = np.unique(theta, axis=0)
    flat = tuple(c.reshape(1, -1) for c in columns)
    with np.errstate(all="ignore"):
        offset, basis = law.basis(theta, flat)
    ok = np.isfinite(offset).all(axis=1) & np.isfinite(basis).all(axis=(1, 2))
    return Nodes(theta[ok], offset[ok], basis[ok])


def _solve_linear(gram: Array, moment: Array, low: Array, high: Array) -> Array:
    """Return the least-squares solution (..., L) within natural bounds.

    A value outside is put on its bound, and the others are solved again.
    """
    size = moment.shape[-1]
    held = np.broadcast_to(low == high, moment.shape).copy()
    value = np.where(held, low, 0.0)
    for _ in range(size + 1):
        free = ~held
        system = gram * free[..., :, None] * free[..., None, :]
        diagonal = np.einsum("...ii->...i", system)
        # A tiny ridge keeps parallel columns solvable.
        diagonal += 1e-13 * diagonal.sum(axis=-1, keepdims=True) + 1e-300
        diagonal[held] = 1.0
        fixed = np.where(held, value, 0.0)
        right = (moment - (gram @ fixed[..., None])[..., 0]) * free
        value = np.where(held, value, np.linalg.solve(system, right[..., None])[..., 0])
        outside = ((value < low) | (value > high)) & free
        if not outside.any():
            break
        value = np.where(outside, np.clip(value, low, high), value)
        held |= outside
    return value


def project(
    law: Law,
    objective: FitObjective,
    grid: Nodes,
    target: Array,
    weights_VxM: Array,
    low: Array,
    high: Array,
    *,
    keep: int,
) -> Array:
    """Return the ``keep`` best nodes for each weighting (V, keep, P), best first.

    Their linear parameters are solved by least squares (of relative residuals where the objective
    is on logarithms). The objective itself ranks the nodes.

    Args:
        law: the law.
        objective: the objective that ranks the nodes.
        grid: the nodes.
        target: measurements (M,).
        weights_VxM: the weightings.
        low: lower bounds (P,), internal.
        high: upper bounds (P,), internal.
        keep: how many nodes to return.
    """
    linear = law.linear_indices
    columns_low = np.array([law.parameters[i].log for i in linear])
    with np.errstate(over="ignore"):
        natural_low = np.where(columns_low, np.exp(low[linear]), low[linear])
        natural_high = np.where(columns_low, np.exp(high[linear]), high[linear])
    # log f - log y is about (f - y) / y near the optimum, so relative residuals stand in for logs.
    scale = np.ones_like(target) if objective.residual is Residual.LINEAR else 1 / target
    rest = (target - grid.offset) * scale
    basis = grid.basis * scale
    # Weighted Gram matrices of all nodes and weightings as one product: (V, M) @ (M, G L L).
    products = np.einsum("gkm,glm->gklm", basis, basis)
    count, size = basis.shape[:2]
    flat = products.reshape(-1, len(target))
    gram = (weights_VxM @ flat.T).reshape(-1, count, size, size)
    moment = (weights_VxM @ (basis * rest[:, None]).reshape(-1, len(target)).T).reshape(
        -1, count, size
    )
    square = weights_VxM @ (rest**2).T
    value = _solve_linear(gram, moment, natural_low, natural_high)
    # Residual sum of squares v'Gv - 2 v'm + y'y, from the Gram matrix alone.
    fit = (value * ((gram @ value[..., None])[..., 0] - 2 * moment)).sum(axis=-1) + square
    # Keep more nodes than asked for: the objective may rank them otherwise than least squares.
    best = np.argsort(fit, axis=1, kind="stable")[:, : max(3 * keep, keep + 4)]
    theta = grid.theta[best]
    chosen = np.take_along_axis(value, best[:, :, None], axis=1)
    theta[:, :, linear] = _searchable(chosen, columns_low, basis, target * scale)
    return _rank(law, objective, theta, best, grid, chosen, target, weights_VxM, keep)


def _searchable(value: Array, is_log: Array, basis: Array, target: Array) -> Array:
    """Return linear parameters in internal coordinates.

    A coefficient solved as 0 gets a small value instead, because a search could not move its
    logarithm, -inf.
    """
    typical = np.maximum(np.median(np.abs(basis), axis=2).mean(axis=0), 1e-300)
    least = 1e-4 * np.median(np.abs(target)) / typical
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(is_log, np.log(np.maximum(value, least)), value)


def _rank(
    law: Law,
    objective: FitObjective,
    theta: Array,
    best: Array,
    grid: Nodes,
    linear: Array,
    target: Array,
    weights: Array,
    keep: int,
) -> Array:
    """Return the ``keep`` nodes (V, keep, P) with the lowest objective, for each weighting."""
    total = np.empty(best.shape)
    goal = objective.target(target)
    with np.errstate(all="ignore"):
        for k in range(best.shape[1]):
            node = best[:, k]
            f = grid.offset[node] + np.einsum("vl,vlm->vm", linear[:, k], grid.basis[node])
            r = objective.residuals(f, goal)
            total[:, k] = (objective.rho(r) * weights).sum(axis=1)
    total = np.where(np.isfinite(total), total, np.inf)
    order = np.argsort(total, axis=1, kind="stable")[:, :keep]
    return np.take_along_axis(theta, order[:, :, None], axis=1)
