"""Fit one law to one set of points (``fit``) or to many sets at once (``fit_many``), in float64.

Starts come from a projected grid (``starts``), descend together (``levenberg.descend``), and the
best few ends are polished by Newton's method (``newton.polish``). A problem that cannot be fitted
gives a result with a status. Only arguments that are wrong for any data raise UserError.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lossline.errors import UserError
from lossline.laws.conditioning import (
    condition_number,
    residual_jacobian,
)
from lossline.laws.forms import Law
from lossline.laws.levenberg import Descent, descend
from lossline.laws.newton import polish
from lossline.laws.objective import HUBER_ON_LOGS, FitObjective
from lossline.laws.problems import (
    FitProblem,
    Prepared,
    internal_bounds,
    prepare,
    stack,
)
from lossline.laws.repeated import fit_rows
from lossline.laws.results import FitResult, FitStatus
from lossline.laws.rows import MANY_POINTS, FitRows
from lossline.laws.starts import nodes, project

Array = np.ndarray

# A point is stationary if its relative Newton decrement is below this: the objective can fall by at
# most this share.
_STATIONARY = 1e-8
# Starts whose objectives agree to this share have reached the same optimum.
_SAME_OBJECTIVE = 1e-4
_FINALISTS = 3  # ends of each fit that are polished
# A problem of more points starts from the fit to so many of them, evenly spaced in their order: the
# place of the optimum needs no more, and each start costs as much as its points.
_POINTS_FOR_START = 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Options of a fit.

    Attributes:
        objective: what is minimized.
        starts: nodes of the projected grid to descend from, for problems without starts of their
            own.
        iterations: limit of the descent's iterations.
        polish: limit of the Newton steps that follow.
        tolerance: relative decrease per iteration that ends a descent.
        condition_limit: condition number above which a fit is underdetermined.
    """

    objective: FitObjective = HUBER_ON_LOGS
    starts: int = 4
    iterations: int = 150
    polish: int = 40
    tolerance: float = 1e-7
    condition_limit: float = 1e7


def fit(
    law: Law,
    inputs: Mapping[str, Array],
    target: Array,
    *,
    weights: Array | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    fixed: Mapping[str, float] | None = None,
    starts: Array | None = None,
    options: FitOptions | None = None,
) -> FitResult:
    """Fit one law to M points.

    Args:
        law: the law.
        inputs: arrays (M,) by name, natural units.
        target: measurements (M,), natural units.
        weights: weights of the points (M,); all 1 by default.
        bounds: (lower, upper) by parameter name, natural units.
        fixed: values by parameter name, natural units.
        starts: start values (S, P), natural units.
        options: how to fit.

    Raises:
        UserError: an argument is wrong for any data: unknown parameter, missing input, unequal
            lengths.
    """
    problem = FitProblem(
        inputs=inputs,
        target=target,
        weights=weights,
        bounds=bounds or {},
        fixed=fixed or {},
        starts=starts,
    )
    return fit_many(law, [problem], options=options)[0]


def fit_many(
    law: Law, problems: Sequence[FitProblem], *, options: FitOptions | None = None
) -> list[FitResult]:
    """Fit one law to each problem, all in one batch. Results are in the order of the problems."""
    options = options or FitOptions()
    data = [prepare(law, p, options.objective) for p in problems]
    started = _started(law, problems, data, options)
    results = _fitted(law, started, data, options)
    # The single start of many points may end where no step helps; the usual starts are then tried.
    again = [
        i
        for i, (p, s, r) in enumerate(zip(problems, started, results, strict=True))
        if s is not p and not r.ok
    ]
    if again:
        anew = _fitted(law, [problems[i] for i in again], [data[i] for i in again], options)
        for i, result in zip(again, anew, strict=True):
            results[i] = result
    return results


def _fitted(
    law: Law, problems: Sequence[FitProblem], data: Sequence[Prepared], options: FitOptions
) -> list[FitResult]:
    """Fit problems from their starts; results are in the order of the problems."""
    limits = [
        internal_bounds(law, p, d) if d.n else None for p, d in zip(problems, data, strict=True)
    ]
    results: list[FitResult | None] = [None] * len(problems)
    groups: dict[int, list[int]] = {}
    for i, (p, d, limit) in enumerate(zip(problems, data, limits, strict=True)):
        lack = _too_little(d, limit)
        if lack:
            results[i] = _empty(law, p, d, FitStatus.UNDERDETERMINED, lack)
        else:
            # Problems within a factor of 2 in size share a batch: less than half of it is padding.
            groups.setdefault(int(np.ceil(np.log2(d.n))), []).append(i)
    for members in groups.values():
        fitted = _fit_group(
            law,
            [problems[i] for i in members],
            [data[i] for i in members],
            [limits[i] for i in members],  # type: ignore[misc]
            options,
        )
        for i, result in zip(members, fitted, strict=True):
            results[i] = result
    return [r for r in results if r is not None]


def _started(
    law: Law, problems: Sequence[FitProblem], data: Sequence[Prepared], options: FitOptions
) -> list[FitProblem]:
    """Return the problems; those of many points start from the fit to some of them."""
    many = [
        i
        for i, (p, d) in enumerate(zip(problems, data, strict=True))
        if p.starts is None and has_many_points(d.n)
    ]
    started = list(problems)
    if not many:
        return started
    # A start need not be polished, and the fit that follows is checked.
    rough = dataclasses.replace(options, polish=0, starts=2)
    found = fit_many(law, [_thinned(problems[i], data[i]) for i in many], options=rough)
    for i, fewer in zip(many, found, strict=True):
        if fewer.ok:
            starts = np.array([[fewer.parameters[name] for name in law.names]])
            started[i] = dataclasses.replace(problems[i], starts=starts)
    return started


def _thinned(problem: FitProblem, data: Prepared) -> FitProblem:
    """Return a problem with about ``_POINTS_FOR_START`` of its points."""
    kept = data.order[:: data.n // _POINTS_FOR_START]
    weights = None if problem.weights is None else np.asarray(problem.weights, float)[kept]
    return dataclasses.replace(
        problem,
        inputs={name: np.asarray(values, float)[kept] for name, values in problem.inputs.items()},
        target=np.asarray(problem.target, float)[kept],
        weights=weights,
    )


def has_many_points(points: int) -> bool:
    """Return whether a problem of so many points is fitted alone: a batch would save nothing."""
    return points >= MANY_POINTS


def _too_little(data: Prepared, limits: tuple[Array, Array] | None) -> str:
    """Return why nothing can be fitted at all, or an empty string."""
    if limits is None:
        return f"none of {data.given} points can be used"
    free = int(np.sum(limits[0] < limits[1]))
    # Points are sorted by their inputs.
    distinct = 1 + np.count_nonzero(np.any([np.diff(c) != 0 for c in data.columns], axis=0))
    if data.n < free:
        return f"{data.n} usable points for {free} free parameters"
    if distinct < 2 and free > 1:
        return f"all {data.n} points have the same inputs"
    if distinct < free:
        return f"{distinct} distinct inputs for {free} free parameters"
    return ""


def _empty(
    law: Law, problem: FitProblem, data: Prepared, status: FitStatus, message: str
) -> FitResult:
    """Return the result of a problem without a fit."""
    return FitResult(
        law=law,
        parameters={},
        objective=float("nan"),
        status=status,
        message=message,
        conditioning=float("inf"),
        residuals=np.full(data.given, np.nan),
        dropped=data.dropped,
        at_bound=(),
        n_points=data.n,
        n_free=0,
        scatter=float("nan"),
        starts=0,
        starts_reached=0,
        iterations=0,
        r2=float("nan"),
        label=problem.label,
    )


def _starts(
    law: Law, problem: FitProblem, data: Prepared, low: Array, high: Array, options: FitOptions
) -> Array:
    """Return starts (S, P) of one problem, internal and sorted: the given order has no effect."""
    if problem.starts is None:
        grid = nodes(law, data.columns, data.target, low, high)
        found = project(
            law,
            options.objective,
            grid,
            data.target,
            data.weights[None],
            low,
            high,
            keep=options.starts,
        )[0]
    else:
        given = np.atleast_2d(np.asarray(problem.starts, float))
        if given.shape[1] != len(law.parameters):
            raise UserError(
                f"starts have {given.shape[1]} columns; the law {law.name!r} has {len(law.names)} "
                f"parameters: {', '.join(law.names)}."
            )
        found = law.to_internal(given)
    found = np.clip(found, low, high)
    return found[np.lexsort(found.T[::-1])]


def _fit_group(
    law: Law,
    problems: Sequence[FitProblem],
    data: Sequence[Prepared],
    limits: Sequence[tuple[Array, Array]],
    options: FitOptions,
) -> list[FitResult]:
    """Fit problems of similar size in one batch."""
    stacked = stack(law, options.objective, data)
    starts = [
        _starts(law, p, d, low, high, options)
        for p, d, (low, high) in zip(problems, data, limits, strict=True)
    ]
    row_fit = np.repeat(np.arange(len(problems)), [len(s) for s in starts])
    batch = fit_rows(
        stack=stacked,
        problem=row_fit,
        weights=stacked.weights,
        weight=row_fit,
        fit=row_fit,
        low=np.stack([low for low, _ in limits])[row_fit],
        high=np.stack([high for _, high in limits])[row_fit],
    )
    descent = descend(
        batch, np.concatenate(starts), iterations=options.iterations, tolerance=options.tolerance
    )
    best = finish(batch, descent, len(problems), iterations=options.polish)
    return [
        _result(law, problems[i], data[i], batch, descent, best, i, options)
        for i in range(len(problems))
    ]


@dataclasses.dataclass(frozen=True)
class Best:
    """Best polished row of each of F fits.

    Attributes:
        row: its row in the batch (F,); -1 if no row has a finite objective.
        theta: internal parameters (F, P).
        objective: objective (F,).
        decrement: relative Newton decrement (F,).
    """

    row: Array
    theta: Array
    objective: Array
    decrement: Array


def finish(
    batch: FitRows,
    descent: Descent,
    fits: int,
    *,
    finalists: int = _FINALISTS,
    **polishing: Any,
) -> Best:
    """Polish the best few distinct ends of each fit and keep the best one.

    Args:
        batch: all rows.
        descent: where they ended.
        fits: number of fits F.
        finalists: how many ends of each fit to polish.
        **polishing: options of ``newton.polish``.
    """
    rows = np.flatnonzero(
        (descent.leader == np.arange(len(descent.leader))) & np.isfinite(descent.objective)
    )
    order = rows[np.lexsort([rows, descent.objective[rows], batch.fit[rows]])]
    fit_of = batch.fit[order]
    first = np.searchsorted(fit_of, np.arange(fits))
    place = np.arange(len(order)) - first[fit_of]
    lowest = np.full(fits, np.inf)
    np.minimum.at(lowest, fit_of, descent.objective[order])
    # Ends within 2% of the lowest may still overtake it when polished.
    near = (
        descent.objective[order] <= lowest[fit_of] * 1.02 + batch.stack.tiny[batch.problem[order]]
    )
    rows = order[(place < finalists) & near]
    theta, objective, decrement = polish(batch, rows, descent.theta[rows], **polishing)
    # Lowest objective first; of equal ones the one nearest to a stationary point.
    chosen = np.lexsort([decrement, objective, batch.fit[rows]])
    has, first = np.unique(batch.fit[rows][chosen], return_index=True)
    pick = chosen[first]
    best = Best(
        row=np.full(fits, -1),
        theta=np.full((fits, theta.shape[1]), np.nan),
        objective=np.full(fits, np.nan),
        decrement=np.full(fits, np.inf),
    )
    best.row[has] = rows[pick]
    best.theta[has], best.objective[has], best.decrement[has] = (
        theta[pick],
        objective[pick],
        decrement[pick],
    )
    return best


def _result(
    law: Law,
    problem: FitProblem,
    data: Prepared,
    batch: FitRows,
    descent: Descent,
    best: Best,
    i: int,
    options: FitOptions,
) -> FitResult:
    """Assemble the result of fit ``i``."""
    if best.row[i] < 0:
        return _empty(law, problem, data, FitStatus.ABNORMAL, "no start had a finite objective")
    row, theta = int(best.row[i]), best.theta[i]
    low, high = batch.low[row], batch.high[row]
    mine = np.flatnonzero(batch.fit == i)
    same = best.objective[i] * (1 + _SAME_OBJECTIVE) + batch.stack.tiny[i]
    stuck = (low < high) & ((theta <= low) | (theta >= high))
    at_bound = tuple(name for name, held in zip(law.names, stuck, strict=True) if held)
    condition = _condition(law, data, theta, (low < theta) & (theta < high), options)
    status, message = _status(
        float(best.decrement[i]), bool(descent.settled[row]), at_bound, condition, options
    )
    return FitResult(
        law=law,
        parameters=dict(zip(law.names, law.to_natural(theta).tolist(), strict=True)),
        objective=float(best.objective[i]),
        status=status,
        message=message,
        conditioning=condition,
        dropped=data.dropped,
        at_bound=at_bound,
        n_points=data.n,
        n_free=int(np.sum(low < high)),
        starts=len(mine),
        starts_reached=int(np.sum(descent.objective[mine] <= same)),
        iterations=descent.iterations,
        label=problem.label,
        **_goodness(law, data, theta, int(np.sum(low < high)), options.objective),
    )


def _condition(law: Law, data: Prepared, theta: Array, free: Array, options: FitOptions) -> float:
    """Return the condition number of the weighted residuals' Jacobian at theta."""
    # The objective is a weighted sum of squares, so each row counts with the root of its weight.
    root = np.sqrt(data.weights)[:, None]
    rows = residual_jacobian(law, data, options.objective, theta) * root
    return condition_number(rows, free)


def _goodness(
    law: Law, data: Prepared, theta: Array, free: int, objective: FitObjective
) -> dict[str, Any]:
    """Return residuals in the given order, their scatter, and R^2 in the unit of the target."""
    with np.errstate(all="ignore"):
        f = law.value(theta[None], tuple(c[None] for c in data.columns))[0]
        kept = objective.residuals(f, objective.target(data.target))
    residuals = np.full(data.given, np.nan)
    residuals[data.order] = kept
    share = data.weights / data.weights.sum()
    spread = float(np.sum(share * (data.target - np.sum(share * data.target)) ** 2))
    missed = float(np.sum(share * (data.target - f) ** 2))
    left = data.n - free
    return {
        "residuals": residuals,
        "scatter": float(np.sqrt(np.sum(share * kept**2) * data.n / left)) if left > 0 else np.nan,
        "r2": 1 - missed / spread if spread > 0 else np.nan,
    }


def _status(
    decrement: float,
    settled: bool,
    at_bound: tuple[str, ...],
    condition: float,
    options: FitOptions,
) -> tuple[FitStatus, str]:
    """Return status and message of a fit that has parameters."""
    if condition > options.condition_limit:
        return (
            FitStatus.UNDERDETERMINED,
            f"the data leave the parameters undetermined (condition number {condition:.1e})",
        )
    if decrement > _STATIONARY:
        left = f"the objective could still fall by a share of {decrement:.1e}"
        if not settled:
            return FitStatus.ITERATION_LIMIT, f"{left} after {options.iterations} iterations"
        return FitStatus.ABNORMAL, f"{left}, but no step lowers it"
    if at_bound:
        return FitStatus.BOUND_HIT, f"{', '.join(at_bound)} at a bound"
    return FitStatus.CONVERGED, ""
