"""Hold out the runs of largest compute of a group, and predict them from the others."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lossline.laws.results import FitResult
from lossline.laws.solver import has_many_points
from lossline.lines.common_cases import LINE
from lossline.lines.extrapolation import (
    Baseline,
    fit_compute_law,
    fit_compute_laws,
    nearest_run,
    predict_held_out,
    straight_line,
)
from lossline.lines.fitting import LineOptions
from lossline.lines.specimens import Specimen
from lossline.tables.pairing import Pairs
from lossline.terminal import Say, silent
from lossline.workers import HERE, Workers

Array = np.ndarray

# Hold out all runs with more than this share of the group's largest compute.
_LARGEST = 0.5


# Not the ratio y / x of the largest runs: it makes sense only for two axes of one kind.
_METHODS: Mapping[str, Baseline] = {"straight line": straight_line, "nearest run": nearest_run}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOutCase:
    """One line with its points to fit and to predict.

    Attributes:
        specimen: the line, without its pairs.
        fitted: points of the smaller runs.
        held: last checkpoint of each run of largest compute.
    """

    specimen: Specimen
    fitted: Pairs
    held: Pairs


def largest_runs(pairs: Pairs) -> Array:
    """Return a mask (M,) of the points of the runs of largest compute."""
    compute = pairs.compute
    largest = np.max(compute, where=np.isfinite(compute), initial=0.0)
    held = pairs.of_the_runs(compute > _LARGEST * largest)
    if held.all():  # all runs have similar compute: hold out the largest only
        held = pairs.of_the_runs(compute == largest)
    return held


def case_of(
    specimen: Specimen, min_points: int, *, without: Sequence[str] = ()
) -> HeldOutCase | None:
    """Return the case of a line, or None if it has fewer points to fit than ``min_points``.

    Args:
        specimen: the line with its points.
        min_points: least number of points to fit.
        without: names of runs that are in neither part.
    """
    pairs = specimen.pairs  # without pairs, the line has the reason as its message
    if pairs is not None and len(without):
        pairs = pairs[~np.isin(pairs.runs, np.asarray(without, str))]
    if pairs is None or not len(pairs):
        return None
    held = largest_runs(pairs)
    fitted, rest = pairs[~held], pairs[held]
    if not len(rest) or len(fitted) < min_points or len(np.unique(fitted.x)) < 3:
        return None
    # Its pairs are in the two parts; twice they would travel twice to a worker.
    line = dataclasses.replace(specimen, pairs=None)
    return HeldOutCase(specimen=line, fitted=fitted, held=rest[_last(rest)])


def hold_out(
    cases: Sequence[HeldOutCase],
    options: LineOptions,
    *,
    workers: Workers = HERE,
    say: Say = silent,
) -> pd.DataFrame:
    """Predict the last checkpoint of each held-out run of every case.

    Methods: "line", the fitted line at the run's measured x; "straight line" through the same
    points; "nearest run", the y of the fitted point whose x is nearest; "compute law", from N and D
    to y. Line and law answer only if the smaller runs determine them.

    Args:
        cases: the lines and points.
        options: how to fit lines.
        workers: where to fit them.
        say: receives a line of progress now and then.

    Returns:
        One row per case, run and method that has an answer (``TableFit.heldout``).
    """
    # Laws of few points are one batch, the others are fitted by the workers.
    few = [i for i, case in enumerate(cases) if not has_many_points(len(case.fitted))]
    laws = dict(zip(few, fit_compute_laws([cases[i].fitted for i in few]), strict=True))
    predict = functools.partial(_predictions, options=options)
    pieces = [(case, laws.get(i)) for i, case in enumerate(cases)]
    parts = workers.map(predict, pieces, say=say, what="held-out sets")
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _predictions(piece: tuple[HeldOutCase, FitResult | None], options: LineOptions) -> pd.DataFrame:
    """Return the rows of one case; its compute law is fitted unless it is given."""
    case, known = piece
    law = known or fit_compute_law(case.fitted)

    def determined_law(_: Pairs, held: Pairs) -> Array:
        if not law.ok:
            return np.full(len(held), np.nan)
        return law.predict(N=held.params, D=held.tokens)

    line, found = predict_held_out(
        case.specimen, case.fitted, case.held,
        options=dataclasses.replace(options, min_runs=1),
        baselines={**_METHODS, "compute law": determined_law},
    )  # fmt: skip
    found = found[found["predicted"].notna() & (line.drawable | (found["method"] != LINE))]
    one = case.specimen
    facts = {**one.group, "x_set": one.x_set, "y_set": one.y_set, "unit": one.unit}
    rows = pd.DataFrame({"run_id": found["run"].to_numpy(str)}, index=found.index).assign(**facts)
    answers = ["method", "measured", "predicted", "low", "high", "relative_error"]
    return rows.join(found.rename(columns={"y": "measured"})[answers])


def _last(pairs: Pairs) -> Array:
    """Return the index of the last checkpoint of each run."""
    order = np.lexsort((pairs.tokens, pairs.runs))
    last = np.flatnonzero(np.append(pairs.runs[order][1:] != pairs.runs[order][:-1], True))
    return order[last]
