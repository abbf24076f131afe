"""Laws of shares alone that others use: linear, and the exponential law of data mixing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from lossline.mixtures.one_scale import OneScale, check_one_scale, checked_weights
from lossline.mixtures.runs import MixtureRuns, checked_shares

Array = np.ndarray

# Shares of the lowest loss at which the exponential law's E is started.
_STARTS = (0.0, 0.5, 0.8, 0.95)
# Largest E in units of the lowest loss: where the law does not hold, its best E can lie above it.
_MOST_FLOOR = 1.5
# Ridge on the exponents' distance from the mean log loss, in units of squared log losses. Without
# it, the exponent of a component that few runs have can run away.
_RIDGE = 1e-5


@dataclasses.dataclass(frozen=True)
class LinearLaw:
    """L_j = t_j · w, by least squares; shares sum to 1, so that t_j has the intercept."""

    name: str = "linear"
    equation: str = "L = t·w"
    source: str = "RegMix (arXiv 2407.01492), its linear regression"

    def fit(self, runs: MixtureRuns, *, weights: Array | None = None) -> ShareFit:
        """Fit all domains.

        Raises:
            UserError: see ``check_one_scale``.
        """
        return _fit(self, runs, weights)

    def solve(self, shares: Array, losses: Array, weights: Array) -> tuple[float, Array]:
        """Return E, which is 0, and t (K,) of one domain."""
        root = np.sqrt(weights)
        return 0.0, np.linalg.lstsq(shares * root[:, None], losses * root, rcond=None)[0]

    def value(self, shares: Array, floor: Array, slopes: Array) -> Array:
        """Return losses (T, J) at shares (T, K)."""
        return shares @ slopes.T + floor


@dataclasses.dataclass(frozen=True)
class ExponentialLaw:
    """L_j = E_j + exp(t_j · w), by least squares on log losses; t_j has the law's factor k_j.

    The paper's form at one N and D, quick to fit for hundreds of domains; with terms in N and D it
    is ``scale_laws.Exponential``. A weak ridge holds the exponents of components that few runs
    have.
    """

    name: str = "exponential_of_shares"
    equation: str = "L = E + k exp(t·w)"
    source: str = "Data Mixing Laws, Ye et al. (arXiv 2403.16952), eq. 1"

    def fit(self, runs: MixtureRuns, *, weights: Array | None = None) -> ShareFit:
        """Fit all domains.

        Raises:
            UserError: see ``check_one_scale``.
        """
        return _fit(self, runs, weights)

    def solve(self, shares: Array, losses: Array, weights: Array) -> tuple[float, Array]:
        """Return E and t (K,) of one domain.

        E is searched as a share of the lowest loss. With E fixed, log(L - E) is linear in w: the
        best such line starts the search.
        """
        root, lowest = np.sqrt(weights), float(losses.min())
        logs = np.log(losses)
        ridge, level = np.sqrt(_RIDGE), float(np.average(logs, weights=weights))

        def residuals(theta: Array) -> Array:
            misfit = np.log(theta[0] * lowest + np.exp(shares @ theta[1:])) - logs
            return np.r_[misfit * root, ridge * (theta[1:] - level)]

        def jacobian(theta: Array) -> Array:
            above = np.exp(shares @ theta[1:])
            by_loss = root / (theta[0] * lowest + above)
            fit = np.column_stack([by_loss * lowest, shares * (by_loss * above)[:, None]])
            held = np.eye(len(theta))[1:] * ridge
            return np.vstack([fit, held])

        starts = []
        for share in _STARTS:
            line = np.log(losses - share * lowest)
            slopes = np.linalg.lstsq(shares * root[:, None], line * root, rcond=None)[0]
            starts.append(np.r_[share, slopes])
        start = min(starts, key=lambda theta: float(np.sum(residuals(theta) ** 2)))
        most = np.r_[_MOST_FLOOR, np.full(shares.shape[1], np.inf)]
        least = np.r_[0.0, np.full(shares.shape[1], -np.inf)]
        found = least_squares(residuals, start, jacobian, bounds=(least, most), max_nfev=100)
        return float(found.x[0] * lowest), found.x[1:]

    def value(self, shares: Array, floor: Array, slopes: Array) -> Array:
        """Return losses (T, J) at shares (T, K)."""
        return floor + np.exp(shares @ slopes.T)


LAWS: dict[str, LinearLaw | ExponentialLaw] = {
    law.name: law for law in (LinearLaw(), ExponentialLaw())
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShareFit:
    """A fitted linear or exponential law.

    Attributes:
        law: the law.
        components: names of the components (K).
        domains: names of the domains (J).
        scale: N and D of the fitted runs.
        floor: E of each domain (J,); NaN if it has fewer than K + 1 losses.
        slopes: t of each domain (J, K); NaN likewise.
    """

    law: LinearLaw | ExponentialLaw
    components: tuple[str, ...]
    domains: tuple[str, ...]
    scale: OneScale
    floor: Array
    slopes: Array

    def predict(self, shares: Array, *, params: Any = None, tokens: Any = None) -> Array:
        """Return losses (T, J) at shares (T, K); NaN at another N or D than the fitted one.

        N and D may be left out. Runs of another size keep about the same order of mixtures, but
        not these losses.

        Raises:
            UserError: see ``checked_shares``.
        """
        given = checked_shares(shares, self.components, self.law.name)
        return self.scale.only(self.law.value(given, self.floor, self.slopes), params, tokens)

    def to_dict(self) -> dict[str, Any]:
        """Return the fit as JSON values."""
        return {
            "law": self.law.name,
            "components": list(self.components),
            "domains": list(self.domains),
            "scale": dataclasses.asdict(self.scale),
            "floor": [None if np.isnan(value) else value for value in self.floor.tolist()],
            "slopes": [
                [None if np.isnan(value) else value for value in row]
                for row in self.slopes.tolist()
            ],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ShareFit:
        """Return the fit of ``to_dict``."""
        return cls(
            law=LAWS[values["law"]],
            components=tuple(values["components"]),
            domains=tuple(values["domains"]),
            scale=OneScale(**values["scale"]),
            floor=np.array(values["floor"], float),
            slopes=np.array(values["slopes"], float),
        )


def _fit(law: LinearLaw | ExponentialLaw, runs: MixtureRuns, weights: Array | None) -> ShareFit:
    """Fit each domain on its own."""
    check_one_scale(runs, law.name)
    given = checked_weights(weights, len(runs))
    floor = np.full(len(runs.domains), np.nan)
    slopes = np.full((len(runs.domains), len(runs.components)), np.nan)
    for j, losses in enumerate(runs.losses.T):
        rows = np.isfinite(losses) & (given > 0)
        if rows.sum() > len(runs.components):
            floor[j], slopes[j] = law.solve(runs.shares[rows], losses[rows], given[rows])
    return ShareFit(
        law=law,
        components=runs.components,
        domains=runs.domains,
        scale=OneScale.of(runs),
        floor=floor,
        slopes=slopes,
    )
