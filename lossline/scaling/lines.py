"""Loss-to-loss lines: how the loss on one set follows the loss on another over a group of runs.

    lines = fit_lines(table, x_sets=["wiki"], y_sets=["hellaswag", "pubmed"])
    lines[0].predict(3.2), lines[0].band([3.0, 3.2], level=0.9)

Forms: arXiv 2502.12120 section 3 and arXiv 2411.12925 sections 3-5 (train-to-train, train-to-test, test-to-test).
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.scaling.compute_laws import Kaplan
from lossline.scaling.estimators import REFERENCE_TOKENS_PER_PARAM, Points, Prior, curve, estimate
from lossline.scaling.groups import GROUP_BY, split
from lossline.scaling.pairing import Pairing, Pairs, pair_checkpoints
from lossline.scaling.results import Status
from lossline.scaling.solver import fit

__all__ = ["Irreducible", "Line", "LineKind", "LineOptions", "fit_line", "fit_lines"]

Array = np.ndarray


class Irreducible(enum.StrEnum):
    """Where E_x and E_y come from."""

    JOINT = "joint"  # estimated with the line
    LAW = "law"  # from a compute-to-loss law of either axis, as in arXiv 2411.12925
    GIVEN = "given"


class LineKind(enum.StrEnum):
    """What the axes are."""

    TRAIN_TO_TRAIN = "train-to-train"
    TRAIN_TO_TEST = "train-to-test"
    TEST_TO_TEST = "test-to-test"
    VALIDATION_TO_VALIDATION = "validation-to-validation"
    VALIDATION_TO_TASK = "validation-to-task"
    OTHER = "other"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LineOptions:
    """How lines are fitted.

    Attributes:
      irreducible: where E_x and E_y come from; prior: what is believed of a line beforehand.
      min_runs: a group of fewer runs gets no line; min_points: nor does one of fewer pairs.
      max_x: pairs with x above it are left out (early checkpoints that no line describes).
      resamples, seed: of the runs, for bands; 0 resamples gives no bands.
    """

    irreducible: Irreducible = Irreducible.JOINT
    prior: Prior = Prior()
    min_runs: int = 2
    min_points: int = 4
    max_x: float | None = None
    resamples: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "irreducible", Irreducible(self.irreducible))
        if self.min_runs < 1 or self.min_points < 2 or self.resamples < 0:
            raise UserError(
                "lines: min_runs must be at least 1, min_points at least 2, resamples at least 0"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One fitted line, or the reason why there is none (`status`, `message`).

    Attributes:
      x_set, y_set: names of the axes; kind; unit: "loss" (nats per token) or "bits_per_byte", both axes.
      group: facts that the runs share (of x, where the axes belong to two groups); y_group: those of y, else empty.
      parameters: K, kappa, E_x, E_y of y = K (x - E_x)^kappa + E_y, gamma if there is an allocation term; or empty.
      status: CONVERGED; UNDERDETERMINED: the data cannot say where the line runs, nothing to draw.
      r2: of the line in loss space; r2_linear: of a straight line through the same points.
      n_runs, n_points, left_out: runs and pairs fitted, checkpoints without partner; pairing: how x met y.
      x_range, y_range: spans of the fitted points; scatter: relative standard deviation of y about the line.
      draws: (S, 5) K, kappa, E_x, E_y, gamma over reweightings of the runs; bands are their quantiles.
      irreducible: where E_x and E_y come from.
      heldout_error: mean |relative error| on the runs of largest compute when they are left out; NaN if not scored.
    """

    x_set: str
    y_set: str
    group: Mapping[str, Any]
    unit: str = "loss"
    kind: LineKind = LineKind.OTHER
    y_group: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parameters: Mapping[str, float] = dataclasses.field(default_factory=dict)
    status: Status = Status.UNDERDETERMINED
    message: str = ""
    r2: float = math.nan
    r2_linear: float = math.nan
    n_runs: int = 0
    n_points: int = 0
    left_out: int = 0
    pairing: Pairing = Pairing.NONE
    x_range: tuple[float, float] = (math.nan, math.nan)
    y_range: tuple[float, float] = (math.nan, math.nan)
    scatter: float = math.nan
    draws: Array = dataclasses.field(default_factory=lambda: np.empty((0, 5)), repr=False)
    irreducible: Irreducible = Irreducible.JOINT
    heldout_error: float = math.nan

    @property
    def drawable(self) -> bool:
        """Whether the data determined a line."""
        return self.status in (Status.CONVERGED, Status.BOUND_HIT)

    @property
    def name(self) -> str:
        """In words, e.g. ``llama, wiki: wiki -> hellaswag``."""
        facts = ", ".join(str(v) for v in self.group.values() if v is not None) or "all runs"
        return f"{facts}: {self.x_set} -> {self.y_set}"

    def predict(self, x: Any, *, tokens_per_param: Any = None) -> Array:
        """y at x (any shape), in `unit`; at and below E_x the limit E_y.

        A line with an allocation term is read at D/N = 16, or at `tokens_per_param`. UserError without parameters.
        """
        if not self.parameters:
            raise UserError(f"{self.name}: nothing to predict with: {self.message}")
        x = np.asarray(x, float)
        vector = [self.parameters.get(k, 0.0) for k in ("K", "kappa", "E_x", "E_y", "gamma")]
        return curve(np.array([vector]), x.ravel(), _off(tokens_per_param, x))[0].reshape(x.shape)

    def band(
        self, x: Any, level: float = 0.9, *, tokens_per_param: Any = None
    ) -> tuple[Array, Array]:
        """Interval of the line itself at x (any shape): quantiles over reweightings of the runs. NaN without draws."""
        return self._interval(x, level, tokens_per_param, noise=False)

    def interval(
        self, x: Any, level: float = 0.9, *, tokens_per_param: Any = None
    ) -> tuple[Array, Array]:
        """Interval for the y of one more run at x: the band, widened by the runs' scatter about the line."""
        return self._interval(x, level, tokens_per_param, noise=True)

    def _interval(
        self, x: Any, level: float, tokens_per_param: Any, *, noise: bool
    ) -> tuple[Array, Array]:
        if not 0 < level < 1:
            raise UserError(f"level must lie between 0 and 1, not {level}")
        center = self.predict(x, tokens_per_param=tokens_per_param)
        x = np.asarray(x, float)
        if not len(self.draws):
            return np.full(x.shape, math.nan), np.full(x.shape, math.nan)
        y_SxM = curve(self.draws, x.ravel(), _off(tokens_per_param, x))
        if noise:
            y_SxM = y_SxM + self.scatter * center.ravel() * _normal_sample(len(self.draws))[:, None]
        # An interval holds the line that it belongs to, also where reweighting moves it to one side.
        low, high = np.quantile(y_SxM, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return (
            np.minimum(low.reshape(x.shape), center),
            np.maximum(high.reshape(x.shape), center),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without the draws; NaN becomes None."""
        fields = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "draws"
        }
        fields["status"] = self.status.value
        return {key: _plain(value) for key, value in fields.items()}


def _off(tokens_per_param: Any, x: Array) -> Array | float:
    if tokens_per_param is None:
        return 0.0
    off = np.log(np.asarray(tokens_per_param, float) / REFERENCE_TOKENS_PER_PARAM)
    return np.broadcast_to(off, x.shape).ravel()


@functools.lru_cache(maxsize=8)
def _normal_sample(count: int) -> Array:
    """Normal quantiles in a fixed shuffled order: noise without luck, the same for every line."""
    from scipy.special import ndtri

    quantiles = ndtri((np.arange(count) + 0.5) / count)
    return np.random.default_rng(count).permutation(quantiles)


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def fit_lines(
    table: pd.DataFrame, *, x_sets: Sequence[str] | None = None, y_sets: Sequence[str] | None = None,
    group_by: Sequence[str] = GROUP_BY, unit: str = "loss", options: LineOptions | None = None,
) -> list[Line]:  # fmt: skip
    """One line per group and (x set, y set), x != y, both losses of the same checkpoint.

    `x_sets` defaults to all validation sets, `y_sets` to all sets. Order: groups, then x sets, then y sets as given.
    A group that cannot be fitted comes back as a line with a status and a message; the others are fitted all the same.
    """
    options = options or LineOptions()
    kinds = dict(zip(table["eval_set"], table["kind"], strict=True))
    x_sets = sorted(s for s, k in kinds.items() if k == "validation") if x_sets is None else x_sets
    y_sets = sorted(kinds) if y_sets is None else y_sets
    for name in (*x_sets, *y_sets):
        if name not in kinds:
            raise UserError(
                f"eval_set {name!r} is not in the table; it has {', '.join(sorted(map(str, kinds)))}"
            )
    return [
        _fit_group(group.table, x_set, y_set, group.facts, unit, kinds[y_set], options)
        for group in split(table, group_by)
        for x_set in x_sets
        for y_set in y_sets
        if x_set != y_set
    ]


def _fit_group(
    table: pd.DataFrame, x_set: str, y_set: str, facts: Mapping[str, Any], unit: str, y_kind: str,
    options: LineOptions,
) -> Line:  # fmt: skip
    task = y_kind == "task"
    kind = LineKind.VALIDATION_TO_TASK if task else LineKind.VALIDATION_TO_VALIDATION
    try:
        pairs = pair_checkpoints(table, x_set, y_set, unit=unit)
    except UserError as mistake:
        return Line(
            x_set=x_set, y_set=y_set, group=facts, unit=unit, kind=kind, message=str(mistake)
        )
    return fit_line(
        pairs, x_set=x_set, y_set=y_set, group=facts, unit=unit, kind=kind, options=options
    )


def fit_line(
    pairs: Pairs, *, x_set: str = "x", y_set: str = "y", group: Mapping[str, Any] | None = None,
    y_group: Mapping[str, Any] | None = None, unit: str = "loss", kind: LineKind = LineKind.OTHER,
    E_x: float | None = None, E_y: float | None = None, options: LineOptions | None = None,
) -> Line:  # fmt: skip
    """Fits one line to pairs of losses; E_x and E_y are needed where `options.irreducible` is GIVEN.

    Never raises for what the data are like: a line without parameters says in `message` what is wrong with them.
    """
    options = options or LineOptions()
    if options.max_x is not None:
        pairs = pairs[pairs.x <= options.max_x]
    base = Line(
        x_set=x_set, y_set=y_set, group=group or {}, y_group=y_group or {}, unit=unit, kind=kind,
        n_runs=pairs.n_runs, n_points=len(pairs), left_out=pairs.left_out, pairing=pairs.how,
        irreducible=options.irreducible,
    )  # fmt: skip
    lack = _lack(pairs, options)
    if lack:
        return dataclasses.replace(base, message=lack)
    base = dataclasses.replace(base, **_spans(pairs))
    try:
        E_x, E_y = _given(pairs, options, E_x, E_y)
    except UserError as mistake:
        return dataclasses.replace(base, message=str(mistake))
    return _fitted(base, pairs, options, E_x, E_y)


def _lack(pairs: Pairs, options: LineOptions) -> str:
    """Why no line can be fitted at all, or an empty string."""
    if not len(pairs):
        return "no checkpoint has a loss on both axes"
    if pairs.n_runs < options.min_runs:
        return f"{pairs.n_runs} run, at least {options.min_runs} are needed; train another size"
    if len(pairs) < options.min_points:
        return f"{len(pairs)} points, at least {options.min_points} are needed"
    if np.ptp(pairs.x) <= 1e-9 * pairs.x.max():
        return f"all {len(pairs)} points have the same x"
    if len(np.unique(pairs.x)) < 3:
        return "fewer than 3 distinct x"
    return ""


def _spans(pairs: Pairs) -> dict[str, Any]:
    straight = np.polyval(np.polyfit(pairs.x, pairs.y, 1), pairs.x)
    return {
        "x_range": (float(pairs.x.min()), float(pairs.x.max())),
        "y_range": (float(pairs.y.min()), float(pairs.y.max())),
        "r2_linear": r_squared(pairs.y, straight),
    }


def r_squared(y: Array, predicted: Array) -> float:
    """1 - residual / total sum of squares, in the unit of y; NaN where y does not vary."""
    total = float(np.sum((y - y.mean()) ** 2))
    return float(1 - np.sum((y - predicted) ** 2) / total) if total > 0 else math.nan


def _given(
    pairs: Pairs, options: LineOptions, E_x: float | None, E_y: float | None
) -> tuple[float | None, float | None]:
    if options.irreducible is Irreducible.LAW:
        return irreducible_by_law(pairs, pairs.x, "x"), irreducible_by_law(pairs, pairs.y, "y")
    if options.irreducible is Irreducible.JOINT:
        return None, None
    if E_x is None or E_y is None:
        raise UserError("irreducible losses are to be given: pass both E_x and E_y")
    if not (0 <= E_x < pairs.x.min() and 0 <= E_y <= pairs.y.min()):
        raise UserError(
            f"E_x = {E_x:.4g} and E_y = {E_y:.4g} must not be negative nor above the smallest losses "
            f"{pairs.x.min():.4g} and {pairs.y.min():.4g}"
        )
    return E_x, E_y


def irreducible_by_law(pairs: Pairs, loss: Array, axis: str) -> float:
    """E of the Kaplan-style law (arXiv 2411.12925 eq. 1) on N, D -> loss."""
    result = fit(Kaplan(), {"N": pairs.params, "D": pairs.tokens}, loss)
    if "E" not in result.parameters:
        raise UserError(f"E of the {axis} axis: {result.message}")
    E = result.parameters["E"]
    if not E < loss.min():
        raise UserError(f"E of the {axis} axis by a law, {E:.4g}, is not below the smallest loss")
    return E


def _fitted(
    base: Line, pairs: Pairs, options: LineOptions, E_x: float | None, E_y: float | None
) -> Line:
    _, run = np.unique(pairs.runs, return_inverse=True)
    allocation = pairs.allocation - np.log(REFERENCE_TOKENS_PER_PARAM)
    prior = options.prior
    if prior.allocation > 0 and not np.all(np.isfinite(allocation)):
        prior = dataclasses.replace(prior, allocation=0.0)
    known = allocation if prior.allocation > 0 else np.zeros_like(pairs.x)
    points = Points(x=pairs.x, y=pairs.y, run=run, allocation=known)
    found = estimate(
        points, prior, resamples=options.resamples, seed=options.seed, E_x=E_x, E_y=E_y
    )
    names = ("K", "kappa", "E_x", "E_y") + (("gamma",) if prior.allocation > 0 else ())
    parameters = {n: float(v) for n, v in zip(names, found.parameters, strict=False)}
    predicted = curve(found.parameters[None], pairs.x, known)[0]
    line = dataclasses.replace(
        base, draws=found.draws, scatter=found.scatter, r2=r_squared(pairs.y, predicted)
    )
    doubt = _doubt(line, parameters, found.parameters)
    if doubt:
        return dataclasses.replace(line, message=doubt, parameters=parameters)
    return dataclasses.replace(line, status=Status.CONVERGED, parameters=parameters)


def _doubt(line: Line, parameters: Mapping[str, float], vector: Array) -> str:
    """Why the points do not determine the line that was fitted to them, or an empty string."""
    if parameters["K"] <= 0:
        return "y does not rise with x: no shifted power law describes these points"
    if len(line.draws):
        ends = np.array(line.x_range)
        rise = np.diff(curve(line.draws, ends), axis=1)[:, 0]
        wide = np.ptp(np.quantile(rise, [0.05, 0.95]))
        middle = float(np.diff(curve(vector[None], ends), axis=1)[0, 0])
        if np.mean(rise <= 0) > 0.05 or wide > 2 * middle:
            return "the runs do not determine the slope: reweighting them can undo it"
    return ""
