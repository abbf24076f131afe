"""Ours at one scale: a Gaussian process on shares, with one kernel per domain.

Many components, exact zeros and few runs are its ground. Everything is deterministic: a fit is the
measured losses and the hyperparameters, and predictions follow in closed form.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.optimize import minimize

from lossline.errors import UserError
from lossline.mixtures import kernel
from lossline.mixtures.one_scale import OneScale, check_one_scale, checked_weights
from lossline.mixtures.runs import MixtureRuns, checked_shares

Array = np.ndarray

# Prior of the hyperparameters that all domains share: centre and spread of log amplitude, slope,
# noise, q, e; of the log weight of a component. Losses are standardised logs.
_CENTRE, _WEIGHT_CENTRE = np.array([0.0, -2.0, -1.5, np.log(0.3), np.log(2e-3)]), -2.0
_SPREAD, _WEIGHT_SPREAD = np.array([1.5, 2.0, 1.5, 1.0, 1.0]), 1.5
# How far a domain's own hyperparameters lie from the shared ones, as standard deviations.
_APART, _WEIGHT_APART = np.array([1.0, 1.0, 1.0, 0.5, 0.5]), 1.0
_LEAST = np.array([-4.0, -6.0, -7.0, np.log(0.03), np.log(1e-5)])
_MOST = np.array([5.0, 4.0, 1.5, np.log(2.0), np.log(0.5)])
_WEIGHT_BOUNDS = (-8.0, 5.0)
_SHARED_STEPS, _OWN_STEPS = 60, 20  # iterations of L-BFGS
_MOST_ROWS = 256  # runs that the hyperparameters are searched with; predictions use all
_FEWEST = 3  # losses that a domain needs
# Degrees of freedom of the noise, and steps to the weights of the runs that follow from them.
_FREEDOM, _REWEIGHTINGS = 4.0, 5
_CHUNK = 4096  # mixtures predicted at once

Misfit = Callable[[Array], tuple[float, Array]]


@dataclasses.dataclass(frozen=True)
class ProcessLaw:
    """log L_j = Gaussian process of the shares, with a Matérn kernel on f(w) (``kernel``).

    The hyperparameters are the most probable ones: first those that all domains share, then each
    domain's own, kept near the shared ones by a normal prior. A run that all others fail to
    predict counts less, as under noise of Student's t with 4 degrees of freedom. Features, kernel,
    priors and noise were chosen by folds of RegMix's runs of 1M parameters and of Olmix's runs,
    one choice for both.
    """

    name: str = "process"
    equation: str = "log L = GP(f(w)), f(w) = ((w + e)^q - e^q) / q, Matérn 5/2 + linear"
    source: str = "lossline; Rasmussen and Williams, Gaussian Processes (2006), ch. 5"

    def fit(self, runs: MixtureRuns, *, weights: Array | None = None) -> ProcessFit:
        """Fit all domains.

        Args:
            runs: runs of one N and one D.
            weights: how often each run counts (M,); 0 leaves a run out.

        Raises:
            UserError: see ``check_one_scale``; or no domain has three losses.
        """
        check_one_scale(runs, self.name)
        given = checked_weights(weights, len(runs))
        used = given > 0
        runs, given = runs[used], given[used]
        # One order of rows and components, so that the order given changes nothing.
        columns = np.argsort(runs.components)
        shares = runs.shares[:, columns]
        rows = np.lexsort([*runs.losses.T, *shares.T])
        logs = np.log(runs.losses[rows])
        theta = _hyperparameters(shares[rows], logs, given[rows])
        back = np.argsort(columns)
        theta[:, kernel.SHARED :] = theta[:, kernel.SHARED :][:, back]
        return ProcessFit(
            law=self,
            components=runs.components,
            domains=runs.domains,
            scale=OneScale.of(runs),
            shares=runs.shares[rows],
            logs=logs,
            weights=given[rows],
            theta=theta,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessFit:
    """A fitted Gaussian process of each domain.

    ``dataclasses.replace(fit, weights=...)`` resamples the runs at the same hyperparameters.

    Attributes:
        law: the law.
        components: names of the components (K).
        domains: names of the domains (J).
        scale: N and D of the fitted runs.
        shares: shares of the fitted runs (M, K).
        logs: logarithms of their losses (M, J); NaN where missing.
        weights: how often each run counts (M,).
        theta: hyperparameters of each domain (J, 5 + K), see ``kernel``; NaN where a domain has
            too few losses.
    """

    law: ProcessLaw
    components: tuple[str, ...]
    domains: tuple[str, ...]
    scale: OneScale
    shares: Array
    logs: Array
    weights: Array
    theta: Array

    def predict(self, shares: Array, *, params: Any = None, tokens: Any = None) -> Array:
        """Return losses (T, J) at shares (T, K); NaN at another N or D than the fitted one.

        Smooth in the shares, up to a share of exactly 0. N and D may be left out. Runs of another
        size keep about the same order of mixtures, but not these losses.

        Raises:
            UserError: see ``checked_shares``.
        """
        return self.scale.only(np.exp(self._moments(shares)[0]), params, tokens)

    def intervals(self, shares: Array, level: float) -> tuple[Array, Array]:
        """Return low and high ends (T, J) within which a new run lies with probability ``level``.

        The process's standard error times a factor: the quantile of the domain's own errors at
        each fitted run when that run is left out, in units of their standard errors.

        Raises:
            UserError: the level is not between 0 and 1; see ``checked_shares``.
        """
        if not 0 < level < 1:
            raise UserError(f"level of an interval: {level}. Give a number between 0 and 1.")
        mean, error = self._moments(shares)
        half = error * np.array([_quantile(part.left_out, level) for part in self._posteriors])
        return np.exp(mean - half), np.exp(mean + half)

    def standard_errors(self, shares: Array) -> Array:
        """Return the standard error (T, J) of the log loss of a new run, noise included."""
        return self._moments(shares)[1]

    def covariance(self, shares: Array, domain: str) -> tuple[Array, float]:
        """Return the covariance (T, T) of expected log losses, and the variance of one run's noise.

        Raises:
            UserError: see ``checked_shares``.
        """
        given = checked_shares(shares, self.components, self.law.name)
        return self._posteriors[self.domains.index(domain)].covariance(given)

    def _moments(self, shares: Array) -> tuple[Array, Array]:
        """Return mean and standard error (T, J) of the log loss of a new run."""
        given = checked_shares(shares, self.components, self.law.name)
        pieces = [
            [part.moments(given[at : at + _CHUNK]) for part in self._posteriors]
            for at in range(0, max(len(given), 1), _CHUNK)
        ]
        mean, error = (
            np.concatenate([np.column_stack([m[k] for m in piece]) for piece in pieces])
            for k in (0, 1)
        )
        return mean, error

    @functools.cached_property
    def _posteriors(self) -> list[_Posterior]:
        """Posterior of each domain (J)."""
        found = []
        for theta, logs in zip(self.theta, self.logs.T, strict=True):
            rows = np.isfinite(logs) & (self.weights > 0)
            found.append(_Posterior(theta, self.shares[rows], logs[rows], self.weights[rows]))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the fit as JSON values."""
        return {
            "law": self.law.name,
            "components": list(self.components),
            "domains": list(self.domains),
            "scale": dataclasses.asdict(self.scale),
            "shares": self.shares.tolist(),
            "logs": _json(self.logs),
            "weights": self.weights.tolist(),
            "theta": _json(self.theta),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ProcessFit:
        """Return the fit of ``to_dict``."""
        arrays = ("shares", "logs", "weights", "theta")
        return cls(
            law=ProcessLaw(),
            components=tuple(values["components"]),
            domains=tuple(values["domains"]),
            scale=OneScale(**values["scale"]),
            **{name: np.array(values[name], float) for name in arrays},
        )


class _Posterior:
    """Process of one domain, given its losses.

    Attributes:
        left_out: absolute errors (M,) at each run from all other runs, in units of their standard
            errors.
    """

    def __init__(self, theta: Array, shares: Array, logs: Array, weights: Array) -> None:
        self.theta = theta
        self.known = bool(np.isfinite(theta).all())
        self.left_out = np.array([np.nan])
        if not self.known:
            return
        self.center, self.unit, values = _standardised(logs, weights)
        self.points = kernel.features(theta, shares)[0]
        # Hyperparameters use up runs as parameters of a least-squares fit do; at most 3 in 4 here.
        free = max(len(values) - len(theta), len(values) / 4)
        self.widening = float(np.sqrt(len(values) / free))
        self.noise = float(np.exp(2 * theta[kernel.NOISE]))
        self.trust = np.ones(len(values))
        for _ in range(_REWEIGHTINGS):
            self._solve(values, weights * self.trust)
            self.trust = np.minimum((_FREEDOM + 1) / (_FREEDOM + self.left_out**2), 1.0)
        self._solve(values, weights * self.trust)

    def _solve(self, values: Array, weights: Array) -> None:
        """Condition on the losses of runs with these weights."""
        self.inverse = kernel.precision(self.theta, self.points, weights)
        self.alpha = self.inverse @ values
        # Leave-one-out in closed form (Rasmussen and Williams, eq. 5.12), for a run of weight 1.
        diagonal = np.diag(self.inverse)
        left = np.maximum(1 / diagonal - self.noise / weights, 0) + self.noise
        self.left_out = np.abs(self.alpha / diagonal) / np.sqrt(left)

    def moments(self, shares: Array) -> tuple[Array, Array]:
        """Return mean and standard error (T,) of the log loss of a new run."""
        if not self.known:
            return np.full(len(shares), np.nan), np.full(len(shares), np.nan)
        points = kernel.features(self.theta, shares)[0]
        cross = kernel.covariance(self.theta, points, self.points)
        explained = np.einsum("tm,tm->t", cross @ self.inverse, cross)
        left = np.maximum(kernel.variance(self.theta, points) - explained, 0) + self.noise
        error = self.unit * self.widening * np.sqrt(left)
        return self.center + self.unit * (cross @ self.alpha), error

    def covariance(self, shares: Array) -> tuple[Array, float]:
        """Return the covariance (T, T) of expected log losses, and the variance of the noise."""
        points = kernel.features(self.theta, shares)[0]
        cross = kernel.covariance(self.theta, points, self.points)
        left = kernel.covariance(self.theta, points, points) - cross @ self.inverse @ cross.T
        scale = (self.unit * self.widening) ** 2
        return scale * left, scale * self.noise


def _hyperparameters(shares: Array, logs: Array, weights: Array) -> Array:
    """Return the most probable hyperparameters of each domain (J, 5 + K)."""
    count = shares.shape[1]
    centre = np.r_[_CENTRE, np.full(count, _WEIGHT_CENTRE)]
    spread = np.r_[_SPREAD, np.full(count, _WEIGHT_SPREAD)]
    apart = np.r_[_APART, np.full(count, _WEIGHT_APART)]
    known = np.isfinite(logs)
    fitted = np.flatnonzero(known.sum(axis=0) >= _FEWEST)
    if not len(fitted):
        raise UserError(
            f"{ProcessLaw.name}: no domain has {_FEWEST} losses. Train more mixtures, or leave out "
            "fewer."
        )
    parts = []
    for mask in np.unique(known[:, fitted], axis=1).T:
        columns = fitted[(known[:, fitted] == mask[:, None]).all(axis=0)]
        values = np.column_stack([_standardised(logs[mask, j], weights[mask])[2] for j in columns])
        parts.append(_thinned(shares[mask], values, weights[mask]))

    def together(theta: Array) -> tuple[float, Array]:
        found = [kernel.misfit(theta, *part) for part in parts]
        gradient = np.sum([slope for _, slope in found], axis=0)
        return sum(value for value, _ in found) / len(fitted), gradient / len(fitted)

    shared = _most_probable(together, centre, centre, spread * np.sqrt(len(fitted)), _SHARED_STEPS)
    theta = np.full((logs.shape[1], len(shared)), np.nan)
    for j in fitted:
        rows = known[:, j]
        theta[j] = _own(shares[rows], logs[rows, j], weights[rows], shared, apart)
    return theta


def _thinned(shares: Array, values: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Return at most _MOST_ROWS of the rows, evenly spaced in their order."""
    if len(shares) <= _MOST_ROWS:
        return shares, values, weights
    kept = np.linspace(0, len(shares) - 1, _MOST_ROWS).astype(int)
    return shares[kept], values[kept], weights[kept]


def _own(shares: Array, logs: Array, weights: Array, shared: Array, apart: Array) -> Array:
    """Return the most probable hyperparameters of one domain, near the shared ones.

    Each run counts as far as the shared hyperparameters trust it.
    """
    values = _standardised(logs, weights)[2][:, None]
    trust = _Posterior(shared, shares, logs, weights).trust
    misfit = functools.partial(_misfit, *_thinned(shares, values, weights * trust))
    return _most_probable(misfit, shared, shared, apart, _OWN_STEPS)


def _misfit(shares: Array, values: Array, weights: Array, theta: Array) -> tuple[float, Array]:
    """Return the misfit of one domain, and its gradient."""
    return kernel.misfit(theta, shares, values, weights)


def _most_probable(misfit: Misfit, start: Array, centre: Array, spread: Array, steps: int) -> Array:
    """Return the hyperparameters of the least misfit plus normal prior."""

    def objective(theta: Array) -> tuple[float, Array]:
        value, gradient = misfit(theta)
        away = (theta - centre) / spread
        return value + 0.5 * float(away @ away), gradient + away / spread

    count = len(start) - kernel.SHARED
    least = np.r_[_LEAST, np.full(count, _WEIGHT_BOUNDS[0])]
    most = np.r_[_MOST, np.full(count, _WEIGHT_BOUNDS[1])]
    found = minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(least, most, strict=True)),
        options={"maxiter": steps},
    )
    return np.asarray(found.x)


def _standardised(logs: Array, weights: Array) -> tuple[float, float, Array]:
    """Return weighted mean and standard deviation of log losses, and the standardised ones."""
    center = float(np.average(logs, weights=weights))
    unit = float(np.sqrt(np.average((logs - center) ** 2, weights=weights))) or 1.0
    return center, unit, (logs - center) / unit


def _quantile(errors: Array, level: float) -> float:
    """Return the error that a share ``level`` of new ones stays below (split conformal rank)."""
    rank = min(int(np.ceil((len(errors) + 1) * level)), len(errors))
    return float(np.sort(errors)[rank - 1])


def _json(values: Array) -> list[list[float | None]]:
    """Return a matrix as JSON values, null for NaN."""
    return [[None if np.isnan(value) else value for value in row] for row in values.tolist()]
