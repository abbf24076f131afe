"""Measure the coverage of nominal 90% intervals on held-out runs, at every cut.

    python experiments/published/intervals.py --data ../shared/data --out runs/published

Sources are the Kempner sweep, the OLMo ladder and Gadre's validation losses. Every line is fitted
up to one budget (3 to 7 of them; elsewhere sizes, from 2) and predicts each later one. Prints
percent of points covered per source and kind of line, and the interval score (Gneiting & Raftery
2007, eq. 43; percent of y). Intervals come in two ways: without calibration ("plain": only the
error of the form, 4%, benchmarks 8%) and with it (``lines.calibration``). Writes coverage.csv.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import ladder
import numpy as np
import others
import pandas as pd
import sweep

from lossline.lines.calibration import Calibration
from lossline.lines.fitting import Line, LineKind, LineOptions, fit_line
from lossline.lines.specimens import Specimen, within_groups
from lossline.tables.pairing import Pairs
from lossline.tables.sweeps import import_sweep

TASKS = (LineKind.TRAIN_TO_TASK, LineKind.VALIDATION_TO_TASK)
WAYS = ("plain", "ours")
LINES = ["source", "kind"]


def main() -> None:
    """Read the sources, score the intervals, print the tables and write coverage.csv."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    points = pd.concat(
        [
            found.assign(source=source)
            for source, specimens, step in read(options.data)
            for found in held_out(specimens, step)
        ],
        ignore_index=True,
    )
    cells = cells_of(points)
    options.out.mkdir(parents=True, exist_ok=True)
    cells.to_csv(options.out / "coverage.csv", index=False, float_format="%.6g")
    for way in WAYS:
        print(f"\n{way}: percent of points held; columns: number of the step predicted")
        table = cells.set_index([*LINES, "fitted", "predicted"])[f"{way} held"].unstack("predicted")
        print(table.to_string(float_format="%.0f", na_rep=""))
    print("\ninterval score, percent of y: geometric means over cells (outer: the last step)")
    print(scores(cells).to_string(float_format="%.2f", na_rep=""))


def read(data: Path) -> Iterator[tuple[str, list[Specimen], str]]:
    """Return each source, its specimens, and the column of their pairs that is cut."""
    if (data / "kempner_sweep.csv").is_file():
        rows = import_sweep("kempner", data / "kempner_sweep.csv").table
        rows = rows[rows["flops"] <= sweep.LARGEST * sweep.SAME_BUDGET]
        yield "Kempner", sweep.specimens(rows), "flops"
    if (data / "olmo_ladder.csv").is_file():
        rows = ladder.final_checkpoints(import_sweep("olmo_ladder", data / "olmo_ladder.csv").table)
        rows = rows[rows["params"] <= ladder.FITTED_UP_TO]
        found = within_groups(rows, x_sets=[ladder.X_SET], group_by=())
        found = [s for s in found if s.kind in ladder.KINDS and s.pairs is not None]
        yield "OLMo ladder", found, "params"
    if (data / "gadre_models.csv").is_file():
        rows = import_sweep("gadre", data / "gadre_models.csv").table
        rows = rows[rows["params"] <= others.FITTED_UP_TO]
        found = within_groups(rows, group_by=sweep.VARY)
        text = LineKind.VALIDATION_TO_VALIDATION
        yield "Gadre", [s for s in found if s.kind is text and s.pairs is not None], "params"


def held_out(specimens: list[Specimen], step: str) -> Iterator[pd.DataFrame]:
    """Return the points beyond each cut of each line.

    Columns: kind, fitted, predicted, last (whether predicted is the last step), and per way of
    making intervals whether it covers the point and its score.
    """
    steps = np.unique(np.concatenate([getattr(s.pairs, step) for s in specimens]))
    first = 3 if step == "flops" else 2
    for specimen in specimens:
        at = np.searchsorted(steps, getattr(specimen.pairs, step) * (1 - 1e-9)) + 1
        for cut in range(first, len(steps)):
            rest = specimen.pairs[at > cut]
            line = fit_line(specimen.pairs[at <= cut], kind=specimen.kind, options=LineOptions())
            if line.parameters and len(rest):
                where = {"kind": str(specimen.kind), "fitted": cut, "predicted": at[at > cut]}
                last = at[at > cut] == len(steps)
                yield pd.DataFrame(where | {"last": last} | judged(line, rest))


def judged(line: Line, rest: Pairs) -> dict[str, np.ndarray]:
    """Return coverage and score of each way of making intervals, per point."""
    form = 0.08 if line.kind in TASKS else 0.04
    plain = dataclasses.replace(line, calibration=Calibration(fan=1.0, scatter=1.0, form=form))
    found = {}
    for way, each in zip(WAYS, (plain, line), strict=True):
        low, high = each.interval(rest.x, tokens_per_param=rest.tokens / rest.params)
        below, above = np.maximum(low - rest.y, 0), np.maximum(rest.y - high, 0)
        found[f"{way} held"] = 100.0 * ((below == 0) & (above == 0))
        found[f"{way} score"] = 100.0 * (high - low + 2 / 0.1 * (below + above)) / rest.y
    return found


def cells_of(points: pd.DataFrame) -> pd.DataFrame:
    """Return means over the points of each source, kind, step fitted to and step predicted."""
    grouped = points.groupby([*LINES, "fitted", "predicted"], sort=False)
    return grouped.mean().assign(points=grouped.size()).reset_index()


def scores(cells: pd.DataFrame) -> pd.DataFrame:
    """Return geometric means of the interval score, for inner cells and for outer ones."""
    names = [f"{way} score" for way in WAYS]
    where = cells["last"].map({0.0: "inner", 1.0: "outer"}).rename("")
    logs = np.log(cells[names]).groupby([cells[name] for name in LINES] + [where], sort=False)
    return np.exp(logs.mean()).unstack("")


if __name__ == "__main__":
    main()
