"""Uncertainty of a fit: a seeded bootstrap over training runs, with bands for the law and new runs.

Checkpoints of one run share their errors. Whole runs are therefore drawn with replacement (the
cluster bootstrap). If draws of few runs would often not determine the law (it needs, say, three
sizes), runs are reweighted instead. All resamples are fitted in one batch: they share the data and
differ only in weights. Resamples that cannot be fitted are counted and reported.

With few runs the plain percentile interval is too narrow for two reasons: the residuals of a fit
are smaller than the errors, and their spread is itself uncertain. Two corrections (Cameron, Gelbach
& Miller 2008, section II) scale the deviations of the resamples from the fit. The first factor is
sqrt(G/(G-1) (n-1)/(n-p)) for G runs, n points and p free parameters. The second is sqrt(nu /
chi2_nu) with nu = min(G - 1, n - p) degrees of freedom, which turns normal deviations into
Student's t.
"""

import dataclasses
import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from lossline.errors import UserError
from lossline.laws.conditioning import (
    condition_numbers,
    residual_jacobian,
)
from lossline.laws.forms import Law
from lossline.laws.levenberg import descend
from lossline.laws.objective import Residual
from lossline.laws.problems import FitProblem, Prepared, internal_bounds, prepare, stack
from lossline.laws.refitting import refit
from lossline.laws.repeated import fit_rows
from lossline.laws.results import FitResult
from lossline.laws.solver import FitOptions, finish, fit_many, has_many_points
from lossline.laws.starts import Nodes, nodes, project
from lossline.run_order import run_numbers
from lossline.seeds import check_seed
from lossline.terminal import Say, now_and_then, silent

Array = np.ndarray

_NODES = 24  # best nodes of the grid on all the data; each resample tries only these
_STARTS = 1  # how many of them each resample descends from, in addition to the fit to all the data
_STATIONARY = 1e-5  # relative Newton decrement; resampling moves the objective by far more
# Stop Newton once a step promises this share of the objective: after it the rest is far smaller.
_ENOUGH = 1e-10
# Share of draws with replacement that must determine the law. Draws of few runs often do not: they
# hold two of three sizes. Reweighting keeps all runs, but its intervals are slightly too narrow.
_DRAWABLE = 0.95
_DETERMINED = 0.8  # share of resamples that must give a fit
# Points x resamples of the problems that are resampled together: enough that calls cost little.
_BATCH_ELEMENTS = 300_000
_NOISE_DRAWS = 8  # draws of measurement noise per resample, for prediction bands


class Band(enum.Enum):
    """What a band covers with its probability."""

    CONFIDENCE = "confidence"  # the law
    PREDICTION = "prediction"  # one more measurement


class Resampling(enum.Enum):
    """How a resample weights the runs."""

    DRAW = "draw"  # with replacement, as many as there are (Efron 1979)
    REWEIGHT = "reweight"  # uniformly distributed shares (the Bayesian bootstrap, Rubin 1981)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """A fit with resamples of its runs.

    Attributes:
        fit: fit to all the data.
        samples: natural parameters of the resamples that could be fitted (B, P).
        resamples: number of resamples, those that failed included.
        failures: number of failed resamples by reason.
        n_runs: number of runs G.
        residual: residual of the objective.
        resampling: how runs were resampled.
        low: lower bounds (P,), natural.
        high: upper bounds (P,), natural.
        seed: seed of the resampling.
        message: why there are no intervals, if ``determined`` is False.
    """

    fit: FitResult
    samples: Array
    resamples: int
    failures: Mapping[str, int]
    n_runs: int
    residual: Residual
    resampling: Resampling
    low: Array  # natural bounds (P,)
    high: Array
    seed: int
    message: str

    @property
    def determined(self) -> bool:
        """Whether the data determine the law, so that intervals exist."""
        return not self.message

    @property
    def degrees(self) -> int:
        """Degrees of freedom of the scatter; fewer give heavier tails."""
        return max(1, min(self.n_runs - 1, self.fit.n_points - self.fit.n_free))

    @property
    def inflation(self) -> float:
        """Factor of the resamples' deviations.

        It is above 1 because a fit lies closer to its own data than to the truth.
        """
        # A run's weight has variance (G - 1) / G if drawn, (G - 1) / (G + 1) if reweighted. To
        # divide by it corrects both to variance 1.
        more = int(self.resampling is Resampling.REWEIGHT)
        runs = (self.n_runs + more) / (self.n_runs - 1)
        return float(
            np.sqrt(runs * (self.fit.n_points - 1) / max(1, self.fit.n_points - self.fit.n_free))
        )

    def interval(self, name: str, level: float = 0.9) -> tuple[float, float]:
        """Return the interval of one parameter, natural; NaN unless ``determined``."""
        index = self.fit.law.index(name)
        _check_level(level)
        if not self.determined:
            return float("nan"), float("nan")
        log = self.fit.law.parameters[index].log
        center = self.fit.parameters[name]
        draws = self._spread(center, self.samples[:, index], log=log)
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        return (
            float(np.clip(low, self.low[index], self.high[index])),
            float(np.clip(high, self.low[index], self.high[index])),
        )

    def percentiles(self, name: str, level: float = 0.9) -> tuple[float, float]:
        """Return the plain percentile interval of one parameter, as published studies report it.

        ``interval`` is the one that is corrected for few runs.
        """
        _check_level(level)
        if not self.determined:
            return float("nan"), float("nan")
        draws = self.samples[:, self.fit.law.index(name)]
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def band(
        self, level: float = 0.9, kind: Band = Band.CONFIDENCE, **inputs: Any
    ) -> tuple[Array, Array]:
        """Return the lower and upper band at inputs of any shape, e.g. ``band(0.9, x=3.1)``.

        Both are NaN unless ``determined``.

        Args:
            level: probability that the band covers.
            kind: the law itself, or one more measurement.
            **inputs: inputs of the law by name.

        Raises:
            UserError: the level is not between 0 and 1.
        """
        _check_level(level)
        arrays = {k: np.asarray(v, float) for k, v in inputs.items()}
        shape = np.broadcast_shapes(*(a.shape for a in arrays.values()))
        if not self.determined:
            return np.full(shape, np.nan), np.full(shape, np.nan)
        columns = self.fit.law.columns(
            {k: np.broadcast_to(a, shape).ravel() for k, a in arrays.items()}
        )
        flat = tuple(c[None] for c in columns)
        with np.errstate(all="ignore"):
            theta = self.fit.law.to_internal(self.samples)
            draws = self.fit.law.value(theta, flat)
            here = self.fit.law.to_internal(np.array([list(self.fit.parameters.values())]))
            center = self.fit.law.value(here, flat)[0]
        spread = self._spread(center, draws, log=self.residual is Residual.LOG, kind=Band(kind))
        low, high = np.quantile(spread, [(1 - level) / 2, (1 + level) / 2], axis=0)
        # A band must contain its own law, even where all resamples lie on one side of it (at a
        # bound).
        return np.minimum(low, center).reshape(shape), np.maximum(high, center).reshape(shape)

    def _spread(
        self, center: Any, draws: Array, *, log: bool, kind: Band = Band.CONFIDENCE
    ) -> Array:
        """Return draws (B, ...) about the center, corrected for few runs; predictions get noise."""
        repeat = _NOISE_DRAWS if kind is Band.PREDICTION else 1
        rng = np.random.default_rng(self.seed)
        count = len(draws) * repeat
        shape = (count,) + (1,) * (draws.ndim - 1)
        heavy = np.sqrt(
            self.degrees / _stratified(special.chdtri, rng, count, self.degrees)
        ).reshape(shape)
        with np.errstate(all="ignore"):
            middle = np.log(center) if log else center
            values = np.log(draws) if log else draws
            deviation = self.inflation * np.repeat(values - middle, repeat, axis=0)
            if kind is Band.PREDICTION:
                noise = self.fit.scatter * _stratified(special.ndtri, rng, count).reshape(shape)
                deviation = deviation + noise * (
                    center if self.residual is Residual.RELATIVE else 1.0
                )
            result = middle + heavy * deviation
            return np.exp(result) if log else result


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise UserError(f"level must lie between 0 and 1, not {level}")


def _stratified(quantile: Any, rng: np.random.Generator, count: int, *shape: float) -> Array:
    """Return ``count`` draws at evenly spaced quantiles, in random order."""
    share = (rng.permutation(count) + 0.5) / count
    return quantile(*shape, share)


def bootstrap(
    law: Law,
    inputs: Mapping[str, Array],
    target: Array,
    *,
    runs: Sequence[Any] | Array | None = None,
    weights: Array | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    fixed: Mapping[str, float] | None = None,
    starts: Array | None = None,
    options: FitOptions | None = None,
    resamples: int = 1000,
    resampling: Resampling | None = None,
    seed: int = 0,
) -> Bootstrap:
    """Fit a law and resample its runs.

    Args:
        law: the law.
        inputs: arrays (M,) by name, natural units.
        target: measurements (M,), natural units.
        runs: run of each point (M,); None: every point is a run of its own.
        weights: weights of the points (M,).
        bounds: (lower, upper) by parameter name, natural units.
        fixed: values by parameter name, natural units.
        starts: start values (S, P), natural units.
        options: how to fit.
        resamples: number of resamples.
        resampling: how to resample; None: draw with replacement, or reweight if draws often leave
            the law undetermined.
        seed: seed of the resampling.

    Raises:
        UserError: an argument is wrong for any data.
    """
    problem = FitProblem(
        inputs=inputs,
        target=target,
        weights=weights,
        bounds=bounds or {},
        fixed=fixed or {},
        starts=starts,
    )
    return bootstrap_problem(
        law,
        problem,
        runs=runs,
        options=options,
        resamples=resamples,
        resampling=resampling,
        seed=seed,
    )


def bootstrap_problem(
    law: Law,
    problem: FitProblem,
    *,
    runs: Sequence[Any] | Array | None = None,
    options: FitOptions | None = None,
    resamples: int = 1000,
    resampling: Resampling | None = None,
    seed: int = 0,
    fit: FitResult | None = None,
) -> Bootstrap:
    """Do the same as ``bootstrap`` for a ``FitProblem``; a given ``fit`` is not fitted again."""
    return bootstrap_problems(
        law,
        [problem],
        runs=[runs],
        options=options,
        resamples=resamples,
        resampling=resampling,
        seed=seed,
        fits=[fit],
    )[0]


def bootstrap_problems(
    law: Law,
    problems: Sequence[FitProblem],
    *,
    runs: Sequence[Sequence[Any] | Array | None],
    fits: Sequence[FitResult | None],
    options: FitOptions | None = None,
    resamples: int = 1000,
    resampling: Resampling | None = None,
    seed: int = 0,
    say: Say = silent,
) -> list[Bootstrap]:
    """Do the same as ``bootstrap`` for many problems, each as if it were alone.

    Problems of equally many points are resampled together: with few points the calls cost more than
    the arithmetic. Others would be padded, which changes the last digits of sums.

    Args:
        law: the law.
        problems: the problems.
        runs: run of each point, per problem.
        fits: fit to all the data of each problem; None fits it here.
        options: how to fit.
        resamples: number of resamples.
        resampling: how to resample; None as in ``bootstrap``.
        seed: seed of the resampling.
        say: receives a line of progress now and then.
    """
    options = options or FitOptions()
    if resamples < 2:
        raise UserError(f"resamples must be at least 2, not {resamples}")
    check_seed(seed, "seed")
    plans = [
        _plan(law, problem, run, options, resamples, resampling, seed, fit)
        for problem, run, fit in zip(problems, runs, fits, strict=True)
    ]
    found: dict[int, tuple[Array, dict[str, int]]] = {}
    sparing = now_and_then(say)
    for members in _batches(plans):
        batch = [plans[i] for i in members]
        fitted = _fit_resamples([p.base for p in batch], [p.weights for p in batch])
        found |= zip(members, fitted, strict=True)
        sparing(f"  {len(found)} of {len(plans)} laws resampled")
    return [_bootstrap(plan, *found[i], resamples, seed) for i, plan in enumerate(plans)]


@dataclasses.dataclass(frozen=True)
class _Base:
    """The fit whose runs are resampled; bounds are internal (P,)."""

    law: Law
    data: Prepared
    options: FitOptions
    fit: FitResult
    low: Array
    high: Array

    @property
    def theta(self) -> Array:
        """Internal parameters of the fit (P,)."""
        return self.law.to_internal(np.array([self.fit.parameters[n] for n in self.law.names]))

    def determined_by(self, weights_BxM: Array) -> Array:
        """Return which weightings (B,) determine all parameters, if this fit is the truth."""
        theta, objective = self.theta, self.options.objective
        numbers = condition_numbers(
            residual_jacobian(self.law, self.data, objective, theta),
            weights_BxM,
            (self.low < theta) & (theta < self.high),
        )
        return numbers <= self.options.condition_limit


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A problem and the weights (B, M) of its resamples; none with a message."""

    base: _Base
    weights: Array
    runs: int
    how: Resampling
    message: str


def _plan(
    law: Law,
    problem: FitProblem,
    runs: Sequence[Any] | Array | None,
    options: FitOptions,
    resamples: int,
    resampling: Resampling | None,
    seed: int,
    fit: FitResult | None,
) -> _Plan:
    """Return how to resample one problem."""
    fit = fit or fit_many(law, [problem], options=options)[0]
    data = prepare(law, problem, options.objective)
    run = _run_numbers(runs, data)
    low, high = internal_bounds(law, problem, data) if fit.ok else (_nothing(law), _nothing(law))
    base = _Base(law, data, options, fit, low, high)
    count = int(run.max()) + 1 if len(run) else 0
    how = Resampling.DRAW if resampling is None else Resampling(resampling)
    message = "" if fit.ok else fit.message
    if not message and count < 2:
        message = "only one run: there is nothing to resample"
    weights = np.zeros((0, data.n))
    if not message:
        weights = _resample(run, count, resamples, how, seed) * data.weights
        if resampling is None and np.mean(base.determined_by(weights)) < _DRAWABLE:
            how = Resampling.REWEIGHT
            weights = _resample(run, count, resamples, how, seed) * data.weights
    return _Plan(base=base, weights=weights, runs=count, how=how, message=message)


def _batches(plans: Sequence[_Plan]) -> Iterator[list[int]]:
    """Yield the problems to resample together: of equally many points, and not too many."""
    by_points: dict[int, list[int]] = {}
    for i, plan in enumerate(plans):
        by_points.setdefault(plan.base.data.n, []).append(i)
    for n, members in by_points.items():
        most = max(len(plans[i].weights) for i in members)
        size = max(1, _BATCH_ELEMENTS // max(1, n * most))
        for first in range(0, len(members), size):
            yield members[first : first + size]


def _bootstrap(
    plan: _Plan, samples: Array, failures: Mapping[str, int], resamples: int, seed: int
) -> Bootstrap:
    """Return the result of one problem."""
    message, base = plan.message, plan.base
    if not message and len(samples) < _DETERMINED * resamples:
        message = f"only {len(samples)} of {resamples} resamples of the runs could be fitted"
    return Bootstrap(
        fit=base.fit,
        samples=samples,
        resamples=resamples,
        failures=failures,
        n_runs=plan.runs,
        residual=base.options.objective.residual,
        resampling=plan.how,
        low=base.law.to_natural(base.low),
        high=base.law.to_natural(base.high),
        seed=seed,
        message=message,
    )


def _nothing(law: Law) -> Array:
    """Return P times NaN."""
    return np.full(len(law.parameters), np.nan)


def _run_numbers(runs: Sequence[Any] | Array | None, data: Prepared) -> Array:
    """Return the run of each usable point, numbered by the runs' data.

    The order of points and the names of runs therefore have no effect on results.
    """
    if runs is None:
        return np.arange(data.n)
    names = np.asarray(runs)
    if names.shape != (data.given,):
        raise UserError(f"runs: must hold one name for each of the {data.given} points.")
    return run_numbers(names[data.order], *data.columns, data.target)


def _resample(run: Array, count: int, resamples: int, resampling: Resampling, seed: int) -> Array:
    """Return weights of the points (B, M): each has its run's weight, 1 on average."""
    rng = np.random.default_rng(seed)
    if resampling is Resampling.DRAW:
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)
    else:
        # Dirichlet(1, ..., 1) weights are uniform on the simplex (Rubin 1981).
        drawn = count * rng.dirichlet(np.ones(count), size=resamples)
    return drawn[:, run]


def _fit_resamples(
    bases: Sequence[_Base], weightings: Sequence[Array]
) -> list[tuple[Array, dict[str, int]]]:
    """Return natural parameters of the resamples that could be fitted, and counts of the others.

    The counts are by reason.

    Args:
        bases: the fits, each to M points.
        weightings: weights (B, M) of the resamples of each.
    """
    usable = [
        base.determined_by(w) if len(w) else np.zeros(0, bool)
        for base, w in zip(bases, weightings, strict=True)
    ]
    kept = [w[good] for w, good in zip(weightings, usable, strict=True)]
    many = len(bases) == 1 and has_many_points(bases[0].data.n)
    theta, good = _optima_near(bases[0], kept[0]) if many else _optima(bases, kept)
    ends = np.cumsum([len(w) for w in kept])[:-1]
    parts = zip(bases, usable, np.split(theta, ends), np.split(good, ends), strict=True)
    return [_counted(*part) for part in parts]


def _counted(base: _Base, usable: Array, theta: Array, good: Array) -> tuple[Array, dict[str, int]]:
    """Return the natural parameters of the good resamples, and counts of the others by reason."""
    failures = {
        "the runs drawn do not determine the law": int(np.sum(~usable)),
        "no optimum reached": int(np.sum(~good)),
    }
    return base.law.to_natural(theta[good]), {why: n for why, n in failures.items() if n}


def _optima(bases: Sequence[_Base], weightings: Sequence[Array]) -> tuple[Array, Array]:
    """Fit all resamples in one batch.

    Returns:
        Internal parameters (B, P) of the resamples of all problems, one problem after the other,
        and whether each is an optimum (B,).
    """
    fitted = [(base, w) for base, w in zip(bases, weightings, strict=True) if len(w)]
    law, options = bases[0].law, bases[0].options
    if not fitted:
        return np.zeros((0, len(law.parameters))), np.zeros(0, bool)
    weights = np.concatenate([w for _, w in fitted])
    starts = np.concatenate([_resample_starts(base, w) for base, w in fitted])
    row_fit = np.repeat(np.arange(len(weights)), starts.shape[1])
    problem = np.repeat(np.arange(len(fitted)), [len(w) for _, w in fitted])[row_fit]
    batch = fit_rows(
        stack=stack(law, options.objective, [base.data for base, _ in fitted]),
        problem=problem,
        weights=weights,
        weight=row_fit,
        fit=row_fit,
        low=np.stack([base.low for base, _ in fitted])[problem],
        high=np.stack([base.high for base, _ in fitted])[problem],
    )
    descent = descend(
        batch,
        starts.reshape(len(row_fit), -1),
        iterations=options.iterations,
        tolerance=options.tolerance,
    )
    best = finish(batch, descent, len(weights), finalists=1, iterations=4, enough=_ENOUGH)
    return best.theta, (best.row >= 0) & (best.decrement < _STATIONARY)


def _optima_near(base: _Base, weights: Array) -> tuple[Array, Array]:
    """Fit resamples of many points, which have their optima near that of all the data.

    Resamples for which the search from there does not arrive are fitted as in ``_optima``.

    Returns:
        Internal parameters (B, P), and whether each is an optimum (B,).
    """
    rows = np.arange(len(weights))
    batch = fit_rows(
        stack=stack(base.law, base.options.objective, [base.data]),
        problem=np.zeros_like(rows),
        weights=weights,
        weight=rows,
        fit=rows,
        low=np.tile(base.low, (len(rows), 1)),
        high=np.tile(base.high, (len(rows), 1)),
    )
    theta, good = refit(batch, base.theta)
    if not good.all():
        theta[~good], good[~good] = _optima([base], [weights[~good]])
    return theta, good


def _resample_starts(base: _Base, weights_BxM: Array) -> Array:
    """Return starts (B, S, P): the fit to all the data, and the resample's best projected nodes."""
    law, data, objective = base.law, base.data, base.options.objective
    low, high = base.low, base.high
    grid = nodes(law, data.columns, data.target, low, high)
    # Rank the whole grid once, on all the data; each resample chooses among its best nodes.
    once = data.weights[None]
    best = project(law, objective, grid, data.target, once, low, high, keep=_NODES)[0]
    nonlinear = [i for i in range(len(law.parameters)) if i not in law.linear_indices]
    same = grid.theta[:, None, nonlinear] == best[None, :, nonlinear]
    keep = np.flatnonzero(same.all(axis=2).any(axis=1))
    few = Nodes(grid.theta[keep], grid.offset[keep], grid.basis[keep])
    projected = project(law, objective, few, data.target, weights_BxM, low, high, keep=_STARTS)
    here = np.broadcast_to(base.theta, (len(weights_BxM), 1, len(low)))
    return np.clip(np.concatenate([here, projected], axis=1), low, high)
