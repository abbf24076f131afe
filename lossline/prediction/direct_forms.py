"""One stage: from scale to a score, without a loss between. P is a score, ch that of guessing."""

from __future__ import annotations

import dataclasses

import numpy as np

from lossline.prediction.descent import Limits
from lossline.prediction.forms import Array, Columns, Form, no_priors


def _line(theta: Array, c: Array) -> tuple[Array, Array]:
    value = theta[:, :1] + theta[:, 1:2] * c
    one = np.ones_like(value)
    return value, np.stack([one, c * one], axis=1)


class _LineInCompute(Form):
    """Base of the laws that are a line in log C on their residual scale."""

    inputs = ("flops",)
    parameters = ("level", "alpha")

    def model(self, theta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return the line (B, M) and its derivative (B, P, M)."""
        return _line(theta, columns[0])

    def limits(self, columns: Columns, target: Array) -> Limits:
        """Return wide bounds."""
        return no_priors(np.array([-50.0, -5.0]), np.array([50.0, 5.0]))

    def starts(self, columns: Columns, target: Array) -> Array:
        """Return one start; the fit is linear."""
        return np.zeros((1, 2))


@dataclasses.dataclass(frozen=True)
class PowerOfScore(_LineInCompute):
    """FP: P = (C / C_M)^alpha. Chen et al., arXiv 2410.08527, equation 3. It can exceed 1."""

    name = "power_of_score"
    equation = "P = (C / C_M)^alpha"
    source = "Chen et al., arXiv 2410.08527, eq. 3"

    chance: float = 0.0

    def residual_scale(self, target: Array) -> Array:
        """Return log P; NaN where P is 0."""
        with np.errstate(all="ignore"):
            return np.where(target > 0, np.log(target), np.nan)

    def natural(self, value: Array) -> Array:
        """Return P."""
        return np.exp(value)


@dataclasses.dataclass(frozen=True)
class LogScore(_LineInCompute):
    """GPT-4's form: log P = -(C / C_M)^(-alpha). Chen et al., arXiv 2410.08527, equation 6."""

    name = "log_score"
    equation = "log P = -(C / C_M)^(-alpha)"
    source = "OpenAI, arXiv 2303.08774, as Chen et al., arXiv 2410.08527, eq. 6"

    chance: float = 0.0

    def residual_scale(self, target: Array) -> Array:
        """Return log(-log P); NaN where P is 0 or 1."""
        with np.errstate(all="ignore"):
            return np.where((target > 0) & (target < 1), np.log(-np.log(target)), np.nan)

    def natural(self, value: Array) -> Array:
        """Return P."""
        return np.exp(-np.exp(np.minimum(value, 50.0)))


def above_chance(target: Array, chance: float) -> Array:
    """Return the score normalized by chance, (P - ch) / (1 - ch)."""
    return (np.asarray(target, float) - chance) / (1 - chance)


@dataclasses.dataclass(frozen=True)
class _AboveChance(Form):
    """Base of the laws of log Q, with log(-log Q) as residual scale."""

    chance: float = 0.0

    def residual_scale(self, target: Array) -> Array:
        """Return log(-log Q); NaN where P is at or below chance."""
        q = above_chance(target, self.chance)
        with np.errstate(all="ignore"):
            return np.where((q > 0) & (q < 1), np.log(-np.log(q)), np.nan)

    def natural(self, value: Array) -> Array:
        """Return P."""
        return self.chance + (1 - self.chance) * np.exp(-np.exp(np.minimum(value, 50.0)))


@dataclasses.dataclass(frozen=True)
class LogScoreAboveChance(_AboveChance, _LineInCompute):
    """-log Q = A C^(-alpha), Q = (P - ch) / (1 - ch). Krajewski et al., arXiv 2512.08894."""

    name = "log_score_above_chance"
    equation = "-log Q = A C^(-alpha), Q = (P - ch) / (1 - ch)"
    source = "Krajewski et al., arXiv 2512.08894"
    has_floor = True


@dataclasses.dataclass(frozen=True)
class LogScoreInScale(_AboveChance):
    """-log Q = A N^(-alpha) + B D^(-beta), Q = (P - ch) / (1 - ch).

    After Krajewski et al., arXiv 2512.08894, for any ratio of tokens to parameters.
    """

    name = "log_score_in_scale"
    equation = "-log Q = A N^(-alpha) + B D^(-beta), Q = (P - ch) / (1 - ch)"
    source = "after Krajewski et al., arXiv 2512.08894"
    has_floor = True
    inputs = ("params", "tokens")
    parameters = ("log_A", "log_B", "alpha", "beta")

    def model(self, theta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return log(-log Q) (B, M) and its derivative (B, P, M)."""
        n, d = columns
        size = theta[:, :1] - theta[:, 2:3] * n
        data = theta[:, 1:2] - theta[:, 3:4] * d
        total = np.logaddexp(size, data)
        a, b = np.exp(size - total), np.exp(data - total)
        return total, np.stack([a, b, -a * n, -b * d], axis=1)

    def limits(self, columns: Columns, target: Array) -> Limits:
        """Return bounds."""
        return no_priors(np.array([-15.0, -15.0, 0.0, 0.0]), np.array([8.0, 8.0, 1.5, 1.5]))

    def starts(self, columns: Columns, target: Array) -> Array:
        """Return starts of four pairs of exponents."""
        return np.array([[-0.5, -0.5, a, b] for a in (0.1, 0.4) for b in (0.1, 0.4)])


@dataclasses.dataclass(frozen=True)
class FamilyGompertz(Form):
    """P = ch + (1 - ch) exp(-exp(-(a + alpha log N + beta log D + u_family))).

    The direct law in N and D with a level of its own for each family of models, drawn to the common
    level by a Gaussian prior. Misses are squared in log(P + margin), so that near 0 they are
    relative; ``margin`` keeps a score of 0 finite.

    Attributes:
        chance: score of guessing.
        families: names of the families; k in the column "family" is the k-th, -1 a new one.
        family_sd: standard deviation of the families' levels.
        margin: score added before the logarithm.
    """

    name = "family_gompertz"
    equation = "P = ch + (1 - ch) exp(-exp(-(a + alpha log N + beta log D + u_family)))"
    source = "this project"
    spread = 0.1
    has_floor = True

    chance: float = 0.0
    families: tuple[str, ...] = ()
    family_sd: float = 0.5
    margin: float = 0.02

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        """N, D and the family."""
        return ("params", "tokens", *(("family",) if self.families else ()))

    @property
    def parameters(self) -> tuple[str, ...]:  # type: ignore[override]
        """Level, exponents and one offset per family."""
        return ("level", "alpha", "beta", *(f"family {name}" for name in self.families))

    @property
    def fewest(self) -> int:
        """Points that a fit needs: one for the level and each exponent; families have priors."""
        return 3

    def residual_scale(self, target: Array) -> Array:
        """Return log(P + margin)."""
        return np.log(np.asarray(target, float) + self.margin)

    def natural(self, value: Array) -> Array:
        """Return P."""
        return np.exp(value) - self.margin

    def model(self, theta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return log(P + margin) (B, M) and its derivative (B, P, M)."""
        n, d = columns[:2]
        eta = theta[:, :1] + theta[:, 1:2] * n + theta[:, 2:3] * d
        one = np.ones_like(eta)
        slopes = [one, n * one, d * one]
        if self.families:
            member = columns[2][:, None] == np.arange(len(self.families))  # (M, F)
            eta = eta + theta[:, 3:] @ member.T
            slopes += [one * column for column in member.T]
        inner = np.exp(-np.clip(eta, -30.0, 30.0))
        part = (1 - self.chance) * np.exp(-inner)
        score = self.chance + part + self.margin
        return np.log(score), np.stack(slopes, axis=1) * (part * inner / score)[:, None, :]

    def limits(self, columns: Columns, target: Array) -> Limits:
        """Return bounds, weak priors of the slopes and the prior of the families."""
        count = len(self.families)
        limits = no_priors(
            np.array([-8.0, -2, -2, *[-6.0] * count]), np.array([8.0, 2, 2, *[6.0] * count])
        )
        limits.mean[1:3], limits.sd[1:3] = 0.15, 0.2
        limits.sd[3:] = self.family_sd
        return limits

    def starts(self, columns: Columns, target: Array) -> Array:
        """Return starts of three levels."""
        starts = np.zeros((3, 3 + len(self.families)))
        starts[:, 0] = (-1.0, 0.0, 1.0)
        starts[:, 1:3] = 0.15
        return starts
