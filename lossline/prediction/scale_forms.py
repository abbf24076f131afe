"""Stage 1: laws from scale to a loss. Misses are relative: the residual scale is log L."""

from __future__ import annotations

import dataclasses

import numpy as np

from lossline.prediction.descent import Limits
from lossline.prediction.forms import Array, Columns, Form, no_priors

_LOG_FLOOR = -9.0  # log of the lowest irreducible loss


class LossForm(Form):
    """Base of the laws of a loss: they predict its logarithm."""

    spread = 0.005

    def residual_scale(self, target: Array) -> Array:
        """Return log L; NaN where L is not positive."""
        with np.errstate(all="ignore"):
            return np.where(np.asarray(target) > 0, np.log(target), np.nan)

    def natural(self, value: Array) -> Array:
        """Return L."""
        return np.exp(value)


@dataclasses.dataclass(frozen=True)
class PowerOfCompute(LossForm):
    """L = (C / C_N)^(-alpha). Chen et al., arXiv 2410.08527, equation 1."""

    name = "power_of_compute"
    equation = "L = (C / C_N)^(-alpha)"
    source = "Chen et al., arXiv 2410.08527, eq. 1"
    inputs = ("flops",)
    parameters = ("log_L", "alpha")

    def model(self, theta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return log L (B, M) and its derivative (B, P, M)."""
        c = columns[0]
        value = theta[:, :1] - theta[:, 1:2] * c
        one = np.ones_like(value)
        return value, np.stack([one, -c * one], axis=1)

    def limits(self, columns: Columns, target: Array) -> Limits:
        """Return wide bounds."""
        return no_priors(np.array([-20.0, -2.0]), np.array([20.0, 2.0]))

    def starts(self, columns: Columns, target: Array) -> Array:
        """Return one start; the fit is linear."""
        return np.array([[np.log(target).mean(), 0.05]])


@dataclasses.dataclass(frozen=True)
class FlooredPowerOfCompute(LossForm):
    """L = E + A C^(-alpha): a power law of compute with an irreducible loss."""

    name = "floored_power_of_compute"
    equation = "L = E + A C^(-alpha)"
    source = "Kaplan et al., arXiv 2001.08361, with an irreducible term"
    inputs = ("flops",)
    parameters = ("log_E", "log_A", "alpha")

    def model(self, theta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return log L (B, M) and its derivative (B, P, M)."""
        c = columns[0]
        floor, term = np.exp(theta[:, :1]), np.exp(theta[:, 1:2] - theta[:, 2:3] * c)
        loss = floor + term
        return np.log(loss), np.stack([floor / loss, term / loss, -term * c / loss], axis=1)

    def limits(self, columns: Columns, target: Array) -> Limits:
        """Return bounds; E is at most the lowest loss."""
        return no_priors(
            np.array([_LOG_FLOOR, -12.0, 0.01]), np.array([np.log(target.min()), 9.0, 1.5])
        )

    def starts(self, columns: Columns, target: Array) -> Array:
        """Return starts with a low, a middle and a high floor."""
        return np.array(
            [
                [np.log(share * target.min()), np.log((1 - share) * target.mean()), alpha]
                for share in (0.1, 0.5, 0.9)
                for alpha in (0.05, 0.1, 0.3)
            ]
        )


@dataclasses.dataclass(frozen=True)
class PowerOfScale(LossForm):
    """L = A N^(-alpha) D^(-beta): a power law in size and data, without irreducible loss."""

    name = "power_of_scale"
    equation = "L = A N^(-alpha) D^(-beta)"
    source = "Chen et al., arXiv 2410.08527, eq. 1, in N and D"
    inputs = ("params", "tokens")
    parameters = ("log_L", "alpha", "beta")

    def model(self, theta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return log L (B, M) and its derivative (B, P, M)."""
        n, d = columns
        value = theta[:, :1] - theta[:, 1:2] * n - theta[:, 2:3] * d
        one = np.ones_like(value)
        return value, np.stack([one, -n * one, -d * one], axis=1)

    def limits(self, columns: Columns, target: Array) -> Limits:
        """Return wide bounds."""
        return no_priors(np.array([-20.0, -2.0, -2.0]), np.array([20.0, 2.0, 2.0]))

    def starts(self, columns: Columns, target: Array) -> Array:
        """Return one start; the fit is linear."""
        return np.array([[np.log(target).mean(), 0.05, 0.05]])


@dataclasses.dataclass(frozen=True)
class PowersOfScale(LossForm):
    """L = E + A N^(-alpha) + B D^(-beta). Hoffmann et al., arXiv 2203.15556, equation 2.

    Sixteen runs do not determine both exponents and E. With ``exponent``, both exponents have a
    Gaussian prior.

    Attributes:
        exponent: mean of the prior of alpha and beta; None for no prior.
        exponent_sd: its standard deviation.
    """

    name = "powers_of_scale"
    equation = "L = E + A N^(-alpha) + B D^(-beta)"
    source = "Hoffmann et al., arXiv 2203.15556, eq. 2"
    inputs = ("params", "tokens")
    parameters = ("log_E", "log_A", "log_B", "alpha", "beta")

    exponent: float | None = None
    exponent_sd: float = 0.05

    def model(self, theta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return log L (B, M) and its derivative (B, P, M)."""
        n, d = columns
        floor = np.exp(theta[:, :1])
        size = np.exp(theta[:, 1:2] - theta[:, 3:4] * n)
        data = np.exp(theta[:, 2:3] - theta[:, 4:5] * d)
        loss = floor + size + data
        parts = (floor, size, data, -size * n, -data * d)
        return np.log(loss), np.stack([part / loss for part in parts], axis=1)

    def limits(self, columns: Columns, target: Array) -> Limits:
        """Return bounds and the prior of the exponents."""
        limits = no_priors(
            np.array([_LOG_FLOOR, -12.0, -12.0, 0.02, 0.02]),
            np.array([np.log(target.min()), 9.0, 9.0, 1.5, 1.5]),
        )
        if self.exponent is not None:
            limits.mean[3:], limits.sd[3:] = self.exponent, self.exponent_sd
        return limits

    def starts(self, columns: Columns, target: Array) -> Array:
        """Return starts with a low and a high floor and four pairs of exponents."""
        part = np.log(0.2 * target.mean())
        return np.array(
            [
                [np.log(share * target.min()), part, part, alpha, beta]
                for share in (0.3, 0.8)
                for alpha in (0.15, 0.4)
                for beta in (0.15, 0.4)
            ]
        )
