"""What a reader takes from predictions: errors by method, coverage, influence, open parameters."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lossline.lines.common_cases import answered_by_all, cases_of_methods
from lossline.prediction.backtest import coverage_of
from lossline.prediction.results import LEVELS, Outcome, Predictions, TargetKind

# A stage whose flatness is above this rests on its priors, not on the data.
OPEN = 0.9


def of_default(found: Predictions, kind: TargetKind | None = None) -> pd.DataFrame:
    """Return the rows of the default method; of one kind of target if given."""
    rows = found.predictions[found.predictions["method"] == found.default]
    return rows if kind is None else rows[rows["kind"] == str(kind)]


def has_number(rows: pd.DataFrame) -> pd.Series:
    """Return whether each row has a predicted value."""
    return rows["status"].isin([str(o) for o in Outcome if o.has_number])


def errors_by_method(found: Predictions) -> pd.DataFrame:
    """Return the mean error of each method over the left-out runs, the default method first.

    Columns: method, predicted (number of scores that it predicted), common (number of scores that
    all compared methods predicted), mean and median (of the absolute relative error on the common
    scores), compared. A method that predicted less than half of the default's scores is not
    compared; its errors are on its own scores.
    """
    rows = scored(found)
    columns = ["method", "predicted", "common", "mean", "median", "compared"]
    if rows.empty:
        return pd.DataFrame(columns=columns)
    case, method = _cases(rows)
    cases = cases_of_methods(case, method, found.default)
    compared, common = answered_by_all(cases)
    error = rows["relative_error"].abs().to_numpy(float)
    made = []
    for name, own in cases.items():
        used = common if name in compared else own
        values = pd.Series(error[(method == name) & [c in used for c in case]])
        made.append([name, len(own), len(common), values.mean(), values.median(), name in compared])
    return pd.DataFrame(made, columns=columns)


def scored(found: Predictions) -> pd.DataFrame:
    """Return the predictions of left-out runs that have an error."""
    rows = found.predictions
    return rows[has_number(rows) & rows["relative_error"].notna()]


def on_common_scores(found: Predictions) -> pd.DataFrame:
    """Return the rows of ``scored`` of the compared methods on the scores that all predicted."""
    rows = scored(found)
    if rows.empty:
        return rows
    case, method = _cases(rows)
    compared, common = answered_by_all(cases_of_methods(case, method, found.default))
    return rows[np.isin(method, compared) & np.isin(case, list(common))]


def _cases(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each row's score, and its method."""
    score = rows.groupby(["group", "task", "target"], sort=False, dropna=False).ngroup()
    return score.to_numpy(), rows["method"].to_numpy(str)


def coverage(found: Predictions) -> pd.DataFrame:
    """Return how many measurements of the backtests lie within their intervals.

    Columns: method, measurements, error (median absolute relative error), and within_50,
    within_80, within_90 (shares); one row per method, the default method first.
    """
    rows = found.backtest[found.backtest["predicted"].notna()]
    made = []
    for name in _default_first(found, rows["method"].unique()):
        part = rows[rows["method"] == name]
        within = {f"within_{round(100 * level)}": coverage_of(part, level)[0] for level in LEVELS}
        error = part["relative_error"].abs().median()
        made.append({"method": name, "measurements": len(part), "error": error, **within})
    levels = [f"within_{round(100 * level)}" for level in LEVELS]
    return pd.DataFrame(made, columns=["method", "measurements", "error", *levels])


def largest_changes(found: Predictions) -> pd.DataFrame:
    """Return, for each size left out, the row of ``influence`` with the largest change.

    A size whose absence leaves no prediction at all has a change of NaN.
    """
    rows = found.influence
    if rows.empty:
        return rows
    change = rows["change"].abs().fillna(-1.0).astype(float)
    largest = change.groupby([rows["group"], rows["left_out"]], sort=False).idxmax()
    return rows.loc[largest.to_numpy()].reset_index(drop=True)


def open_stages(found: Predictions) -> pd.DataFrame:
    """Return the stages of the default method with a parameter that the data leave open."""
    rows = found.stages[found.stages["method"] == found.default]
    return rows[rows["flatness"] > OPEN]


def outlier_runs(found: Predictions) -> dict[str, int]:
    """Return run -> number of the default method's stages in which it is an outlier."""
    rows = found.stages[found.stages["method"] == found.default]
    named = rows["outliers"].fillna("").str.split(", ").explode()
    counts = named[named != ""].value_counts()
    return {str(name): int(count) for name, count in counts.items()}


def _default_first(found: Predictions, names: object) -> list[str]:
    return sorted(map(str, names), key=lambda name: (name != found.default, name))  # type: ignore[call-overload]
