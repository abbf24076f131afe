"""How many held-out runs the nominal 90% intervals hold, at every cut of the Kempner sweep and the
OLMo ladder.

    python experiments/published/intervals.py --data ../shared/data --out runs/published

Fits every line up to one budget (3 to 7 of them; of the ladder, sizes) and predicts each later one.
Prints percent of points held per kind of line, with intervals as they come ("plain": doubt of the
form alone, 4%, benchmarks 8%) and as they are (`lossline.scaling.doubt`), and writes coverage.csv.
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
import pandas as pd
import sweep

from lossline.scaling.doubt import Doubt
from lossline.scaling.lines import LineKind, LineOptions, fit_line
from lossline.scaling.pairing import Pairs
from lossline.scaling.specimens import Specimen, within_groups
from lossline.tables.sweeps import import_sweep

TASKS = (LineKind.TRAIN_TO_TASK, LineKind.VALIDATION_TO_TASK)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = [row for specimens, step in read(options.data) for row in held(specimens, step)]
    found = pd.DataFrame(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    found.to_csv(options.out / "coverage.csv", index=False, float_format="%.6g")
    for name in ("plain", "ours"):
        print(f"\n{name}: percent of points held; columns: number of the step predicted")
        print(table(found, name).to_string(float_format="%.0f", na_rep=""))


def read(data: Path) -> Iterator[tuple[list[Specimen], str]]:
    """Specimens of each source, and the column of its pairs that is cut."""
    if (data / "kempner_sweep.csv").is_file():
        rows = import_sweep("kempner", data / "kempner_sweep.csv").table
        rows = rows[rows["flops"] <= sweep.LARGEST * sweep.SAME_BUDGET]
        yield sweep.specimens(rows), "flops"
    if (data / "olmo_ladder.csv").is_file():
        rows = ladder.final_checkpoints(import_sweep("olmo_ladder", data / "olmo_ladder.csv").table)
        rows = rows[rows["params"] <= ladder.FITTED_UP_TO]
        found = within_groups(rows, x_sets=[ladder.X_SET], group_by=())
        yield [s for s in found if s.kind in ladder.KINDS and s.pairs is not None], "params"


def held(specimens: list[Specimen], step: str) -> Iterator[dict[str, object]]:
    """Per line, cut and step predicted: how many points there are, and how many each way of making
    intervals holds."""
    steps = np.unique(np.concatenate([getattr(s.pairs, step) for s in specimens]))
    first = 3 if step == "flops" else 2
    for specimen in specimens:
        at = np.searchsorted(steps, getattr(specimen.pairs, step) * (1 - 1e-9)) + 1
        for cut in range(first, len(steps)):
            inside = held_by(specimen, specimen.pairs[at <= cut], specimen.pairs[at > cut])
            for target in range(cut + 1, len(steps) + 1):
                here = at[at > cut] == target
                if inside is not None and here.any():
                    counts = {name: int(mask[here].sum()) for name, mask in inside.items()}
                    kind = str(specimen.kind)
                    yield {
                        "kind": kind,
                        "fitted": cut,
                        "predicted": target,
                        "points": here.sum(),
                    } | counts


def held_by(specimen: Specimen, fitted: Pairs, rest: Pairs) -> dict[str, np.ndarray] | None:
    line = fit_line(fitted, kind=specimen.kind, options=LineOptions())
    if not line.parameters or not len(rest):
        return None
    form = 0.08 if specimen.kind in TASKS else 0.04
    plain = dataclasses.replace(line, doubt=Doubt(fan=1.0, scatter=1.0, form=form))
    inside = {}
    for name, each in (("plain", plain), ("ours", line)):
        low, high = each.interval(rest.x, tokens_per_param=rest.tokens / rest.params)
        inside[name] = (low <= rest.y) & (rest.y <= high)
    return inside


def table(found: pd.DataFrame, name: str) -> pd.DataFrame:
    sums = found.groupby(["kind", "fitted", "predicted"], sort=False)[["points", name]].sum()
    return (100 * sums[name] / sums["points"]).unstack("predicted").sort_index(axis=1)


if __name__ == "__main__":
    main()
