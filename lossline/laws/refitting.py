"""Refit a law to many reweightings of the same points by a quasi-Newton method (BFGS).

With many points a reweighting moves the optimum little. The search of every reweighting starts at
the fit to all the data, with its own Hessian there. These Hessians cost one matrix product: the
points' own derivatives do not depend on the weights. Updates follow from the gradients of the steps
(Nocedal & Wright 2006, eq. 6.19), so that about three gradients are needed in all.
"""

import numpy as np

from lossline.laws.newton import bounded_step
from lossline.laws.rows import FitRows

Array = np.ndarray

_STEPS = 10
# Share of the objective that a step promises below which a row has arrived.
_ARRIVED = 1e-7
_WIDTH = 1e-5  # step of the differences, relative to the parameter


def refit(batch: FitRows, theta: Array) -> tuple[Array, Array]:
    """Return optima (B, P), internal, and whether each was reached (B,).

    Args:
        batch: one row per reweighting, all of one problem.
        theta: the fit to all the data (P,), internal.
    """
    rows = np.arange(len(batch.weights))
    here = np.broadcast_to(theta, (len(rows), len(theta))).copy()
    arrived = np.zeros(len(rows), bool)
    with np.errstate(all="ignore"):
        hessian = _hessians(batch, theta)
        size = np.abs(np.einsum("bii->bi", hessian))
        scale = size[:, :, None] * np.eye(len(theta))
        gradient = batch.weights @ _of_points(batch, theta[None])[0]
        objective = batch.weights @ _rho(batch, theta)
        for _ in range(_STEPS):
            step, promise = bounded_step(
                batch, rows, here[rows], hessian[rows], gradient, scale[rows]
            )
            here[rows] = batch.inside(here[rows] + step, rows)
            arrived[rows] = promise < _ARRIVED * objective[rows]
            going = ~arrived[rows]
            rows, step, before = rows[going], step[going], gradient[going]
            if not len(rows):
                break
            gradient = batch.gradient(here[rows], rows)
            hessian[rows] = _updated(hessian[rows], step, gradient - before)
        # A step is not checked on its way: an arrival above the start is none.
        lower = batch.objective(here, np.arange(len(here))) <= objective
    return here, arrived & lower & np.isfinite(here).all(axis=1)


def _rho(batch: FitRows, theta: Array) -> Array:
    """Return rho of every point (M,), without its weight."""
    stack = batch.stack
    f = stack.law.value(theta[None], stack.columns)
    return stack.objective.rho(stack.objective.residuals(f, stack.goal))[0]


def _of_points(batch: FitRows, theta_KxP: Array) -> Array:
    """Return the gradient of every point (K, M, P), without its weight."""
    stack = batch.stack
    f, jacobian = stack.law.value_and_jacobian(theta_KxP, stack.columns)
    r = stack.objective.residuals(f, stack.goal)
    for factor in (stack.objective.robust_weight(r), stack.objective.slope(f, stack.goal)):
        r = r if factor is None else r * factor
    return (jacobian * r[:, None, :]).transpose(0, 2, 1)


def _hessians(batch: FitRows, theta: Array) -> Array:
    """Return the Hessians (B, P, P) at theta (P,), by central differences of the gradient."""
    low, high = batch.low[0], batch.high[0]
    width = _WIDTH * np.maximum(np.abs(theta), 0.1)
    top, bottom = np.minimum(theta + width, high), np.maximum(theta - width, low)
    distance = np.where(top > bottom, top - bottom, np.inf)
    moved = np.tile(theta, (2, len(theta), 1))
    every = np.arange(len(theta))
    moved[0, every, every], moved[1, every, every] = top, bottom
    of_points = _of_points(batch, moved.reshape(-1, len(theta)))
    up, down = of_points.reshape(2, len(theta), *of_points.shape[1:])
    change = (up - down) / distance[:, None, None]  # (P, M, P)
    hessian = np.einsum("bm,pmq->bpq", batch.weights, change, optimize=True)
    fixed = low == high
    hessian = np.where(fixed[:, None], hessian.transpose(0, 2, 1), hessian)
    return 0.5 * (hessian + hessian.transpose(0, 2, 1))


def _updated(hessian: Array, step: Array, change: Array) -> Array:
    """Return Hessians (B, P, P) that explain the change of the gradient along a step (BFGS)."""
    along = (hessian @ step[:, :, None])[:, :, 0]
    curved, rise = np.vecdot(step, along), np.vecdot(step, change)
    new = hessian - along[:, :, None] * along[:, None, :] / curved[:, None, None]
    new += change[:, :, None] * change[:, None, :] / rise[:, None, None]
    usable = (curved > 0) & (rise > 0) & np.isfinite(new).all(axis=(1, 2))
    return np.where(usable[:, None, None], new, hessian)
