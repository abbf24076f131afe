"""Choose the estimator of lines: nested hold-out over compute on the Kempner sweep.

    python experiments/published/choose.py --data ../shared/data --out runs/published

Every variant is fitted up to one iso-FLOP budget and predicts a later one, for all train-to-train,
train-to-validation and train-to-task lines. The *inner* pairs of budgets end below the largest one;
the choice was made by these. The *outer* pairs predict the largest budget (the README shows how far
they were seen). Prints geometric means over the pairs of budgets of median, 90th percentile and
worst |relative error|.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import heldout
import numpy as np
import pandas as pd
import sweep

from lossline.errors import UserError
from lossline.laws.forms import ShiftedPowerLaw
from lossline.laws.objective import LEAST_SQUARES
from lossline.laws.solver import FitOptions, fit
from lossline.lines.estimators import TASK_PRIOR, TEXT_PRIOR, Prior
from lossline.lines.fitting import LineKind, LineOptions, fit_line
from lossline.lines.published_line import published_line
from lossline.lines.specimens import Specimen
from lossline.tables.pairing import Pairs
from lossline.tables.sweeps import import_sweep

Array = np.ndarray
Estimator = Callable[[Specimen, Pairs, Pairs, heldout.Laws], Array]

# Pairs of budgets, 0 to 7 in order of compute: fit up to the first, predict the second.
INNER = ((2, 4), (2, 5), (2, 6), (3, 5), (3, 6), (4, 6), (5, 6))
OUTER = ((3, 7), (4, 7), (5, 7), (6, 7))


def ours(text: Prior = TEXT_PRIOR, task: Prior = TASK_PRIOR) -> Estimator:
    """Return our estimator with these priors."""
    options = LineOptions(prior=text, task_prior=task, resamples=0)

    def predict(specimen: Specimen, fitted: Pairs, held: Pairs, laws: heldout.Laws) -> Array:
        line = fit_line(fitted, kind=specimen.kind, options=options)
        return line.predict(held.x, tokens_per_param=held.tokens / held.params)

    return predict


def changed(**fields) -> Estimator:
    """Return our estimator with fields of both priors changed."""
    return ours(
        dataclasses.replace(TEXT_PRIOR, **fields), dataclasses.replace(TASK_PRIOR, **fields)
    )


def published(specimen: Specimen, fitted: Pairs, held: Pairs, laws: heldout.Laws) -> Array:
    """Predict by the published procedure."""
    x_data = specimen.group["pretraining_data"]
    y_data = (specimen.y_group or specimen.group)["pretraining_data"]
    E_x, E_y = (laws[key].parameters["E"] for key in
                ((x_data, specimen.x_set), (y_data, specimen.y_set)))  # fmt: skip
    try:
        return published_line(fitted, E_x, E_y).predict(held.x)
    except UserError:
        return np.full(len(held), np.nan)


def free(specimen: Specimen, fitted: Pairs, held: Pairs, laws: heldout.Laws) -> Array:
    """Predict by plain least squares of four free parameters, at the global optimum."""
    options = FitOptions(objective=LEAST_SQUARES)
    result = fit(ShiftedPowerLaw(), {"x": fitted.x}, fitted.y, options=options)
    return result.predict(x=held.x) if result.parameters else np.full(len(held), np.nan)


def straight(specimen: Specimen, fitted: Pairs, held: Pairs, laws: heldout.Laws) -> Array:
    """Predict by a straight line."""
    return np.polyval(np.polyfit(fitted.x, fitted.y, 1), held.x)


VARIANTS: dict[str, Estimator] = {
    "published procedure": published,
    "straight line": straight,
    "four free parameters": free,
    "ours": ours(),
    "ours, no D/N term": changed(allocation=0.0),
    "ours, D/N term ten times freer": changed(allocation=0.03),
    "ours, all points alike": changed(nearness=0.0),
    "ours, nearness 3": changed(nearness=3.0),
    "ours, nearness 12": changed(nearness=12.0),
    "ours, kappa held to 0.15": changed(log_kappa=0.15),
    "ours, kappa held to 0.5": changed(log_kappa=0.5),
    "ours, E_x uniform": changed(share=(1.0, 1.0)),
    "ours, E_x high": changed(share=(6.0, 3.0)),
    "ours, text prior for tasks": ours(task=TEXT_PRIOR),
    "ours, task prior for text": ours(text=TASK_PRIOR),
}


def run(data: Path, out: Path) -> None:
    """Fit and score all variants, print the tables and write errors."""
    table = import_sweep("kempner", data / "kempner_sweep.csv").table
    table = table[table["flops"] <= sweep.LARGEST * 1.01]
    budgets = np.sort(table["flops"].unique())
    specimens = sweep.specimens(table)
    parts = []
    for first, second in (*INNER, *OUTER):
        laws = heldout.published_laws(table[table["flops"] <= budgets[first] * 1.01])
        found = _errors(specimens, budgets[first], budgets[second], laws)
        parts.append(found.assign(pair=f"{first}-{second}", outer=(first, second) in OUTER))
    scores = pd.concat(parts, ignore_index=True)
    out.mkdir(parents=True, exist_ok=True)
    scores.to_csv(out / "choose.csv", index=False, float_format="%.6g")
    for outer, part in scores.groupby("outer"):
        print(
            f"\n{'outer: predicting the largest budget' if outer else 'inner: chosen by'}, percent"
        )
        print(_table(part).to_string(float_format="%.2f"))


def _errors(
    specimens: Sequence[Specimen], cut: float, target: float, laws: heldout.Laws
) -> pd.DataFrame:
    """Return errors of all variants for one pair of budgets."""
    rows = []
    for specimen in specimens:
        fitted, held = heldout.split_at(specimen.pairs, cut, target)
        for name, estimator in VARIANTS.items():
            error = np.abs(estimator(specimen, fitted, held, laws) / held.y - 1)
            rows += [(name, heldout.KINDS[LineKind(specimen.kind)], e) for e in error]
    frame = pd.DataFrame(rows, columns=["variant", "kind", "error"])
    frame["error"] *= 100
    groups = frame.groupby(["variant", "kind"], sort=False)["error"]
    return groups.agg(median="median", p90=lambda e: e.quantile(0.9), worst="max").reset_index()


def _table(scores: pd.DataFrame) -> pd.DataFrame:
    """Return geometric means over the pairs of budgets: variants by (kind, statistic)."""
    scores = scores.assign(**{c: np.log(scores[c]) for c in ("median", "p90", "worst")})
    means = scores.groupby(["variant", "kind"], sort=False)[["median", "p90", "worst"]].mean()
    return np.exp(means).unstack("kind").swaplevel(axis=1).sort_index(axis=1).loc[list(VARIANTS)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    run(options.data, options.out)
