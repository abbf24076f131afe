"""Partial pooling: fits of one law to many sets that lend each other what they know of one
parameter.

A parameter that single sets determine badly (the irreducible loss E of short sweeps) is taken as
drawn from a normal distribution over the sets, whose mean and spread are estimated from those sets
that do determine it (empirical Bayes: Paule & Mandel 1982 for the spread); all are then refitted
with that distribution as a Gaussian penalty. A spread of 0 is complete pooling, an infinite one
none: which of them it is, the data say."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lossline.errors import UserError
from lossline.laws.forms import Law
from lossline.laws.objective import Penalty
from lossline.laws.problems import Problem, prepare
from lossline.laws.profiles import mean_curvature, noise_level
from lossline.laws.results import FitResult, Status
from lossline.laws.solver import FitOptions, fit_many

Array = np.ndarray

# Spreads below this share of the mean standard error count as none, and keep the refit regular.
_LEAST_SPREAD = 1e-2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pooled:
    """Fits before (``alone``) and after pooling (``fits``) of the parameter ``name``.

    ``center`` and ``spread`` describe its distribution over the sets, of its logarithm where
    ``log``; ``errors`` (F,) are the standard errors alone, inf where a set did not determine it."""

    name: str
    log: bool
    center: float
    spread: float
    errors: Array
    alone: tuple[FitResult, ...]
    fits: tuple[FitResult, ...]


def pool(
    law: Law,
    problems: Sequence[Problem],
    name: str,
    *,
    log: bool = False,
    spread: float | None = None,
    options: FitOptions | None = None,
) -> Pooled:
    """Pools one parameter over the problems. ``spread`` fixes its spread (0: one common value)
    instead of estimating it.

    UserError with fewer than two problems that determine the parameter: there is nothing to learn
    from."""
    options = options or FitOptions()
    index = law.index(name)
    alone = fit_many(law, problems, options=options)
    values = np.zeros(len(problems))
    errors = np.full(len(problems), np.inf)
    noises = np.full(len(problems), np.nan)
    for i, (problem, result) in enumerate(zip(problems, alone, strict=True)):
        if result.parameters and result.n_points > len(law.parameters):
            values[i], errors[i], noises[i] = _estimate(law, problem, result, index, log, options)
    known = np.isfinite(errors) & np.array([r.status is Status.CONVERGED for r in alone])
    errors = np.where(known, errors, np.inf)
    if known.sum() < 2:
        raise UserError(
            f"pooling {name}: {int(known.sum())} of {len(problems)} sets determine it, "
            "two at least are needed"
        )
    # A set that leaves no residuals is taken to be as noisy as the others.
    noises = np.where(np.isfinite(noises), noises, np.nanmedian(noises))
    if spread is None:
        spread = _spread(values[known], errors[known])
    center = _center(values[known], errors[known], spread)
    scale = max(spread, _LEAST_SPREAD * float(np.mean(errors[known])))
    natural = float(np.exp(center)) if log else center
    pooled = [
        dataclasses.replace(
            problem,
            penalties=(
                *problem.penalties,
                Penalty(parameter=name, center=natural, scale=scale, strength=noise, log=log),
            ),
        )
        for problem, noise in zip(problems, noises, strict=True)
    ]
    return Pooled(
        name=name,
        log=log,
        center=natural,
        spread=float(spread),
        errors=errors,
        alone=tuple(alone),
        fits=tuple(fit_many(law, pooled, options=options)),
    )


def _estimate(
    law: Law, problem: Problem, result: FitResult, index: int, log: bool, options: FitOptions
) -> tuple[float, float, float]:
    """Value and standard error of the parameter (of its log where asked) and the noise of the
    objective."""
    data = prepare(law, problem, options.objective)
    weights = np.ones(data.given) if problem.weights is None else np.asarray(problem.weights, float)
    degrees = data.n - len(law.parameters)
    noise = noise_level(options.objective, result.residuals, weights, degrees)
    theta = law.to_internal(np.array([[result.parameters[n] for n in law.names]]))
    f, jacobian = law.value_and_jacobian(theta, tuple(c[None] for c in data.columns))
    slope = options.objective.slope(f[0], options.objective.target(data.target))
    rows = (jacobian[0] * np.sqrt(data.weights) * (1.0 if slope is None else slope)).T
    free = np.array([n not in problem.fixed and n not in result.at_bound for n in law.names])
    value = result.parameters[law.names[index]]
    if not free[index]:
        return value, float("inf"), noise
    covariance = np.linalg.pinv(rows[:, free].T @ rows[:, free], hermitian=True)
    place = int(np.sum(free[:index]))
    curvature = mean_curvature(options.objective, result.residuals, len(law.parameters))
    variance = noise / curvature * covariance[place, place]
    error = float(np.sqrt(max(variance, 0.0)))
    internal_is_log = law.parameters[index].log
    if log:
        return float(np.log(value)), error if internal_is_log else error / value, noise
    return value, error * value if internal_is_log else error, noise


def _center(values: Array, errors: Array, spread: float) -> float:
    return float(np.average(values, weights=1 / (errors**2 + spread**2)))


def _spread(values: Array, errors: Array) -> float:
    """Paule and Mandel's estimate: the spread at which the weighted sum of squares is what it
    should be."""

    def excess(variance: float) -> float:
        weight = 1 / (errors**2 + variance)
        center = np.average(values, weights=weight)
        return float(np.sum(weight * (values - center) ** 2)) - (len(values) - 1)

    if excess(0.0) <= 0:
        return 0.0
    high = float(np.var(values)) + 1e-300
    while excess(high) > 0:
        high *= 2
    low = 0.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return float(np.sqrt(0.5 * (low + high)))
