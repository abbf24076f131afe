"""Starts by variable projection: a grid over the nonlinear parameters, the linear ones solved for
at each node.

The Gram matrices of all nodes and all weight vectors (resamples) are one matrix product, so that a
start for each of a thousand resamples costs about as much as one iteration of the solver."""

import dataclasses

import numpy as np

from lossline.laws.forms import Columns, Law
from lossline.laws.objective import FitObjective, Residual

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Nodes:
    """Grid nodes of one problem: theta (G, P) with open linear entries, offset (G, M) and basis (G,
    L, M)."""

    theta: Array
    offset: Array
    basis: Array


def nodes(law: Law, columns: Columns, target: Array, low: Array, high: Array) -> Nodes:
    """The law's grid within the bounds; fixed linear parameters (low = high) are moved into the
    offset."""
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
    """Least squares (..., L) within natural bounds: what leaves them is put on the bound and the
    rest solved again."""
    size = moment.shape[-1]
    held = np.broadcast_to(low == high, moment.shape).copy()
    value = np.where(held, low, 0.0)
    for _ in range(size + 1):
        free = ~held
        system = gram * free[..., :, None] * free[..., None, :]
        diagonal = np.einsum("...ii->...i", system)
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
    """The ``keep`` best nodes for each weight vector, linear parameters solved: theta (V, keep, P),
    best first.

    Solved by least squares (of relative residuals where the objective is in logs), then ranked by
    the objective itself."""
    linear = law.linear_indices
    columns_low = np.array([law.parameters[i].log for i in linear])
    with np.errstate(over="ignore"):
        natural_low = np.where(columns_low, np.exp(low[linear]), low[linear])
        natural_high = np.where(columns_low, np.exp(high[linear]), high[linear])
    scale = np.ones_like(target) if objective.residual is Residual.LINEAR else 1 / target
    rest = (target - grid.offset) * scale
    basis = grid.basis * scale
    products = np.einsum("gkm,glm->gklm", basis, basis)
    count, size = basis.shape[:2]
    flat = products.reshape(-1, len(target))
    gram = (weights_VxM @ flat.T).reshape(-1, count, size, size)
    moment = (weights_VxM @ (basis * rest[:, None]).reshape(-1, len(target)).T).reshape(
        -1, count, size
    )
    square = weights_VxM @ (rest**2).T
    value = _solve_linear(gram, moment, natural_low, natural_high)
    fit = (value * ((gram @ value[..., None])[..., 0] - 2 * moment)).sum(axis=-1) + square
    best = np.argsort(fit, axis=1, kind="stable")[:, : max(3 * keep, keep + 4)]
    theta = grid.theta[best]
    chosen = np.take_along_axis(value, best[:, :, None], axis=1)
    theta[:, :, linear] = _searchable(chosen, columns_low, basis, target * scale)
    return _rank(law, objective, theta, best, grid, chosen, target, weights_VxM, keep)


def _searchable(value: Array, is_log: Array, basis: Array, target: Array) -> Array:
    """Internal linear parameters; a coefficient solved as 0 gets a small contribution, since its
    log could not move."""
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
