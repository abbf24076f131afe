"""Draw losses against the share of code at the largest size: predicted, held out, trained later.

    python experiments/mixture/shares.py --study runs/mixture/losses.parquet \
        --best runs/mixture_best/losses.parquet --out experiments/mixture

The law is fitted to the mixture study without its four held-out runs. Writes shares.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lossline import tables
from lossline.mixtures import LAWS, MixtureRuns, resample
from lossline.mixtures.catalogue import DEFAULT

HELD_OUT = ("code-0", "code-0.1", "code-0.4", "code-0.5")
SIZE = "1.5M"
SETS = ("wiki", "python", "legal", "hellaswag", "humaneval", "mbpp")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", required=True, help="loss table of the mixture study")
    parser.add_argument("--best", required=True, help="loss table of the mixtures trained later")
    parser.add_argument("--out", type=Path, required=True, help="folder of the figure")
    options = parser.parse_args()
    study, best = last(tables.load(options.study)), last(tables.load(options.best))
    held = (study["factor.size"] == SIZE) & study["factor.code share"].isin(HELD_OUT)
    runs = MixtureRuns.from_table(study[~held])
    found = resample(LAWS[DEFAULT.name](), runs)
    largest = study[study["factor.size"] == SIZE]
    scale = {name: float(largest[name].iloc[0]) for name in ("params", "tokens")}
    figure, axes = plt.subplots(2, 3, figsize=(10.5, 6.0), sharex=True, layout="constrained")
    code = np.linspace(0.0, 1.0, 101)
    shares = np.column_stack([code if c == "python" else 1 - code for c in runs.components])
    curve = found.fit.predict(shares, **scale)
    low, high = found.interval(shares, **scale)
    for axis, name in zip(axes.flat, SETS, strict=True):
        j = runs.domains.index(name)
        axis.fill_between(code, low[:, j], high[:, j], alpha=0.15, lw=0, label="90% interval")
        axis.plot(code, curve[:, j], label="predicted")
        groups = (
            (largest[~held[largest.index]], "o", "fitted"),
            (largest[held[largest.index]], "*", "held out"),
            (best, "D", "trained later"),
        )
        for rows, marker, label in groups:
            mine = rows[rows["eval_set"] == name]
            face = "w" if marker == "D" else "k"
            axis.plot(mine["share.python"], value(mine), marker, color="k", mfc=face, label=label)
        measured = np.concatenate([value(r[r["eval_set"] == name]) for r, _, _ in groups])
        middle = np.sort(measured)[: len(measured) - 1]
        axis.set_ylim(0.97 * middle.min(), 1.04 * middle.max())
        axis.axvspan(0, 0.5, color="0.95", zorder=-1)
        axis.set_title(name, loc="left")
    for axis in axes[-1]:
        axis.set_xlabel("share of code (gray: trained in the study)")
    axes[0, 0].set_ylabel("nats per token")
    axes[1, 0].set_ylabel("bits per byte")
    axes[0, 1].legend(frameon=False)
    figure.savefig(options.out / "shares.png", dpi=110)


def last(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each run's last checkpoint."""
    return table[table["step"] == table.groupby("run_id")["step"].transform("max")]


def value(rows: pd.DataFrame) -> np.ndarray:
    """Return losses of validation sets, bits per byte of tasks."""
    return rows["loss"].where(rows["kind"] == "validation", rows["bits_per_byte"]).to_numpy(float)


if __name__ == "__main__":
    main()
