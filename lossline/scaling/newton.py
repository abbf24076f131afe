"""The end game of a fit: Newton's method with bounds.

Reweighted least squares converges linearly where Huber's delta is below the noise (most points lie
on the linear part); Newton's method converges quadratically there too. The Hessian comes from
differences of the analytic gradient, so that a law need not bring second derivatives."""

import numpy as np

from lossline.scaling.batch import Batch

Array = np.ndarray


def polish(
    batch: Batch, rows: Array, theta_RxP: Array, *, iterations: int = 12
) -> tuple[Array, Array, Array]:
    """Newton's method with bounds from near an optimum; the Hessian by differences of the analytic
    gradient.

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
                step, promise = _newton_step(batch, rows[part], theta[part])
                remaining[part] = promise / (
                    objective[part] + batch.stack.tiny[batch.problem[rows[part]]]
                )
                moved = _search_line(batch, rows[part], theta, objective, part, step)
                finished.append(part[(remaining[part] < 1e-22) | ~moved])
            active = np.setdiff1d(active, np.concatenate(finished))
    return theta, objective, remaining


def _newton_step(batch: Batch, rows: Array, theta: Array) -> tuple[Array, Array]:
    """Newton step and half its decrement (R,) from the Hessian with its negative curvature turned
    round."""
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
    """Takes the longest of a few shares of the step that does not raise the objective beyond
    rounding; who moved."""
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
