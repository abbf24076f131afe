"""Stage 2: from a loss to a score. L is any loss, P a score in [0, 1], ch the score of guessing."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.special import expit

from lossline.prediction.descent import Limits
from lossline.prediction.forms import Array, Columns, Form, no_priors

# Mean and standard deviation of the Gaussian priors of log k and log nu.
_LOG_SLOPE = (float(np.log(2.0)), 1.0)
_LOG_ASYMMETRY = (0.7, 1.5)


def _scale(columns: Columns) -> float:
    return float(np.std(columns[0])) or 1.0


@dataclasses.dataclass(frozen=True)
class Line(Form):
    """P = w0 + w1 L. Chen et al., arXiv 2410.08527, equation 2."""

    name = "line"
    equation = "P = w0 + w1 L"
    source = "Chen et al., arXiv 2410.08527, eq. 2"
    inputs = ("loss",)
    parameters = ("w0", "w1")

    chance: float = 0.0

    def model(self, theta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return P (B, M) and its derivative (B, P, M)."""
        value = theta[:, :1] + theta[:, 1:2] * columns[0]
        one = np.ones_like(value)
        return value, np.stack([one, columns[0] * one], axis=1)

    def limits(self, columns: Columns, target: Array) -> Limits:
        """Return wide bounds."""
        return no_priors(np.full(2, -1e4), np.full(2, 1e4))

    def starts(self, columns: Columns, target: Array) -> Array:
        """Return one start; the fit is linear."""
        return np.array([[target.mean(), 0.0]])


@dataclasses.dataclass(frozen=True)
class Sigmoid(Form):
    """P = a / (1 + exp(-k (L0 - L))) + b, four parameters.

    Bhagia et al., arXiv 2412.04403, equation 2 (with L - L0 and k < 0).
    """

    name = "sigmoid"
    equation = "P = a / (1 + exp(-k (L0 - L))) + b"
    source = "Bhagia et al., arXiv 2412.04403, eq. 2"
    inputs = ("loss",)
    parameters = ("a", "log_k", "L0", "b")

    chance: float = 0.0

    def model(self, theta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return P (B, M) and its derivative (B, P, M)."""
        height, k, middle = theta[:, :1], np.exp(theta[:, 1:2]), theta[:, 2:3]
        u = k * (middle - columns[0])
        p = expit(u)
        slope = height * p * (1 - p)
        one = np.ones_like(p)
        return height * p + theta[:, 3:4], np.stack([p, slope * u, slope * k, one], axis=1)

    def limits(self, columns: Columns, target: Array) -> Limits:
        """Return bounds."""
        s = _scale(columns)
        return no_priors(
            np.array([0.02, np.log(0.02 / s), -12 * s, -0.2]),
            np.array([1.2, np.log(40 / s), 6 * s, 1.0]),
        )

    def starts(self, columns: Columns, target: Array) -> Array:
        """Return starts of two heights, slopes and middles."""
        s = _scale(columns)
        return np.array(
            [
                [height, np.log(k / s), middle * s, self.chance]
                for height in (0.4, 0.8)
                for k in (0.5, 2.0)
                for middle in (-2.0, 0.0)
            ]
        )


@dataclasses.dataclass(frozen=True)
class ChanceSigmoid(Form):
    """P = ch + (1 - ch) / (1 + exp(-k (L0 - L))): the score of guessing is part of the form."""

    name = "chance_sigmoid"
    equation = "P = ch + (1 - ch) / (1 + exp(-k (L0 - L)))"
    source = "this project; Llama 3 (arXiv 2407.21783) uses a sigmoid"
    inputs = ("loss",)
    parameters = ("log_k", "L0")
    has_floor = True

    chance: float = 0.0

    def model(self, theta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return P (B, M) and its derivative (B, P, M)."""
        k = np.exp(theta[:, :1])
        u = k * (theta[:, 1:2] - columns[0])
        p = expit(u)
        slope = (1 - self.chance) * p * (1 - p)
        return self.chance + (1 - self.chance) * p, np.stack([slope * u, slope * k], axis=1)

    def limits(self, columns: Columns, target: Array) -> Limits:
        """Return bounds."""
        s = _scale(columns)
        return no_priors(np.array([np.log(0.02 / s), -30 * s]), np.array([np.log(40 / s), 12 * s]))

    def starts(self, columns: Columns, target: Array) -> Array:
        """Return starts of two slopes and middles."""
        s = _scale(columns)
        return np.array([[np.log(k / s), m * s] for k in (0.5, 2.0) for m in (-2.0, 0.0)])


@dataclasses.dataclass(frozen=True)
class AsymmetricSigmoid(Form):
    """P = ch + (1 - ch) (1 + exp(-k (L0 - L)))^(-nu): nu > 1 rises late, nu < 1 early.

    The score of guessing is part of the form, so that no checkpoint is left out as "not emerged".
    Slope and asymmetry have wide Gaussian priors (log k: 2 per nat; log nu: 2), without which few
    runs near chance leave them open.
    """

    name = "asymmetric_sigmoid"
    equation = "P = ch + (1 - ch) (1 + exp(-k (L0 - L)))^(-nu)"
    source = "this project"
    inputs = ("loss",)
    parameters = ("log_k", "L0", "log_nu")
    has_floor = True

    chance: float = 0.0

    def model(self, theta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return P (B, M) and its derivative (B, P, M)."""
        k, nu = np.exp(theta[:, :1]), np.exp(theta[:, 2:3])
        u = k * (theta[:, 1:2] - columns[0])
        log_p = -np.logaddexp(0.0, -u)
        part = (1 - self.chance) * np.exp(nu * log_p)
        slope = part * nu * expit(-u)
        return self.chance + part, np.stack([slope * u, slope * k, part * nu * log_p], axis=1)

    def limits(self, columns: Columns, target: Array) -> Limits:
        """Return bounds and the priors of slope and asymmetry."""
        s = _scale(columns)
        limits = no_priors(
            np.array([np.log(0.02 / s), -40 * s, -3.0]), np.array([np.log(40 / s), 20 * s, 4.0])
        )
        limits.mean[0], limits.sd[0] = _LOG_SLOPE
        limits.mean[2], limits.sd[2] = _LOG_ASYMMETRY
        return limits

    def starts(self, columns: Columns, target: Array) -> Array:
        """Return starts of two slopes, middles and asymmetries."""
        s = _scale(columns)
        return np.array(
            [
                [np.log(k / s), middle * s, nu]
                for k in (0.5, 2.0)
                for middle in (-2.0, 0.0)
                for nu in (-0.5, 0.7)
            ]
        )


@dataclasses.dataclass(frozen=True)
class Exponential(Form):
    """P = 1 - eps + k exp(-gamma L). Gadre et al., arXiv 2403.08540, equation 5."""

    name = "exponential"
    equation = "P = 1 - eps + k exp(-gamma L)"
    source = "Gadre et al., arXiv 2403.08540, eq. 5"
    inputs = ("loss",)
    parameters = ("eps", "log_k", "gamma")

    chance: float = 0.0

    def model(self, theta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return P (B, M) and its derivative (B, P, M)."""
        decay = np.exp(theta[:, 1:2] - theta[:, 2:3] * columns[0])
        one = np.ones_like(decay)
        return 1 - theta[:, :1] + decay, np.stack([-one, decay, -decay * columns[0]], axis=1)

    def limits(self, columns: Columns, target: Array) -> Limits:
        """Return bounds."""
        s = _scale(columns)
        return no_priors(np.array([0.0, -12.0, 0.01 / s]), np.array([1.2, 4.0, 20.0 / s]))

    def starts(self, columns: Columns, target: Array) -> Array:
        """Return starts of three rates."""
        s = _scale(columns)
        return np.array([[0.9, np.log(0.2), g / s] for g in (0.3, 1.0, 3.0)])
