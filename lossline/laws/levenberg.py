"""Batched Levenberg-Marquardt with iteratively reweighted least squares, and bounds.

All rows advance together; a row leaves when it has converged, and rows of one fit whose paths have
met go on as one. A row costs one Jacobian per iteration. `newton.polish` finishes what this brings
near."""

import dataclasses

import numpy as np

from lossline.laws import projection
from lossline.laws.newton import polish
from lossline.laws.rows import Rows

Array = np.ndarray

_MAX_LOG_STEP = 3.0  # per iteration, for parameters searched as logs: further, exp() loses the data
# Every so many iterations the rows of a fit with at least so many active ones are gathered.
_GATHER_EVERY = 2
_CROWD = 8
# A start among many that is in no known basin after so many iterations crawls along a plateau.
_PATIENCE = 16
_EASE, _STIFFEN = 0.3, 4.0
_OPTIMUM = 1e-10  # relative Newton decrement of a point to gather at
_LINE = (0.25, 0.5, 0.75)


@dataclasses.dataclass(frozen=True)
class Descent:
    """Where each row ended. ``leader``: the row it merged with (itself if none); ``settled``: False
    at the iteration limit."""

    theta: Array
    objective: Array
    leader: Array
    settled: Array
    iterations: int


@dataclasses.dataclass
class _Front:
    """Where each of R rows stands, with the derivatives there; changed in place."""

    theta: Array
    objective: Array
    gradient: Array
    normal: Array
    damping: Array
    settled: Array


def descend(batch: Rows, theta_RxP: Array, *, iterations: int, tolerance: float) -> Descent:
    """Runs all rows from theta until the relative decrease per iteration is below the tolerance, or
    the limit."""
    with np.errstate(all="ignore"):
        front = _begin(batch, theta_RxP)
        inverse = np.linalg.inv(batch.stack.center)
        linear = projection.solvable(batch)
        leader = np.arange(len(theta_RxP))
        crowded = np.bincount(batch.fit).max() >= _CROWD
        active = np.flatnonzero(~front.settled)
        done = 0
        while len(active) and done < iterations:
            done += 1
            _advance(batch, front, active, inverse, tolerance, linear)
            active = active[~front.settled[active]]
            if crowded and done % _GATHER_EVERY == 0:
                active = _gather(batch, front, active, leader, last=done >= _PATIENCE)
    while not np.array_equal(leader, leader[leader]):
        leader = leader[leader]
    return Descent(
        front.theta[leader], front.objective[leader], leader, front.settled[leader], done
    )


def _begin(batch: Rows, theta_RxP: Array) -> _Front:
    theta = np.clip(theta_RxP, batch.low, batch.high)
    rows = np.arange(len(theta))
    front = _Front(
        theta,
        *batch.derivatives(theta, rows),
        damping=np.full(len(rows), 1e-2),
        settled=np.zeros(len(rows), bool),
    )
    usable = np.isfinite(front.objective) & np.isfinite(front.normal).all(axis=(1, 2))
    front.settled = ~usable
    front.objective[~usable] = np.inf
    return front


def _advance(
    batch: Rows,
    front: _Front,
    rows: Array,
    inverse: Array,
    tolerance: float,
    linear: bool,
) -> None:
    """One iteration of the rows, in place; with ``linear`` the linear parameters are solved for."""
    here, before, gradient = front.theta[rows], front.objective[rows], front.gradient[rows]
    damped = _damp(batch, front.normal[rows], front.damping[rows], inverse, rows)
    step = _bounded_step(batch, here, gradient, damped, rows)
    trial = batch.inside(here + step, rows)
    if linear:
        trial = projection.solve(batch, trial, rows)
    after, slope, normal = batch.derivatives(trial, rows)
    better = (after < before) & np.isfinite(normal).all(axis=(1, 2))
    moved = rows[better]
    front.theta[moved], front.objective[moved] = trial[better], after[better]
    front.gradient[moved], front.normal[moved] = slope[better], normal[better]
    damping = np.where(better, front.damping[rows] * _EASE, front.damping[rows] * _STIFFEN)
    front.damping[rows] = np.clip(damping, 1e-12, 1e12)
    floor = batch.stack.tiny[batch.problem[rows]]
    small = better & (before - after <= tolerance * before + floor) & (damping < 1.0)
    front.settled[rows] = small | (damping >= 1e8) | (before <= floor)


def _gather(batch: Rows, front: _Front, active: Array, leader: Array, *, last: bool) -> Array:
    """Polishes the best active row of each crowded fit; rows from which the objective falls all
    along the straight line to its optimum are in its basin, and follow it. With ``last`` the rest
    of such a fit is given up. Returns who is still active."""
    order = active[np.lexsort([active, front.objective[active], batch.fit[active]])]
    fits, first, counts = np.unique(batch.fit[order], return_index=True, return_counts=True)
    crowded = counts >= _CROWD
    if not crowded.any():
        return active
    best = order[first[crowded]]
    theta, objective, decrement = polish(batch, best, front.theta[best])
    front.theta[best], front.objective[best] = theta, objective
    good = decrement < _OPTIMUM
    front.settled[best] = good
    target_of = dict(zip(fits[crowded][good].tolist(), np.flatnonzero(good), strict=True))
    place = np.array([target_of.get(f, -1) for f in batch.fit[active].tolist()])
    rows, goal = active[place >= 0], place[place >= 0]
    height = front.objective[rows]
    for share in _LINE:
        between = front.theta[rows] + share * (theta[goal] - front.theta[rows])
        value = batch.objective(between, rows)
        falls = value <= height
        rows, goal, height = rows[falls], goal[falls], value[falls]
    falls = objective[goal] <= height
    leader[rows[falls]] = best[goal[falls]]
    leader[best] = best
    front.settled[rows[falls]] = True
    stays = ~front.settled[active]
    return active[stays & (place < 0)] if last else active[stays]


def _solve(matrix: Array, vector: Array, held: Array) -> Array:
    """Batched solve with the held coordinates at 0."""
    free = ~held
    system = matrix * free[:, :, None] * free[:, None, :]
    diagonal = np.einsum("rii->ri", system)  # a writable view
    diagonal += 1e-14 * diagonal.sum(axis=1, keepdims=True) + 1e-300
    diagonal[held] = 1.0
    return np.linalg.solve(system, (vector * free)[:, :, None])[:, :, 0]


def _bounded_step(batch: Rows, theta: Array, gradient: Array, damped: Array, rows: Array) -> Array:
    """The damped step; a parameter that would cross its bound is put on it and the others solved
    again."""
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
    reach = np.array([_MAX_LOG_STEP if p.log else p.max_step for p in batch.stack.law.parameters])
    return np.clip(step, -reach, reach)


def _damp(batch: Rows, normal: Array, damping: Array, inverse: Array, rows: Array) -> Array:
    """normal + damping x T' diag(T^-T normal T^-1) T: Marquardt's scaling, taken in centered
    coordinates."""
    forward = batch.matrix(batch.stack.center, rows)
    backward = batch.matrix(inverse, rows)
    diagonal = (backward * (normal @ backward)).sum(axis=1)
    return normal + forward.transpose(0, 2, 1) @ (
        (damping[:, None] * diagonal)[:, :, None] * forward
    )
