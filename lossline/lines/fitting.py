"""Fit loss-to-loss lines: how the loss on one set follows the loss on another over a group of runs.

    lines = fit_lines(table, x_sets=["wiki"], y_sets=["hellaswag", "pubmed"])
    lines[0].predict(3.2), lines[0].band([3.0, 3.2], level=0.9)
    across = fit_lines_between(table, vary=["pretraining_data"])  # train-to-train, all pairs

Sources of the law: arXiv 2502.12120, section 3; arXiv 2411.12925, sections 3 to 5.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.laws.compute_laws import Kaplan
from lossline.laws.results import FitStatus
from lossline.laws.solver import fit
from lossline.lines.calibration import (
    Calibration,
    effective_scatter,
    published_calibration,
)
from lossline.lines.estimators import (
    PARAMETERS,
    TASK_PRIOR,
    TEXT_PRIOR,
    Points,
    Prior,
    curve,
    estimate,
)
from lossline.lines.fans import fan_of
from lossline.lines.groups import GROUP_BY
from lossline.lines.specimens import LineKind, Specimen, between_groups, within_groups
from lossline.seeds import check_seed
from lossline.tables.pairing import Pairing, Pairs

Array = np.ndarray

# Message when `pairing.pair_groups` finds no pairs.
NO_PARTNER = "no checkpoints of equal N and D, and none of one group at compute of the other"


# A line of at most _FEW_RUNS runs gets a warning if its band is wider than this share of its rise.
_FEW_RUNS = 3
_USELESS = 0.25


class Irreducible(enum.StrEnum):
    """Source of E_x and E_y."""

    JOINT = "joint"  # estimated with the line
    LAW = "law"  # from compute-to-loss laws of both axes, as in arXiv 2411.12925
    GIVEN = "given"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LineOptions:
    """Options for fitting lines.

    Attributes:
        irreducible: source of E_x and E_y.
        prior: prior of lines to text.
        task_prior: prior of lines to benchmarks.
        min_runs: a group of fewer runs gets no line.
        min_points: a line of fewer pairs is not fitted.
        max_x: pairs with x above it are left out: early checkpoints that no line describes.
        resamples: reweightings of the runs, for bands; 0 gives no bands.
        seed: seed of the reweightings.

    Raises:
        UserError: a value is out of range.
    """

    irreducible: Irreducible = Irreducible.JOINT
    prior: Prior = TEXT_PRIOR
    task_prior: Prior = TASK_PRIOR
    min_runs: int = 2
    min_points: int = 4
    max_x: float | None = None
    resamples: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "irreducible", Irreducible(self.irreducible))
        if self.min_runs < 1 or self.min_points < 2 or self.resamples < 0:
            raise UserError(
                "lines: min_runs must be at least 1, min_points at least 2, resamples at least 0."
            )
        check_seed(self.seed, "lines.seed")
        if self.max_x is not None and not self.max_x > 0:
            raise UserError(f"lines.max_x = {self.max_x}: must be a positive number.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One fitted line, or the reason why there is none (``status``, ``message``).

    Attributes:
        x_set: evaluation set of the x axis.
        y_set: evaluation set of the y axis.
        group: facts that the runs share; the runs of x, if the axes belong to two groups.
        unit: "loss" (nats per token) or "bits_per_byte".
        kind: kind of line, by its axes.
        y_group: facts of the runs of y, if the axes belong to two groups; else empty.
        parameters: K, kappa, E_x, E_y of y = K (x - E_x)^kappa + E_y, and gamma, tilt if D/N has a
            term (``estimators.curve``); empty without a line.
        tokens_per_param: D/N at which the line is drawn, the median of the runs; NaN without a
            term.
        status: CONVERGED, or UNDERDETERMINED if the data do not determine the line.
        message: why there is no line, or how wide a band of few runs is; else empty.
        r2: R^2 of the line, in the unit of y.
        r2_linear: R^2 of a straight line through the same points.
        n_runs: runs fitted.
        n_points: pairs fitted.
        left_out: checkpoints without a partner.
        pairing: how x and y were paired.
        x_range: smallest and largest x of the fitted points.
        y_range: smallest and largest y of the fitted points.
        scatter: relative standard deviation of y about the line, over the fitted runs.
        calibration: sizes of prediction intervals, and the errors that set them.
        draws: (S, 6) parameters of the reweighted lines; bands cover a share of them.
        irreducible: source of E_x and E_y.
        heldout_error: mean absolute relative error on the runs of largest compute when they are
            held out.
    """

    x_set: str
    y_set: str
    group: Mapping[str, Any]
    unit: str = "loss"
    kind: LineKind = LineKind.OTHER
    y_group: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parameters: Mapping[str, float] = dataclasses.field(default_factory=dict)
    tokens_per_param: float = math.nan
    status: FitStatus = FitStatus.UNDERDETERMINED
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
    calibration: Calibration = dataclasses.field(
        default_factory=lambda: published_calibration(LineKind.OTHER)
    )
    draws: Array = dataclasses.field(
        default_factory=lambda: np.empty((0, len(PARAMETERS))), repr=False
    )
    irreducible: Irreducible = Irreducible.JOINT
    heldout_error: float = math.nan

    @property
    def drawable(self) -> bool:
        """Whether the data determined a line."""
        return self.status in (FitStatus.CONVERGED, FitStatus.BOUND_HIT)

    @property
    def name(self) -> str:
        """Group and axes in words, e.g. ``llama, wiki: wiki -> hellaswag``."""
        x, y = _words(self.group), _words(self.y_group)
        return f"{x or 'all runs'}: {self.x_set} -> {f'{y}: ' if y else ''}{self.y_set}"

    def predict(self, x: Any, *, tokens_per_param: Any = None) -> Array:
        """Return y at x (any shape), in the line's unit; at and below E_x the limit from above.

        Args:
            x: losses.
            tokens_per_param: D/N of the run at x, for lines with such a term.

        Raises:
            UserError: the line has no parameters.
        """
        if not self.parameters:
            raise UserError(
                f"{self.name}: cannot predict, the line has no parameters: {self.message}"
            )
        x = np.asarray(x, float)
        vector = np.array([[self.parameters.get(name, 0.0) for name in PARAMETERS]])
        return curve(vector, x.ravel(), self._off(tokens_per_param, x))[0].reshape(x.shape)

    def band(
        self, x: Any, level: float = 0.9, *, tokens_per_param: Any = None
    ) -> tuple[Array, Array]:
        """Return the interval of the line itself at x (any shape).

        It covers planted lines as often as ``level`` from two runs on
        (experiments/lines/README.md). With two or three runs it is wide, because they determine the
        spread of runs badly. It reaches as far below the line as above it, in ratio. NaN without
        draws: no resamples, or one run.

        Raises:
            UserError: ``level`` is not between 0 and 1, or the line has no parameters.
        """
        _check_level(level)
        center = self.predict(x, tokens_per_param=tokens_per_param)
        x = np.asarray(x, float)
        if not len(self.draws):
            return np.full(x.shape, math.nan), np.full(x.shape, math.nan)
        # Deviations at the nearest fitted x, plus `fan` times what they grow beyond it.
        at_end = self._deviations(np.clip(x, *self.x_range), tokens_per_param)
        fan = self._deviations(x, tokens_per_param) - at_end
        # Center the band on the line, which predicts better than the middle of the draws. The
        # lower end is as far away in ratio, because no loss is negative.
        away = np.abs(at_end + fan_of(self.kind, self.n_runs) * fan)
        off = np.quantile(away, level, axis=0).reshape(x.shape)
        high = center + off
        return np.where(center > 0, center**2 / np.where(center > 0, high, 1.0), center - off), high

    def interval(
        self, x: Any, level: float = 0.9, *, tokens_per_param: Any = None
    ) -> tuple[Array, Array]:
        """Return the prediction interval for the y of one more run at x (any shape).

        Its size is calibrated by errors at rolling cuts (``calibration``), not by the band: it
        grows with the scatter of runs and with the extrapolated share of y. NaN for a line of one
        run.

        Raises:
            UserError: ``level`` is not between 0 and 1, or the line has no parameters.
        """
        _check_level(level)
        center = self.predict(x, tokens_per_param=tokens_per_param)
        scatter = effective_scatter(self.scatter, self.n_runs)
        if not math.isfinite(scatter):
            return np.full(center.shape, math.nan), np.full(center.shape, math.nan)
        ratio = np.exp(self.calibration.half_width(scatter, self.extrapolated(x), level))
        return center / ratio, center * ratio

    def extrapolated(self, x: Any) -> Array:
        """Return the extrapolated share of y at x (any shape): change of y beyond the points."""
        center = self.predict(x)
        nearest = self.predict(np.clip(np.asarray(x, float), *self.x_range))
        return np.abs(center - nearest) / np.maximum(center, 1e-12)

    def _deviations(self, x: Array, tokens_per_param: Any) -> Array:
        """Return deviations (S, M) of the reweighted lines from the line at x."""
        off = self._off(tokens_per_param, x)
        center = self.predict(x, tokens_per_param=tokens_per_param)
        return curve(self.draws, x.ravel(), off) - center.ravel()

    def _off(self, tokens_per_param: Any, x: Array) -> Array | float:
        """Return ln(D/N) relative to the line's (M,), 0 where unknown or without such a term."""
        if tokens_per_param is None or not math.isfinite(self.tokens_per_param):
            return 0.0
        off = np.log(np.asarray(tokens_per_param, float) / self.tokens_per_param)
        return np.broadcast_to(np.where(np.isfinite(off), off, 0.0), x.shape).ravel()

    def to_dict(self) -> dict[str, Any]:
        """Return the line for JSON, without the draws; NaN becomes None."""
        names = [f.name for f in dataclasses.fields(self) if f.name != "draws"]
        return {name: _plain(getattr(self, name)) for name in names}


def _words(facts: Mapping[str, Any]) -> str:
    """Return facts as text, those not recorded left out."""
    return ", ".join(str(value) for value in facts.values() if value is not None)


def _check_level(level: float) -> None:
    """Check the probability of an interval."""
    if not 0 < level < 1:
        raise UserError(f"level must lie between 0 and 1, not {level}")


def _plain(value: Any) -> Any:
    """Return a value as JSON types; NaN and infinities become None."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Calibration):
        return {k: _plain(v) for k, v in dataclasses.asdict(value).items()}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def fit_lines(
    table: pd.DataFrame, *, x_sets: Sequence[str] | None = None,
    y_sets: Sequence[str] | None = None, group_by: Sequence[str] = GROUP_BY, unit: str = "loss",
    options: LineOptions | None = None,
) -> list[Line]:  # fmt: skip
    """Fit one line per group and (x set, y set), x != y, on losses of the same checkpoints.

    A group that cannot be fitted gives a line with a status and a message; the others are
    fitted.

    Args:
        table: a loss table.
        x_sets: sets of the x axis; all validation sets by default.
        y_sets: sets of the y axis; all sets by default.
        group_by: facts that the runs of one line share.
        unit: "loss" or "bits_per_byte".
        options: how to fit.

    Returns:
        Lines in the order of groups, then x sets, then y sets.

    Raises:
        UserError: a set or a fact is not in the table.
    """
    found = within_groups(table, x_sets=x_sets, y_sets=y_sets, group_by=group_by, unit=unit)
    return [fit_specimen(specimen, options=options) for specimen in found]


def fit_lines_between(
    table: pd.DataFrame, *, vary: Sequence[str], x_set: str | None = None,
    y_set: str | None = None, group_by: Sequence[str] = GROUP_BY, unit: str = "loss",
    options: LineOptions | None = None,
) -> list[Line]:  # fmt: skip
    """Fit one line per ordered pair of groups that differ only in facts of ``vary``.

    By default each group's loss on its own validation set (train-to-train). With one named set,
    both losses on it (test-to-test). Runs are paired by equal (N, D), or interpolated in compute
    (``Line.pairing``).

    Args:
        table: a loss table.
        vary: facts in which the groups may differ.
        x_set: evaluation set of the x axis.
        y_set: evaluation set of the y axis.
        group_by: facts that the runs of one group share.
        unit: "loss" or "bits_per_byte".
        options: how to fit.

    Raises:
        UserError: a set or a fact is not in the table.
    """
    found = between_groups(table, vary=vary, x_set=x_set, y_set=y_set, group_by=group_by, unit=unit)
    return [fit_specimen(specimen, options=options) for specimen in found]


def fit_specimen(specimen: Specimen, *, options: LineOptions | None = None) -> Line:
    """Fit the line of one specimen; one without pairs gives a line with its message."""
    facts: dict[str, Any] = {
        "x_set": specimen.x_set, "y_set": specimen.y_set, "group": specimen.group,
        "y_group": specimen.y_group, "unit": specimen.unit, "kind": specimen.kind,
    }  # fmt: skip
    if specimen.pairs is None:
        return Line(**facts, message=specimen.message)
    return fit_line(specimen.pairs, **facts, options=options)


def fit_line(
    pairs: Pairs, *, x_set: str = "x", y_set: str = "y", group: Mapping[str, Any] | None = None,
    y_group: Mapping[str, Any] | None = None, unit: str = "loss", kind: LineKind = LineKind.OTHER,
    E_x: float | None = None, E_y: float | None = None, options: LineOptions | None = None,
) -> Line:  # fmt: skip
    """Fit one line to pairs of losses.

    Data that determine no line raise no error: the returned line then has no parameters, and
    ``message`` gives the reason.

    Args:
        pairs: the losses.
        x_set: name of the x axis.
        y_set: name of the y axis.
        group: facts of the runs.
        y_group: facts of the runs of y, if these are another group.
        unit: unit of the losses.
        kind: kind of line; it chooses prior and calibration factors.
        E_x: irreducible loss of x, if ``options.irreducible`` is GIVEN.
        E_y: irreducible loss of y, if ``options.irreducible`` is GIVEN.
        options: how to fit.
    """
    options = options or LineOptions()
    measured = len(pairs)
    if options.max_x is not None:
        pairs = pairs[pairs.x <= options.max_x]
    base = Line(
        x_set=x_set, y_set=y_set, group=group or {}, y_group=y_group or {}, unit=unit, kind=kind,
        n_runs=pairs.n_runs, n_points=len(pairs), left_out=pairs.left_out, pairing=pairs.how,
        irreducible=options.irreducible,
    )  # fmt: skip
    lack = _lack(pairs, options, between=bool(y_group))
    if measured and not len(pairs):
        lack = f"no point has x up to lines.max_x = {options.max_x:g}"
    if lack:
        return dataclasses.replace(base, message=lack)
    base = dataclasses.replace(base, **_spans(pairs))
    try:
        E_x, E_y = _given(pairs, options, E_x, E_y)
    except UserError as mistake:
        return dataclasses.replace(base, message=str(mistake))
    return _fitted(base, pairs, options, E_x, E_y)


def _lack(pairs: Pairs, options: LineOptions, *, between: bool) -> str:
    """Return why no line can be fitted at all, or an empty string."""
    if not len(pairs) and between:
        return NO_PARTNER
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
    """Return ranges of x and y, and R^2 of a straight line."""
    straight = np.polyval(np.polyfit(pairs.x, pairs.y, 1), pairs.x)
    return {
        "x_range": (float(pairs.x.min()), float(pairs.x.max())),
        "y_range": (float(pairs.y.min()), float(pairs.y.max())),
        "r2_linear": r_squared(pairs.y, straight),
    }


def r_squared(y: Array, predicted: Array) -> float:
    """Return 1 - residual / total sum of squares, in the unit of y; NaN if y does not vary."""
    total = float(np.sum((y - y.mean()) ** 2))
    return float(1 - np.sum((y - predicted) ** 2) / total) if total > 0 else math.nan


def _given(
    pairs: Pairs, options: LineOptions, E_x: float | None, E_y: float | None
) -> tuple[float | None, float | None]:
    """Return E_x and E_y that are fixed before the fit, or None for both."""
    if options.irreducible is Irreducible.LAW:
        return irreducible_by_law(pairs, pairs.x, "x"), irreducible_by_law(pairs, pairs.y, "y")
    if options.irreducible is Irreducible.JOINT:
        return None, None
    if E_x is None or E_y is None:
        raise UserError('irreducible = "given": E_x or E_y is missing. Pass both.')
    if not (0 <= E_x < pairs.x.min() and 0 <= E_y <= pairs.y.min()):
        raise UserError(
            f"E_x = {E_x:.4g} and E_y = {E_y:.4g}: must be at least 0 and at most the smallest "
            f"losses, {pairs.x.min():.4g} and {pairs.y.min():.4g}."
        )
    return E_x, E_y


def irreducible_by_law(pairs: Pairs, loss: Array, axis: str) -> float:
    """Return E of the Kaplan-style law of N and D (arXiv 2411.12925, eq. 1).

    Raises:
        UserError: the law cannot be fitted, or E is not below the smallest loss.
    """
    result = fit(Kaplan(), {"N": pairs.params, "D": pairs.tokens}, loss)
    if "E" not in result.parameters:
        raise UserError(f"E of the {axis} axis: {result.message}")
    E = result.parameters["E"]
    if loss.min() <= E:
        raise UserError(
            f"E of the {axis} axis is {E:.4g} by the compute law: not below the smallest loss."
        )
    return E


def _fitted(
    base: Line, pairs: Pairs, options: LineOptions, E_x: float | None, E_y: float | None
) -> Line:
    """Return the line with everything that the estimate gives."""
    reference = float(np.exp(np.median(pairs.allocation)))
    points = Points(
        x=pairs.x,
        y=pairs.y,
        run=pairs.run_numbers,
        allocation=pairs.allocation - np.log(reference),
    )
    task = base.kind is LineKind.VALIDATION_TO_TASK or base.kind is LineKind.TRAIN_TO_TASK
    prior = options.task_prior if task else options.prior
    found = estimate(
        points,
        prior,
        resamples=options.resamples,
        seed=options.seed,
        E_x=E_x,
        E_y=E_y,
    )
    names = PARAMETERS if np.any(found.parameters[4:]) else PARAMETERS[:4]
    parameters = {name: float(value) for name, value in zip(names, found.parameters, strict=False)}
    line = dataclasses.replace(
        base,
        parameters=parameters,
        tokens_per_param=reference if len(names) > 4 else math.nan,
        draws=found.draws,
        scatter=found.scatter,
        calibration=published_calibration(base.kind),
    )
    predicted = line.predict(pairs.x, tokens_per_param=pairs.tokens / pairs.params)
    reason = _unidentified(line)
    status = FitStatus.UNDERDETERMINED if reason else FitStatus.CONVERGED
    return dataclasses.replace(
        line,
        r2=r_squared(pairs.y, predicted),
        status=status,
        message=reason or _few_runs(line),
    )


def _few_runs(line: Line) -> str:
    """Return a warning about the band of a line of few runs, or an empty string."""
    if line.n_runs == 1:
        return "1 run: no band, because run-to-run noise is unknown; train another run"
    ends = np.array(line.x_range)
    if line.n_runs > _FEW_RUNS or not len(line.draws):
        return ""
    low, high = line.band(np.linspace(ends[0], ends[1], 9))
    share = float(np.median(high - low)) / abs(float(np.diff(line.predict(ends))[0]))
    if share < _USELESS:
        return ""
    return (
        f"{line.n_runs} runs: the width of the 90% band is {share:.0%} of the line's rise, because "
        "so few runs determine run-to-run noise badly; train more"
    )


def _unidentified(line: Line) -> str:
    """Return why the points do not determine their line, or an empty string."""
    if line.parameters["K"] <= 0:
        return "y does not rise with x: no shifted power law describes these points"
    if len(line.draws):
        ends = np.array(line.x_range)
        rise = np.diff(curve(line.draws, ends), axis=1)[:, 0]
        wide = np.ptp(np.quantile(rise, [0.05, 0.95]))
        if np.mean(rise <= 0) > 0.05 or wide > 2 * float(np.diff(line.predict(ends))[0]):
            return "slope not identified: resampled lines are flat, falling or too widely spread"
    return ""
