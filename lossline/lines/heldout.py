"""The runs of largest compute of a group, left out and predicted from the others, beside simple
baselines."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.lines.common_cases import LINE
from lossline.lines.extrapolation import (
    fit_compute_law,
    nearest_run,
    predict_held_out,
    straight_line,
)
from lossline.lines.fitting import LineOptions
from lossline.lines.groups import Group
from lossline.lines.specimens import Specimen, kind_of
from lossline.tables.pairing import Pairs, pair_checkpoints

__all__ = ["hold_out", "largest_runs"]

Array = np.ndarray

# Runs with more than this share of the group's largest compute are held out together.
_LARGEST = 0.5


def determined_law(fitted: Pairs, held: Pairs) -> Array:
    """y by the compute-to-loss law of N and D; NaN where the runs do not determine it."""
    law = fit_compute_law(fitted)
    if not law.ok:
        return np.full(len(held), np.nan)
    return law.predict(N=held.params, D=held.tokens)


# The ratio y / x of the largest runs is left out: it is for two axes of one kind.
_METHODS = {
    "straight line": straight_line,
    "nearest run": nearest_run,
    "compute law": determined_law,
}


def largest_runs(pairs: Pairs) -> Array:
    """Mask (M,) over points: those of the runs of largest compute (C, or 6 N D, or D where nothing
    else is known)."""
    compute = np.where(np.isfinite(pairs.flops), pairs.flops, 6.0 * pairs.params * pairs.tokens)
    if not np.isfinite(compute).all():
        compute = pairs.tokens
    largest = np.max(compute, where=np.isfinite(compute), initial=0.0)
    held = pairs.of_the_runs(compute > _LARGEST * largest)
    if held.all():  # runs of about one size: still the largest from the others
        held = pairs.of_the_runs(compute == largest)
    return held


def hold_out(group: Group, x_set: str, y_set: str, unit: str, options: LineOptions) -> pd.DataFrame:
    """Predicts the last checkpoint of each held-out run; one row per run and method that has an
    answer (`StudyResults.heldout`), none where nothing is left to fit.

    Methods: "line", the fitted line at the run's measured x; "straight line" through the same
    points; "nearest run", the y of the fitted point whose x is nearest; "compute law", N and D to
    y. The line and the law answer only where the smaller runs determine them.
    """
    try:
        pairs = pair_checkpoints(group.table, x_set, y_set, unit=unit)
    except UserError:
        return pd.DataFrame()  # the line of this group says why
    if not len(pairs):
        return pd.DataFrame()
    held = largest_runs(pairs)
    fitted, rest = pairs[~held], pairs[held]
    if not len(rest) or len(fitted) < options.min_points or len(np.unique(fitted.x)) < 3:
        return pd.DataFrame()
    y_kind = group.table.loc[group.table["eval_set"] == y_set, "kind"].iloc[0]
    specimen = Specimen(
        x_set=x_set, y_set=y_set, group=group.facts, kind=kind_of(x_set, y_set, y_kind), unit=unit
    )
    line, found = predict_held_out(
        specimen, fitted, rest[_last(rest)],
        options=dataclasses.replace(options, min_runs=1),
        baselines=_METHODS,
    )  # fmt: skip
    found = found[found["predicted"].notna() & (line.drawable | (found["method"] != LINE))]
    facts = {**group.facts, "x_set": x_set, "y_set": y_set, "unit": unit}
    rows = pd.DataFrame({"run_id": found["run"].to_numpy(str)}, index=found.index).assign(**facts)
    answers = ["method", "measured", "predicted", "low", "high", "relative_error"]
    return rows.join(found.rename(columns={"y": "measured"})[answers])


def _last(pairs: Pairs) -> Array:
    """Index of the last checkpoint of each run."""
    order = np.lexsort((pairs.tokens, pairs.runs))
    last = np.flatnonzero(np.append(pairs.runs[order][1:] != pairs.runs[order][:-1], True))
    return order[last]
