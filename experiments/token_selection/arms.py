"""Draw the arms of the token-selection study: loss against tokens, and general against target text.

    python experiments/token_selection/arms.py

Reads runs/token_selection/losses.parquet, and the losses of base model and reference:

    python -m lossline.evaluate --gin_file=gin_configs/evaluation/token_selection.gin \\
        --runs runs/token_selection/base runs/token_selection/reference

Writes arms.png next to this file. Lines are means over seeds, dots are runs. The arms with a
self-reference lie far above and are left out.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from lossline import tables
from lossline.reporting.appearance import COLORS
from lossline.reporting.figures import new_figure, publication_style

STUDY = Path("runs/token_selection")
ARMS = {
    "plain": "all tokens",
    "random-60": "random 60%",
    "excess-80": "excess loss 80%",
    "excess-60": "excess loss 60%",
    "excess-40": "excess loss 40%",
}
TARGET, GENERAL = "pubmed", "wiki"


def main() -> None:
    """Write the figure."""
    runs = wide(tables.load(STUDY / "losses.parquet"))
    single = wide(tables.load([STUDY / "base", STUDY / "reference"])).set_index("run_id")
    with publication_style():
        figure = new_figure(6.8, 2.9)
        left, right = figure.subplots(1, 2)
        for color, (arm, label) in zip(COLORS, ARMS.items(), strict=False):
            rows = runs[runs["factor.arm"] == arm]
            draw(left, rows, "tokens", TARGET, color, label)
            draw(right, rows, TARGET, GENERAL, color)
        base, reference = single.loc["base"], single.loc["reference"]
        left.plot(0, base[TARGET], "k*", ms=7, clip_on=False)
        left.axhline(reference[TARGET], color="0.5", ls=":", lw=1)
        left.annotate("reference", (0.62, reference[TARGET]), va="bottom", color="0.4", fontsize=7)
        right.plot(base[TARGET], base[GENERAL], "k*", ms=7, label="base model")
        right.plot(reference[TARGET], reference[GENERAL], "kD", ms=4, label="reference")
        left.set_xlabel("tokens (millions)")
        left.set_ylabel("abstracts (bits per byte)")
        right.set_xlabel("abstracts (bits per byte)")
        right.set_ylabel("Wikipedia (bits per byte)")
        figure.legend(loc="outside right upper", frameon=False)
        figure.savefig(Path(__file__).parent / "arms.png", dpi=200)


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per checkpoint with its bits per byte on both sets, tokens in millions."""
    keys = ["run_id", "step", "tokens", *(["factor.arm"] if "factor.arm" in table else [])]
    rows = table.pivot(index=keys, columns="eval_set", values="bits_per_byte").reset_index()
    return rows.assign(tokens=rows["tokens"] / 1e6)


def draw(ax: Axes, rows: pd.DataFrame, x: str, y: str, color: str, label: str = "") -> None:
    """Draw the mean over seeds as a line and the runs as dots."""
    mean = rows.groupby("step")[[x, y]].mean()
    ax.plot(mean[x], mean[y], "-", color=color, lw=1.2, label=label or None)
    ax.plot(rows[x], rows[y], "o", color=color, ms=2, alpha=0.6)


if __name__ == "__main__":
    main()
