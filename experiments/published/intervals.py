"""Measure the coverage of nominal 90% intervals on held-out runs, at every cut.

    python experiments/published/intervals.py --data ../shared/data --out runs/published

Sources are the Kempner sweep, the OLMo ladder and Gadre's validation losses. Every line is fitted
up to one budget (3 to 7 of them; elsewhere sizes, from 2) and predicts each later one. Its interval
knows two things: errors of the same source at earlier cuts, up to the budget fitted; and the
published errors without it (of Kempner's sweep one pretraining set is left out at a time, of the
others the whole source). Prints percent of points held and the interval score (Gneiting & Raftery
2007, eq. 43; percent of y) per source and kind, by budgets fitted and predicted, for published
errors alone and with own cuts. Writes coverage.csv.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import calibrate_lines
import ladder
import numpy as np
import others
import pandas as pd
import sweep

from lossline.lines.calibration import Pool, learn, pool_of
from lossline.lines.fitting import LineKind, LineOptions, fit_line
from lossline.lines.interval_scores import interval_score
from lossline.lines.rolling_cuts import errors_of
from lossline.lines.specimens import Specimen, within_groups
from lossline.tables.sweeps import import_sweep

LEVEL = 0.9
WAYS = ("published", "own")
LINES = ["source", "kind"]


def main() -> None:
    """Read the sources, score the intervals, print the tables and write coverage.csv."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    errors = all_errors(options.data, LineOptions(resamples=0))
    cells = cells_of(pd.concat(judged(errors), ignore_index=True))
    options.out.mkdir(parents=True, exist_ok=True)
    cells.to_csv(options.out / "coverage.csv", index=False, float_format="%.6g")
    for way in WAYS:
        for what in ("held", "score"):
            print(f"\n{way}: {what}, percent; columns: number of the step predicted")
            by_step = cells.set_index([*LINES, "fitted", "step"])[f"{way} {what}"].unstack("step")
            print(by_step.to_string(float_format="%.0f" if what == "held" else "%.1f", na_rep=""))
    print("\nmean percent held, and geometric mean of the interval score, over cells")
    print(summary(cells).to_string(float_format="%.2f", na_rep=""))


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


def all_errors(data: Path, options: LineOptions) -> pd.DataFrame:
    """Return the errors of all lines at all cuts, one row per point.

    Columns: source, kind, pool, line, x_data and y_data (pretraining sets), cut (steps fitted),
    step (predicted), error, scatter, beyond, predicted, measured.
    """
    parts = []
    for source, specimens, step in read(data):
        steps = np.unique(np.concatenate([getattr(s.pairs, step) for s in specimens]))
        for number, specimen in enumerate(specimens):
            for rows in _errors(specimen, step, steps, options):
                parts.append(rows.assign(source=source, line=number))
    return pd.concat(parts, ignore_index=True)


def _errors(
    specimen: Specimen, step: str, steps: np.ndarray, options: LineOptions
) -> Iterator[pd.DataFrame]:
    """Return the errors of one line, a table per cut."""
    assert specimen.pairs is not None
    at = np.searchsorted(steps, getattr(specimen.pairs, step) * (1 - 1e-9)) + 1
    data = (specimen.group, specimen.y_group or specimen.group)
    x_data, y_data = (str(facts.get("pretraining_data", "")) for facts in data)
    for cut in range(3 if step == "flops" else 2, len(steps)):
        held = specimen.pairs[at > cut]
        line = fit_line(specimen.pairs[at <= cut], kind=specimen.kind, options=options)
        if line.parameters and len(held):
            yield errors_of(line, held).assign(
                kind=str(specimen.kind), pool=str(pool_of(specimen.kind)), x_data=x_data,
                y_data=y_data, cut=cut, step=at[at > cut], measured=held.y,
                predicted=line.predict(held.x, tokens_per_param=held.tokens / held.params),
            )  # fmt: skip


def judged(errors: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Return whether intervals hold their points, and their scores, with each set left out."""
    for (pool, source), rows in errors.groupby(["pool", "source"], sort=False):
        sets = sorted(rows["x_data"].unique()) if source == "Kempner" else [None]
        for name in sets:
            of_set = rows if name is None else rows[rows["x_data"] == name]
            touched = (errors["source"] == source) & (
                True if name is None else (errors["x_data"] == name) | (errors["y_data"] == name)
            )
            others_errors = errors[(errors["pool"] == pool) & ~touched]
            if len(others_errors):
                published = calibrate_lines.table(others_errors)
                for cut in sorted(of_set["cut"].unique()):
                    yield _intervals(Pool(pool), of_set, int(cut), published)


def _intervals(pool: Pool, rows: pd.DataFrame, cut: int, published: pd.DataFrame) -> pd.DataFrame:
    """Return the points that lines fitted up to a cut predict, with their intervals' scores."""
    earlier = rows[(rows["cut"] < cut) & (rows["step"] <= cut)]
    now = rows[rows["cut"] == cut]
    found = now[["source", "kind", "cut", "step"]].rename(columns={"cut": "fitted"})
    for way, own in zip(WAYS, (earlier.iloc[:0], earlier), strict=True):
        calibration = learn(pool, own, published=published)
        ratio = np.exp(
            [
                calibration.half_width(scatter, beyond, LEVEL)
                for scatter, beyond in zip(now["scatter"], now["beyond"], strict=True)
            ]
        )
        y = now["measured"].to_numpy()
        low, high = now["predicted"] / ratio, now["predicted"] * ratio
        found[f"{way} held"] = 100.0 * ((low <= y) & (y <= high))
        found[f"{way} score"] = 100 * interval_score(low, high, y, LEVEL)
    return found


def cells_of(points: pd.DataFrame) -> pd.DataFrame:
    """Return means over the points of each source, kind, step fitted to and step predicted."""
    grouped = points.groupby([*LINES, "fitted", "step"], sort=False)
    return grouped.mean().assign(points=grouped.size()).reset_index()


def summary(cells: pd.DataFrame) -> pd.DataFrame:
    """Return means over cells per source and kind."""
    logs = cells.assign(**{f"{way} score": np.log(cells[f"{way} score"]) for way in WAYS})
    means = logs.groupby(LINES, sort=False)[[f"{w} {v}" for w in WAYS for v in ("held", "score")]]
    found = means.mean()
    return found.assign(**{f"{way} score": np.exp(found[f"{way} score"]) for way in WAYS})


if __name__ == "__main__":
    main()
