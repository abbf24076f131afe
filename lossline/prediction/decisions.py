"""Pairwise decisions: of two recipes, is the better one at the large scale called?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lossline.prediction.results import DECISION_COLUMNS, TargetKind

_SAME = 0.05  # relative difference of N and D up to which two models have one scale


def decide(predictions: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """Return how often each method calls the better of two groups' runs of one scale.

    Beside it stands the share of right calls by single-scale ranking: the group that is better at
    the largest scale at which both have a run that was fitted.

    Args:
        predictions: rows of ``PREDICTION_COLUMNS`` of all groups.
        points: rows of ``POINT_COLUMNS`` of all groups.
    """
    known = predictions[
        (predictions["kind"] == str(TargetKind.PREDICTION))
        & predictions["predicted"].notna()
        & predictions["actual"].notna()
    ]
    rows = []
    for (method, task), part in known.groupby(["method", "task"]):
        calls = [
            (_sign(a.predicted - b.predicted, a.metric), _sign(a.actual - b.actual, a.metric),
             _at_largest_common_scale(points, task, a.group, b.group))
            for a, b in itertools.combinations(part.itertuples(), 2)
            if a.group != b.group and same_scale(a._asdict(), b._asdict()) and a.actual != b.actual
        ]  # fmt: skip
        if not calls:
            continue
        called, truth, single = (np.array(column) for column in zip(*calls, strict=True))
        ranked = np.isfinite(single)
        rows.append(
            {
                "method": method,
                "task": task,
                "pairs": len(calls),
                "right": int((called == truth).sum()),
                "accuracy": float((called == truth).mean()),
                "single_scale_accuracy": float((single == truth)[ranked].mean())
                if ranked.any()
                else np.nan,
            }
        )
    return pd.DataFrame(rows, columns=list(DECISION_COLUMNS))


def _sign(difference: float, metric: str) -> float:
    """Return 1 if the first is better, -1 if the second is: losses are better when low."""
    return float(np.sign(difference if metric == "accuracy" else -difference))


def same_scale(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Return whether two models with ``params`` and ``tokens`` have one scale."""
    return all(abs(np.log(a[name] / b[name])) < _SAME for name in ("params", "tokens"))


def _at_largest_common_scale(points: pd.DataFrame, task: object, a: str, b: str) -> float:
    """Return which group is better where both have a fitted run of one scale; NaN if nowhere."""
    rows = points[(points["task"] == task) & points["final"] & ~points["held_out"].astype(bool)]
    first, second = (rows[rows["group"] == g].sort_values("flops", ascending=False) for g in (a, b))
    for x in first.itertuples():
        for y in second.itertuples():
            if same_scale(x._asdict(), y._asdict()) and x.value != y.value:
                return _sign(float(x.value) - float(y.value), str(x.metric))  # type: ignore[arg-type]
    return float("nan")
