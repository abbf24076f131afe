"""Predict a benchmark's error from scale in two steps: scale to loss, loss to error.

    found = predict_error(rows_of_small_runs)          # N, D, loss, error per run
    found.loss(N=6.9e9, D=1.38e11), found.error(N=6.9e9, D=1.38e11)

Source of the two steps: Gadre et al., arXiv 2403.08540. The published laws are fitted to 5 and 6
runs. Here both are fitted to all runs, with three choices that make them extrapolate reliably;
experiments/published/error_laws.py prints what was tried at every size that can be held out:

- The loss is the mean of two laws: with one exponent for N and D, and with two. Beyond the fitted
  sizes the first is mostly too high and the second too low.
- Runs of low loss get more weight. Near chance the error is flat and no law describes it well.
- gamma and epsilon have almost the same effect on a few noisy errors: gamma gets a weak prior.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.laws.compute_laws import Chinchilla, OverTraining
from lossline.laws.forms import ErrorLaw
from lossline.laws.objective import LEAST_SQUARES
from lossline.laws.results import FitResult
from lossline.laws.solver import FitOptions, fit
from lossline.tables.continued import fresh
from lossline.tables.pairing import one_set

Array = np.ndarray

_GAMMAS = np.geomspace(0.05, 6.0, 120)
_PLAIN = FitOptions(objective=LEAST_SQUARES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ErrorPrior:
    """What is assumed before the runs are seen.

    Chosen by the errors at held-out sizes of up to 1.4B on C4 and on RedPajama, of both steps
    together and of the second from measured losses. The choice is a compromise: both steps
    together prefer a center of 0.85, the second step alone prefers 0.7 and more nearness.

    Attributes:
        nearness: runs have weight (loss / smallest loss)^-nearness.
        gamma: center of gamma, per nat per token of a loss on web text.
        log_gamma: standard deviation of ln gamma.

    Raises:
        UserError: a value is out of range.
    """

    nearness: float = 4.0
    gamma: float = 0.7
    log_gamma: float = 0.3

    def __post_init__(self) -> None:
        if not (self.nearness >= 0 and self.gamma > 0 and self.log_gamma > 0):
            raise UserError(
                "ErrorPrior: gamma and log_gamma must be positive; nearness must be at least 0."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ErrorPrediction:
    """The laws of a prediction.

    Attributes:
        loss_laws: laws from scale to loss; the predicted loss is their mean.
        error_law: law from loss to error.
    """

    loss_laws: tuple[FitResult, ...]
    error_law: FitResult

    def loss(self, *, N: Any, D: Any) -> Array:
        """Return the loss, nats per token, at N parameters and D tokens (any one shape)."""
        scale = {"N": np.asarray(N, float), "D": np.asarray(D, float)}
        return np.mean([law.predict(**scale) for law in self.loss_laws], axis=0)

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


def predict_error(runs: pd.DataFrame, prior: ErrorPrior | None = None) -> ErrorPrediction:
    """Fit the laws of loss and error to runs.

    Args:
        runs: columns params, tokens, loss and error; the error may be missing.
        prior: what is assumed before the runs are seen.

    Raises:
        UserError: the runs do not determine one of the laws.
    """
    prior = prior or ErrorPrior()
    both = runs.dropna(subset=["error"])
    loss, error = both["loss"].to_numpy(float), both["error"].to_numpy(float)
    return ErrorPrediction(loss_laws=fit_loss(runs, prior), error_law=fit_error(loss, error, prior))


def fit_loss(runs: pd.DataFrame, prior: ErrorPrior) -> tuple[FitResult, ...]:
    """Fit the laws from scale to loss whose mean predicts: of one exponent, and of two.

    Both by Huber's loss on logarithms. The law of two exponents bends more freely, so that its fit
    gives more weight to runs of low loss.

    Args:
        runs: columns params, tokens and loss.
        prior: its nearness is used.

    Raises:
        UserError: the runs determine neither law.
    """
    scale = {"N": runs["params"].to_numpy(float), "D": runs["tokens"].to_numpy(float)}
    loss = runs["loss"].to_numpy(float)
    if not len(loss):
        raise UserError("the law of the loss has no fit: no run has a loss. Add runs to fit.")
    near = _near(loss, prior.nearness)
    laws = (fit(OverTraining(), scale, loss), fit(Chinchilla(), scale, loss, weights=near))
    found = tuple(law for law in laws if law.parameters)
    if not found:
        raise UserError(f"the law of the loss has no fit: {laws[0].message}")
    return found


def fit_error(loss: Array, error: Array, prior: ErrorPrior) -> FitResult:
    """Fit err = epsilon - k exp(-gamma loss) to M runs, gamma at its posterior mean.

    Args:
        loss: losses (M,), nats per token.
        error: errors (M,) in [0, 1].
        prior: prior of gamma, and weights of the runs.

    Raises:
        UserError: the runs do not determine the law.
    """
    if len(np.unique(loss)) < 2:
        raise UserError(
            "the law of the error has no fit: fewer than 2 different losses among the "
            f"{len(loss)} runs with an error. Add runs of other sizes."
        )
    weight = _near(loss, prior.nearness)
    fixed = {"gamma": _gamma(loss, error, weight, prior)}
    law = fit(ErrorLaw(), {"x": loss}, error, weights=weight, fixed=fixed, options=_PLAIN)
    if not law.parameters:
        raise UserError(f"the law of the error has no fit: {law.message}")
    return law


def _near(loss: Array, nearness: float) -> Array:
    """Return weights (M,) that grow toward low loss, with mean 1."""
    weight = (loss / loss.min()) ** -nearness
    return weight / weight.mean()


def _gamma(loss: Array, error: Array, weight: Array, prior: ErrorPrior) -> float:
    """Return the posterior mean of gamma (of its logarithm), epsilon and k solved for.

    Laws that fall with the loss (k <= 0) or whose error exceeds 1 at high loss are impossible.
    """
    share = weight / weight.sum()
    x, y = loss - share @ loss, error - share @ error
    power = np.exp(-_GAMMAS[:, None] * x)
    power -= (power @ share)[:, None]
    k = -(power @ (share * y)) / (power**2 @ share)
    objective = (y + k[:, None] * power) ** 2 @ share
    epsilon = share @ error + k * (np.exp(-_GAMMAS[:, None] * x) @ share)
    # Student's t: the noise variance is integrated out. A floor keeps exact laws finite.
    objective = np.maximum(objective, 1e-14 * (y**2 @ share) + 1e-300)
    freedom = max(1 / np.sum(share**2) - 3, 1.0)
    log = -0.5 * freedom * np.log(objective / objective.min())
    log -= 0.5 * (np.log(_GAMMAS / prior.gamma) / prior.log_gamma) ** 2
    possible = (k > 0) & (epsilon <= 1)
    log = np.where(possible | ~possible.any(), log, -np.inf)
    probability = np.exp(log - log.max())
    return float(np.exp(probability @ np.log(_GAMMAS) / probability.sum()))


def loss_and_error(table: pd.DataFrame, eval_set: str, tasks: Sequence[str]) -> pd.DataFrame:
    """Return one row per run: run_id, params, tokens, loss on ``eval_set``, error (or NaN)."""
    losses = one_set(fresh(table), eval_set, "loss").rename(columns={"value": "loss"})
    return losses.merge(average_error(table, tasks), on="run_id", how="left")
