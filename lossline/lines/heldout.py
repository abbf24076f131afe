"""Hold out the runs of largest compute of a group, and predict them from the others."""

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

Array = np.ndarray

# Hold out all runs with more than this share of the group's largest compute.
_LARGEST = 0.5


def determined_law(fitted: Pairs, held: Pairs) -> Array:
    """Predict y by the compute-to-loss law of N and D; NaN unless the runs determine it."""
    law = fit_compute_law(fitted)
    if not law.ok:
        return np.full(len(held), np.nan)
    return law.predict(N=held.params, D=held.tokens)


# Not the ratio y / x of the largest runs: it makes sense only for two axes of one kind.
_METHODS = {
    "straight line": straight_line,
    "nearest run": nearest_run,
    "compute law": determined_law,
}


def largest_runs(pairs: Pairs) -> Array:
    """Return a mask (M,) of the points of the runs of largest compute.

    Compute is C, or 6 N D, or D if nothing else is known for all points.
    """
    compute = np.where(np.isfinite(pairs.flops), pairs.flops, 6.0 * pairs.params * pairs.tokens)
    if not np.isfinite(compute).all():
        compute = pairs.tokens
    largest = np.max(compute, where=np.isfinite(compute), initial=0.0)
    held = pairs.of_the_runs(compute > _LARGEST * largest)
    if held.all():  # all runs have similar compute: hold out the largest only
        held = pairs.of_the_runs(compute == largest)
    return held


def hold_out(group: Group, x_set: str, y_set: str, unit: str, options: LineOptions) -> pd.DataFrame:
    """Predict the last checkpoint of each held-out run.

    Methods: "line", the fitted line at the run's measured x; "straight line" through the same
    points; "nearest run", the y of the fitted point whose x is nearest; "compute law", from N and D
    to y. Line and law answer only if the smaller runs determine them.

    Returns:
        One row per run and method that has an answer (``TableFit.heldout``); no rows if nothing
        is left to fit.
    """
    try:
        pairs = pair_checkpoints(group.table, x_set, y_set, unit=unit)
    except UserError:
        return pd.DataFrame()  # the line of this group has the reason as its message
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
    """Return the index of the last checkpoint of each run."""
    order = np.lexsort((pairs.tokens, pairs.runs))
    last = np.flatnonzero(np.append(pairs.runs[order][1:] != pairs.runs[order][:-1], True))
    return order[last]
