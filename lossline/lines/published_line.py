"""Published procedure for loss-to-loss lines, as a baseline.

It takes E of both axes from compute-to-loss laws, then fits a straight line in logarithms. Source:
arXiv 2411.12925, ``fit_power_law`` of its code.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from lossline.errors import UserError
from lossline.tables.pairing import Pairs

Array = np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedLine:
    """The line y = K (x - E_x)^kappa + E_y.

    Attributes:
        K: coefficient.
        kappa: exponent.
        E_x: irreducible loss of x.
        E_y: irreducible loss of y.
        used: points above both E's; only these have logarithms.
    """

    K: float
    kappa: float
    E_x: float
    E_y: float
    used: int

    def predict(self, x: Array) -> Array:
        """Return y at x (M,).

        The procedure has no answer at and below E_x. E_y, its limit, is returned there,
        which favors the procedure over giving no answer.
        """
        return self.K * np.maximum(np.asarray(x, float) - self.E_x, 0.0) ** self.kappa + self.E_y


def published_line(pairs: Pairs, E_x: float, E_y: float) -> PublishedLine:
    """Fit log(y - E_y) to log(x - E_x) by ordinary least squares.

    Raises:
        UserError: fewer than 2 points lie above both E's.
    """
    above = (pairs.x > E_x) & (pairs.y > E_y)
    if above.sum() < 2:
        raise UserError(
            f"{above.sum()} points above E_x = {E_x:.4g} and E_y = {E_y:.4g}; 2 are needed."
        )
    kappa, log_K = np.polyfit(np.log(pairs.x[above] - E_x), np.log(pairs.y[above] - E_y), 1)
    return PublishedLine(
        K=float(np.exp(log_K)), kappa=float(kappa), E_x=E_x, E_y=E_y, used=int(above.sum())
    )
