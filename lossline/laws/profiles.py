"""Profile likelihood: how well one parameter is determined, all others refitted at each of its
values.

The irreducible loss E is badly determined where no run came near it: its likelihood is flat on one
side, which a standard error hides and a profile shows (Royston 2007). All values are fitted in one
batch, from the neighbourhood of the full fit."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from scipy import stats

from lossline.errors import UserError
from lossline.laws.forms import Law
from lossline.laws.objective import Loss, Objective
from lossline.laws.problems import Problem, prepare
from lossline.laws.results import FitResult
from lossline.laws.solver import FitOptions, fit_many

Array = np.ndarray

_NEAR = 8.0  # rise of the objective, in units of the noise, within which a profile is refined


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """Objective (V,) with one parameter held at each of ``values`` (V,), ascending; nan where no
    fit was reached.

    ``noise`` turns differences of the objective into half a log-likelihood ratio (see
    `noise_level`); ``degrees`` are those of the noise estimate."""

    name: str
    values: Array
    objectives: Array
    fits: tuple[FitResult, ...]
    best: FitResult
    noise: float
    degrees: int

    def rise(self) -> Array:
        """Likelihood-ratio statistic (V,): 2 (objective - least objective) / noise, F(1, degrees)
        under the truth."""
        least = min(self.best.objective, float(np.nanmin(self.objectives)))
        return 2 * (self.objectives - least) / self.noise

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Values that the data do not refute, linearly between grid values; an end is infinite
        where the profile does not rise enough before the grid ends: the data set no limit on that
        side."""
        if not 0 < level < 1:
            raise UserError(f"level must lie between 0 and 1, not {level}")
        limit = float(stats.f.ppf(level, 1, self.degrees))
        rise = self.rise()
        known = np.isfinite(rise)
        values, rise = self.values[known], rise[known]
        inside = np.flatnonzero(rise <= limit)
        if not len(inside):
            middle = self.best.parameters[self.name]
            return middle, middle
        first, last = inside[0], inside[-1]
        low, high = -np.inf, np.inf
        if first > 0:
            low = _crossing(values[first - 1 : first + 1], rise[first - 1 : first + 1], limit)
        if last < len(values) - 1:
            high = _crossing(values[last : last + 2], rise[last : last + 2], limit)
        return low, high


def _crossing(values: Array, rise: Array, limit: float) -> float:
    """Where a rise, quadratic to first order (so that its root is straight), passes the limit."""
    root = np.sqrt(np.maximum(rise, 0))
    share = (np.sqrt(limit) - root[0]) / (root[1] - root[0])
    return float(values[0] + share * (values[1] - values[0]))


def profile(
    law: Law,
    problem: Problem,
    name: str,
    values: Array | None = None,
    *,
    refine: bool = True,
    options: FitOptions | None = None,
) -> Profile:
    """Profiles one parameter over ``values`` (natural, by default 33 from its lower bound to its
    ceiling) and, with ``refine``, 25 more where the objective is near its least.

    UserError where the full fit is not determined, or has no default range of values (a parameter
    without bounds)."""
    options = options or FitOptions()
    index = law.index(name)
    best = fit_many(law, [problem], options=options)[0]
    if not best.parameters:
        raise UserError(f"{problem.label or law.name}: nothing to profile: {best.message}")
    data = prepare(law, problem, options.objective)
    if values is None:
        low, high = (law.to_natural(b)[index] for b in law.bounds(data.columns, data.target))
        if not (np.isfinite(low) and np.isfinite(high)):
            raise UserError(
                f"{name} of the law {law.name!r} is not bounded: give the values to profile it at"
            )
        values = np.linspace(low, high, 33)
    degrees = max(1, best.n_points - len(law.parameters) + len(problem.fixed))
    weights = np.ones(data.given) if problem.weights is None else np.asarray(problem.weights, float)
    noise = noise_level(options.objective, best.residuals, weights, degrees)
    grid = np.unique(np.append(np.asarray(values, float), best.parameters[name]))
    fits = _held_fits(law, problem, name, grid, options)
    if refine:
        near = _near(grid, fits, best.objective + _NEAR * noise)
        fits |= _held_fits(law, problem, name, np.setdiff1d(near, grid), options)
    grid = np.array(sorted(fits))
    chosen = tuple(fits[v] for v in grid)
    return Profile(
        name=name,
        values=grid,
        objectives=np.array([f.objective if f.parameters else np.nan for f in chosen]),
        fits=chosen,
        best=best,
        noise=noise,
        degrees=degrees,
    )


def _held_fits(
    law: Law, problem: Problem, name: str, values: Array, options: FitOptions
) -> dict[float, FitResult]:
    held = [dataclasses.replace(problem, fixed={**problem.fixed, name: float(v)}) for v in values]
    return dict(zip(values.tolist(), fit_many(law, held, options=options), strict=True))


def _near(grid: Array, fits: Mapping[float, FitResult], limit: float) -> Array:
    """A finer grid where the objective is below the limit, one coarse step wider on both sides."""
    low = np.flatnonzero([bool(fits[v].parameters) and fits[v].objective <= limit for v in grid])
    first, last = max(low[0] - 1, 0), min(low[-1] + 1, len(grid) - 1)
    return np.linspace(grid[first], grid[last], 25)


def noise_level(objective: Objective, residuals: Array, weights: Array, degrees: int) -> float:
    """E psi^2 / E psi', the scale at which twice a difference of objectives is a chi-squared
    variable, for residuals of a fit with ``degrees`` fewer parameters than points.

    For least squares this is the residual variance; for robust losses see Hampel et al. (1986),
    section 7.2."""
    known = np.isfinite(residuals)
    r, w = residuals[known], weights[known]
    weight = objective.robust_weight(r)
    psi = r if weight is None else weight * r
    curvature = mean_curvature(objective, r, len(r) - degrees)
    return float(np.sum(w * psi**2) / degrees / curvature)


def mean_curvature(objective: Objective, residuals: Array, fitted: int) -> float:
    """E psi': the mean second derivative of rho; 1 for least squares.

    The expectation is over a smooth density, since few residuals lie within a small delta; and
    without the ``fitted`` smallest ones, since a fit of small delta passes through as many points
    as it has parameters (Koenker 2005, section 3.4, on the density at 0)."""
    r = residuals[np.isfinite(residuals)]
    r = r[np.argsort(np.abs(r))][fitted:]
    if objective.loss is Loss.LEAST_SQUARES or len(r) < 2 or np.ptp(r) == 0:
        return 1.0
    density = stats.gaussian_kde(r)
    if objective.loss is Loss.HUBER:
        share = density.integrate_box_1d(-objective.delta, objective.delta)
        return float(min(1.0, share))
    # psi' of soft L1 is (1 + s^2)^(-3/2), s = r / delta: with s = tan(a) its integral is over
    # cos(a).
    angle = np.linspace(-np.pi / 2, np.pi / 2, 402)[1:-1]
    heights = density(objective.delta * np.tan(angle))
    return float(np.mean(heights * np.cos(angle)) * np.pi * objective.delta)
