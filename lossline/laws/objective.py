"""Objective of a fit: the SUM over points of weight x rho(residual).

The objective is a sum, not a mean, because the stopping rules of quasi-Newton methods are absolute.
With the mean of Huber terms they stop at A = 842 instead of 478 on the Chinchilla points. The
solver here scales its rules itself; the sum is kept so that objectives compare with published ones.
"""

import dataclasses
import enum

import numpy as np

from lossline.errors import UserError

Array = np.ndarray


class Residual(enum.Enum):
    """Difference between a prediction f and a measurement y."""

    LOG = "log"  # log f - log y; both must be positive
    LINEAR = "linear"  # f - y
    RELATIVE = "relative"  # (f - y) / y


class Loss(enum.Enum):
    """Function rho of a residual r. Each equals r^2 / 2 for small r."""

    LEAST_SQUARES = "least_squares"
    HUBER = "huber"  # delta (|r| - delta / 2) beyond delta
    SOFT_L1 = "soft_l1"  # delta^2 (sqrt(1 + (r / delta)^2) - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitObjective:
    """Sum of weight x rho(residual) over the points.

    The default is approach 3 of Hoffmann et al. (arXiv 2203.15556): Huber's loss with delta = 1e-3,
    on logarithms.

    Attributes:
        residual: how prediction and measurement are compared.
        loss: rho.
        delta: residual at which Huber's loss turns linear (soft_l1: nearly linear); unused by least
            squares.

    Raises:
        UserError: delta is not positive.
    """

    residual: Residual = Residual.LOG
    loss: Loss = Loss.HUBER
    delta: float = 1e-3

    def __post_init__(self) -> None:
        # Accept strings, so that a notebook or a gin file can name the members.
        object.__setattr__(self, "residual", Residual(self.residual))
        object.__setattr__(self, "loss", Loss(self.loss))
        if not self.delta > 0:
            raise UserError(f"objective.delta = {self.delta}: must be positive.")

    def target(self, y: Array) -> Array:
        """Return the measurements as ``residuals`` needs them: their logarithm, or themselves."""
        return np.log(y) if self.residual is Residual.LOG else y

    def residuals(self, f: Array, target: Array) -> Array:
        """Return the residuals of predictions f against ``target`` (from ``target``)."""
        if self.residual is Residual.LOG:
            return np.log(f) - target
        if self.residual is Residual.LINEAR:
            return f - target
        return f / target - 1

    def slope(self, f: Array, target: Array) -> Array | None:
        """Return d residual / d f, or None where it is 1."""
        if self.residual is Residual.LOG:
            return 1 / f
        return None if self.residual is Residual.LINEAR else 1 / target

    def rho(self, r: Array) -> Array:
        """Return rho of residuals r, elementwise."""
        if self.loss is Loss.LEAST_SQUARES:
            return 0.5 * r * r
        if self.loss is Loss.HUBER:
            inner = np.clip(r, -self.delta, self.delta)
            return inner * (r - 0.5 * inner)
        s = r / self.delta
        # Equals sqrt(1 + s^2) - 1, but small s does not cancel to 0.
        return self.delta**2 * s * s / (np.sqrt(1 + s * s) + 1)

    def robust_weight(self, r: Array) -> Array | None:
        """Return rho'(r) / r, the weight of reweighted least squares; None where it is 1."""
        if self.loss is Loss.LEAST_SQUARES:
            return None
        if self.loss is Loss.HUBER:
            return self.delta / np.maximum(np.abs(r), self.delta)
        s = r / self.delta
        return 1 / np.sqrt(1 + s * s)


LEAST_SQUARES = FitObjective(residual=Residual.LINEAR, loss=Loss.LEAST_SQUARES)
HUBER_ON_LOGS = FitObjective()
