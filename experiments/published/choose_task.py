"""Choose the prior of task lines: rolling cuts that predict the farthest budget.

    python experiments/published/choose_task.py --data ../shared/data --out runs/published

Every candidate is fitted up to each of the budgets 3 to 7 of the Kempner sweep, and predicts its
eighth, the largest. A candidate's score is the mean, over these cuts, of the logarithms of three
|relative errors| over the published procedure's: the median, the mean, and the worst of each task
(geometric mean over the tasks). The worst of all points is shown, but does not decide: it is always
one run of BoolQ, whose loss scatters by up to 50% about a line through all budgets. Each
pretraining set in turn takes no part in the choice: the table shows what the other sets choose, and
the errors of that choice on the set left out.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import choose
import heldout
import numpy as np
import pandas as pd
import runner
import sweep

from lossline.lines.estimators import TASK_PRIOR, Prior
from lossline.lines.specimens import LineKind, Specimen
from lossline.tables.sweeps import import_sweep

CUTS = (2, 3, 4, 5, 6)  # budgets in order of compute, from 0: fit up to this one
FARTHEST = 7
BEFORE = Prior(kappa=0.37, log_kappa=0.5, share=(3.0, 2.0))


def candidates() -> dict[str, Prior]:
    """Return the priors to choose from."""
    grid = itertools.product(
        (0.7, 0.75, 0.8, 0.85, 0.9, 0.998), ((2.0, 3.0), (1.0, 1.0), (3.0, 2.0)), (0.37, 0.6),
        (0.0, 0.003),
    )  # fmt: skip
    return {
        f"E_x <= {highest:g} min x, Beta{share}, kappa {kappa:g}, D/N {allocation:g}": Prior(
            kappa=kappa, log_kappa=0.5, share=share, highest=highest, allocation=allocation
        )
        for highest, share, kappa, allocation in grid
    }


def errors(
    table: pd.DataFrame, specimens: Sequence[Specimen], estimators: dict[str, choose.Estimator]
) -> pd.DataFrame:
    """Return one row per cut, held-out point and estimator: |relative error| in percent."""
    budgets = np.sort(table["flops"].unique())
    parts = []
    for cut in CUTS:
        laws = heldout.published_laws(table[table["flops"] <= budgets[cut] * 1.01])
        for specimen in specimens:
            fitted, held = heldout.split_at(specimen.pairs, budgets[cut], budgets[FARTHEST])
            facts = {
                "cut": cut, "data": specimen.group["pretraining_data"], "task": specimen.y_set,
            }  # fmt: skip
            for name, predict in estimators.items():
                error = predict(specimen, fitted, held, laws) / held.y - 1
                part = pd.DataFrame({"error": 100 * np.abs(error)})
                parts.append(part.assign(candidate=name, **facts))
    return pd.concat(parts, ignore_index=True)


def by_cut(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the statistics of each candidate and cut, percent."""
    keys = ["candidate", "cut"]
    found = rows.groupby(keys, sort=False)["error"].agg(median="median", mean="mean", worst="max")
    per_task = np.log(rows.groupby([*keys, "task"], sort=False)["error"].max())
    found.insert(2, "worst of a task", np.exp(per_task.groupby(keys, sort=False).mean()))
    return found


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return geometric means of the statistics over the cuts, and the score."""
    logs = np.log(by_cut(rows)).groupby("candidate", sort=False).mean()
    score = (logs - logs.loc["published procedure"]).iloc[:, :3].mean(axis=1)
    return np.exp(logs).assign(score=score)


def left_out(rows: pd.DataFrame) -> pd.DataFrame:
    """Return, for each pretraining set, the choice of the others and its errors on that set."""
    found = []
    fixed = ["published procedure", "before", "ours"]
    for data, own in rows.groupby("data"):
        others = summary(rows[rows["data"] != data]).drop(index=fixed)
        choice = str(others["score"].idxmin())
        errors_here = summary(own)
        for name in (*fixed, choice):
            label = "choice of the others" if name == choice else name
            found.append(
                {"left out": data, "": label, **errors_here.loc[name].to_dict(), "choice": choice}
            )
    return pd.DataFrame(found)


def run(data: Path, out: Path) -> list[str]:
    """Score all candidates, print the tables and write the errors."""
    table = import_sweep("kempner", data / "kempner_sweep.csv").table
    table = table[table["flops"] <= sweep.LARGEST * 1.01]
    specimens = [s for s in sweep.specimens(table) if s.kind is LineKind.TRAIN_TO_TASK]
    estimators = {"published procedure": choose.published, "before": choose.ours(task=BEFORE)}
    estimators["ours"] = choose.ours(task=TASK_PRIOR)
    estimators |= {name: choose.ours(task=prior) for name, prior in candidates().items()}
    rows = errors(table, specimens, estimators)
    out.mkdir(parents=True, exist_ok=True)
    rows.to_csv(out / "choose_task.csv", index=False, float_format="%.6g")
    whole = summary(rows)
    show = [*whole.index[:3], *whole.index[3:][np.argsort(whole["score"].iloc[3:])][:12]]
    print("all pretraining sets, percent; the best twelve candidates")
    print(whole.loc[show].to_string(float_format="%.2f"))
    print("\neach pretraining set left out of the choice, percent")
    print(left_out(rows).to_string(index=False, float_format="%.2f"))
    for name in ("published procedure", "before", "ours"):
        shown = by_cut(rows[rows["candidate"] == name]).loc[name]
        print(f"\n{name}, by cut, percent\n{shown.to_string(float_format='%.2f')}")
    return []


if __name__ == "__main__":
    sys.exit(runner.main("choose_task", __doc__, run))
