"""A fitted predictor without its table: read from JSON, it predicts further models.

    predictor = load_predictor("predictions/predictor.json")
    predictor.predict(params=7e9, tokens=4e12)

The file keeps 200 resamples of each fit, so that the intervals differ slightly from the table's.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.places import to_path
from lossline.prediction import direct_forms, scale_forms, score_forms
from lossline.prediction.forms import FittedForm, Form
from lossline.prediction.intervals import Spread, resampled_variance
from lossline.prediction.methods import (
    DirectFit,
    FittedMethod,
    MeanFit,
    Stage,
    TwoStageFit,
)
from lossline.prediction.results import LEVELS, Outcome, Target, TargetKind

WHAT = "predictor of lossline.predict"
VERSION = 1

_FORMS: dict[str, type[Form]] = {
    form.name: form
    for module in (scale_forms, score_forms, direct_forms)
    for form in vars(module).values()
    if isinstance(form, type) and issubclass(form, Form) and "name" in vars(form)
}

_COLUMNS = (
    "group", "method", "task", "metric", "params", "tokens", "flops", "extrapolation", "predicted",
    *(f"{end}_{round(100 * level)}" for level in LEVELS for end in ("low", "high")),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Predictor:
    """Fitted methods of every group and task.

    Attributes:
        tree: the JSON tree of ``Predictions.predictor``.
    """

    tree: Mapping[str, Any]

    def predict(
        self, params: float, tokens: float, flops: float | None = None, family: str = ""
    ) -> pd.DataFrame:
        """Return one row per group, method and task.

        Columns: group, method, task, metric, params, tokens, flops, extrapolation, predicted and
        the ends of the 50, 80 and 90% intervals.

        Args:
            params: N.
            tokens: D.
            flops: C; None: 6 N D, counted as the fitted runs' FLOPs were.
            family: family of models, if the table had families.
        """
        rows = []
        for group in self.tree["groups"]:
            c = flops or 6.0 * params * tokens * group["flops_ratio"]
            target = Target(
                name="",
                kind=TargetKind.PROJECTION,
                params=params,
                tokens=tokens,
                flops=c,
                group=family,
            )
            for task, methods in group["tasks"].items():
                for name, entry in methods.items():
                    rows.append(
                        {
                            "group": group["name"],
                            "method": name,
                            "task": task,
                            "metric": group["metric"],
                            "params": params,
                            "tokens": tokens,
                            "flops": c,
                            **_prediction(entry, target, group["metric"]),
                        }
                    )
        return pd.DataFrame(rows, columns=list(_COLUMNS))


def interval_columns(
    predicted: float, variance: float, extrapolation: float, spread: Spread, metric: str
) -> dict[str, float]:
    """Return a prediction with its intervals, by column of the results."""
    numbers = {"predicted": float(predicted)}
    for level in LEVELS:
        low, high = spread.interval(
            np.array([predicted]), np.array([variance]), np.array([extrapolation]), level, metric
        )
        numbers[f"low_{round(100 * level)}"] = float(low[0])
        numbers[f"high_{round(100 * level)}"] = float(high[0])
    return numbers


def verdict(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return status, reason and relative error of a row of predictions.

    Args:
        row: metric, predicted, extrapolation, and actual if it is known.
    """
    predicted, actual = row["predicted"], row.get("actual", np.nan)
    if not np.isfinite(predicted):
        return {"status": str(Outcome.NOT_IDENTIFIED), "reason": "the prediction is not finite"}
    reasons = []
    if row["metric"] == "accuracy" and not 0 <= predicted <= 1:
        reasons.append("outside the range of an accuracy")
    inside = row["extrapolation"] <= 1
    if inside:
        reasons.append("the target lies within the compute of the runs: an interpolation")
    error = predicted / actual - 1 if np.isfinite(actual) and actual > 0 else np.nan
    status = Outcome.INTERPOLATED if inside else Outcome.PREDICTED
    return {"status": str(status), "reason": "; ".join(reasons), "relative_error": error}


def _prediction(entry: Mapping[str, Any], target: Target, metric: str) -> dict[str, float]:
    draws = fitted_method(entry["fit"]).predict([target])
    variance = resampled_variance(draws, metric, entry["runs"])
    extrapolation = target.flops / entry["largest_flops"]
    numbers = interval_columns(
        draws[0, 0], variance[0], extrapolation, Spread(**entry["spread"]), metric
    )
    return {"extrapolation": extrapolation, **numbers}


def fitted_method(tree: Mapping[str, Any]) -> FittedMethod:
    """Return a fitted method from its JSON tree."""
    if tree["kind"] == "direct":
        return DirectFit(stage=Stage(name="direct", fit=_form(tree["stage"])))
    if tree["kind"] == "mean":
        members = tuple(fitted_method(member) for member in tree["members"])
        return MeanFit(members=members, weights=tuple(tree["weights"]), geometric=tree["geometric"])
    losses = tuple(Stage(name=name, fit=_form(part)) for name, part in tree["losses"].items())
    return TwoStageFit(losses=losses, score=Stage(name="score", fit=_form(tree["score"])))


def _form(tree: Mapping[str, Any]) -> FittedForm:
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in tree["options"].items()}
    return FittedForm(
        form=_FORMS[tree["form"]](**options),
        theta=np.array(tree["theta"], float),
        centers=tuple(tree["centers"]),
        r2=np.nan if tree["r2"] is None else tree["r2"],
        n_points=tree["n_points"],
        n_runs=tree["n_runs"],
    )


def load_predictor(source: str | os.PathLike[str] | Mapping[str, Any]) -> Predictor:
    """Return a predictor from ``predictor.json``, or from ``Predictions.predictor``.

    Raises:
        UserError: the file is missing, or the source is something else.
    """
    tree: Any = source if isinstance(source, Mapping) else _read(to_path(source))
    head = (WHAT, VERSION, list)
    known = isinstance(tree, Mapping) and head == (
        tree.get("what"),
        tree.get("version"),
        type(tree.get("groups")),
    )
    if not known:
        where = "the mapping" if isinstance(source, Mapping) else source
        raise UserError(
            f"{where}: not a predictor of this version of lossline. Run python -m lossline.predict "
            "again."
        )
    return Predictor(tree)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read as a predictor ({error}). Give the predictor.json that "
            "python -m lossline.predict wrote."
        ) from error
