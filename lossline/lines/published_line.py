"""The published procedure for loss-to-loss lines, as a baseline: E of both axes from
compute-to-loss laws, then a straight line in logarithms (arXiv 2411.12925, `fit_power_law`).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from lossline.errors import UserError
from lossline.tables.pairing import Pairs

__all__ = ["PublishedLine", "published_line"]

Array = np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedLine:
    """y = K (x - E_x)^kappa + E_y. ``used``: points above both E's, the only ones that a logarithm
    can use."""

    K: float
    kappa: float
    E_x: float
    E_y: float
    used: int

    def predict(self, x: Array) -> Array:
        """y at x (M,). At and below E_x, where the procedure has no answer, the limit E_y: kinder
        than none."""
        return self.K * np.maximum(np.asarray(x, float) - self.E_x, 0.0) ** self.kappa + self.E_y


def published_line(pairs: Pairs, E_x: float, E_y: float) -> PublishedLine:
    """Ordinary least squares of log(y - E_y) on log(x - E_x)."""
    above = (pairs.x > E_x) & (pairs.y > E_y)
    if above.sum() < 2:
        raise UserError(f"{above.sum()} points above E_x = {E_x:.4g} and E_y = {E_y:.4g}, not 2")
    kappa, log_K = np.polyfit(np.log(pairs.x[above] - E_x), np.log(pairs.y[above] - E_y), 1)
    return PublishedLine(
        K=float(np.exp(log_K)), kappa=float(kappa), E_x=E_x, E_y=E_y, used=int(above.sum())
    )
