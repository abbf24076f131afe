"""Predict a benchmark's error from scale in two steps: scale to loss, loss to error.

    found = predict_error(rows_of_small_runs)          # N, D, loss, error per run
    found.loss(N=6.9e9, D=1.38e11), found.error(N=6.9e9, D=1.38e11)

Source: Gadre et al., arXiv 2403.08540.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.laws.compute_laws import OverTraining
from lossline.laws.forms import ErrorLaw
from lossline.laws.objective import LEAST_SQUARES
from lossline.laws.results import FitResult
from lossline.laws.solver import FitOptions, fit
from lossline.tables.continued import fresh
from lossline.tables.pairing import one_set

Array = np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class ErrorPrediction:
    """The two laws of a prediction.

    Attributes:
        loss_law: law from scale to loss.
        error_law: law from loss to error.
    """

    loss_law: FitResult
    error_law: FitResult

    def loss(self, *, N: Any, D: Any) -> Array:
        """Return the loss, nats per token, at N parameters and D tokens (any one shape)."""
        return self.loss_law.predict(N=np.asarray(N, float), D=np.asarray(D, float))

    def error(self, *, N: Any, D: Any) -> Array:
        """Return the error in [0, 1] at N parameters and D tokens, from the predicted loss."""
        return self.error_law.predict(x=self.loss(N=N, D=D))


def average_error(table: pd.DataFrame, tasks: Sequence[str]) -> pd.Series:
    """Return 1 - mean accuracy over ``tasks`` by run_id, for runs that have all of them.

    Raises:
        UserError: a task has no accuracy in the table.
    """
    rows = table[table["eval_set"].isin(list(tasks)) & table["accuracy"].notna()]
    missing = sorted(set(tasks) - set(rows["eval_set"]))
    if missing:
        raise UserError(f"no accuracy on {', '.join(missing)} in the table. Leave these tasks out.")
    wide = rows.pivot_table(index="run_id", columns="eval_set", values="accuracy").dropna()
    return (1.0 - wide.mean(axis=1)).rename("error")


def predict_error(runs: pd.DataFrame) -> ErrorPrediction:
    """Fit both laws to runs.

    The loss law is fitted to all runs with Huber's loss on logarithms, so that over-trained runs
    count like the others. The published law is fitted to five runs only.

    Args:
        runs: columns params, tokens, loss and error; the error may be missing.

    Raises:
        UserError: the runs do not determine one of the laws.
    """
    N, D = runs["params"].to_numpy(float), runs["tokens"].to_numpy(float)
    loss_law = fit(OverTraining(), {"N": N, "D": D}, runs["loss"].to_numpy(float))
    both = runs.dropna(subset=["error"])
    error_law = fit(
        ErrorLaw(),
        {"x": both["loss"].to_numpy(float)},
        both["error"].to_numpy(float),
        options=FitOptions(objective=LEAST_SQUARES),
    )
    for name, law in (("loss", loss_law), ("error", error_law)):
        if not law.parameters:
            raise UserError(f"the law of the {name} has no fit: {law.message}")
    return ErrorPrediction(loss_law=loss_law, error_law=error_law)


def loss_and_error(table: pd.DataFrame, eval_set: str, tasks: Sequence[str]) -> pd.DataFrame:
    """Return one row per run: run_id, params, tokens, loss on ``eval_set``, error (or NaN)."""
    losses = one_set(fresh(table), eval_set, "loss").rename(columns={"value": "loss"})
    return losses.merge(average_error(table, tasks), on="run_id", how="left")
