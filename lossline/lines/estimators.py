"""Estimator of the shifted power law y = K (x - E_x)^kappa + E_y that extrapolates reliably.

E_x and kappa have almost the same effect: both bend the line. Losses determine them badly. Free
least squares follows the noise into wild extrapolations, and an E_x from a compute-to-loss law
inherits the bias of that law. ``estimate`` therefore weights all shapes (E_x, kappa) on a grid by
likelihood times a weak prior, with K and E_y solved for (variable projection), and returns the law
at the mean shape. Three more choices make it precise:

- Points of low loss get more weight, because lines are extrapolated from there.
- With many runs a term in ln(D/N) is fitted: of two runs with equal loss on A, the one that was
  short of data differs on B.
- The noise variance is integrated out. Errors that checkpoints of a run share are removed first
  (``run_errors``): the bend follows from points within runs, the height from the runs.

A grid needs no start values and does not depend on the order of points. It is also cheap enough to
repeat for hundreds of reweightings of the runs, from which bands follow: all sums over points are
made once (``power_sums``). These draws use a prior that prefers no shape: the prior of the line
itself would pull all of them to one side of a line that bends sharply.
experiments/published/README.md explains how the estimator was chosen, experiments/lines/README.md
how often its bands cover planted lines.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from lossline.errors import UserError
from lossline.lines.power_sums import Powers, Sums, span_of
from lossline.lines.run_errors import RunErrors, few_runs, shared_part, worth

Array = np.ndarray

# Grid of ln kappa.
_LOG_KAPPA = np.linspace(np.log(0.2), np.log(4.0), 25)
# E_x / min x of a nearly straight power, at which the noise is estimated.
_STRAIGHT = 0.5
# Largest number of refinements of the grid; none is made once the posterior covers this many nodes.
_REFINEMENTS = 3
_ENOUGH_NODES = 12.0
# The effect of D/N can be separated from the bend of the line only with at least this many runs,
# and if x explains at most this share of the variance of ln(D/N). Along one run it explains all.
_RUNS_FOR_ALLOCATION = 8
_EXPLAINED_ALLOCATION = 0.5
# Beta prior of E_x / min x for the draws: uniform in sqrt(1 - E_x / min x). With a prior uniform in
# E_x, too few draws have E_x near min x, and bands miss lines that bend there.
_SHARE_OF_DRAWS = (1.0, 0.5)
# Weights toward low loss must leave a sample worth at least this many points, if it has that many.
_POINTS_TO_KEEP = 20.0
# Weightings that are solved together: their arrays over all shapes stay in a core's cache.
_CHUNK = 32
PARAMETERS = ("K", "kappa", "E_x", "E_y", "gamma", "tilt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prior:
    """Prior of a line, chosen once by nested hold-out on published sweeps.

    Attributes:
        kappa: center of kappa.
        log_kappa: standard deviation of ln kappa.
        share: (a, b) of a Beta distribution of E_x / min x, for the line. Draws for bands do not
            use it.
        highest: largest E_x / min x, for the line and for draws. A line stops falling at E_x, so
            that it must lie below every x at which the line will be asked.
        nearness: points have weight (x / min x)^-nearness, or less steep if too few points would
            remain.
        allocation: standard deviation of the relative change of y per e-fold of D/N at equal x. The
            change of this effect with x has three times that per doubling of x. 0 leaves both out.
    """

    kappa: float = 1.0
    log_kappa: float = 1.0
    share: tuple[float, float] = (2.0, 3.0)
    highest: float = 0.998
    nearness: float = 6.0
    allocation: float = 0.003

    def __post_init__(self) -> None:
        positive = (self.kappa, self.log_kappa, *self.share)
        if len(self.share) != 2 or not min(positive) > 0 or min(self.nearness, self.allocation) < 0:
            raise UserError(
                "Prior: kappa, log_kappa and both values of share must be positive; nearness and "
                "allocation must be at least 0."
            )
        if not 0 < self.highest < 1:
            raise UserError(f"Prior: highest must be between 0 and 1, not {self.highest}.")


TEXT_PRIOR = Prior()
# Gold-answer losses fall faster as models improve: kappa below 1, the line bends downward.
# Far out, a line with E_x above the loss of the large model is wrong by half: E_x is limited
# (experiments/published/choose_task.py).
TASK_PRIOR = Prior(kappa=0.37, log_kappa=0.5, share=(3.0, 2.0), highest=0.8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Points:
    """Points of one line.

    Attributes:
        x: losses (M,).
        y: losses (M,).
        run: run of each point (M,), 0 to R - 1.
        allocation: ln(D/N) relative to a reference (M,); NaN where unknown.
    """

    x: Array
    y: Array
    run: Array
    allocation: Array

    @property
    def n_runs(self) -> int:
        """Number of runs R."""
        return int(self.run.max()) + 1 if len(self.run) else 0

    def by_run(self) -> Points:
        """Return the points in the order of their runs."""
        if np.all(np.diff(self.run) >= 0):
            return self
        order = np.argsort(self.run, kind="stable")
        columns = {f.name: getattr(self, f.name)[order] for f in dataclasses.fields(self)}
        return Points(**columns)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """The estimated law, and how it moves when runs are reweighted.

    Attributes:
        parameters: (6,) K, kappa, E_x, E_y, gamma, tilt of the law in ``curve``.
        draws: (S, 6) the same for S reweightings of the runs, each at a shape drawn from its
            posterior, with deviations scaled for few runs (``run_errors.few_runs``).
        scatter: relative standard deviation of y about the law, corrected for the degrees of
            freedom.
    """

    parameters: Array
    draws: Array
    scatter: float


def curve(parameters_Px6: Array, x: Array, allocation: Array | float = 0.0) -> Array:
    """Return the law (P, M) of each parameter vector at x (M,).

    y = K (x - E_x)^kappa + E_y + (gamma + tilt x) a, with a = ln(D/N) - ln(D/N of the reference).
    At and below E_x the power of (x - E_x) is 0: the limit from above.
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
    """Fit the law to M points of at least three distinct x.

    Args:
        points: the points.
        prior: the prior of the line.
        resamples: number S of reweightings of the runs; 0 gives no draws.
        seed: seed of the reweightings.
        E_x: irreducible loss of x, if known.
        E_y: irreducible loss of y, if known.
    """
    points = points.by_run()
    grid = _Grid(points, prior, E_x, E_y)
    once = np.ones((1, points.n_runs))
    parameters = grid.mean_shape(once)[0]
    if points.n_runs < len(points.x):
        grid.take_out(points.y / grid.curve(parameters) - 1)
        parameters = grid.mean_shape(once)[0]
    residual = points.y / grid.curve(parameters) - 1
    spread = np.sum(grid.weight * residual**2) / np.sum(grid.weight)
    independent = worth(grid.weight, points.run, grid.errors.shared)
    left = max(independent - grid.degrees, 1.0)
    draws = np.empty((0, len(PARAMETERS)))
    if resamples and points.n_runs > 1:
        random = np.random.default_rng(seed)
        draws = grid.drawn_shape(_run_weights(points, resamples, random), random)
    return Estimate(
        parameters=parameters,
        draws=draws,
        scatter=float(np.sqrt(spread * max(independent / left, 1.0))),
    )


def _run_weights(points: Points, resamples: int, random: np.random.Generator) -> Array:
    """Return weights (S, R) of the runs, Dirichlet(1, ..., 1): Bayesian bootstrap (Rubin 1981).

    The weights are smooth because a multinomial resample of three runs is a single run in one case
    of nine.
    """
    return random.dirichlet(np.ones(points.n_runs), size=resamples) * points.n_runs


def _nearness(x: Array, power: float, run: Array, shared: float) -> Array:
    """Return weights (x / min x)^-power, with mean 1.

    The power is smaller if too few independent points would keep a weight.
    """
    enough = min(_POINTS_TO_KEEP, 0.99 * worth(np.ones_like(x), run, shared))
    for share in np.linspace(1.0, 0.0, 25):
        weight = (x / x.min()) ** (-power * share)
        if worth(weight, run, shared) >= enough:
            break
    return weight / weight.mean()


def _size_of_y(x: Array, y: Array, weight: Array) -> Array:
    """Return a smooth y (M,) that errors are relative to.

    Relative to the measured y, low outliers would have the largest weight.
    """
    slope, height = np.polyfit(x, np.log(y), 1, w=np.sqrt(weight))
    return np.exp(height + slope * x)


def _shares(highest: float) -> Array:
    """Return the nodes of E_x / min x.

    From 0.9 on, they are spaced evenly in the logarithm of min x - E_x, because a line may bend
    just below its lowest point.
    """
    if highest <= 0.9:
        return np.linspace(0.0, highest, 18)
    return np.append(np.linspace(0.0, 0.9, 14), 1 - np.geomspace(0.1, 1 - highest, 5)[1:])


def _sum(parts: Iterable[Array]) -> Array | float:
    """Return the sum of the parts, 0 without any."""
    return functools.reduce(operator.add, parts, 0.0)


def _zoom(axis: Array, probability: Array) -> Array:
    """Return as many nodes over the probable part of the axis, plus one node on either side."""
    if len(axis) == 1:
        return axis
    inside = np.flatnonzero(probability > 1e-3 * probability.max())
    low, high = max(inside[0] - 1, 0), min(inside[-1] + 1, len(axis) - 1)
    return np.interp(np.linspace(low, high, len(axis)), np.arange(len(axis)), axis)


def _tells_allocation(points: Points) -> bool:
    """Return whether the points show the effect of D/N at equal x."""
    a, x = points.allocation, points.x
    if points.n_runs < _RUNS_FOR_ALLOCATION or not np.all(np.isfinite(a)) or not np.ptp(a) > 0:
        return False
    return float(np.corrcoef(a, np.log(x))[0, 1]) ** 2 <= _EXPLAINED_ALLOCATION


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Solved:
    """Least squares at G shapes for S weightings; with paired shapes the axis G is missing.

    Attributes:
        objective: weighted sum of squares (G, S).
        K: coefficient of the power (G, S).
        alone: coefficients (Q, S) of the rest without the power.
        per_K: what each loses per unit of K (G, S).
    """

    objective: Array
    K: Array
    alone: Array
    per_K: Sequence[Array | float]

    def rest(self, index: int) -> Array:
        """Return the coefficient (G, S) of one of the other columns."""
        return self.alone[index] - self.K * self.per_K[index]


class _Grid:
    """All shapes (E_x, kappa) of one sample, with the linear parameters solved for each.

    Internally the power is scaled to 1 at the median x, so that its coefficient has the size of y.
    The other columns (the "rest": 1, a, a (x / min x - 1)) are projected out.
    """

    def __init__(self, points: Points, prior: Prior, E_x: float | None, E_y: float | None) -> None:
        self.x, self.y, self.E_y, self.prior = points.x, points.y, E_y, prior
        self.low, self.middle = float(points.x.min()), float(np.median(points.x))
        used = prior.allocation > 0 and _tells_allocation(points)
        self.allocation = points.allocation if used else np.zeros_like(points.x)
        self.used = used
        # No line exists yet: estimate the errors that a run's points share from residuals of a
        # parabola in logarithms.
        smooth = np.polyval(np.polyfit(self.x, np.log(self.y), 2), self.x)
        shared = shared_part(np.log(self.y) - smooth, points.run)
        self.errors = RunErrors(run=points.run, shared=shared)
        self.weight = _nearness(self.x, prior.nearness, points.run, shared)
        self.size = _size_of_y(self.x, self.y, self.weight)
        self.degrees = 2 + int(E_x is None) + int(E_y is None) + 2 * int(used) - 1
        shares = _shares(prior.highest) if E_x is None else np.array([E_x / self.low])
        half = 0.5 * (_LOG_KAPPA[1] - _LOG_KAPPA[0])  # draws lie up to half a cell off the nodes
        self.span = span_of(
            self.x,
            runs=points.n_runs,
            highest=max(float(shares.max()), _STRAIGHT),
            log_kappa=(_LOG_KAPPA[0] - half, _LOG_KAPPA[-1] + half),
        )
        self._whiten()
        self._set_nodes(shares, _LOG_KAPPA)
        self._refine()

    def curve(self, parameters: Array) -> Array:
        """Return the law (M,) at the points."""
        return curve(parameters[None], self.x, self.allocation)[0]

    def take_out(self, residual: Array) -> None:
        """Remove the errors that runs share, estimated from relative residuals (M,)."""
        run = self.errors.run
        self.errors = RunErrors(run=run, shared=shared_part(residual, run))
        self._whiten()

    def _set_nodes(self, shares: Array, log_kappas: Array) -> None:
        """Make a grid of all combinations of E_x / min x and ln kappa."""
        self.axes = (shares, log_kappas)
        share, log_kappa = np.meshgrid(shares, log_kappas, indexing="ij")
        self.share, self.log_kappa = share.ravel(), log_kappa.ravel()
        cell = np.gradient(shares) if len(shares) > 1 else np.zeros(1)
        self.cell = np.repeat(cell, len(log_kappas))
        self.at_nodes: Callable[..., Sums] | None = None

    def _log_prior(self, share: tuple[float, float]) -> Array:
        """Return the log prior (G,) of the shapes, cell sizes included.

        Args:
            share: (a, b) of the Beta distribution of E_x / min x.
        """
        z = (self.log_kappa - np.log(self.prior.kappa)) / self.prior.log_kappa
        if not np.any(self.cell):
            return -0.5 * z**2
        (a, b), inside = share, np.clip(self.share, 0.005, self.prior.highest)
        density = (a - 1) * np.log(inside) + (b - 1) * np.log1p(-inside)
        return density + np.log(self.cell) - 0.5 * z**2

    def _refine(self) -> None:
        """Zoom the grid to the posterior while that covers only a few nodes."""
        once = np.ones((1, self.errors.n_runs))
        ridge = self._ridge(once)
        for _ in range(_REFINEMENTS):
            probability = self._posterior(once, ridge, _SHARE_OF_DRAWS)[:, 0]
            if 1 / np.sum(probability**2) > _ENOUGH_NODES:
                return
            table = probability.reshape(len(self.axes[0]), len(self.axes[1]))
            self._set_nodes(
                _zoom(self.axes[0], table.sum(axis=1)), _zoom(self.axes[1], table.sum(axis=0))
            )

    def _rest(self) -> Array:
        """Return the columns (Q, M) other than the power: 1 if E_y is free, and those of D/N."""
        rows = [] if self.E_y is not None else [np.ones_like(self.x)]
        if self.used:
            rows += [self.allocation, self.allocation * (self.x / self.low - 1)]
        return np.array(rows).reshape(len(rows), len(self.x))

    def _white(self, rows: Array) -> Array:
        """Return rows (..., M) relative to the size of y, without the errors that runs share."""
        return self.errors.taken_out(rows / self.size)

    def _whiten(self) -> None:
        """Prepare y and the rest for the errors that runs share."""
        self.white_y = y = self._white(self.y - (self.E_y or 0.0))
        self.white_rest = rest = self._white(self._rest())
        weighted, of_runs = rest * self.weight, self.errors.sums
        self.gram = of_runs(weighted[:, None] * rest)
        self.rest_by_y, self.square_of_y = of_runs(weighted * y), of_runs(self.weight * y * y)
        self.powers = Powers(
            self.x,
            middle=self.middle,
            errors=self.errors,
            size=self.size,
            weight=self.weight,
            rest=rest,
            y=y,
            span=self.span,
        )
        self.at_nodes = None

    def _sums_at_nodes(self) -> Callable[..., Sums]:
        """Return the sums at the nodes of the grid, prepared once for all weightings."""
        if self.at_nodes is None:
            self.at_nodes = self.powers.at(self.share * self.low, self.log_kappa)
        return self.at_nodes

    def _solve(
        self, sums: Callable[..., Sums], weights: Array, ridge: Array, *, paired: bool = False
    ) -> _Solved:
        """Solve weighted least squares of y on the power and the rest, for weightings (S, R).

        Args:
            sums: gives the sums at each shape; with ``paired`` one shape per weighting.
            weights: the weightings of the runs (S, R).
            ridge: precision of the rest's coefficients (S, Q).
            paired: whether row s of the power belongs to weighting s only; results then have shape
                (S,).
        """
        of_power = sums(weights, paired=paired)
        count, runs = len(self.gram), weights.shape[1]
        gram = weights @ self.gram.reshape(count**2, runs).T
        gram = gram.reshape(len(weights), count, count)
        diagonal = np.arange(count)
        # Frisch-Waugh: project the rest out of y and z; one coefficient remains for each shape.
        gram[:, diagonal, diagonal] += ridge + 1e-12 * gram[:, diagonal, diagonal]
        inverse = np.linalg.inv(gram) if count else gram
        by = weights @ self.rest_by_y.T
        by_inverse = np.einsum("sq,sqp->ps", by, inverse)
        # Lists over the two or three coefficients: each sum adds large (G, S) arrays.
        zb = of_power.rest
        zb_inverse = [_sum(one * part for one, part in zip(zb, column.T, strict=True))
                      for column in np.moveaxis(inverse, 2, 0)]  # fmt: skip
        zz = of_power.square - _sum(one * two for one, two in zip(zb, zb_inverse, strict=True))
        zy = of_power.y - _sum(one * part for one, part in zip(zb_inverse, by.T, strict=True))
        yy = weights @ self.square_of_y
        left = yy - np.sum(by_inverse * by.T, axis=0)
        K = np.maximum(zy, 0.0) / np.maximum(zz, 1e-300)
        return _Solved(
            objective=np.maximum(left - K * zy, 1e-14 * yy),
            K=K,
            alone=by_inverse,
            per_K=zb_inverse,
        )

    def _ridge(self, weights: Array) -> Array:
        """Return the precision (S, Q) of the rest: noise variance over prior variance."""
        ridge = np.zeros((len(weights), len(self.white_rest)))
        if self.used:
            straight = self.powers.at(np.array([_STRAIGHT * self.low]), np.zeros(1))
            noise = self._solve(straight, weights, ridge).objective[0] / max(len(self.x) - 5, 1)
            # Use the whole noise, shared errors included: errors that drift along a run look like
            # an effect of its D/N.
            noise = noise / (1 - self.errors.shared)
            scale = self.prior.allocation * np.median(self.y)
            ridge[:, -2] = noise / scale**2
            ridge[:, -1] = noise / (3 * scale) ** 2
        return ridge

    def _posterior(self, weights: Array, ridge: Array, share: tuple[float, float]) -> Array:
        """Return the probability (G, S) of each shape.

        Shapes with E_y < 0 have probability 0, unless all shapes do.
        """
        solved = self._solve(self._sums_at_nodes(), weights, ridge)
        objective = solved.objective
        # Student's t: the noise variance is integrated out, which leaves a power of the objective.
        exponent = max(worth(self.weight, self.errors.run) - self.degrees, 1.0) / 2
        log = self._log_prior(share)[:, None] - exponent * np.log(objective / objective.min(axis=0))
        if self.E_y is None:
            possible = solved.rest(0) >= 0
            log = np.where(possible | ~possible.any(axis=0), log, -np.inf)
        probability = np.exp(log - log.max(axis=0))
        return probability / probability.sum(axis=0)

    def _laws(self, E_x: Array, log_kappa: Array, weights: Array, ridge: Array) -> Array:
        """Return parameters (S, 6), the linear ones solved at one shape per weighting."""
        solved = self._solve(self.powers.at(E_x, log_kappa), weights, ridge, paired=True)
        K, kappa = solved.K, np.exp(log_kappa)
        out = np.zeros((len(weights), len(PARAMETERS)))
        out[:, 0], out[:, 1], out[:, 2] = K * (self.middle - E_x) ** -kappa, kappa, E_x
        out[:, 3] = solved.rest(0) if self.E_y is None else self.E_y
        if self.used:
            tilt = solved.rest(-1)
            out[:, 4], out[:, 5] = solved.rest(-2) - tilt, tilt / self.low
        return out

    def mean_shape(self, weights: Array) -> Array:
        """Return the law (S, 6) at the posterior mean of E_x and ln kappa."""
        ridge = self._ridge(weights)
        probability = self._posterior(weights, ridge, self.prior.share)
        E_x = self.low * (self.share @ probability)
        return self._laws(E_x, self.log_kappa @ probability, weights, ridge)

    def _drawn_nodes(self, weights: Array, ridge: Array, level: Array) -> Array:
        """Return the node (S,) at which each weighting's posterior has accumulated to its level."""
        pick = np.empty(len(weights), int)
        for first in range(0, len(weights), _CHUNK):
            part = slice(first, first + _CHUNK)
            posterior = self._posterior(weights[part], ridge[part], _SHARE_OF_DRAWS)
            cumulative = np.cumsum(posterior, axis=0)
            pick[part] = np.count_nonzero(cumulative < level[part] * cumulative[-1], axis=0)
        return pick

    def drawn_shape(self, weights: Array, random: np.random.Generator) -> Array:
        """Return the law (S, 6) at one shape drawn from each weighting's posterior.

        Its deviation from the unweighted fit at that shape is scaled for few runs.
        """
        ridge = self._ridge(weights)
        pick = self._drawn_nodes(weights, ridge, random.random(len(weights)))
        # Spread draws uniformly over their cell, so that they do not sit on the nodes.
        off = random.uniform(-0.5, 0.5, (2, len(weights)))
        share = self.share[pick] + off[0] * self.cell[pick]
        if np.any(self.cell):
            share = np.clip(share, 0.0, self.prior.highest)
        step = self.axes[1][1] - self.axes[1][0]
        shape = self.low * share, self.log_kappa[pick] + off[1] * step
        once = np.ones_like(weights)
        middle = self._laws(*shape, once, self._ridge(once))
        widen = few_runs(self.errors.n_runs, len(weights), random)
        return middle + widen[:, None] * (self._laws(*shape, weights, ridge) - middle)
