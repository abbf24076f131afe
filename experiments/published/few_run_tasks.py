"""Task losses of larger runs from few runs of a pretraining set, at every cut that can be held out.

    python experiments/published/few_run_tasks.py --data ../shared/data --out runs/published

The published protocol (arXiv 2411.12925, section 6): a source has a full sweep, a target has a few
runs near the optimal D/N. Here the target's runs up to one budget are fitted, and its runs of the
largest budget are predicted from the source's measured loss there: on its own validation set
("train-to-test"), or on the same task ("test-to-test"). Published: E_x from a Kaplan-style law of
the source, E_y free. Prints the errors of both by cut, over all sources, targets and tasks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import heldout
import numpy as np
import pandas as pd
import runner
import sweep

from lossline.lines.fitting import LineOptions, fit_line
from lossline.lines.specimens import LineKind
from lossline.lines.translation import near_optimal
from lossline.tables.pairing import Pairs, pair_groups
from lossline.tables.schema import OWN_SET
from lossline.tables.sweeps import import_sweep

RANGES = {"6-8 runs": (16.0, 23.0), "13-26 runs": (8.0, 40.0)}  # D/N of the target's runs
PREDICTED = (9.0, 25.0)  # D/N of the runs to predict
CUTS = (3, 4, 5, 6)  # budgets in order of compute, from 0: fit up to this one
FEWEST = 4
MODES = {"train-to-test": LineKind.TRAIN_TO_TASK, "test-to-test": LineKind.TEST_TO_TEST}


def run(data: Path, out: Path) -> list[str]:
    """Predict, print the tables and write the errors."""
    table = import_sweep("kempner", data / "kempner_sweep.csv").table
    table = table[table["flops"] <= sweep.LARGEST * sweep.SAME_BUDGET]
    rows = pd.concat(list(errors(table)), ignore_index=True)
    out.mkdir(parents=True, exist_ok=True)
    rows.to_csv(out / "few_run_tasks.csv", index=False, float_format="%.6g")
    keys = ["runs", "mode", "fitted budgets", "method"]
    found = rows.groupby(keys, sort=False)["error"]
    shown = found.agg(median="median", mean="mean", worst="max").unstack("method")
    print(
        f"|relative error| at the largest budget, percent\n{shown.to_string(float_format='%.1f')}"
    )
    return []


def errors(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield |relative errors| in percent of both methods: one frame per line and cut."""
    budgets = np.sort(table["flops"].unique())
    groups = dict(list(table.groupby("pretraining_data")))
    tasks = sorted(table.loc[table["kind"] == "task", "eval_set"].unique())
    laws = {
        cut: heldout.published_laws(table[table["flops"] <= budgets[cut] * sweep.SAME_BUDGET])
        for cut in CUTS
    }
    for mode, kind in MODES.items():
        for source, target in ((s, t) for s in groups for t in groups if s != t):
            for task in tasks:
                x_set = OWN_SET if mode == "train-to-test" else task
                pairs = pair_groups(groups[source], groups[target], x_set, task)
                held = pairs[_near(pairs, PREDICTED) & (pairs.flops > 0.99 * budgets[-1])]
                for (name, bounds), cut in ((r, c) for r in RANGES.items() for c in CUTS):
                    few = pairs[
                        _near(pairs, bounds) & (pairs.flops <= budgets[cut] * sweep.SAME_BUDGET)
                    ]
                    if len(few) < FEWEST or not len(held):
                        continue
                    E_x = laws[cut][source, x_set].parameters["E"]
                    facts = {"runs": name, "mode": mode, "fitted budgets": cut + 1, "task": task}
                    facts |= {"source": source, "target": target}
                    for method, predicted in {
                        "published": heldout.free_floor(few, E_x, held.x),
                        "ours": _ours(few, held, kind),
                    }.items():
                        error = 100 * np.abs(predicted / held.y - 1)
                        yield pd.DataFrame({"error": error}).assign(method=method, **facts)


def _near(pairs: Pairs, bounds: tuple[float, float]) -> np.ndarray:
    frame = pd.DataFrame({"params": pairs.params, "tokens": pairs.tokens})
    return near_optimal(*bounds, leave_out=[sweep.TWENTY_LAYERS])(frame)


def _ours(few: Pairs, held: Pairs, kind: LineKind) -> np.ndarray:
    line = fit_line(few, kind=kind, options=LineOptions(resamples=0))
    if not line.parameters:
        return np.full(len(held), np.nan)
    return line.predict(held.x, tokens_per_param=held.tokens / held.params)


if __name__ == "__main__":
    sys.exit(runner.main("few_run_tasks", __doc__, run))
