"""Batched Levenberg-Marquardt with iteratively reweighted least squares and bounds.

All rows advance together and cost one Jacobian each per iteration. A row leaves when it has
converged; rows of one fit that lie in the same basin are merged into one. ``newton.polish`` then
finishes the ends.
"""

import dataclasses

import numpy as np

from lossline.laws import projection
from lossline.laws.newton import polish
from lossline.laws.rows import FitRows

Array = np.ndarray

# Largest step per iteration of a parameter that is searched as a logarithm. After a longer one its
# term can exceed all data, or vanish, and no slope leads back.
_MAX_LOG_STEP = 3.0
# Every _GATHER_EVERY iterations, merge rows of the fits that have at least _CROWD active ones.
_GATHER_EVERY = 2
_CROWD = 8
# Give up starts of a crowded fit that are in no known basin after so many iterations: they crawl
# along a plateau.
_PATIENCE = 16
_EASE, _STIFFEN = 0.3, 4.0  # factors of the damping after a step that helped, or did not
_OPTIMUM = 1e-10  # relative Newton decrement below which a point is an optimum to merge at
_LINE = (0.25, 0.5, 0.75)  # shares of the way to it at which the objective must fall


@dataclasses.dataclass(frozen=True)
class Descent:
    """Where each of R rows ended.

    Attributes:
        theta: internal parameters (R, P).
        objective: objective (R,).
        leader: row that each row was merged into (R,); itself if none.
        settled: False for a row that was still moving at the iteration limit (R,).
        iterations: iterations done.
    """

    theta: Array
    objective: Array
    leader: Array
    settled: Array
    iterations: int


@dataclasses.dataclass
class _Front:
    """State of R rows, with the derivatives at theta; changed in place."""

    theta: Array
    objective: Array
    gradient: Array
    normal: Array
    damping: Array
    settled: Array


def descend(batch: FitRows, theta_RxP: Array, *, iterations: int, tolerance: float) -> Descent:
    """Descend from theta (R, P) in all rows.

    A row stops when one iteration lowers its objective by less than ``tolerance``, relative to the
    objective, or at the limit of ``iterations``.
    """
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


def _begin(batch: FitRows, theta_RxP: Array) -> _Front:
    """Evaluate all rows at their starts; rows without finite values are settled at once."""
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
    batch: FitRows,
    front: _Front,
    rows: Array,
    inverse: Array,
    tolerance: float,
    linear: bool,
) -> None:
    """Do one iteration of the rows, in place; with ``linear``, solve for the linear parameters."""
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


def _gather(batch: FitRows, front: _Front, active: Array, leader: Array, *, last: bool) -> Array:
    """Merge rows of crowded fits. Return the rows that are still active.

    The best active row of each crowded fit is polished to its optimum. Rows from which the
    objective falls all along the straight line to that optimum lie in its basin and follow it. With
    ``last`` the other rows of such a fit are given up.
    """
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
    """Solve the linear systems (R, P, P); held coordinates are 0."""
    free = ~held
    system = matrix * free[:, :, None] * free[:, None, :]
    diagonal = np.einsum("rii->ri", system)  # a writable view
    diagonal += 1e-14 * diagonal.sum(axis=1, keepdims=True) + 1e-300
    diagonal[held] = 1.0
    return np.linalg.solve(system, (vector * free)[:, :, None])[:, :, 0]


def _bounded_step(
    batch: FitRows, theta: Array, gradient: Array, damped: Array, rows: Array
) -> Array:
    """Return the damped step (R, P) within the bounds.

    Parameters that would cross a bound are put on it, and the others are solved again.
    """
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


def _damp(batch: FitRows, normal: Array, damping: Array, inverse: Array, rows: Array) -> Array:
    """Return normal + damping x T' diag(T^-T normal T^-1) T.

    This is Marquardt's scaling in centered coordinates (``Law.centering``).
    """
    forward = batch.matrix(batch.stack.center, rows)
    backward = batch.matrix(inverse, rows)
    diagonal = (backward * (normal @ backward)).sum(axis=1)
    return normal + forward.transpose(0, 2, 1) @ (
        (damping[:, None] * diagonal)[:, :, None] * forward
    )
