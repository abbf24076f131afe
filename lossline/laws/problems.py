"""Data of a fit: check it, drop unusable points with a reason, stack many problems into one batch.

Points are sorted by inputs, target and weight, so that a fit gives the same bits for any order of
the points. Problems of different lengths are padded by a valid point of weight 0.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from lossline.errors import UserError
from lossline.laws.forms import Columns, Law
from lossline.laws.objective import FitObjective, Residual

Array = np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitProblem:
    """One fit: M points and the constraints on the parameters.

    Attributes:
        inputs: values by input name, each (M,), natural units.
        target: measurements (M,).
        weights: weights of the points (M,); None: all 1.
        bounds: (lower, upper) by parameter name, natural units.
        fixed: values by parameter name, natural units.
        starts: start values (S, P), natural units, in the order of the law's parameters; None: by
            projection (``starts``).
        label: name of the problem in messages.
    """

    inputs: Mapping[str, Array]
    target: Array
    weights: Array | None = None
    bounds: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    fixed: Mapping[str, float] = dataclasses.field(default_factory=dict)
    starts: Array | None = None
    label: str = ""


@dataclasses.dataclass(frozen=True)
class Dropped:
    """A point left out of a fit.

    Attributes:
        index: its position in the given arrays.
        reason: why it cannot be used.
    """

    index: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Usable points of a problem, sorted.

    Attributes:
        columns: transformed inputs of the law, each (M,).
        target: measurements (M,).
        weights: weights (M,).
        order: positions of the points in the given arrays (M,).
        dropped: points left out.
        given: number of points in the given arrays.
    """

    columns: Columns
    target: Array
    weights: Array
    order: Array
    dropped: tuple[Dropped, ...]
    given: int

    @property
    def n(self) -> int:
        """Number of usable points."""
        return len(self.target)


def _vector(value: object, what: str, label: str) -> Array:
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise UserError(
            f"{label}{what} must be an array of numbers, not {type(value).__name__}."
        ) from None
    if array.ndim != 1:
        raise UserError(f"{label}{what} must be one-dimensional; its shape is {array.shape}.")
    return array


def prepare(law: Law, problem: FitProblem, objective: FitObjective) -> Prepared:
    """Check a problem and drop unusable points.

    Raises:
        UserError: an argument is wrong for any data (unknown parameter, missing input, unequal
            lengths).
    """
    label = f"{problem.label}: " if problem.label else ""
    missing = law.missing_inputs(problem.inputs)
    if missing:
        raise UserError(
            f"{label}law {law.name!r}: inputs {', '.join(missing)} are missing. It needs "
            f"{', '.join(law.inputs)}; given: {', '.join(problem.inputs) or 'none'}."
        )
    target = _vector(problem.target, "target", label)
    inputs = {
        name: _vector(value, f"input {name}", label) for name, value in problem.inputs.items()
    }
    weights = (
        np.ones(len(target))
        if problem.weights is None
        else _vector(problem.weights, "weights", label)
    )
    for name, value in [*inputs.items(), ("weights", weights)]:
        if len(value) != len(target):
            raise UserError(
                f"{label}{name} has {len(value)} points, but the target has {len(target)}."
            )
    if np.any(~np.isfinite(weights)) or np.any(weights < 0):
        raise UserError(f"{label}weights must be finite and at least 0.")
    for name in [*problem.bounds, *problem.fixed]:
        law.index(name)
    with np.errstate(all="ignore"):
        columns = law.columns(inputs)
    reasons = _reasons(columns, target, weights, objective)
    keep = np.flatnonzero(reasons == "")
    # Floating-point sums depend on the order of terms: sort, so that equal data give equal bits.
    order = keep[np.lexsort([weights[keep], target[keep], *(c[keep] for c in columns)])]
    return Prepared(
        columns=tuple(c[order] for c in columns),
        target=target[order],
        weights=weights[order],
        order=order,
        dropped=tuple(Dropped(int(i), str(reasons[i])) for i in np.flatnonzero(reasons != "")),
        given=len(target),
    )


def _reasons(columns: Columns, target: Array, weights: Array, objective: FitObjective) -> Array:
    reasons = np.full(len(target), "", dtype=object)
    reasons[weights == 0] = "weight 0"
    for column in columns:
        reasons[~np.isfinite(column)] = "an input is missing or outside the law's domain"
    if objective.residual is not Residual.LINEAR:
        reasons[target <= 0] = "target not positive"
    reasons[~np.isfinite(target)] = "target missing or not finite"
    return reasons


def internal_bounds(law: Law, problem: FitProblem, data: Prepared) -> tuple[Array, Array]:
    """Return lower and upper bounds (P,), (P,) in internal coordinates.

    They combine the bounds of the law, of the data and of the user. Both bounds of a fixed
    parameter are equal.

    Raises:
        UserError: a lower bound lies above the upper one, or a fixed value lies outside the law's
            domain.
    """
    low, high = law.bounds(data.columns, data.target)
    for name, (lower, upper) in problem.bounds.items():
        i = law.index(name)
        if not lower <= upper:
            raise UserError(
                f"bounds of {name}: the lower bound {lower} is above the upper {upper}."
            )
        p = law.parameters[i]
        low[i] = max(low[i], p.internal(lower))
        high[i] = max(low[i], min(high[i], p.internal(upper)))
    for name, value in problem.fixed.items():
        i = law.index(name)
        low[i] = high[i] = law.parameters[i].internal(value)
        if not np.isfinite(low[i]):
            raise UserError(f"fixed {name} = {value}: outside the domain of the law {law.name!r}.")
    return low, high


@dataclasses.dataclass(frozen=True)
class Stack:
    """U problems of at most M points each, padded by points of weight 0.

    Attributes:
        law: the law that all problems fit.
        objective: the objective that all problems minimize.
        columns: transformed inputs, each (U, M).
        goal: ``objective.target`` of the measurements (U, M).
        weights: weights (U, M).
        center: ``Law.centering`` of each problem (U, P, P).
        tiny: objective that is only rounding error (U,).
    """

    law: Law
    objective: FitObjective
    columns: Columns
    goal: Array
    weights: Array
    center: Array
    tiny: Array


def stack(law: Law, objective: FitObjective, data: Sequence[Prepared]) -> Stack:
    """Stack prepared problems into one batch."""
    width = max(d.n for d in data)

    def padded(values: Array, fill: float) -> Array:
        return np.concatenate([values, np.full(width - len(values), fill)])

    columns = tuple(
        np.stack([padded(d.columns[k], d.columns[k][0]) for d in data])
        for k in range(len(data[0].columns))
    )
    target = np.stack([padded(d.target, d.target[0]) for d in data])
    weights = np.stack([padded(d.weights, 0.0) for d in data])
    # 1e-24 = (1e-12)^2: a residual of 1e-12, relative to y, is rounding error.
    size = np.mean(target**2, axis=1) if objective.residual is Residual.LINEAR else 1.0
    return Stack(
        law=law,
        objective=objective,
        columns=columns,
        goal=objective.target(target),
        weights=weights,
        center=np.stack([law.centering(d.columns) for d in data]),
        tiny=1e-24 * weights.sum(axis=1) * size,
    )
