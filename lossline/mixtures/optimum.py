"""The best mixture for one target or several.

    at = {"params": 1e9, "tokens": 2e10}
    found = resample(law, runs)
    best = best_mixture(
        loss_goal(found.fit, {"humaneval": 1.0}, **at),
        runs,
        limits=Limits(upper={"code": 0.5}),
        pull=Pull(natural, 0.05),
        resampled=[loss_goal(fit, {"humaneval": 1.0}, **at) for fit in found.fits(100)],
    )
    print(best.shares, best.warnings, mixture_binding(best.mixture))

A goal is any smooth function of shares that is to be small: nothing here knows a law. It is
minimized by SLSQP from several starts: even shares, the best trained mixtures, and mixtures halfway
to each component.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize, nnls

from lossline.errors import UserError
from lossline.mixtures.goals import Goal
from lossline.mixtures.limits import Limits
from lossline.mixtures.runs import MixtureRuns, shares_of

Array = np.ndarray

_STEP = 1e-5  # of finite differences, in shares
_TINY = 1e-9
_BEST_TRAINED = 3  # trained mixtures to start from
# Distance (root sum of squares of shares) from the trained mixtures' hull that is called outside.
_OUTSIDE = 0.01
_DIGITS = 4  # of shares in a binding


@dataclasses.dataclass(frozen=True)
class Pull:
    """A pull toward a mixture: strength x KL(shares || mixture) is added to the goal.

    Attributes:
        mixture: shares by component; a component with share 0 gets none.
        strength: lambda, in units of the goal per nat.
    """

    mixture: Mapping[str, float]
    strength: float = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimum:
    """The best mixture.

    Attributes:
        components: names of the components (K).
        shares: best shares (K,) within the limits, with the pull.
        value: the goal there, without the pull.
        free: best shares (K,) without limits and pull.
        free_value: the goal there.
        low: lower end of each share over resamples (K,); NaN without resamples.
        high: upper end (K,).
        error: standard deviation of the goal at the optimum over resamples; NaN without.
        flat_low: lowest share (K,) among mixtures within the limits whose goal is within one
            ``error`` of the best; NaN without resamples.
        flat_high: highest share (K,).
        warnings: one line each; an optimum outside the mixtures trained, a limit that binds.
    """

    components: tuple[str, ...]
    shares: Array
    value: float
    free: Array
    free_value: float
    low: Array
    high: Array
    error: float
    flat_low: Array
    flat_high: Array
    warnings: tuple[str, ...]

    @property
    def mixture(self) -> dict[str, float]:
        """Shares by component, rounded to four decimals, with sum 1."""
        return rounded(dict(zip(self.components, self.shares.tolist(), strict=True)))


def best_mixture(
    goal: Goal,
    runs: MixtureRuns,
    *,
    limits: Limits | None = None,
    pull: Pull | None = None,
    resampled: Sequence[Goal] = (),
    level: float = 0.9,
) -> Optimum:
    """Return the mixture with the lowest goal.

    Args:
        goal: what to minimize.
        runs: the runs trained: their components, and the mixtures beyond which a warning is due.
        limits: bounds of the shares.
        pull: pull toward a mixture.
        resampled: the goal by each refit of resampled runs, for the intervals.
        level: level of the interval of each share.

    Raises:
        UserError: no mixture is within the limits, or the goal is not finite anywhere.
    """
    components, trained = runs.components, np.unique(runs.shares, axis=0)
    everything = (np.zeros(len(components)), np.ones(len(components)))
    bounds = (limits or Limits()).bounds(components)
    pulled = _pulled(goal, pull, components)
    starts = _starts(pulled, trained)
    shares = _minimize(pulled, starts, bounds)
    free = _minimize(goal, _starts(goal, trained), everything)
    value = float(goal(shares[None])[0])
    low = high = flat_low = flat_high = np.full(len(components), np.nan)
    error = float("nan")
    if len(resampled):
        near = np.stack([shares, np.full(len(components), 1 / len(components))])
        drawn = [_minimize(_pulled(g, pull, components), near, bounds) for g in resampled]
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
        low, high = np.minimum(low, shares), np.maximum(high, shares)
        error = float(np.std([g(shares[None])[0] for g in resampled], ddof=1))
        flat_low, flat_high = _flat(pulled, shares, error, bounds)
    return Optimum(
        components=components,
        shares=shares,
        value=value,
        free=free,
        free_value=float(goal(free[None])[0]),
        low=low,
        high=high,
        error=error,
        flat_low=flat_low,
        flat_high=flat_high,
        warnings=tuple(_warnings(components, shares, bounds, trained)),
    )


def _pulled(goal: Goal, pull: Pull | None, components: Sequence[str]) -> Goal:
    """Return the goal plus strength x KL(shares || mixture)."""
    if pull is None or not pull.strength:
        return goal
    toward = shares_of(pull.mixture, components)[0]
    # A share of 0 in the mixture would cost infinitely much; this is close enough.
    log_toward = np.log(np.maximum(toward, _TINY))

    def value(shares: Array) -> Array:
        logs = np.log(np.maximum(shares, _TINY))
        return goal(shares) + pull.strength * (shares * (logs - log_toward)).sum(axis=1)

    return value


def _starts(goal: Goal, trained: Array) -> Array:
    """Return mixtures (S, K) to start from."""
    count = trained.shape[1]
    even = np.full(count, 1 / count)
    with np.errstate(all="ignore"):
        values = goal(trained)
    order = np.argsort(np.where(np.isfinite(values), values, np.inf))[:_BEST_TRAINED]
    return np.vstack([even, trained[order], 0.5 * even + 0.5 * np.eye(count)])


def _minimize(goal: Goal, starts: Array, bounds: tuple[Array, Array]) -> Array:
    """Return the best shares (K,) within bounds.

    Raises:
        UserError: the goal is not finite at any start.
    """
    best, lowest = None, np.inf
    for start in starts:
        begin = _inside(start, bounds)
        if not np.isfinite(goal(begin[None])[0]):
            continue
        end = _slsqp(lambda s: goal(s[None])[0], lambda s: _slope(goal, s), begin, bounds)
        value = goal(end[None])[0]
        if np.isfinite(value) and value < lowest - 1e-12 * abs(lowest if best is not None else 0):
            best, lowest = end, value
    if best is None:
        raise UserError(
            "the goal has no finite value at any mixture within the limits: the law is not defined "
            "there (one size only, or shares of 0). Use another law or limits."
        )
    return best


def _slsqp(
    value: Callable[[Array], float],
    slope: Callable[[Array], Array],
    begin: Array,
    bounds: tuple[Array, Array],
    extra: Sequence[Mapping[str, Any]] = (),
) -> Array:
    """Return where SLSQP ends, on the simplex and within bounds."""
    one = {"type": "eq", "fun": lambda s: s.sum() - 1, "jac": np.ones_like}
    with np.errstate(all="ignore"):
        end = minimize(
            value,
            begin,
            jac=slope,
            bounds=list(zip(*bounds, strict=True)),
            constraints=[one, *extra],
            method="SLSQP",
            options={"maxiter": 200, "ftol": 1e-10},
        )
    return _inside(end.x if np.isfinite(end.x).all() else begin, bounds)


def _slope(goal: Goal, shares: Array) -> Array:
    """Return the gradient (K,) of the goal by one-sided differences; laws rescale shares to sum 1.

    Steps go up only, so that no share becomes negative.
    """
    stepped = shares + _STEP * np.eye(len(shares))
    points = np.vstack([shares, stepped / stepped.sum(axis=1, keepdims=True)])
    values = goal(points)
    return (values[1:] - values[0]) / _STEP


def _inside(shares: Array, bounds: tuple[Array, Array]) -> Array:
    """Return the nearest shares within bounds that sum to 1 (Euclidean projection, bisection)."""
    low, high = bounds
    below, above = (low - shares).min() - 1, (high - shares).max() + 1
    for _ in range(100):
        shift = 0.5 * (below + above)
        if np.clip(shares + shift, low, high).sum() > 1:
            above = shift
        else:
            below = shift
    return np.clip(shares + 0.5 * (below + above), low, high)


def _flat(
    goal: Goal, best: Array, error: float, bounds: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Return the lowest and highest share (K,) where the goal is at most its best + error."""
    most = goal(best[None])[0] + error
    near = {
        "type": "ineq",
        "fun": lambda s: most - goal(_on_simplex(s)[None])[0],
        "jac": lambda s: -_slope(goal, _on_simplex(s)),
    }
    ends = np.array([best, best])
    for k in range(len(best)):
        for end, sign in ((0, 1.0), (1, -1.0)):
            way = sign * np.eye(len(best))[k]
            found = _farthest(way, best, bounds, near)
            if goal(found[None])[0] <= most + 1e-3 * error:
                ends[end, k] = found[k]
    return np.minimum(ends[0], best), np.maximum(ends[1], best)


def _farthest(
    way: Array, best: Array, bounds: tuple[Array, Array], near: Mapping[str, Any]
) -> Array:
    """Return the shares with the lowest way . shares under a condition, from the best ones on."""
    return _slsqp(lambda s: float(way @ s), lambda s: way, best, bounds, [near])


def _on_simplex(shares: Array) -> Array:
    positive = np.maximum(shares, 0.0)
    return positive / positive.sum()


def _warnings(
    components: Sequence[str], shares: Array, bounds: tuple[Array, Array], trained: Array
) -> list[str]:
    """Return the warnings of an optimum."""
    found = []
    low, high = trained.min(axis=0), trained.max(axis=0)
    beyond = (shares < low - _OUTSIDE) | (shares > high + _OUTSIDE)
    if beyond.any():
        parts = [
            f"{components[k]} {shares[k]:.3f} (trained {low[k]:.3f} - {high[k]:.3f})"
            for k in np.flatnonzero(beyond).tolist()
        ]
        found.append(
            f"the best mixture is outside the mixtures trained: {', '.join(parts)}. The law "
            "extrapolates there; train it before you rely on it."
        )
    elif (distance := hull_distance(shares, trained)) > _OUTSIDE:
        found.append(
            "the best mixture combines shares that no mixture trained combines (distance "
            f"{distance:.3f} from their hull). The law extrapolates there; train it before you "
            "rely on it."
        )
    for k in np.flatnonzero((shares >= bounds[1] - 1e-6) & (bounds[1] < 1)).tolist():
        found.append(f"{components[k]} is at its highest share, {bounds[1][k]:.4g}")
    for k in np.flatnonzero((shares <= bounds[0] + 1e-6) & (bounds[0] > 0)).tolist():
        found.append(f"{components[k]} is at its lowest share, {bounds[0][k]:.4g}")
    return found


def hull_distance(shares: Array, trained: Array) -> float:
    """Return the distance of shares (K,) from the convex hull of mixtures (M, K)."""
    heavy = 1e3  # weight of the condition that the combination sums to 1
    system = np.vstack([trained.T, heavy * np.ones(len(trained))])
    return float(nnls(system, np.r_[shares, heavy])[1])


def mixture_binding(mixture: Mapping[str, float], stores: Mapping[str, str] | None = None) -> str:
    """Return the gin bindings that train a mixture.

    Args:
        mixture: shares by component.
        stores: token store of each component; None: ``mixture.components`` is left to the user.
    """
    lines = ["train.store = @mixture()"]
    if stores is not None:
        lines.append(f"mixture.components = {_as_gin({n: stores[n] for n in mixture})}")
    lines.append(f"mixture.shares = {_as_gin(rounded(mixture))}")
    return "\n".join(lines) + "\n"


def rounded(mixture: Mapping[str, float]) -> dict[str, float]:
    """Return shares with four decimals and sum 1 (largest remainder)."""
    unit = 10**_DIGITS
    exact = np.array(list(mixture.values()), float)
    exact = exact / exact.sum() * unit
    whole = np.floor(exact + _TINY)
    rest = round(float(unit - whole.sum()))
    whole[np.argsort(whole - exact, kind="stable")[:rest]] += 1
    return {name: round(float(w) / unit, _DIGITS) for name, w in zip(mixture, whole, strict=True)}


def _as_gin(tree: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{name!r}: {value!r}" for name, value in tree.items()) + "}"
