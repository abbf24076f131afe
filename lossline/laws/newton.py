"""The end game of a fit: Newton's method with bounds.

Reweighted least squares converges linearly where Huber's delta is below the noise (most points lie
on the linear part); Newton's method converges quadratically there too. The Hessian comes from
differences of the analytic gradient, so that a law need not bring second derivatives."""

import numpy as np

from lossline.laws.rows import Rows

Array = np.ndarray

_WIDTH = 1e-5  # of the differences, relative to the parameter
_ROUNDING = 1e-22  # a promise, relative to the objective, that only rounding is left of
_DAMPINGS = (0.0, 1e-3, 1e-2, 0.1, 1.0, 30.0)
_SHARES = (1.0, 0.3, 0.1, 0.02)


def polish(
    batch: Rows,
    rows: Array,
    theta_RxP: Array,
    *,
    iterations: int = 12,
    enough: float = _ROUNDING,
) -> tuple[Array, Array, Array]:
    """Newton's method with bounds from near an optimum, until a step has promised less than
    ``enough`` (a share of the objective).

    Returns theta, objective and the relative Newton decrement: the share of the objective that the
    quadratic model still promises, which is how far from stationary the point is, whatever the
    parameters' units."""
    theta = theta_RxP.copy()
    objective = batch.objective(theta, rows)
    remaining = np.zeros(len(rows))
    active = np.arange(len(rows))
    with np.errstate(all="ignore"):
        for _ in range(iterations):
            if not len(active):
                break
            promise, moved = _improve(batch, rows[active], theta, objective, active)
            floor = batch.stack.tiny[batch.problem[rows[active]]]
            remaining[active] = promise / (objective[active] + floor)
            active = active[(remaining[active] >= enough) & moved]
    return theta, objective, remaining


def _improve(
    batch: Rows, rows: Array, theta: Array, objective: Array, part: Array
) -> tuple[Array, Array]:
    """One step of the rows ``part``, in place. Returns what its model promised, and who moved.

    Newton's step is taken where it does not raise the objective beyond rounding. Elsewhere the best
    of several damped and shortened steps is: the Hessian of Huber's loss knows only the points
    within delta, which change along the step; the damping adds the matrix of reweighted least
    squares, which knows them all."""
    here = theta[part]
    _, gradient, normal = batch.derivatives(here, rows)
    hessian = _hessian(batch, rows, here, normal)
    step, promise = _bounded_step(batch, rows, here, hessian, gradient, normal)
    trial = batch.inside(here + step, rows)
    value = batch.objective(trial, rows)
    moved = value <= objective[part] * (1 + 4e-15)
    theta[part[moved]], objective[part[moved]] = trial[moved], value[moved]
    left = np.flatnonzero(~moved)
    if len(left):
        moved[left] = _damped(
            batch, rows, theta, objective, part, left, (hessian, gradient, normal)
        )
    return promise, moved


def _damped(
    batch: Rows,
    rows: Array,
    theta: Array,
    objective: Array,
    part: Array,
    left: Array,
    model: tuple[Array, Array, Array],
) -> Array:
    """Takes the best of the damped and shortened steps of the rows `left`, in place; who moved."""
    rows, part = rows[left], part[left]
    hessian, gradient, normal = (m[left] for m in model)
    here, start = theta[part], objective[part].copy()
    for damping in _DAMPINGS:
        step, _ = _bounded_step(batch, rows, here, hessian + damping * normal, gradient, normal)
        for share in _SHARES:
            trial = batch.inside(here + share * step, rows)
            value = batch.objective(trial, rows)
            better = value < objective[part]
            theta[part[better]], objective[part[better]] = trial[better], value[better]
    return objective[part] < start


def _bounded_step(
    batch: Rows, rows: Array, theta: Array, hessian: Array, gradient: Array, normal: Array
) -> tuple[Array, Array]:
    """Newton step and half its decrement (R,); the parameter that would first cross its bound is
    put on it and the others solved again, until none crosses."""
    scale = 1 / np.sqrt(np.maximum(np.einsum("rii->ri", normal), 1e-300))
    held = batch.held(theta, gradient, rows)
    low, high = batch.low[rows] - theta, batch.high[rows] - theta
    step, promise = _solve(hessian, gradient, scale, held)
    onto = np.zeros_like(step)
    for _ in range(theta.shape[1]):
        room = np.where(step < 0, low, high) / step
        room = np.where((room < 1) & ~held, room, np.inf)
        redo = np.flatnonzero(np.isfinite(room).any(axis=1))
        if not len(redo):
            break
        first = np.argmin(room[redo], axis=1)
        onto[redo, first] = np.clip(step[redo, first], low[redo, first], high[redo, first])
        held[redo, first] = True
        pulled = gradient[redo] + (hessian[redo] @ onto[redo, :, None])[:, :, 0]
        rest, _ = _solve(hessian[redo], pulled, scale[redo], held[redo])
        step[redo] = rest + onto[redo]
        curved = (step[redo] * (hessian[redo] @ step[redo, :, None])[:, :, 0]).sum(axis=1)
        promise[redo] = np.abs((gradient[redo] * step[redo]).sum(axis=1) + 0.5 * curved)
    return step, promise


def _hessian(batch: Rows, rows: Array, theta: Array, normal: Array) -> Array:
    """Central differences of the gradient, one-sided at a bound; `normal` where that fails."""
    low, high = batch.low[rows], batch.high[rows]
    count, size = theta.shape
    width = _WIDTH * np.maximum(np.abs(theta), 0.1)
    top = np.minimum(theta + width, np.maximum(high, theta))
    bottom = np.maximum(theta - width, np.minimum(low, theta))
    # Both sides of all parameters at once: of few rows, a call costs more than its work.
    moved = np.tile(theta, (2, size, 1, 1))
    every = np.arange(size)
    moved[0, every, :, every], moved[1, every, :, every] = top.T, bottom.T
    gradient = batch.gradient(moved.reshape(-1, size), np.tile(rows, 2 * size))
    up, down = gradient.reshape(2, size, count, size)
    distance = np.where(top > bottom, top - bottom, np.inf)
    hessian = (up - down).transpose(1, 2, 0) / distance[:, None, :]
    # A column without distance belongs to a fixed parameter: the other triangle has what is known.
    fixed = low == high
    hessian = np.where(fixed[:, None, :], hessian.transpose(0, 2, 1), hessian)
    hessian = 0.5 * (hessian + hessian.transpose(0, 2, 1))
    usable = np.isfinite(hessian).all(axis=(1, 2), keepdims=True)
    return np.where(usable, hessian, normal)


def _solve(hessian: Array, gradient: Array, scale: Array, held: Array) -> tuple[Array, Array]:
    """Step (R, P) of the coordinates not held, negative curvature turned round, and half the
    decrement (R,)."""
    unit = scale * ~held
    scaled = hessian * unit[:, :, None] * unit[:, None, :]
    np.einsum("rii->ri", scaled)[...] += held
    scaled = np.where(np.isfinite(scaled), scaled, np.eye(scaled.shape[1]))
    values, vectors = np.linalg.eigh(scaled)
    values = np.maximum(np.abs(values), 1e-12)
    slope = np.nan_to_num(gradient * unit)
    along = (vectors.transpose(0, 2, 1) @ slope[:, :, None])[:, :, 0]
    step = -(vectors @ (along / values)[:, :, None])[:, :, 0] * unit
    return step, 0.5 * (along**2 / values).sum(axis=1)
