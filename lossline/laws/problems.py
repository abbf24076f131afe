"""A fit's data: checking it, dropping what cannot be used with the reason, and stacking many
problems into one batch.

Points are put into a canonical order (by inputs, target, weight), so that a fit gives the same bits
whatever order they came in. Ragged problems are stacked by repeating a valid point with weight 0.
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
    """One fit: inputs and target of equal length M; bounds and fixed values by parameter name, in
    natural units."""

    inputs: Mapping[str, Array]
    target: Array
    weights: Array | None = None
    bounds: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    fixed: Mapping[str, float] = dataclasses.field(default_factory=dict)
    starts: Array | None = (
        None  # (S, P) natural, in the order of the law's parameters; None: by projection
    )
    label: str = ""


@dataclasses.dataclass(frozen=True)
class Dropped:
    """A point left out of a fit: its position in the given arrays and why."""

    index: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The usable points of a problem in canonical order; `order` gives their positions in the given
    arrays."""

    columns: Columns  # each (M,)
    target: Array
    weights: Array
    order: Array
    dropped: tuple[Dropped, ...]
    given: int

    @property
    def n(self) -> int:
        return len(self.target)


def _vector(value: object, what: str, label: str) -> Array:
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise UserError(
            f"{label}{what} must be numbers, not {type(value).__name__} of something else"
        ) from None
    if array.ndim != 1:
        raise UserError(f"{label}{what} must be one-dimensional, not of shape {array.shape}")
    return array


def prepare(law: Law, problem: FitProblem, objective: FitObjective) -> Prepared:
    """Checks a problem and drops unusable points. UserError for arguments that no data could
    mend."""
    label = f"{problem.label}: " if problem.label else ""
    missing = law.missing_inputs(problem.inputs)
    if missing:
        raise UserError(
            f"{label}the law {law.name!r} needs the inputs {', '.join(law.inputs)}; "
            f"{', '.join(missing)} missing among {', '.join(problem.inputs) or 'none'}"
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
            raise UserError(f"{label}{name} has {len(value)} points, the target {len(target)}")
    if np.any(~np.isfinite(weights)) or np.any(weights < 0):
        raise UserError(f"{label}weights must be finite and not negative")
    for name in [*problem.bounds, *problem.fixed]:
        law.index(name)
    with np.errstate(all="ignore"):
        columns = law.columns(inputs)
    reasons = _reasons(columns, target, weights, objective)
    keep = np.flatnonzero(reasons == "")
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
    """Internal bounds (P,), (P,): the law's, those of the data, the person's; a fixed parameter has
    both equal."""
    low, high = law.bounds(data.columns, data.target)
    for name, (lower, upper) in problem.bounds.items():
        i = law.index(name)
        if not lower <= upper:
            raise UserError(f"bounds of {name}: lower {lower} above upper {upper}")
        p = law.parameters[i]
        low[i] = max(low[i], p.internal(lower))
        high[i] = max(low[i], min(high[i], p.internal(upper)))
    for name, value in problem.fixed.items():
        i = law.index(name)
        low[i] = high[i] = law.parameters[i].internal(value)
        if not np.isfinite(low[i]):
            raise UserError(f"fixed {name} = {value} is outside what the law {law.name!r} allows")
    return low, high


@dataclasses.dataclass(frozen=True)
class Stack:
    """U problems of at most M points, padded by weight 0. Columns and target are (U, M)."""

    law: Law
    objective: FitObjective
    columns: Columns
    goal: Array  # objective.target of the measurements
    weights: Array  # (U, M)
    center: Array  # (U, P, P), `Law.centering`
    tiny: Array  # (U,): an objective this small is rounding error


def stack(law: Law, objective: FitObjective, data: Sequence[Prepared]) -> Stack:
    width = max(d.n for d in data)

    def padded(values: Array, fill: float) -> Array:
        return np.concatenate([values, np.full(width - len(values), fill)])

    columns = tuple(
        np.stack([padded(d.columns[k], d.columns[k][0]) for d in data])
        for k in range(len(data[0].columns))
    )
    target = np.stack([padded(d.target, d.target[0]) for d in data])
    weights = np.stack([padded(d.weights, 0.0) for d in data])
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
