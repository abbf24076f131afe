"""Solve for the linear parameters in every step of a descent.

Source: variable projection (Golub & Pereyra 1973), with the step of Kaufman 1975. A coefficient
must follow its exponent along a curved valley: a search takes many short steps there, a linear
solve takes one. The solve is exact where the objective is quadratic in the coefficient, that is for
least squares of plain or relative residuals. With Huber's loss or on logarithms the weights would
change with every solve, which gains nothing over the search.
"""

import numpy as np

from lossline.laws.objective import Loss, Residual
from lossline.laws.rows import FitRows

Array = np.ndarray


def solvable(batch: FitRows) -> bool:
    """Return whether the objective is quadratic in the law's linear parameters."""
    objective = batch.stack.objective
    quadratic = objective.loss is Loss.LEAST_SQUARES and objective.residual is not Residual.LOG
    return quadratic and bool(batch.stack.law.linear_indices)


def solve(batch: FitRows, theta_RxP: Array, rows: Array) -> Array:
    """Return theta (R, P) with the linear parameters solved for.

    Parameters on a bound stay there. A row whose solution lies on or beyond a bound keeps its
    searched values.
    """
    linear = batch.stack.law.linear_indices
    is_log = np.array([batch.stack.law.parameters[i].log for i in linear])
    low, high, here = batch.low[rows][:, linear], batch.high[rows][:, linear], theta_RxP[:, linear]
    free = (low < here) & (here < high)
    natural = np.where(is_log, np.exp(here), here)
    gram, moment = _normal_equations(batch, theta_RxP, rows)
    # Parameters that stay move to the right side of the equations.
    moment -= (gram @ np.where(free, 0.0, natural)[:, :, None])[:, :, 0]
    value = _solve(gram, moment, free)
    with np.errstate(divide="ignore", invalid="ignore"):
        solved = np.where(is_log, np.log(value), value)
    inside = (~free | ((low < solved) & (solved < high))).all(axis=1)
    theta = theta_RxP.copy()
    theta[:, linear] = np.where(free & inside[:, None], solved, here)
    return theta


def _normal_equations(batch: FitRows, theta_RxP: Array, rows: Array) -> tuple[Array, Array]:
    """Return Gram matrix (R, L, L) and moment (R, L) of the linear parameters' basis."""
    count, size = len(rows), len(batch.stack.law.linear_indices)
    gram, moment = np.empty((count, size, size)), np.empty((count, size))
    for here, theta, piece in batch.pieces(theta_RxP, rows):
        columns, goal, weights = batch.take(piece)
        offset, basis = batch.stack.law.basis(theta, columns)
        if batch.stack.objective.residual is Residual.RELATIVE:
            weights = weights / goal**2
        weighted = basis * weights[:, None, :]
        gram[here] = weighted @ basis.transpose(0, 2, 1)
        moment[here] = (weighted @ (goal - offset)[:, :, None])[:, :, 0]
    return gram, moment


def _solve(gram: Array, moment: Array, free: Array) -> Array:
    """Solve the normal equations for the free unknowns (R, L), scaled to a unit diagonal."""
    scale = free / np.sqrt(np.maximum(np.einsum("rii->ri", gram), 1e-300))
    system = gram * scale[:, :, None] * scale[:, None, :]
    np.einsum("rii->ri", system)[...] = 1 + 1e-13  # keeps parallel columns solvable
    system = np.where(np.isfinite(system), system, np.eye(system.shape[1]))
    return np.linalg.solve(system, (moment * scale)[:, :, None])[:, :, 0] * scale
