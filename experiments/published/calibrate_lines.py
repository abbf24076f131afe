"""Write the errors at rolling cuts by which lines without own cuts get their intervals.

    python experiments/published/calibrate_lines.py --data ../shared/data

Rewrites lossline/lines/published_errors.csv unless --out is given. Sources are those of
``intervals.py``. Errors of each pool of lines are sorted by distance into six groups of equal
weight, and each group is written as 15 midpoint quantiles of |error|, so that the table has 90 rows
per pool and no run of a sweep.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import intervals
import numpy as np
import pandas as pd

from lossline.lines.calibration import normalised
from lossline.lines.fitting import LineOptions

GROUPS, QUANTILES = 6, 15
TABLE = Path(__file__).parents[2] / "lossline" / "lines" / "published_errors.csv"
HEADER = (
    "# Errors of lines at rolling cuts of published sweeps, over their scatter: see calibration.py."
    "\n# Written by experiments/published/calibrate_lines.py\n"
)


def main() -> None:
    """Fit the cuts and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args()
    errors = intervals.all_errors(options.data, LineOptions(resamples=0))
    text = table(errors).to_csv(index=False, float_format="%.4g")
    options.out.write_text(HEADER + text, encoding="utf-8")


def table(errors: pd.DataFrame) -> pd.DataFrame:
    """Return columns pool, distance, error: a sample of equal weights of each pool.

    Every source of a pool has the same weight, and in it every line, cut and step predicted.
    """
    parts = []
    for pool, rows in normalised(errors).groupby("pool", sort=True):
        weight = weights(rows)
        order = np.argsort(rows["distance"].to_numpy(), kind="stable")
        share = np.cumsum(weight[order]) / weight.sum()
        group = np.minimum((share * GROUPS).astype(int), GROUPS - 1)
        far = rows["distance"].to_numpy()[order]
        size = np.abs(rows["error"].to_numpy()[order])
        for g in range(GROUPS):
            inside = group == g
            own = weight[order][inside]
            middle = np.average(far[inside], weights=own)
            for error in quantiles(size[inside], own):
                parts.append({"pool": pool, "distance": middle, "error": error})
    return pd.DataFrame(parts)


def weights(rows: pd.DataFrame) -> np.ndarray:
    """Return the weight of each error."""
    cells = rows.groupby(["source", "line", "cut", "step"])["error"]
    weight = 1 / cells.transform("size")
    return (weight / weight.groupby(rows["source"]).transform("sum")).to_numpy(float)


def quantiles(size: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return weighted quantiles at the midpoints of equal shares."""
    order = np.argsort(size, kind="stable")
    share = (np.cumsum(weight[order]) - 0.5 * weight[order]) / weight.sum()
    return np.interp((np.arange(QUANTILES) + 0.5) / QUANTILES, share, size[order])


if __name__ == "__main__":
    main()
