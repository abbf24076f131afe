"""Batched Levenberg-Marquardt with iteratively reweighted least squares, bounds and Gaussian penalties.

All rows (starts x resamples x problems) advance together, in chunks that fit the cache; a row leaves when it has converged, and
rows of one fit whose paths have met go on as one. Work per row and iteration is one Jacobian and one value.
The end game is `polish`: IRLS converges linearly where Huber's delta is below the noise, Newton quadratically.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from lossline.scaling.laws import Columns
from lossline.scaling.problems import Stack

Array = np.ndarray

_CHUNK_ELEMENTS = (
    24_000  # points x rows per chunk: Jacobian and temporaries stay within a core's cache
)
_MAX_LOG_STEP = 3.0  # per iteration, for parameters searched as logs: further, exp() loses the data
_MERGE_EVERY = 6
_MERGE_GRID = (
    2e-3  # rows of one fit in the same cell of this size, in centered coordinates, have met
)


@dataclasses.dataclass(frozen=True)
class Penalties:
    """Gaussian penalties of R rows: precision (R, Q) on g(theta[index]); kinds: "same", "log" (of an identity), "exp" (of a log)."""

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
    """R rows over the problems of a stack. Weights (V, M) are referred to by row, so that resamples share the data."""

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
        """Columns, goal and weights of the rows, broadcasting where there is one problem or one weight vector."""
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

    def derivatives(
        self, theta: Array, rows: Array, *, robust: bool = True
    ) -> tuple[Array, Array, Array]:
        """Objective (R,), gradient (R, P) and Gauss-Newton matrix (R, P, P) for one chunk of rows.

        With ``robust`` the matrix carries the IRLS weights, else the weights alone (for the conditioning)."""
        columns, goal, weights = self.take(rows)
        o = self.stack.objective
        f, jacobian = self.stack.law.value_and_jacobian(theta, columns)
        r = o.residuals(f, goal)
        slope = o.slope(f, goal)
        if slope is not None:
            jacobian *= slope[:, None, :]
        total = (o.rho(r) * weights).sum(axis=1)
        shrink = o.robust_weight(r)
        irls = weights if shrink is None else weights * shrink
        gradient = (jacobian @ (irls * r)[:, :, None])[:, :, 0]
        jacobian *= np.sqrt(irls if robust else weights)[:, None, :]
        normal = jacobian @ jacobian.transpose(0, 2, 1)
        for i, gap, dg, precision in self.penalties.terms(theta, rows):
            total = total + 0.5 * precision * gap * gap
            gradient[:, i] += precision * gap * dg
            normal[:, i, i] += precision * dg * dg
        return total, gradient, normal

    def held(self, theta: Array, gradient: Array, rows: Array) -> Array:
        """Mask (R, P) of parameters at a bound that the descent direction would leave through, or fixed."""
        low, high = self.low[rows], self.high[rows]
        return (
            ((theta <= low) & (gradient >= 0)) | ((theta >= high) & (gradient <= 0)) | (low == high)
        )


@dataclasses.dataclass(frozen=True)
class Descent:
    """Where each row ended. ``leader``: the row it merged with (itself if none); ``settled``: False at the iteration limit."""

    theta: Array
    objective: Array
    leader: Array
    settled: Array
    iterations: int


def _solve(matrix: Array, vector: Array, held: Array) -> Array:
    """Batched solve with the held coordinates at 0."""
    free = ~held
    system = matrix * free[:, :, None] * free[:, None, :]
    diagonal = np.einsum("rii->ri", system)  # a writable view
    diagonal += 1e-14 * diagonal.sum(axis=1, keepdims=True) + 1e-300
    diagonal[held] = 1.0
    return np.linalg.solve(system, (vector * free)[:, :, None])[:, :, 0]


def _bounded_step(batch: Batch, theta: Array, gradient: Array, damped: Array, rows: Array) -> Array:
    """The damped step; a parameter that would cross its bound is put on it and the others solved again."""
    held = batch.held(theta, gradient, rows)
    step = -_solve(damped, gradient, held)
    low, high = batch.low[rows], batch.high[rows]
    crossing = ((theta + step < low) | (theta + step > high)) & ~held
    redo = np.flatnonzero(crossing.any(axis=1))
    if len(redo):
        onto = np.where(
            crossing[redo],
            np.clip(step[redo], low[redo] - theta[redo], high[redo] - theta[redo]),
            0.0,
        )
        pulled = gradient[redo] + (damped[redo] @ onto[:, :, None])[:, :, 0]
        step[redo] = onto - _solve(damped[redo], pulled, held[redo] | crossing[redo])
    is_log = np.array([p.log for p in batch.stack.law.parameters])
    return np.where(is_log, np.clip(step, -_MAX_LOG_STEP, _MAX_LOG_STEP), step)


def _damp(batch: Batch, normal: Array, damping: Array, inverse: Array, rows: Array) -> Array:
    """normal + damping x T' diag(T^-T normal T^-1) T: Marquardt's scaling, taken in centered coordinates."""
    forward = batch.matrix(batch.stack.center, rows)
    backward = batch.matrix(inverse, rows)
    diagonal = (backward * (normal @ backward)).sum(axis=1)
    return normal + forward.transpose(0, 2, 1) @ (
        (damping[:, None] * diagonal)[:, :, None] * forward
    )


def descend(batch: Batch, theta_RxP: Array, *, iterations: int, tolerance: float) -> Descent:
    """Runs all rows from theta until the relative decrease per iteration is below the tolerance, or the limit."""
    theta = np.clip(theta_RxP, batch.low, batch.high)
    everyone = np.arange(len(theta))
    with np.errstate(all="ignore"):
        objective = batch.objective(theta, everyone)
        inverse = np.linalg.inv(batch.stack.center)
        damping = np.full(len(theta), 1e-2)
        leader = everyone.copy()
        settled = ~np.isfinite(objective)
        active = everyone[~settled]
        done = 0
        for done in range(1, iterations + 1):
            if not len(active):
                break
            for rows in batch.chunks(active):
                _advance(batch, rows, theta, objective, damping, settled, inverse, tolerance)
            active = active[~settled[active]]
            if done % _MERGE_EVERY == 0:
                active = _merge(batch, active, theta, leader)
    leader = leader[leader[leader]]
    while not np.array_equal(leader, leader[leader]):
        leader = leader[leader]
    return Descent(theta[leader], objective[leader], leader, settled[leader], done)


def _advance(
    batch: Batch,
    rows: Array,
    theta: Array,
    objective: Array,
    damping: Array,
    settled: Array,
    inverse: Array,
    tolerance: float,
) -> None:
    """One iteration of a chunk, in place."""
    here = theta[rows]
    before, gradient, normal = batch.derivatives(here, rows)
    damped = _damp(batch, normal, damping[rows], inverse, rows)
    step = _bounded_step(batch, here, gradient, damped, rows)
    trial = np.clip(here + step, batch.low[rows], batch.high[rows])
    after = batch.objective(trial, rows)
    better = after < before
    theta[rows] = np.where(better[:, None], trial, here)
    objective[rows] = np.where(better, after, before)
    grown = np.where(better, damping[rows] * 0.3, damping[rows] * 4)
    damping[rows] = np.clip(grown, 1e-12, 1e12)
    floor = batch.stack.tiny[batch.problem[rows]]
    small = better & (before - after <= tolerance * before + floor) & (damping[rows] < 1.0)
    settled[rows] = small | (damping[rows] >= 1e8) | (before <= floor)


def _merge(batch: Batch, active: Array, theta: Array, leader: Array) -> Array:
    """Of active rows of one fit in one cell the first goes on alone; the others follow it."""
    if len(active) < 2:
        return active
    centered = batch.matrix(batch.stack.center, active) @ theta[active][:, :, None]
    cells = np.rint(centered[:, :, 0] / _MERGE_GRID)
    keys = np.column_stack([batch.fit[active], cells])
    _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    leader[active] = active[first[which.ravel()]]
    return active[np.sort(first)]


def polish(
    batch: Batch, rows: Array, theta_RxP: Array, *, iterations: int = 12
) -> tuple[Array, Array, Array]:
    """Newton's method with bounds from near an optimum; the Hessian by differences of the analytic gradient.

    Returns theta, objective and the relative Newton decrement: the share of the objective that the quadratic model still
    promises, which is how far from stationary the point is, whatever the parameters' units."""
    theta = theta_RxP.copy()
    objective = batch.objective(theta, rows)
    remaining = np.zeros(len(rows))
    active = np.arange(len(rows))
    with np.errstate(all="ignore"):
        for _ in range(iterations):
            if not len(active):
                break
            finished = []
            for part in batch.chunks(active):
                step, promise = _newton_step(batch, rows[part], theta[part])
                remaining[part] = promise / (
                    objective[part] + batch.stack.tiny[batch.problem[rows[part]]]
                )
                moved = _search_line(batch, rows[part], theta, objective, part, step)
                finished.append(part[(remaining[part] < 1e-22) | ~moved])
            active = np.setdiff1d(active, np.concatenate(finished))
    return theta, objective, remaining


def _newton_step(batch: Batch, rows: Array, theta: Array) -> tuple[Array, Array]:
    """Newton step and half its decrement (R,) from the Hessian with its negative curvature turned round."""
    _, gradient, normal = batch.derivatives(theta, rows)
    held = batch.held(theta, gradient, rows)
    low, high = batch.low[rows], batch.high[rows]
    hessian = np.empty_like(normal)
    for p in range(theta.shape[1]):
        width = 1e-5 * np.maximum(np.abs(theta[:, p]), 0.1)
        up, down = theta.copy(), theta.copy()
        up[:, p] = np.minimum(theta[:, p] + width, np.maximum(high[:, p], theta[:, p]))
        down[:, p] = np.maximum(theta[:, p] - width, np.minimum(low[:, p], theta[:, p]))
        distance = np.where(up[:, p] > down[:, p], up[:, p] - down[:, p], np.inf)
        difference = batch.derivatives(up, rows)[1] - batch.derivatives(down, rows)[1]
        hessian[:, :, p] = difference / distance[:, None]
    hessian = 0.5 * (hessian + hessian.transpose(0, 2, 1))
    unusable = ~np.isfinite(hessian).all(axis=(1, 2))
    hessian[unusable] = normal[unusable]
    scale = 1 / np.sqrt(np.maximum(np.einsum("rii->ri", normal), 1e-300))
    free = ~held
    scaled = hessian * (scale * free)[:, :, None] * (scale * free)[:, None, :]
    scaled[:, np.arange(theta.shape[1]), np.arange(theta.shape[1])] += held
    scaled = np.where(np.isfinite(scaled), scaled, np.eye(theta.shape[1]))
    values, vectors = np.linalg.eigh(scaled)
    values = np.maximum(np.abs(values), 1e-12)
    slope = np.nan_to_num(gradient * scale * free)
    along = (vectors.transpose(0, 2, 1) @ slope[:, :, None])[:, :, 0]
    promise = 0.5 * (along**2 / values).sum(axis=1)
    step = -(vectors @ (along / values)[:, :, None])[:, :, 0] * scale
    return step, promise


def _search_line(
    batch: Batch, rows: Array, theta: Array, objective: Array, part: Array, step: Array
) -> Array:
    """Takes the longest of a few shares of the step that does not raise the objective beyond rounding; who moved."""
    moved = np.zeros(len(part), bool)
    for share in (1.0, 0.3, 0.1, 0.01):
        left = np.flatnonzero(~moved)
        if not len(left):
            break
        trial = np.clip(
            theta[part[left]] + share * step[left], batch.low[rows[left]], batch.high[rows[left]]
        )
        value = batch.objective(trial, rows[left])
        good = value <= objective[part[left]] * (1 + 4e-15)
        chosen = part[left[good]]
        theta[chosen], objective[chosen] = trial[good], value[good]
        moved[left[good]] = True
    return moved
