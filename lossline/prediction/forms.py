"""Interface of the forms of both stages, and the fit of a form with resamples of its runs.

A form maps columns (logarithms of scale, or a loss) to what a stage predicts. Shapes: B weightings
of the runs, P parameters, M points. Row 0 of every result is the fit to all data; rows 1 to B - 1
are resamples.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from lossline.prediction.descent import Limits, descend

Array = np.ndarray
Columns = tuple[Array, ...]

_SCALES = ("flops", "params", "tokens")  # columns that enter a form as logarithms


class Form(abc.ABC):
    """One equation. Its docstring holds the equation and its source.

    Attributes:
        name: name in results.
        equation: the equation as text.
        source: paper, with its equation.
        inputs: names of the columns: "flops", "params", "tokens", "loss", "family".
        parameters: names of the parameters, in internal coordinates.
        spread: size of a typical residual, the unit in which misses and priors are weighed.
        has_floor: whether predictions of a score never fall below that of guessing.
    """

    name: ClassVar[str]
    equation: ClassVar[str]
    source: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]
    parameters: tuple[str, ...]
    spread: ClassVar[float] = 0.01
    has_floor: ClassVar[bool] = False

    @property
    def fewest(self) -> int:
        """Points that a fit needs: one per parameter."""
        return len(self.parameters)

    @abc.abstractmethod
    def model(self, theta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return the residual scale's prediction (B, M) and its derivative by theta (B, P, M)."""

    @abc.abstractmethod
    def limits(self, columns: Columns, target: Array) -> Limits:
        """Return bounds and priors of the parameters."""

    @abc.abstractmethod
    def starts(self, columns: Columns, target: Array) -> Array:
        """Return starts (S, P)."""

    def residual_scale(self, target: Array) -> Array:
        """Return measurements on the scale on which misses are squared."""
        return target

    def natural(self, value: Array) -> Array:
        """Return predictions on the natural scale."""
        return value

    def usable(self, target: Array) -> Array:
        """Return which measurements the form can be fitted to (M,)."""
        return np.isfinite(self.residual_scale(target))


def no_priors(low: Array, high: Array) -> Limits:
    """Return bounds without priors."""
    low = np.asarray(low, float)
    return Limits(
        low=low,
        high=np.asarray(high, float),
        mean=np.zeros(len(low)),
        sd=np.full(len(low), np.inf),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FittedForm:
    """A form fitted to points, with resamples.

    Attributes:
        form: the form.
        theta: parameters (B, P): the fit to all data, then the resamples.
        centers: what was subtracted from each column.
        r2: R^2 on the residual scale.
        scatter: standard deviation of the residuals, corrected for the degrees of freedom.
        n_points: points fitted.
        n_runs: runs fitted.
        flatness: standard deviation by which the data leave the weakest direction of the scaled
            parameters open, relative to its prior range: 1 means that the data say nothing.
        weakest: parameter that this direction is mostly made of.
        outliers: runs whose mean residual lies more than 3 robust standard deviations, and more
            than the form's typical residual, away from the median.
    """

    form: Form
    theta: Array
    centers: tuple[float, ...]
    r2: float = float("nan")
    scatter: float = float("nan")
    n_points: int = 0
    n_runs: int = 0
    flatness: float = float("nan")
    weakest: str = ""
    outliers: tuple[str, ...] = ()

    def predict(self, inputs: Mapping[str, Array]) -> Array:
        """Return predictions (B, T), natural scale.

        Args:
            inputs: natural columns by name, each (T,) or (B, T).
        """
        value, _ = self.form.model(self.theta, columns_of(self.form, inputs, self.centers))
        return self.form.natural(value)

    def to_dict(self, draws: int = 200) -> dict[str, Any]:
        """Return a JSON tree with the fit and at most ``draws`` resamples."""
        return {
            "form": self.form.name,
            "options": dataclasses.asdict(self.form),  # type: ignore[call-overload]
            "parameters": list(self.form.parameters),
            "centers": list(self.centers),
            "theta": self.theta[: draws + 1].tolist(),
            "r2": _number(self.r2),
            "n_points": self.n_points,
            "n_runs": self.n_runs,
        }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def columns_of(form: Form, inputs: Mapping[str, Array], centers: tuple[float, ...]) -> Columns:
    """Return the columns of a form less their centers: logarithms of scale, others as they are."""
    return tuple(
        (np.log(inputs[name]) if name in _SCALES else np.asarray(inputs[name], float)) - center
        for name, center in zip(form.inputs, centers, strict=True)
    )


def _center(name: str, column: Array) -> float:
    """Return what to subtract from a column: its mean; nothing from numbers of families."""
    return 0.0 if name == "family" else float(column.mean())


def fit_form(
    form: Form,
    inputs: Mapping[str, Array],
    target: Array,
    runs: Array,
    weights: Array,
    *,
    point_weights: Array | None = None,
    names: tuple[str, ...] = (),
) -> FittedForm | str:
    """Fit a form to M points and to every resample of their runs.

    Args:
        form: the form.
        inputs: natural columns by name, each (M,).
        target: measurements (M,).
        runs: number of each point's run (M,), a column of ``weights``.
        weights: weights of the runs (B, R); row 0 is all ones.
        point_weights: weights of the points (M,).
        names: names of the R runs, to name outliers.

    Returns:
        The fit, or why there is none.
    """
    keep = form.usable(target)
    for name in form.inputs:
        keep &= np.isfinite(inputs[name])
    used = {name: np.asarray(inputs[name], float)[keep] for name in form.inputs}
    plain = dict(zip(form.inputs, columns_of(form, used, (0.0,) * len(form.inputs)), strict=True))
    if reason := _too_few(form, plain):
        return reason
    centers = tuple(_center(name, column) for name, column in plain.items())
    columns = columns_of(form, used, centers)
    y, run = target[keep], runs[keep]
    goal = form.residual_scale(y)
    limits = form.limits(columns, y)
    share = np.ones(len(y)) if point_weights is None else point_weights[keep]
    share = share / share.mean() / form.spread**2

    def model(theta: Array) -> tuple[Array, Array]:
        return form.model(theta, columns)

    starts = form.starts(columns, y)
    ends, cost = descend(model, starts, goal, share[None], limits)
    best = ends[np.argmin(np.where(np.isfinite(cost), cost, np.inf))]
    theta = best[None]
    if len(weights) > 1:
        point = weights[1:, run] * share
        again, _ = descend(
            model,
            np.tile(best, (len(point), 1)),
            goal,
            point,
            limits,
            iterations=25,
            tolerance=1e-6,
        )
        theta = np.concatenate([theta, again])
    return FittedForm(
        form=form,
        theta=theta,
        centers=centers,
        n_points=len(y),
        n_runs=len(np.unique(run)),
        **_diagnosis(form, best, columns, goal, share, limits, run, names),
    )


def _too_few(form: Form, columns: Mapping[str, Array]) -> str:
    """Return why the columns, by name and not centered, are too few for the form; else ""."""
    axes = {name: column for name, column in columns.items() if name != "family"}
    points = len(next(iter(axes.values())))
    distinct = len(np.unique(np.round(np.column_stack(list(axes.values())), 6), axis=0))
    if points < form.fewest or distinct < min(form.fewest, len(axes) + 1):
        what = "losses" if form.inputs == ("loss",) else "scales"
        return (
            f"{points} usable points at {distinct} {what} for {len(form.parameters)} parameters of "
            f"{form.equation}"
        )
    for name, what in (("params", "size"), ("tokens", "number of tokens")):
        if name in axes and len(np.unique(axes[name].round(3))) < 2:
            return f"all runs have the same {what}"
    return ""


def _diagnosis(
    form: Form,
    theta: Array,
    columns: Columns,
    goal: Array,
    share: Array,
    limits: Limits,
    run: Array,
    names: tuple[str, ...],
) -> dict[str, Any]:
    """Return how well the form fits, its weakest direction and runs that do not belong."""
    value, jacobian = form.model(theta[None], columns)
    residual = (goal - value[0]) * np.sqrt(share * form.spread**2)
    spread = float(np.sum(share * np.square(goal - np.average(goal, weights=share))))
    left = len(goal) - len(theta)
    scatter = float(np.sqrt(np.sum(np.square(residual)) / left)) if left > 0 else float("nan")
    # A parameter's scale is its prior, or 1: exponents, slopes, logarithms are of that order.
    scale = np.where(np.isfinite(limits.sd), limits.sd, 1.0)
    noise = scatter if np.isfinite(scatter) and scatter > 0 else form.spread
    rows = jacobian[0] * np.sqrt(share) * form.spread / noise
    normal = scale[:, None] * (rows @ rows.T) * scale
    size, direction = np.linalg.eigh(normal)
    return {
        "r2": 1 - float(np.sum(share * np.square(goal - value[0]))) / spread
        if spread > 0
        else np.nan,
        "scatter": scatter,
        "flatness": float(1 / np.sqrt(1 + max(size[0], 0.0))),
        "weakest": form.parameters[int(np.argmax(np.abs(direction[:, 0])))],
        "outliers": _outliers(residual, run, names, form.spread),
    }


def _outliers(
    residual: Array, run: Array, names: tuple[str, ...], typical: float
) -> tuple[str, ...]:
    """Return the runs that do not belong (``FittedForm.outliers``)."""
    present = np.unique(run)
    if len(present) < 5 or not names:
        return ()
    means = np.array([residual[run == r].mean() for r in present])
    away = np.abs(means - np.median(means))
    # Without a least distance, rounding errors of a perfect fit would be outliers of one another.
    limit = max(3 * 1.4826 * float(np.median(away)), typical)
    return tuple(names[r] for r, d in zip(present, away, strict=True) if d > limit)
