"""End of a fit: Newton's method with bounds.

Iteratively reweighted least squares converges only linearly where Huber's delta is below the noise,
because most points then lie on the linear part of the loss. Newton's method converges quadratically
there too. The Hessian comes from differences of the analytic gradient, so that a law needs no
second derivatives.
"""

import numpy as np

from lossline.laws.rows import FitRows

Array = np.ndarray

_WIDTH = 1e-5  # step of the differences, relative to the parameter
_ROUNDING = 1e-22  # gain, as a share of the objective, that is only rounding error
_DAMPINGS = (0.0, 1e-3, 1e-2, 0.1, 1.0, 30.0)
_SHARES = (1.0, 0.3, 0.1, 0.02)


def polish(
    batch: FitRows,
    rows: Array,
    theta_RxP: Array,
    *,
    iterations: int = 12,
    enough: float = _ROUNDING,
) -> tuple[Array, Array, Array]:
    """Run Newton's method with bounds from near an optimum.

    Args:
        batch: all rows.
        rows: the rows to polish (R,).
        theta_RxP: where they start.
        iterations: limit of steps.
        enough: stop once a step promises less than this share of the objective.

    Returns:
        theta (R, P), objective (R,) and relative Newton decrement (R,). The decrement is the share
        of the objective that the quadratic model still promises to gain. It measures the distance
        from a stationary point without units.
    """
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
    batch: FitRows, rows: Array, theta: Array, objective: Array, part: Array
) -> tuple[Array, Array]:
    """Take one step of the rows ``part``, in place.

    Newton's step is taken where it does not raise the objective beyond rounding. Elsewhere the best
    of several damped and shortened steps is taken: the Hessian of Huber's loss sees only the points
    within delta, and these change along the step. The damping adds the matrix of reweighted least
    squares, which sees all points.

    Returns:
        The gain that the quadratic model promised, and a mask of the rows that moved.
    """
    here = theta[part]
    _, gradient, normal = batch.derivatives(here, rows)
    hessian = _hessian(batch, rows, here, normal)
    step, promise = bounded_step(batch, rows, here, hessian, gradient, normal)
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
    batch: FitRows,
    rows: Array,
    theta: Array,
    objective: Array,
    part: Array,
    left: Array,
    model: tuple[Array, Array, Array],
) -> Array:
    """Take the best damped and shortened step of rows ``left``, in place; return which moved."""
    rows, part = rows[left], part[left]
    hessian, gradient, normal = (m[left] for m in model)
    here, start = theta[part], objective[part].copy()
    for damping in _DAMPINGS:
        step, _ = bounded_step(batch, rows, here, hessian + damping * normal, gradient, normal)
        for share in _SHARES:
            trial = batch.inside(here + share * step, rows)
            value = batch.objective(trial, rows)
            better = value < objective[part]
            theta[part[better]], objective[part[better]] = trial[better], value[better]
    return objective[part] < start


def bounded_step(
    batch: FitRows, rows: Array, theta: Array, hessian: Array, gradient: Array, normal: Array
) -> tuple[Array, Array]:
    """Return the Newton step (R, P) and half its decrement (R,).

    The parameter that would cross its bound first is put on the bound and the others are solved
    again, until none crosses.
    """
    scale = 1 / np.sqrt(np.maximum(np.einsum("rii->ri", normal), 1e-300))
    held = batch.held(theta, gradient, rows)
    low, high = batch.low[rows] - theta, batch.high[rows] - theta
    step, promise = _solve(hessian, gradient, scale, held)
    onto = np.zeros_like(step)
    for _ in range(theta.shape[1]):
        # Share of the step that is possible before each parameter meets its bound.
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


def _hessian(batch: FitRows, rows: Array, theta: Array, normal: Array) -> Array:
    """Return central differences of the gradient (R, P, P), one-sided at a bound.

    Where these are not finite, return ``normal``.
    """
    low, high = batch.low[rows], batch.high[rows]
    count, size = theta.shape
    width = _WIDTH * np.maximum(np.abs(theta), 0.1)
    top = np.minimum(theta + width, np.maximum(high, theta))
    bottom = np.maximum(theta - width, np.minimum(low, theta))
    # All 2 P points in one call: with few rows a call costs more than its arithmetic.
    moved = np.tile(theta, (2, size, 1, 1))
    every = np.arange(size)
    moved[0, every, :, every], moved[1, every, :, every] = top.T, bottom.T
    gradient = batch.gradient(moved.reshape(-1, size), np.tile(rows, 2 * size))
    up, down = gradient.reshape(2, size, count, size)
    distance = np.where(top > bottom, top - bottom, np.inf)
    hessian = (up - down).transpose(1, 2, 0) / distance[:, None, :]
    # A fixed parameter has no distance and its column is 0; its row holds the derivatives.
    fixed = low == high
    hessian = np.where(fixed[:, None, :], hessian.transpose(0, 2, 1), hessian)
    hessian = 0.5 * (hessian + hessian.transpose(0, 2, 1))
    usable = np.isfinite(hessian).all(axis=(1, 2), keepdims=True)
    return np.where(usable, hessian, normal)


def _solve(hessian: Array, gradient: Array, scale: Array, held: Array) -> tuple[Array, Array]:
    """Return the step (R, P) of the free coordinates and half its decrement (R,).

    Directions of negative curvature are turned around.
    """
    unit = scale * ~held
    scaled = hessian * unit[:, :, None] * unit[:, None, :]
    np.einsum("rii->ri", scaled)[...] += held
    scaled = np.where(np.isfinite(scaled), scaled, np.eye(scaled.shape[1]))
    values, vectors = np.linalg.eigh(scaled)
    # |eigenvalue|: a Newton step along negative curvature would climb to a saddle or a maximum.
    values = np.maximum(np.abs(values), 1e-12)
    slope = np.nan_to_num(gradient * unit)
    along = (vectors.transpose(0, 2, 1) @ slope[:, :, None])[:, :, 0]
    step = -(vectors @ (along / values)[:, :, None])[:, :, 0] * unit
    return step, 0.5 * (along**2 / values).sum(axis=1)
