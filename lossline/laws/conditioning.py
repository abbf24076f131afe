"""Condition numbers: how well points determine the parameters of a law.

A condition number is taken of the Jacobian with its columns scaled to length 1. Coefficients refer
to the middle of the data (``Law.centering``). At x = 1, far from all points, a coefficient and its
exponent are correlated to 0.999 for any data.
"""

import numpy as np

from lossline.laws.forms import Law
from lossline.laws.objective import FitObjective
from lossline.laws.problems import Prepared

Array = np.ndarray


def residual_jacobian(law: Law, data: Prepared, objective: FitObjective, theta: Array) -> Array:
    """Return d residual / d phi (M, P) in centered coordinates phi, without weights."""
    with np.errstate(all="ignore"):
        f, jacobian = law.value_and_jacobian(theta[None], tuple(c[None] for c in data.columns))
        slope = objective.slope(f[0], objective.target(data.target))
        rows = jacobian[0].T if slope is None else jacobian[0].T * slope[:, None]
    return rows @ np.linalg.inv(law.centering(data.columns))


def condition_number(rows: Array, free: Array) -> float:
    """Return the condition number of the columns ``free`` (P,) of rows (K, P), scaled to length 1.

    It is inf where a column is 0.
    """
    rows = rows[:, free]
    if not rows.size:
        return 1.0
    length = np.linalg.norm(rows, axis=0)
    if not np.all(np.isfinite(rows)) or np.any(length == 0):
        return float("inf")
    values = np.linalg.svd(rows / length, compute_uv=False)
    if len(values) < rows.shape[1] or values[-1] == 0:
        return float("inf")
    return float(values[0] / values[-1])


def condition_numbers(jacobian_MxP: Array, weights_BxM: Array, free: Array) -> Array:
    """Return condition numbers (B,) for B weightings of the points.

    They come from the squared matrix: above about 3e6 only their order is right, and above 1e8 they
    are inf.

    Args:
        jacobian_MxP: Jacobian of the residuals, without weights.
        weights_BxM: the weightings.
        free: mask (P,) of the free parameters.
    """
    jacobian = jacobian_MxP[:, free]
    size = jacobian.shape[1]
    if not size:
        return np.ones(len(weights_BxM))
    # J'WJ of all weightings as one product: (B, M) @ (M, P P).
    products = (jacobian[:, :, None] * jacobian[:, None, :]).reshape(len(jacobian), -1)
    normal = (weights_BxM @ products).reshape(-1, size, size)
    diagonal = np.einsum("bii->bi", normal)
    seen = np.isfinite(normal).all(axis=(1, 2)) & (diagonal > 0).all(axis=1)
    out = np.full(len(weights_BxM), np.inf)
    length = np.sqrt(diagonal[seen])
    # Eigenvalues of the normal matrix are squared singular values, hence the root below.
    values = np.linalg.eigvalsh(normal[seen] / (length[:, :, None] * length[:, None, :]))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = values[:, -1] / values[:, 0]
    out[seen] = np.where((values[:, 0] > 0) & (ratio < 1e16), np.sqrt(np.abs(ratio)), np.inf)
    return out
