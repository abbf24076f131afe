"""What a fit minimizes: the SUM over points of weight x rho(residual).

The sum, not the mean: quasi-Newton stopping rules are absolute, and with the mean of Huber terms
they stop at A = 842 instead of 478 on the Chinchilla points. The solver here scales its rules
itself; the sum is kept so that objectives compare with published ones."""

import dataclasses
import enum

import numpy as np

from lossline.errors import UserError

Array = np.ndarray


class Residual(enum.Enum):
    """What of prediction f and measurement y is compared."""

    LOG = "log"  # log f - log y; both must be positive
    LINEAR = "linear"  # f - y
    RELATIVE = "relative"  # (f - y) / y


class Loss(enum.Enum):
    """rho of a residual r; all are r^2 / 2 for small r."""

    LEAST_SQUARES = "least_squares"
    HUBER = "huber"  # delta (|r| - delta / 2) beyond delta
    SOFT_L1 = "soft_l1"  # delta^2 (sqrt(1 + (r / delta)^2) - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitObjective:
    """Sum of weight x rho(residual). The default is approach 3 of Hoffmann et al.: Huber, delta
    1e-3, on logs."""

    residual: Residual = Residual.LOG
    loss: Loss = Loss.HUBER
    delta: float = 1e-3

    def __post_init__(self) -> None:
        # Strings are accepted, so that an objective can be written down in a notebook or a gin
        # file.
        object.__setattr__(self, "residual", Residual(self.residual))
        object.__setattr__(self, "loss", Loss(self.loss))
        if not self.delta > 0:
            raise UserError(f"objective: delta must be positive, not {self.delta}")

    def target(self, y: Array) -> Array:
        """What `residuals` wants of the measurements; computed once."""
        return np.log(y) if self.residual is Residual.LOG else y

    def residuals(self, f: Array, target: Array) -> Array:
        if self.residual is Residual.LOG:
            return np.log(f) - target
        if self.residual is Residual.LINEAR:
            return f - target
        return f / target - 1

    def slope(self, f: Array, target: Array) -> Array | None:
        """d residual / d f; None for 1."""
        if self.residual is Residual.LOG:
            return 1 / f
        return None if self.residual is Residual.LINEAR else 1 / target

    def rho(self, r: Array) -> Array:
        if self.loss is Loss.LEAST_SQUARES:
            return 0.5 * r * r
        if self.loss is Loss.HUBER:
            inner = np.clip(r, -self.delta, self.delta)
            return inner * (r - 0.5 * inner)
        s = r / self.delta
        # s^2 / (sqrt(1 + s^2) + 1) = sqrt(1 + s^2) - 1 without its cancellation for small s
        return self.delta**2 * s * s / (np.sqrt(1 + s * s) + 1)

    def robust_weight(self, r: Array) -> Array | None:
        """rho'(r) / r, the weight of iteratively reweighted least squares; None for 1."""
        if self.loss is Loss.LEAST_SQUARES:
            return None
        if self.loss is Loss.HUBER:
            return self.delta / np.maximum(np.abs(r), self.delta)
        s = r / self.delta
        return 1 / np.sqrt(1 + s * s)


LEAST_SQUARES = FitObjective(residual=Residual.LINEAR, loss=Loss.LEAST_SQUARES)
HUBER_ON_LOGS = FitObjective()
