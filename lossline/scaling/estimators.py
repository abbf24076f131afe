"""An estimator of the shifted power law  y = K (x - E_x)^kappa + E_y  that stays regular when
extrapolated.

Two of the four parameters, E_x and kappa, say almost the same thing, how the line bends, and losses
determine them badly: free least squares follows the noise into wild extrapolations, and E from a
compute-to-loss law inherits the bias of that law. `estimate` weighs all shapes (E_x, kappa) on a
grid by their likelihood, with K and E_y solved (variable projection), times a weak prior, and
returns the law at the mean shape. Three things make it sharp:

- points of low loss count more, because that is the end that gets extrapolated;
- a term in ln(D/N) takes up what a run's allocation of compute adds to its place on the line, where
  many runs show it (two runs of equal loss on A differ on B if one was starved of data);
- the noise variance is integrated out, and the sample counts for what it is worth: residuals of
  checkpoints of one run agree.

The grid makes it deterministic and independent of starts and of the order of points, and cheap
enough to repeat for hundreds of reweightings of the runs, from which the bands come. What it was
chosen against, and how, stands in experiments/published/README.md.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from lossline.errors import UserError

__all__ = [
    "PARAMETERS",
    "TASK_PRIOR",
    "TEXT_PRIOR",
    "Estimate",
    "Points",
    "Prior",
    "curve",
    "estimate",
]

Array = np.ndarray

# Shares of min x at which E_x is tried, and exponents. Beyond 0.9 the line would plunge right
# behind the last run: no sweep came so near to its irreducible loss that it could show this.
_SHARES = np.linspace(0.0, 0.9, 14)
_LOG_KAPPA = np.linspace(np.log(0.2), np.log(4.0), 25)
# Refinements of the grid, and the number of nodes over which the posterior should be spread.
_REFINEMENTS = 3
_ENOUGH_NODES = 12.0
# The effect of D/N is told from the bend of the line only by this many runs, and where x explains
# no more than this share of ln(D/N). Along one run it explains all.
_RUNS_FOR_ALLOCATION = 8
_EXPLAINED_ALLOCATION = 0.5
# Weights toward low loss leave a sample of at least this many points' worth, if it has them.
_POINTS_TO_KEEP = 20.0
PARAMETERS = ("K", "kappa", "E_x", "E_y", "gamma", "tilt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prior:
    """What is believed of a line before it is seen; chosen once, by nested hold-out on published
    sweeps.

    Attributes:
      kappa: center of kappa; log_kappa: standard deviation of ln kappa about ln of it.
      share: (a, b) of a Beta distribution of E_x / min x.
      nearness: points weigh (x / min x)^-nearness, or less steeply where these are few.
      allocation: standard deviation of the relative move of y per e-fold of D/N at equal x; its
        change with x has three times that per doubling of x. 0 leaves both out.
    """

    kappa: float = 1.0
    log_kappa: float = 1.0
    share: tuple[float, float] = (2.0, 3.0)
    nearness: float = 6.0
    allocation: float = 0.003

    def __post_init__(self) -> None:
        positive = (self.kappa, self.log_kappa, *self.share)
        if len(self.share) != 2 or not min(positive) > 0 or min(self.nearness, self.allocation) < 0:
            raise UserError(
                "Prior: kappa, log_kappa and both of share must be positive, nearness and "
                "allocation not negative"
            )


TEXT_PRIOR = Prior()
# The loss of gold answers falls faster as models get better: its lines bend downward.
TASK_PRIOR = Prior(kappa=0.37, log_kappa=0.5, share=(3.0, 2.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Points:
    """x, y (M,); run of each point as 0..R-1 (M,); ln(D/N) relative to a reference (M,), NaN where
    unknown."""

    x: Array
    y: Array
    run: Array
    allocation: Array

    @property
    def n_runs(self) -> int:
        return int(self.run.max()) + 1 if len(self.run) else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """The law, and how it moves when runs are reweighed.

    Attributes:
      parameters: (6,) K, kappa, E_x, E_y, gamma, tilt of the law in `curve`.
      draws: (S, 6) the same for S reweightings of the runs, each at a shape of its posterior.
      scatter: relative standard deviation of y about the law, degrees of freedom taken off.
      effective: points that the sample is worth.
    """

    parameters: Array
    draws: Array
    scatter: float
    effective: float


def curve(parameters_Px6: Array, x: Array, allocation: Array | float = 0.0) -> Array:
    """The law (P, M) of each parameter vector at x (M,), at and below E_x its limit:

    y = K (x - E_x)^kappa + E_y + (gamma + tilt x) a,   a = ln(D/N) - ln(D/N of the reference)
    """
    K, kappa, E_x, E_y, gamma, tilt = (
        np.asarray(parameters_Px6, float)[:, i, None] for i in range(len(PARAMETERS))
    )
    x = np.asarray(x, float)
    gap = np.maximum(x - E_x, 1e-12)
    return K * gap**kappa + E_y + (gamma + tilt * x) * np.asarray(allocation, float)


def estimate(
    points: Points, prior: Prior, *, resamples: int = 200, seed: int = 0,
    E_x: float | None = None, E_y: float | None = None,
) -> Estimate:  # fmt: skip
    """Fits the law to M points of at least three distinct x; E_x and E_y may be given."""
    grid = _Grid(points, prior, E_x, E_y)
    once = np.ones((1, len(points.x)))
    effective = grid.worth
    # The residuals say what the sample is worth, and that says how sharp the likelihood is.
    for _ in range(2):
        parameters = grid.mean_shape(once, effective)[0]
        residual = points.y / curve(parameters[None], points.x, grid.allocation)[0] - 1
        effective = max(grid.worth * _independence(residual, points.run), 1.0)
    left = max(effective - grid.degrees, 1.0)
    spread = np.sum(grid.weight * residual**2) / np.sum(grid.weight)
    draws = np.empty((0, len(PARAMETERS)))
    if resamples and points.n_runs > 1:
        random = np.random.default_rng(seed)
        draws = grid.drawn_shape(_run_weights(points, resamples, random), effective, random)
    return Estimate(
        parameters=parameters,
        draws=draws,
        scatter=float(np.sqrt(spread * max(effective / left, 1.0))),
        effective=effective,
    )


def _run_weights(points: Points, resamples: int, random: np.random.Generator) -> Array:
    """Bayesian bootstrap by run (Rubin 1981): weights (S, M), Dirichlet(1, ..., 1) over runs.

    Smooth weights, because a multinomial resample of three runs is one run in one case of nine.
    """
    shares = random.dirichlet(np.ones(points.n_runs), size=resamples) * points.n_runs
    return shares[:, points.run]


def _independence(residual: Array, run: Array) -> float:
    """1 / (1 + (m - 1) rho), rho the intraclass correlation of residuals within runs of m points
    (Kish 1965)."""
    n, count = len(residual), np.bincount(run)
    if len(count) < 2 or n == len(count):
        return 1.0
    mean = np.bincount(run, residual) / count
    within = np.sum((residual - mean[run]) ** 2) / (n - len(count))
    size = (n - np.sum(count**2) / n) / (len(count) - 1)
    between = np.sum(count * (mean - residual.mean()) ** 2) / (len(count) - 1)
    above = max(between - within, 0.0)
    rho = above / (above + size * within) if above + size * within > 0 else 0.0
    return float(max(1 / (1 + (size - 1) * rho), len(count) / n))


def _worth(weight: Array) -> float:
    """Equal weights that say as much as these (Kish 1965)."""
    return float(np.sum(weight) ** 2 / np.sum(weight**2))


def _nearness(x: Array, power: float) -> Array:
    """(x / min x)^-power, with a smaller power where few points would be left to speak; mean 1."""
    for share in np.linspace(1.0, 0.0, 25):
        weight = (x / x.min()) ** (-power * share)
        if _worth(weight) >= min(_POINTS_TO_KEEP, 0.99 * len(x)):
            break
    return weight / weight.mean()


def _size_of_y(x: Array, y: Array, weight: Array) -> Array:
    """A smooth y (M,) to which errors are relative: relative to the measured one, low outliers
    would weigh most."""
    slope, height = np.polyfit(x, np.log(y), 1, w=np.sqrt(weight))
    return np.exp(height + slope * x)


def _zoom(axis: Array, probability: Array) -> Array:
    """As many nodes over the part of the axis that is not improbable, and one node to either
    side."""
    if len(axis) == 1:
        return axis
    inside = np.flatnonzero(probability > 1e-3 * probability.max())
    low, high = max(inside[0] - 1, 0), min(inside[-1] + 1, len(axis) - 1)
    return np.linspace(axis[low], axis[high], len(axis))


def _tells_allocation(points: Points) -> bool:
    """Whether the points show what D/N does at equal x."""
    a, x = points.allocation, points.x
    if points.n_runs < _RUNS_FOR_ALLOCATION or not np.all(np.isfinite(a)) or not np.ptp(a) > 0:
        return False
    return float(np.corrcoef(a, np.log(x))[0, 1]) ** 2 <= _EXPLAINED_ALLOCATION


class _Grid:
    """All shapes (E_x, kappa) of one sample, with the linear parameters solved for each.

    Internally the power is scaled to 1 at the median x, so that its coefficient has the size of y,
    and the columns beside it (the "rest": 1, a, a (x / min x - 1)) are projected out.
    """

    def __init__(self, points: Points, prior: Prior, E_x: float | None, E_y: float | None) -> None:
        self.x, self.y, self.E_y, self.prior = points.x, points.y, E_y, prior
        self.low, self.middle = float(points.x.min()), float(np.median(points.x))
        used = prior.allocation > 0 and _tells_allocation(points)
        self.allocation = points.allocation if used else np.zeros_like(points.x)
        self.used = used
        self.weight = _nearness(self.x, prior.nearness)
        self.relative = self.weight / _size_of_y(self.x, self.y, self.weight) ** 2
        self.worth = _worth(self.weight)
        self.degrees = 2 + int(E_x is None) + int(E_y is None) + 2 * int(used) - 1
        self._set_nodes(_SHARES if E_x is None else np.array([E_x / self.low]), _LOG_KAPPA)
        self._refine()

    def _set_nodes(self, shares: Array, log_kappas: Array) -> None:
        """Takes all combinations as the grid, and the prior's log density, with the cells' sizes,
        there."""
        self.axes = (shares, log_kappas)
        share, log_kappa = np.meshgrid(shares, log_kappas, indexing="ij")
        self.share, self.log_kappa = share.ravel(), log_kappa.ravel()
        z = (self.log_kappa - np.log(self.prior.kappa)) / self.prior.log_kappa
        self.log_prior = -0.5 * z**2
        self.cell = np.zeros(len(shares))
        if len(shares) > 1:
            (a, b), inside = self.prior.share, np.clip(shares, 0.005, 0.995)
            self.cell = np.gradient(shares)
            density = (a - 1) * np.log(inside) + (b - 1) * np.log1p(-inside) + np.log(self.cell)
            self.log_prior += np.repeat(density, len(log_kappas))
        self.cell = np.repeat(self.cell, len(log_kappas))

    def _refine(self) -> None:
        """Shrinks the grid to where the posterior is, while that is only a few nodes wide."""
        once = np.ones((1, len(self.x)))
        ridge = self._ridge(once)
        for _ in range(_REFINEMENTS):
            probability = self._posterior(once, self.worth, ridge)[:, 0]
            if 1 / np.sum(probability**2) > _ENOUGH_NODES:
                return
            table = probability.reshape(len(self.axes[0]), len(self.axes[1]))
            self._set_nodes(
                _zoom(self.axes[0], table.sum(axis=1)), _zoom(self.axes[1], table.sum(axis=0))
            )

    def _rest(self) -> Array:
        """Columns (Q, M) beside the power: 1 unless E_y is given, and the allocation's."""
        rows = [] if self.E_y is not None else [np.ones_like(self.x)]
        if self.used:
            rows += [self.allocation, self.allocation * (self.x / self.low - 1)]
        return np.array(rows).reshape(len(rows), len(self.x))

    def _power(self, E_x: Array, log_kappa: Array) -> Array:
        """((x - E_x) / (middle - E_x))^kappa (G, M)."""
        # A grid has few E_x: one logarithm for each, and one large array, worked on in place.
        shifts, which = np.unique(E_x, return_inverse=True)
        gap = (self.x - shifts[:, None]) / (self.middle - shifts)[:, None]
        power = np.log(np.maximum(gap, 1e-12))[which]
        power *= np.exp(log_kappa)[:, None]
        return np.exp(power, out=power)

    def _solve(
        self, z: Array, weights: Array, ridge: Array, *, paired: bool = False
    ) -> tuple[Array, Array, Array]:
        """Weighted least squares of y on z (G, M) and the rest, for weightings (S, M): objective
        (G, S), coefficient of z (G, S), of the rest (G, S, Q).

        ``paired``: z has one row per weighting, and G is left out of the shapes.
        """
        w, y, rows = weights * self.relative, self.y - (self.E_y or 0.0), self._rest()

        def product(columns: Array) -> Array:
            return np.sum(columns * w, axis=-1) if paired else columns @ w.T

        gram = np.einsum("sm,pm,qm->spq", w, rows, rows)
        diagonal = np.arange(len(rows))
        gram[:, diagonal, diagonal] += ridge + 1e-12 * np.einsum("sm,pm->sp", w, rows**2)
        inverse = np.linalg.inv(gram) if len(rows) else gram
        zb = np.stack([product(z * row) for row in rows] or [np.empty(0)], axis=-1)
        zb = zb if len(rows) else np.zeros((*product(z).shape, 0))
        by = np.einsum("sm,qm->sq", w * y, rows)
        by_inverse = np.einsum("sq,sqp->sp", by, inverse)
        zb_inverse = np.einsum("...sq,sqp->...sp", zb, inverse)
        zz = product(z**2) - np.sum(zb_inverse * zb, axis=-1)
        zy = product(z * y) - np.sum(zb_inverse * by, axis=-1)
        yy = w @ y**2
        left = yy - np.sum(by_inverse * by, axis=-1)
        K = np.maximum(zy, 0.0) / np.maximum(zz, 1e-300)
        objective = left - 2 * K * zy + K**2 * zz
        return np.maximum(objective, 1e-14 * yy), K, by_inverse - K[..., None] * zb_inverse

    def _ridge(self, weights: Array) -> Array:
        """Precision (S, Q) of the rest's coefficients: noise variance over prior variance."""
        rows = self._rest()
        ridge = np.zeros((len(weights), len(rows)))
        if self.used:
            straight = self._power(np.array([0.5 * self.low]), np.zeros(1))
            noise = self._solve(straight, weights, ridge)[0][0] / max(len(self.x) - 5, 1)
            scale = self.prior.allocation * np.median(self.y)
            ridge[:, -2] = noise / scale**2
            ridge[:, -1] = noise / (3 * scale) ** 2
        return ridge

    def _posterior(self, weights: Array, effective: float, ridge: Array) -> Array:
        """Probability (G, S) of each shape; E_y < 0 is impossible unless nothing else is left."""
        z = self._power(self.share * self.low, self.log_kappa)
        objective, _, coefficients = self._solve(z, weights, ridge)
        exponent = max(effective - self.degrees, 1.0) / 2
        log = self.log_prior[:, None] - exponent * np.log(objective / objective.min(axis=0))
        if self.E_y is None:
            possible = coefficients[..., 0] >= 0
            log = np.where(possible | ~possible.any(axis=0), log, -np.inf)
        probability = np.exp(log - log.max(axis=0))
        return probability / probability.sum(axis=0)

    def _laws(self, E_x: Array, log_kappa: Array, weights: Array, ridge: Array) -> Array:
        """Parameters (S, 6), the linear ones solved at one shape (S,), (S,) per weighting."""
        z = self._power(E_x, log_kappa)
        _, K, rest = self._solve(z, weights, ridge, paired=True)
        kappa = np.exp(log_kappa)
        out = np.zeros((len(weights), len(PARAMETERS)))
        out[:, 0], out[:, 1], out[:, 2] = K * (self.middle - E_x) ** -kappa, kappa, E_x
        out[:, 3] = rest[:, 0] if self.E_y is None else self.E_y
        if self.used:
            out[:, 4], out[:, 5] = rest[:, -2] - rest[:, -1], rest[:, -1] / self.low
        return out

    def mean_shape(self, weights: Array, effective: float) -> Array:
        """The law (S, 6) at the posterior mean of E_x and ln kappa."""
        ridge = self._ridge(weights)
        probability = self._posterior(weights, effective, ridge)
        E_x = self.low * (self.share @ probability)
        return self._laws(E_x, self.log_kappa @ probability, weights, ridge)

    def drawn_shape(self, weights: Array, effective: float, random: np.random.Generator) -> Array:
        """The law (S, 6) at one shape drawn from each weighting's posterior."""
        ridge = self._ridge(weights)
        cumulative = np.cumsum(self._posterior(weights, effective, ridge), axis=0)
        pick = np.argmax(cumulative >= random.random(len(weights)) * cumulative[-1], axis=0)
        off = random.uniform(-0.5, 0.5, (2, len(weights)))
        share = self.share[pick] + off[0] * self.cell[pick]
        if np.any(self.cell):
            share = np.clip(share, 0.0, _SHARES[-1])
        step = self.axes[1][1] - self.axes[1][0]
        log_kappa = self.log_kappa[pick] + off[1] * step
        return self._laws(self.low * share, log_kappa, weights, ridge)
