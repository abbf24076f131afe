"""Estimators of the shifted power law  y = K (x - E_x)^kappa + E_y  that stay regular when extrapolated.

Two of its four parameters, E_x and kappa, say almost the same thing, how the line bends, and losses determine them
badly: free least squares follows the noise into wild extrapolations, and E from a compute-to-loss law inherits that
law's bias. `estimate` instead weighs all shapes (E_x, kappa) on a grid by their likelihood, K and E_y solved
(variable projection), times a weak prior that the line is nearly straight, and reports the law at the mean shape.
The grid makes it deterministic, independent of starts and of the order of points, and cheap enough to repeat for
hundreds of reweightings of the runs, from which the bands come. experiments/published/README.md says what it was chosen
against, and how.
"""

from __future__ import annotations

import dataclasses

import numpy as np

__all__ = ["Estimate", "Points", "Prior", "estimate", "run_weights"]

Array = np.ndarray

# Shares of min x at which E_x is tried, and exponents. E_x = min x would put a vertical tangent on the lowest point.
_SHARES = np.concatenate([np.linspace(0.0, 0.9, 19), [0.93, 0.96, 0.98]])
_LOG_KAPPA = np.linspace(np.log(0.2), np.log(4.0), 49)
# Tokens per parameter at which a line with an allocation term is drawn: near the compute-optimal of most sweeps.
REFERENCE_TOKENS_PER_PARAM = 16.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prior:
    """What is believed of a line before it is seen; chosen once, by nested hold-out on published sweeps.

    Attributes:
      log_kappa: standard deviation of ln kappa about 0, the straight line.
      share: (a, b) of a Beta distribution of E_x / min x.
      allocation: standard deviation of the relative move of y per e-fold of D/N at equal x; 0 leaves the term out.
    """

    log_kappa: float = 0.5
    share: tuple[float, float] = (2.0, 2.0)
    allocation: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Points:
    """x, y (M,); run of each point as 0..R-1 (M,); ln(D/N) relative to the reference (M,), zeros if it is not used."""

    x: Array
    y: Array
    run: Array
    allocation: Array

    @property
    def n_runs(self) -> int:
        return int(self.run.max()) + 1 if len(self.run) else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """The law and how it moves when runs are reweighed.

    Attributes:
      parameters: (5,) K, kappa, E_x, E_y, gamma: y = K (x - E_x)^kappa + E_y + gamma ln(M / M_reference).
      draws: (S, 5) the same for S reweightings of the runs, each at one shape drawn from its posterior.
      scatter: relative standard deviation of y about the law, over points, degrees of freedom taken off.
      effective: points that the sample is worth, between its runs and its points (residuals within a run agree).
    """

    parameters: Array
    draws: Array
    scatter: float
    effective: float


def run_weights(points: Points, *, resamples: int, seed: int) -> Array:
    """Bayesian bootstrap by run (Rubin 1981): weights (resamples, M), Dirichlet(1, ..., 1) over runs, mean 1.

    Smooth weights, because a multinomial resample of three runs is one run in one case of nine.
    """
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.ones(points.n_runs), size=resamples) * points.n_runs
    return shares[:, points.run]


def curve(parameters_Px5: Array, x: Array, allocation: Array | float = 0.0) -> Array:
    """The law (P, M) of each parameter vector at x (M,); at and below E_x its limit."""
    K, kappa, E_x, E_y, gamma = (np.asarray(parameters_Px5)[:, i, None] for i in range(5))
    gap = np.maximum(np.asarray(x, float) - E_x, 1e-12)
    return K * gap**kappa + E_y + gamma * np.asarray(allocation, float)


def estimate(
    points: Points, prior: Prior, *, resamples: int = 200, seed: int = 0, E_x: float | None = None,
    E_y: float | None = None,
) -> Estimate:  # fmt: skip
    """Fits the law to M points of at least two distinct x; E_x and E_y may be given.

    Weighted least squares on y relative to its size; the noise variance is integrated out.
    """
    grid = _Grid(points, prior, E_x, E_y)
    once = np.ones((1, len(points.x)))
    effective = float(len(points.x))
    # The residuals say what the sample is worth, and that says how sharp the likelihood is: twice is enough.
    for _ in range(2):
        parameters = grid.mean_shape(once, effective)[0]
        residual = points.y / _at(parameters, points) - 1
        effective = _effective_size(residual, points.run)
    left = max(effective - 2 - grid.free, 1.0)
    scatter = float(np.sqrt(np.sum(residual**2) / len(residual) * effective / left))
    if resamples and points.n_runs > 1:
        weights = run_weights(points, resamples=resamples, seed=seed)
        draws = grid.drawn_shape(weights, effective, np.random.default_rng([seed, 1]))
    else:
        draws = np.empty((0, 5))
    return Estimate(parameters=parameters, draws=draws, scatter=scatter, effective=effective)


def _at(parameters: Array, points: Points) -> Array:
    return curve(parameters[None], points.x, points.allocation)[0]


def _effective_size(residual: Array, run: Array) -> float:
    """M / (1 + (m - 1) rho), rho the intraclass correlation of the residuals within runs of m points (Kish 1965)."""
    n, count = len(residual), np.bincount(run)
    if len(count) < 2 or n == len(count):
        return float(n)
    mean = np.bincount(run, residual) / count
    within = np.sum((residual - mean[run]) ** 2) / (n - len(count))
    size = (n - np.sum(count**2) / n) / (len(count) - 1)
    between = np.sum(count * (mean - residual.mean()) ** 2) / (len(count) - 1)
    above = max(between - within, 0.0)
    rho = above / (above + size * within) if above + size * within > 0 else 0.0
    return float(max(n / (1 + (size - 1) * rho), len(count)))


class _Grid:
    """All shapes (E_x, kappa) of one sample, and the linear parameters solved for each."""

    def __init__(self, points: Points, prior: Prior, E_x: float | None, E_y: float | None) -> None:
        self.points, self.prior, self.E_y = points, prior, E_y
        low = float(points.x.min())
        shares = _SHARES if E_x is None else np.array([E_x / low])
        self.free = int(E_x is None) + int(E_y is None) + int(prior.allocation > 0)
        share, log_kappa = np.meshgrid(shares, _LOG_KAPPA, indexing="ij")
        self.share, self.log_kappa = share.ravel(), log_kappa.ravel()
        self.log_prior = -0.5 * (self.log_kappa / prior.log_kappa) ** 2
        if E_x is None:
            a, b = prior.share
            inside = np.clip(shares, 0.005, 0.995)
            density = (a - 1) * np.log(inside) + (b - 1) * np.log1p(-inside)
            width = np.log(np.gradient(shares))
            self.log_prior += np.repeat(density + width, len(_LOG_KAPPA))
        self.low, self.middle = low, float(np.median(points.x))

    def _nuisance(self) -> Array:
        """Columns (Q, M) whose coefficients are solved beside K: 1 for E_y, and the allocation."""
        rows = [] if self.E_y is not None else [np.ones_like(self.points.x)]
        if self.prior.allocation > 0:
            rows.append(self.points.allocation)
        return np.array(rows).reshape(len(rows), len(self.points.x))

    def _power(self, E_x: Array, log_kappa: Array) -> Array:
        """((x - E_x) / (middle - E_x))^kappa (G, M): scaled, so that K stays of the size of y."""
        gap = (self.points.x - E_x[:, None]) / (self.middle - E_x)[:, None]
        return np.maximum(gap, 1e-12) ** np.exp(log_kappa)[:, None]

    def _solve(self, z: Array, weights: Array, ridge: Array) -> tuple[Array, Array, Array]:
        """Least squares of y on z and the nuisance columns, z (G, M) or one row per weighting (S, M) if G = S.

        Returns (G, S) objective, (G, S) K of the scaled power, (G, S, Q) nuisance coefficients.
        """
        y = self.points.y - (self.E_y or 0.0)
        w = weights / self.points.y**2
        rows = self._nuisance()
        gram = np.einsum("sm,pm,qm->spq", w, rows, rows)
        q = np.arange(len(rows))
        gram[:, q, q] += ridge + 1e-12 * np.einsum("sm,pm->sp", w, rows**2)
        zz, zy = z**2 @ w.T, (z * y) @ w.T
        zb = np.stack([(z * row) @ w.T for row in rows], axis=-1) if len(rows) else np.zeros((*zz.shape, 0))  # fmt: skip
        by = np.einsum("sm,qm->sq", w * y, rows)
        inverse = np.linalg.inv(gram) if len(rows) else gram
        by_inverse = np.einsum("sq,sqp->sp", by, inverse)
        zb_inverse = np.einsum("gsq,sqp->gsp", zb, inverse)
        zz = zz - np.sum(zb_inverse * zb, axis=-1)
        zy = zy - np.einsum("gsp,sp->gs", zb_inverse, by)
        yy = w @ y**2 - np.sum(by_inverse * by, axis=-1)
        K = np.maximum(zy, 0.0) / np.maximum(zz, 1e-300)
        coefficients = by_inverse[None] - K[..., None] * zb_inverse
        objective = yy[None] - 2 * K * zy + K**2 * zz
        return np.maximum(objective, 1e-16 * yy[None]), K, coefficients

    def _ridge(self, weights: Array) -> Array:
        """Precision (S, Q) of the nuisance coefficients: noise variance over prior variance, for the allocation."""
        rows = self._nuisance()
        ridge = np.zeros((len(weights), len(rows)))
        if self.prior.allocation > 0:
            z = self._power(np.array([0.5 * self.low]), np.zeros(1))
            objective, _, _ = self._solve(z, weights, ridge)
            noise = objective[0] / max(len(self.points.x) - 5, 1)
            ridge[:, -1] = noise / (self.prior.allocation * np.median(self.points.y)) ** 2
        return ridge

    def _posterior(self, weights: Array, effective: float, ridge: Array) -> Array:
        """Probability (G, S) of each shape; E_y < 0 is impossible unless nothing else is left."""
        z = self._power(self.share * self.low, self.log_kappa)
        objective, _, coefficients = self._solve(z, weights, ridge)
        left = max(effective - 2 - int(self.prior.allocation > 0), 1.0)
        log = self.log_prior[:, None] - 0.5 * left * np.log(objective / objective.min(axis=0))
        if self.E_y is None:
            possible = coefficients[..., 0] >= 0
            log = np.where(possible | ~possible.any(axis=0), log, -np.inf)
        probability = np.exp(log - log.max(axis=0))
        return probability / probability.sum(axis=0)

    def _laws(self, E_x: Array, log_kappa: Array, weights: Array, ridge: Array) -> Array:
        """Parameters (S, 5) with the linear ones solved at one shape (S,), (S,) per weighting."""
        out = np.zeros((len(weights), 5))
        z = self._power(E_x, log_kappa)
        for s in range(len(weights)):
            _, K, coefficients = self._solve(z[s : s + 1], weights[s : s + 1], ridge[s : s + 1])
            rest = list(coefficients[0, 0])
            out[s, 3] = rest.pop(0) if self.E_y is None else self.E_y
            out[s, 4] = rest.pop(0) if rest else 0.0
            out[s, 0] = K[0, 0]
        kappa = np.exp(log_kappa)
        out[:, 0] *= (self.middle - E_x) ** -kappa
        out[:, 1], out[:, 2] = kappa, E_x
        return out

    def mean_shape(self, weights: Array, effective: float) -> Array:
        """The law (S, 5) at the posterior mean of E_x and ln kappa."""
        ridge = self._ridge(weights)
        probability = self._posterior(weights, effective, ridge)
        return self._laws(
            self.low * (self.share @ probability), self.log_kappa @ probability, weights, ridge
        )

    def drawn_shape(self, weights: Array, effective: float, random: np.random.Generator) -> Array:
        """The law (S, 5) at one shape drawn from each weighting's posterior."""
        ridge = self._ridge(weights)
        cumulative = np.cumsum(self._posterior(weights, effective, ridge), axis=0)
        pick = np.argmax(cumulative >= random.random(len(weights)) * cumulative[-1], axis=0)
        return self._laws(self.low * self.share[pick], self.log_kappa[pick], weights, ridge)
