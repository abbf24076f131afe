"""From scale to a benchmark's error in two steps, over a loss (Gadre et al., arXiv 2403.08540).

found = predict_error(rows_of_small_runs)          # N, D, loss, error per run
found.loss(N=6.9e9, D=1.38e11), found.error(N=6.9e9, D=1.38e11)
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
from lossline.tables.pairing import one_set

__all__ = ["ErrorPrediction", "average_error", "predict_error"]

Array = np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class ErrorPrediction:
    """A law of scale for the loss, and a law from loss to error."""

    loss_law: FitResult
    error_law: FitResult

    def loss(self, *, N: Any, D: Any) -> Array:
        """Loss in nats per token at N parameters and D tokens (any one shape)."""
        return self.loss_law.predict(N=np.asarray(N, float), D=np.asarray(D, float))

    def error(self, *, N: Any, D: Any) -> Array:
        """Error in [0, 1] at N parameters and D tokens, by way of the predicted loss."""
        return self.error_law.predict(x=self.loss(N=N, D=D))


def average_error(table: pd.DataFrame, tasks: Sequence[str]) -> pd.Series:
    """1 - mean accuracy over `tasks`, by run_id, of the runs that have them all."""
    rows = table[table["eval_set"].isin(list(tasks)) & table["accuracy"].notna()]
    missing = sorted(set(tasks) - set(rows["eval_set"]))
    if missing:
        raise UserError(f"no accuracy on {', '.join(missing)} in the table; leave these tasks out")
    wide = rows.pivot_table(index="run_id", columns="eval_set", values="accuracy").dropna()
    return (1.0 - wide.mean(axis=1)).rename("error")


def predict_error(runs: pd.DataFrame) -> ErrorPrediction:
    """Fits both laws to runs with columns params, tokens, loss and error (the last may be missing).

    The loss law is fitted to all runs with a Huber loss on logarithms, so that over-trained runs
    weigh like the others; the published one goes through five of them.
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
            raise UserError(f"the law of the {name}: {law.message}")
    return ErrorPrediction(loss_law=loss_law, error_law=error_law)


def loss_and_error(table: pd.DataFrame, eval_set: str, tasks: Sequence[str]) -> pd.DataFrame:
    """One row per run: run_id, params, tokens, loss on `eval_set`, error over `tasks` (or NaN)."""
    losses = one_set(table, eval_set, "loss").rename(columns={"value": "loss"})
    return losses.merge(average_error(table, tasks), on="run_id", how="left")
