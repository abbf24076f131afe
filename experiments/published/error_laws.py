"""Print how well Gadre's two steps predict each held-out size, by three ways of fitting.

    python experiments/published/error_laws.py DATA_FOLDER

DATA_FOLDER holds gadre_models.csv. Only models of up to 1.4B are used.
The last tables show the priors that were tried, also by pretraining set, so that the best prior of
one set can be judged on the other.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from others import C4_EVAL, FITTED_UP_TO, PLAIN, published_laws
from predict_gadre import NOT_MEASURED_ALIKE

from lossline.errors import UserError
from lossline.laws.compute_laws import OverTraining
from lossline.laws.forms import ErrorLaw
from lossline.laws.solver import fit
from lossline.prediction.gadre import ErrorPrior, loss_and_error, predict_error
from lossline.reporting.published import GADRE_TASKS
from lossline.tables.schema import SetKind
from lossline.tables.sweeps import import_sweep

Array = np.ndarray
# Predictions for held-out runs: loss, error from scale, error from the measured loss.
Predictions = tuple[Array, Array, Array]
Rule = Callable[[pd.DataFrame, pd.DataFrame], Predictions]  # of runs to fit and runs to predict
WHAT = {"loss": "loss", "error": "error", "error from measured loss": "error"}

PUBLISHED, BEFORE, NOW = "published", "before", "now"
NEARNESS = (0.0, 4.0, 6.0, 8.0)
GAMMA = (0.5, 0.6, 0.7, 0.85)
LOG_GAMMA = (0.15, 0.3, 0.5)


def published(fitted: pd.DataFrame, held: pd.DataFrame) -> Predictions:
    """Predict by the published laws; NaN without the runs that they need."""
    try:
        loss_law, error_law = published_laws(fitted, least=4)
    except UserError:
        nothing = np.full(len(held), np.nan)
        return nothing, nothing, nothing
    loss = loss_law.predict(N=held["params"].to_numpy(), M=held["M"].to_numpy())
    return loss, error_law.predict(x=loss), error_law.predict(x=held["loss"].to_numpy())


def before(fitted: pd.DataFrame, held: pd.DataFrame) -> Predictions:
    """Predict by one law of each kind through all runs, all of weight 1, without a prior."""
    scale, beyond = ({"N": t["params"].to_numpy(), "D": t["tokens"].to_numpy()}
                     for t in (fitted, held))  # fmt: skip
    loss = fit(OverTraining(), scale, fitted["loss"].to_numpy()).predict(**beyond)
    x = {"x": fitted["loss"].to_numpy()}
    law = fit(ErrorLaw(), x, fitted["error"].to_numpy(), options=PLAIN)
    return loss, law.predict(x=loss), law.predict(x=held["loss"].to_numpy())


def by_prior(prior: ErrorPrior) -> Rule:
    """Return the package's rule with this prior."""

    def rule(fitted: pd.DataFrame, held: pd.DataFrame) -> Predictions:
        found = predict_error(fitted, prior)
        scale = {"N": held["params"].to_numpy(), "D": held["tokens"].to_numpy()}
        from_measured = found.error_law.predict(x=held["loss"].to_numpy())
        return found.loss(**scale), found.error(**scale), from_measured

    return rule


def cuts(runs: pd.DataFrame) -> Iterator[tuple[str, pd.Series, pd.Series]]:
    """Yield name, runs to fit and runs to predict: larger sizes, and over-trained runs of one.

    Runs of fewer than 20 tokens per parameter are fitted but not predicted.
    """
    size = runs["params"].map(lambda n: float(f"{n:.2g}"))
    sizes = sorted(size.unique())
    at_20 = (runs["M"] / 20 - 1).abs() < 0.01
    for i, j in itertools.combinations(range(1, len(sizes)), 2):
        name = f"up to {sizes[i] / 1e9:.2g}B: {sizes[j] / 1e9:.2g}B"
        yield name, size <= sizes[i], (size == sizes[j]) & (runs["M"] > 19)
    for one in sizes[2:]:  # the published design: the largest size is fitted at M = 20 only
        name = f"{one / 1e9:.2g}B at M = 20 and smaller: {one / 1e9:.2g}B, M > 20"
        yield name, (size < one) | ((size == one) & at_20), (size == one) & (runs["M"] > 30)


def errors(sets: dict[str, pd.DataFrame], rules: dict[str, Rule]) -> pd.DataFrame:
    """Return |relative error| in percent, per set, cut, rule and held-out run."""
    rows = []
    for data, runs in sets.items():
        for cut, small, large in cuts(runs):
            held = runs[large]
            for name, rule in rules.items():
                for what, value in zip(WHAT, rule(runs[small], held), strict=True):
                    off = 100 * np.abs(value / held[WHAT[what]].to_numpy() - 1)
                    rows += [(data, cut, name, what, one) for one in off]
    return pd.DataFrame(rows, columns=["data", "cut", "rule", "what", "off"])


def scores(found: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return median, mean and worst of ``off``."""
    return found.groupby(by, sort=False)["off"].agg(["median", "mean", "max"]).round(2)


def runs_of(table: pd.DataFrame, eval_set: str) -> dict[str, pd.DataFrame]:
    """Return the runs of each pretraining set with their loss on ``eval_set``, error and M."""
    sets = {}
    for data, part in table.groupby("pretraining_data"):
        runs = loss_and_error(part, eval_set, GADRE_TASKS).dropna(subset=["error"])
        sets[str(data)] = runs.assign(M=runs["tokens"] / runs["params"])
    return sets


def show(found: pd.DataFrame) -> None:
    """Print the errors at each cut, and over those where the published laws are determined."""
    print(scores(found, ["what", "cut", "rule"]).unstack("rule").to_string(), "\n")
    answered = found[~found["cut"].isin(found.loc[found["off"].isna(), "cut"])]
    print("Cuts where the published laws are determined\n")
    print(scores(answered, ["what", "rule"]).to_string(), "\n")


def main(folder: Path) -> None:
    """Print all tables: loss on C4, losses on all text sets, and the priors tried on C4."""
    table = import_sweep("gadre", folder / "gadre_models.csv").table
    table = table[table["params"] < FITTED_UP_TO]
    validation = table.loc[table["kind"] == str(SetKind.VALIDATION), "eval_set"].unique()
    texts = [name for name in validation if name not in NOT_MEASURED_ALIKE]
    three = {PUBLISHED: published, BEFORE: before, NOW: by_prior(ErrorPrior())}
    sets = runs_of(table, C4_EVAL)
    print(f"Loss on {C4_EVAL}: median, mean and worst |relative error|, %\n")
    show(errors(sets, three))
    print(f"Losses on {', '.join(texts)}\n")
    show(pd.concat([errors(runs_of(table, name), three) for name in texts]))
    print(f"Priors, loss on {C4_EVAL}\n")
    tried = {
        f"nearness {n:g}, gamma {g:g}, sd {sd:g}": by_prior(
            ErrorPrior(nearness=n, gamma=g, log_gamma=sd)
        )
        for n, g, sd in itertools.product(NEARNESS, GAMMA, LOG_GAMMA)
    }
    found = errors(sets, tried)
    for what in list(WHAT)[1:]:
        part = found[found["what"] == what]
        by_set = part.groupby(["rule", "data"])["off"].mean().unstack().round(2)
        print(f"{what}\n{scores(part, ['rule']).join(by_set).sort_values('mean').to_string()}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
