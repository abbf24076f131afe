"""The question "line": y of a fitted loss-to-loss line at a loss, or at the loss of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lossline.design.asked import (
    Asked,
    Places,
    check_groups_of,
    normal_quantile,
    of_groups,
    single,
)
from lossline.design.beliefs import Belief, Moments
from lossline.design.candidates import model_asked, runs_of
from lossline.design.plan import Candidate, DesignOptions, Interval, Target
from lossline.design.scale_law import ScaleLaw
from lossline.errors import UserError
from lossline.lines.estimators import curve
from lossline.lines.fitting import Line, LineOptions, fit_specimen
from lossline.lines.rolling_cuts import calibrated
from lossline.lines.specimens import Specimen, within_groups

Array = np.ndarray


def ask_line(
    rows: pd.DataFrame, target: Target, candidates: Sequence[Candidate], options: DesignOptions
) -> Asked:
    """Return the question with numbers.

    A run measures both losses, so that it adds one point to the line: where, the law of scale of x
    says.

    Args:
        rows: measured rows of a loss table.
        target: the question.
        candidates: runs to choose from.
        options: options of the design.

    Raises:
        UserError: the line cannot be fitted, the target names neither a loss nor a model, or a
            candidate belongs to another group.
    """
    (own,) = of_groups(rows, target.groups, count=1)
    check_groups_of(candidates, target.groups)
    (specimen,) = within_groups(
        own, x_sets=[target.x_set], y_sets=[target.y_set], group_by=(), unit=target.unit
    )
    line = calibrated_line(specimen, options)
    if not line.drawable:
        raise UserError(f"{target.x_set} -> {target.y_set}: no line: {line.message}.")
    law = ScaleLaw.of(
        own, target.x_set, target.unit, dataclasses.replace(options, resamples=20), tested=False
    )
    places = Places.of(candidates)
    x, each = law.at(places).center, places.tokens / places.params
    asked_x, asked_each = place_of(target, own, law)
    found = line_at(line, np.append(asked_x, x), np.append(asked_each, each), options.level)
    low, high = line.interval(asked_x, options.level, tokens_per_param=asked_each)
    where = f"{target.x_set} = {asked_x:.4g}"
    return Asked(
        words=f"the loss on {target.y_set} of one more run at {where}, "
        f"by the line of {line.n_runs} runs",
        unit=target.unit.words,
        now=Interval(value=float(found.center[0]), low=float(low), high=float(high)),
        belief=Belief.of(found, options.roughness),
        choices=single(candidates),
    )


def calibrated_line(specimen: Specimen, options: DesignOptions) -> Line:
    """Return the line of a specimen, with intervals by its own rolling cuts where it has enough."""
    how = LineOptions(resamples=options.resamples, seed=options.seed)
    (line,) = calibrated([fit_specimen(specimen, options=how)], [specimen], how)
    return line


def place_of(target: Target, rows: pd.DataFrame, law: ScaleLaw) -> tuple[float, float]:
    """Return x and D/N that the target asks about; D/N is NaN if only x is given.

    Raises:
        UserError: it names neither a loss nor a model.
    """
    model = model_asked(runs_of(rows), target)
    each = model.tokens / model.params if model else float("nan")
    if target.loss:
        return target.loss, each
    if not model:
        raise UserError(
            "target: a line is asked about at a loss or at a model. Give loss, or params and "
            "tokens, or flops."
        )
    return float(law.at(Places.of([model])).center[0]), each


def line_at(line: Line, x: Array, each: Array, level: float) -> Moments:
    """Return a line at losses x (T,) of runs of D/N ``each`` (T,), in relative deviations.

    The noise of one run is the scatter of the fitted ones. What the interval holds beyond it and
    the draws is the error of the form.
    """
    center = line.predict(x, tokens_per_param=each)
    off = np.zeros(len(x))
    if np.isfinite(line.tokens_per_param):
        off = np.nan_to_num(np.log(each / line.tokens_per_param))
    draws = curve(line.draws, x, off) / center - 1
    return Moments(
        center=center,
        draws=draws,
        deviation=_deviation(line, x, level, each),
        noise=np.full(len(x), line.scatter),
        distance=np.maximum(line.x_range[0] - x, 0.0) + np.minimum(line.x_range[1] - x, 0.0),
    )


def _deviation(line: Line, x: Array, level: float, each: Array | None = None) -> Array:
    """Return the relative standard deviation (T,) that the line's interval stands for."""
    center = line.predict(x, tokens_per_param=each)
    _, high = line.interval(x, level, tokens_per_param=each)
    return np.log(high / center) / normal_quantile(level)
