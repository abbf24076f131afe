"""The runs of largest compute of a group, left out and predicted from the others, beside simple
baselines."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.scaling.compute_laws import Kaplan
from lossline.scaling.groups import Group
from lossline.scaling.lines import LineOptions, fit_line
from lossline.scaling.pairing import Pairs, pair_checkpoints
from lossline.scaling.solver import fit
from lossline.scaling.specimens import LineKind, kind_of

__all__ = ["hold_out", "largest_runs"]

Array = np.ndarray
Prediction = tuple[float, float, float]  # predicted, low, high

# Runs with more than this share of the group's largest compute are held out together.
_LARGEST = 0.5
_LEVEL = 0.9


def largest_runs(pairs: Pairs) -> Array:
    """Mask (M,) over points: those of the runs of largest compute (C, or 6 N D, or D where nothing
    else is known)."""
    compute = np.where(np.isfinite(pairs.flops), pairs.flops, 6.0 * pairs.params * pairs.tokens)
    compute = np.where(np.isfinite(compute), compute, np.nan)
    if not np.isfinite(compute).all():
        compute = pairs.tokens
    runs, number = np.unique(pairs.runs, return_inverse=True)
    largest = np.zeros(len(runs))
    np.maximum.at(largest, number, compute)
    held = largest > _LARGEST * largest.max()
    if held.all():  # runs of about one size: still the largest from the others
        held = largest == largest.max()
    return held[number]


def hold_out(group: Group, x_set: str, y_set: str, unit: str, options: LineOptions) -> pd.DataFrame:
    """Predicts the last checkpoint of each held-out run; one row per run and method, none where
    nothing is left to fit.

    Methods: "line", the fitted line at the run's measured x; "straight line" through the same
      points; "compute law",
    N and D to y; "nearest run", the y of the fitted point whose x is nearest.
    """
    try:
        pairs = pair_checkpoints(group.table, x_set, y_set, unit=unit)
    except UserError:
        return pd.DataFrame()  # the line of this group says why
    if not len(pairs):
        return pd.DataFrame()
    held = largest_runs(pairs)
    fitted, rest = pairs[~held], pairs[held]
    if len(fitted) < options.min_points or len(np.unique(fitted.x)) < 3:
        return pd.DataFrame()
    rows = []
    y_kind = group.table.loc[group.table["eval_set"] == y_set, "kind"].iloc[0]
    kind = kind_of(x_set, y_set, y_kind)
    for method, index, (predicted, low, high) in _predictions(
        fitted, rest, _last(rest), unit, kind, options
    ):
        measured = float(rest.y[index])
        rows.append(
            {
                "run_id": str(rest.runs[index]),
                **{name: value for name, value in group.facts.items()},
                "x_set": x_set,
                "y_set": y_set,
                "unit": unit,
                "method": method,
                "measured": measured,
                "predicted": predicted,
                "low": low,
                "high": high,
                "relative_error": predicted / measured - 1.0,
            }
        )
    return pd.DataFrame(rows)


def _last(pairs: Pairs) -> Array:
    """Index of the last checkpoint of each run."""
    order = np.lexsort((pairs.tokens, pairs.runs))
    last = np.flatnonzero(np.append(pairs.runs[order][1:] != pairs.runs[order][:-1], True))
    return order[last]


def _predictions(
    fitted: Pairs, rest: Pairs, last: Array, unit: str, kind: LineKind, options: LineOptions
) -> Iterator[tuple[str, int, Prediction]]:
    nan = float("nan")
    line = fit_line(fitted, unit=unit, kind=kind, options=dataclasses.replace(options, min_runs=1))
    straight = np.polyfit(fitted.x, fitted.y, 1)
    law = _law(fitted)
    for index in map(int, last):
        x = rest.x[index]
        if line.drawable:
            ratio = rest.tokens[index] / rest.params[index]
            low, high = line.interval(x, _LEVEL, tokens_per_param=ratio)
            predicted = line.predict(x, tokens_per_param=ratio)
            yield "line", index, (float(predicted), float(low), float(high))
        yield "straight line", index, (float(np.polyval(straight, x)), nan, nan)
        yield "nearest run", index, (float(fitted.y[np.argmin(np.abs(fitted.x - x))]), nan, nan)
        if law is not None:
            predicted = law.predict(N=rest.params[index], D=rest.tokens[index])
            yield "compute law", index, (float(predicted), nan, nan)


def _law(pairs: Pairs):
    known = np.isfinite(pairs.params) & np.isfinite(pairs.tokens)
    if len(np.unique(pairs.params[known])) < 2:
        return None
    result = fit(Kaplan(), {"N": pairs.params[known], "D": pairs.tokens[known]}, pairs.y[known])
    return result if result.ok else None
