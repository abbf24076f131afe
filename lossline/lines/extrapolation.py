"""Held-out extrapolation: fit below a compute cut, predict above it, compare with simple baselines.

    found = extrapolate(specimen, cut=2.1e18)
    found.predictions                       # one row per held-out point and method
    score([found, ...])                     # errors and coverage per kind of line and method

A run that trains beyond the cut is held out with all its checkpoints. They share their errors, so
its early checkpoints would show the fit how far the late ones lie off the line.

The baselines are the compute-to-loss law of y, the ratio y / x of the largest fitted runs, a
straight line, and the fitted run whose x is nearest.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.laws.compute_laws import Kaplan
from lossline.laws.problems import FitProblem
from lossline.laws.results import FitResult
from lossline.laws.solver import fit_many
from lossline.lines.calibration import Calibration
from lossline.lines.common_cases import LINE
from lossline.lines.fitting import Line, LineOptions, fit_line
from lossline.lines.interval_scores import interval_score
from lossline.lines.specimens import Specimen
from lossline.tables.pairing import Pairs

Array = np.ndarray
Baseline = Callable[[Pairs, Pairs], Array]

# Relative tolerance for equal compute: sources print it with few digits.
_SAME_COMPUTE = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """A line fitted below a compute cut, and predictions above it by the line and the baselines.

    Attributes:
        specimen: the line to fit.
        cut: the compute cut, FLOPs.
        line: the fitted line; None without one.
        predictions: one row per held-out point and method: run, x, y, flops, method, predicted
            (NaN: no answer), low, high (line only), relative_error = predicted / y - 1.
        message: why there are no predictions; else empty.
    """

    specimen: Specimen
    cut: float
    line: Line | None = None
    predictions: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    message: str = ""


def fit_compute_law(pairs: Pairs) -> FitResult:
    """Fit the Kaplan-style law from N and D to y (arXiv 2411.12925, eq. 1)."""
    return fit_compute_laws([pairs])[0]


def fit_compute_laws(cases: Sequence[Pairs]) -> list[FitResult]:
    """Fit the Kaplan-style law to each case; those of equally many usable points are one batch.

    In one batch an iteration costs little more than for a single law. Cases of other sizes would be
    padded, which changes the last digits of sums: the law of a case would depend on its neighbours.
    """
    batches: dict[int, list[int]] = {}
    for index, pairs in enumerate(cases):
        usable = np.isfinite(pairs.params) & np.isfinite(pairs.tokens)
        batches.setdefault(int(usable.sum()), []).append(index)
    laws: dict[int, FitResult] = {}
    for members in batches.values():
        problems = [_problem(cases[index]) for index in members]
        laws |= zip(members, fit_many(Kaplan(), problems), strict=True)
    return [laws[index] for index in range(len(cases))]


def _problem(pairs: Pairs) -> FitProblem:
    return FitProblem(inputs={"N": pairs.params, "D": pairs.tokens}, target=pairs.y)


def compute_law(fitted: Pairs, held: Pairs) -> Array:
    """Predict y by the compute-to-loss law of the same runs, even if it is not well determined."""
    law = fit_compute_law(fitted)
    if not law.parameters:
        return np.full(len(held), math.nan)
    return law.predict(N=held.params, D=held.tokens)


def constant_ratio(fitted: Pairs, held: Pairs) -> Array:
    """Predict y as x times the mean y / x of the fitted runs of largest compute."""
    largest = fitted.flops >= fitted.flops.max() * (1 - _SAME_COMPUTE)
    return held.x * np.mean(fitted.y[largest] / fitted.x[largest])


def straight_line(fitted: Pairs, held: Pairs) -> Array:
    """Predict y by least squares of y on x."""
    if not np.ptp(fitted.x) > 0:
        return np.full(len(held), math.nan)
    return np.polyval(np.polyfit(fitted.x, fitted.y, 1), held.x)


def nearest_run(fitted: Pairs, held: Pairs) -> Array:
    """Predict y as that of the fitted run whose x is nearest."""
    return fitted.y[np.argmin(np.abs(fitted.x[:, None] - held.x), axis=0)]


BASELINES: Mapping[str, Baseline] = {
    "compute law": compute_law,
    "constant ratio": constant_ratio,
    "straight line": straight_line,
    "nearest run": nearest_run,
}


def split_at(pairs: Pairs, cut: float, target: float | None = None) -> tuple[Pairs, Pairs]:
    """Return the points to fit and the points to predict.

    Points to fit belong to runs that end at ``cut`` FLOPs or before. Points to predict lie above
    ``cut``; with ``target``, at that budget only. The points up to ``cut`` of a run that trains
    beyond it are in neither.

    Raises:
        UserError: ``cut`` is not positive.
    """
    if not cut > 0:
        raise UserError(f"the compute cut must be positive, not {cut}")
    above = pairs.flops > cut * (1 + _SAME_COMPUTE)
    beyond = pairs.of_the_runs(~(pairs.flops <= cut * (1 + _SAME_COMPUTE)))
    if target is not None:
        above &= np.abs(np.log(pairs.flops / target)) < _SAME_COMPUTE
    return pairs[~beyond], pairs[above]


def extrapolate(
    specimen: Specimen, *, cut: float, target: float | None = None, level: float = 0.9,
    options: LineOptions | None = None, baselines: Mapping[str, Baseline] = BASELINES,
    calibration: Calibration | None = None,
) -> Extrapolation:  # fmt: skip
    """Fit the runs that end at ``cut`` FLOPs or before, and predict points above it.

    Args:
        specimen: the line to fit.
        cut: compute cut, FLOPs.
        target: predict points of this budget only.
        level: probability of the prediction interval.
        options: how to fit the line.
        baselines: methods to compare the line with, by name.
        calibration: sizes of the line's intervals; by published sweeps by default.

    Raises:
        UserError: ``cut`` is not positive.
    """
    empty = Extrapolation(specimen=specimen, cut=cut)
    if specimen.pairs is None:
        return dataclasses.replace(empty, message=specimen.message)
    if not np.all(np.isfinite(specimen.pairs.flops)):
        return dataclasses.replace(
            empty, message="some runs have no compute. Give flops, or N and D"
        )
    fitted, held = split_at(specimen.pairs, cut, target)
    if not len(held):
        return dataclasses.replace(empty, message=f"no run above {cut:.3g} FLOPs to predict")
    if not len(fitted):
        return dataclasses.replace(empty, message=_nothing_to_fit(specimen.pairs, cut))
    line, predictions = predict_held_out(
        specimen, fitted, held, level=level, options=options, baselines=baselines,
        calibration=calibration,
    )  # fmt: skip
    if not line.parameters:
        predictions = predictions.iloc[:0]
    message = "" if line.drawable else line.message
    return dataclasses.replace(empty, line=line, predictions=predictions, message=message)


def _nothing_to_fit(pairs: Pairs, cut: float) -> str:
    """Return the message for a cut below which no run ends."""
    what = f"no run ends at {cut:.3g} FLOPs or before, and runs that train beyond are held out"
    ends = np.array([pairs.flops[pairs.runs == run].max() for run in np.unique(pairs.runs)])
    if ends.min() * (1 + _SAME_COMPUTE) < ends.max():
        return f"{what}. Raise the cut to {ends.min():.3g}, where the smallest run ends, or higher"
    return f"{what}. All runs end at {ends.max():.3g}: train smaller ones to fit the line to"


def predict_held_out(
    specimen: Specimen, fitted: Pairs, held: Pairs, *, level: float = 0.9,
    options: LineOptions | None = None, baselines: Mapping[str, Baseline] = BASELINES,
    calibration: Calibration | None = None,
) -> tuple[Line, pd.DataFrame]:  # fmt: skip
    """Fit the line of a specimen to some pairs, and predict the others by line and baselines.

    The predictions have the columns of ``Extrapolation.predictions``; the line's are NaN if it has
    no parameters.
    """
    line = fit_line(
        fitted, x_set=specimen.x_set, y_set=specimen.y_set, group=specimen.group,
        y_group=specimen.y_group, unit=specimen.unit, kind=specimen.kind, options=options,
    )  # fmt: skip
    if calibration is not None:
        line = dataclasses.replace(line, calibration=calibration)
    parts = [_by_line(line, held, level)]
    parts += [_rows(held, name, baseline(fitted, held)) for name, baseline in baselines.items()]
    return line, pd.concat(parts, ignore_index=True)


def _by_line(line: Line, held: Pairs, level: float) -> pd.DataFrame:
    if not line.parameters:
        return _rows(held, LINE, np.full(len(held), math.nan))
    per_param = held.tokens / held.params
    low, high = line.interval(held.x, level, tokens_per_param=per_param)
    predicted = line.predict(held.x, tokens_per_param=per_param)
    return _rows(held, LINE, predicted).assign(low=low, high=high)


def _rows(held: Pairs, method: str, predicted: Array) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "run": held.runs,
            "x": held.x,
            "y": held.y,
            "flops": held.flops,
            "method": method,
            "predicted": predicted,
            "low": math.nan,
            "high": math.nan,
            "relative_error": predicted / held.y - 1,
        }
    )


def score(found: Iterable[Extrapolation], level: float = 0.9) -> pd.DataFrame:
    """Return errors and coverage of each kind of line and method.

    Columns: points, undefined (points without an answer), median, mean, p90 and worst absolute
    relative error, coverage, the share of points inside the intervals, and the mean of their
    ``interval_score`` at ``level``.
    """
    parts = [
        one.predictions.assign(kind=str(one.specimen.kind)) for one in found if len(one.predictions)
    ]
    if not parts:
        return pd.DataFrame()
    rows = pd.concat(parts, ignore_index=True)
    rows["error"] = rows["relative_error"].abs()
    rows["inside"] = (rows["low"] <= rows["y"]) & (rows["y"] <= rows["high"])
    rows["score"] = interval_score(rows["low"], rows["high"], rows["y"], level)
    scores = [
        {
            "kind": kind,
            "method": method,
            "points": len(part),
            "undefined": int(part["error"].isna().sum()),
            "median": part["error"].median(),
            "mean": part["error"].mean(),
            "p90": part["error"].quantile(0.9),
            "worst": part["error"].max(),
            "coverage": part["inside"].mean() if part["low"].notna().any() else math.nan,
            "interval_score": part["score"].mean(),
        }
        for (kind, method), part in rows.groupby(["kind", "method"], sort=False)
    ]
    return pd.DataFrame(scores)
