"""The end game of a fit: Newton's method with bounds.

Reweighted least squares converges linearly where Huber's delta is below the noise (most points lie
on the linear part); Newton's method converges quadratically there too. The Hessian comes from
differences of the analytic gradient, so that a law need not bring second derivatives."""

import numpy as np

from lossline.scaling.batch import Batch

Array = np.ndarray

_WIDTH = 1e-5  # of the differences, relative to the parameter
_DAMPINGS = (0.0, 1e-4, 1e-2, 1.0, 30.0)


def polish(
    batch: Batch, rows: Array, theta_RxP: Array, *, iterations: int = 12
) -> tuple[Array, Array, Array]:
    """Newton's method with bounds from near an optimum.

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
            finished = []
            for part in batch.chunks(active):
                promise, moved = _improve(batch, rows[part], theta, objective, part)
                floor = batch.stack.tiny[batch.problem[rows[part]]]
                remaining[part] = promise / (objective[part] + floor)
                finished.append(part[(remaining[part] < 1e-22) | ~moved])
            active = np.setdiff1d(active, np.concatenate(finished))
    return theta, objective, remaining


def _improve(
    batch: Batch, rows: Array, theta: Array, objective: Array, part: Array
) -> tuple[Array, Array]:
    """One step of a chunk, in place, with the least damping that does not raise the objective
    beyond rounding. Returns what the model of that step promised, and who moved.

    The Hessian of Huber's loss knows only the points within delta: where these are too few it is
    singular, and the damping adds the matrix of reweighted least squares, which knows them all."""
    here = theta[part]
    _, gradient, normal = batch.derivatives(here, rows)
    hessian = _hessian(batch, rows, here, normal)
    moved = np.zeros(len(part), bool)
    promise = np.zeros(len(part))
    for damping in _DAMPINGS:
        left = np.flatnonzero(~moved)
        if not len(left):
            break
        model = hessian[left] + damping * normal[left]
        step, promise[left] = _bounded_step(
            batch, rows[left], here[left], model, gradient[left], normal[left]
        )
        trial = batch.inside(here[left] + step, rows[left])
        value = batch.objective(trial, rows[left])
        good = value <= objective[part[left]] * (1 + 4e-15)
        chosen = part[left[good]]
        theta[chosen], objective[chosen] = trial[good], value[good]
        moved[left[good]] = True
    return promise, moved


def _bounded_step(
    batch: Batch, rows: Array, theta: Array, hessian: Array, gradient: Array, normal: Array
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


def _hessian(batch: Batch, rows: Array, theta: Array, normal: Array) -> Array:
    """Central differences of the gradient, one-sided at a bound; `normal` where that fails."""
    low, high = batch.low[rows], batch.high[rows]
    hessian = np.empty_like(normal)
    for p in range(theta.shape[1]):
        width = _WIDTH * np.maximum(np.abs(theta[:, p]), 0.1)
        up, down = theta.copy(), theta.copy()
        up[:, p] = np.minimum(theta[:, p] + width, np.maximum(high[:, p], theta[:, p]))
        down[:, p] = np.maximum(theta[:, p] - width, np.minimum(low[:, p], theta[:, p]))
        distance = np.where(up[:, p] > down[:, p], up[:, p] - down[:, p], np.inf)
        difference = batch.derivatives(up, rows)[1] - batch.derivatives(down, rows)[1]
        hessian[:, :, p] = difference / distance[:, None]
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
