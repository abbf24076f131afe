"""Draw the pictures of docs/how_lossline_decides.md: one planted study per verdict.

    python experiments/attribution/pictures.py

Writes docs/figures/decides_*.png, and prints the sentence of each, which the page quotes.
"""

from __future__ import annotations

import dataclasses
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from designs import DESIGNS, PlantedStudy, plant
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lossline.attribution import AttributionOptions, attribute
from lossline.attribution.results import FactorAttribution, Verdict
from lossline.reporting.appearance import COLORS, MARKERS
from lossline.reporting.charts import MOVED, SAME, SMALL
from lossline.reporting.figures import PAGE_WIDTH, new_figure, publication_style

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "figures"
OPTIONS = AttributionOptions(x_set="legal", resamples=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """Picture of one verdict.

    Attributes:
        verdict: verdict that the study must get.
        design: name of the planted design.
        seed: seed of the planted table.
        groups: fact whose values get different markers; empty for none.
    """

    verdict: Verdict
    design: str
    seed: int = 0
    groups: str = ""

    @property
    def file(self) -> str:
        """File name of the picture."""
        return f"decides_{self.verdict.name.lower()}.png"


PICTURES = (
    Picture(verdict=Verdict.MOVES, design="architecture .1"),
    Picture(verdict=Verdict.BELOW, design="architecture .03, data .4", groups="pretraining_data"),
    Picture(verdict=Verdict.NO_MOVE, design="factorial, 32 quiet runs"),
    Picture(
        verdict=Verdict.BY_GROUP, design="crossed: +.15 and −.15", groups="pretraining_data"
    ),
    Picture(verdict=Verdict.PER_TOKEN, design="tokenizer, not per byte"),
    Picture(verdict=Verdict.PROVISIONAL, design="1 and 1, .5, noise borrowed", seed=1),
    Picture(verdict=Verdict.UNRESOLVED, design="factorial, 8 runs"),
)  # fmt: skip


@cache
def found(picture: Picture) -> tuple[pd.DataFrame, FactorAttribution]:
    """Return the planted table, and the attribution of the factor under test."""
    study = DESIGNS[picture.design]
    table = plant(study, np.random.default_rng([picture.seed, 77]))
    return table, attribute(table, OPTIONS).factor(study.factor)


def draw(picture: Picture) -> Path:
    """Draw one picture and return its path.

    Left: height of each run above one curve through all runs, against the loss on x. Right: moves
    on both sets with their intervals, and the margin.
    """
    table, factor = found(picture)
    with publication_style():
        figure = new_figure(PAGE_WIDTH, 2.25)
        left, right = figure.subplots(1, 2, width_ratios=[1.25, 1.0])
        _runs(left, table, DESIGNS[picture.design], picture.groups)
        _moves(right, factor)
        FIGURES.mkdir(parents=True, exist_ok=True)
        path = FIGURES / picture.file
        figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


def _runs(ax: Axes, table: pd.DataFrame, study: PlantedStudy, groups: str) -> None:
    wide = table.pivot(index=["run_id", "step"], columns="eval_set", values="loss")
    facts = table.drop_duplicates("run_id").set_index("run_id")
    x, y = wide["legal"].to_numpy(float), wide["wiki"].to_numpy(float)
    height = y - np.polyval(np.polyfit(x, y, 3), x)
    levels = sorted(facts[study.factor].astype(str).unique())
    others = sorted(facts[groups].unique()) if groups else [""]
    run = wide.index.get_level_values(0)
    for name in facts.index:
        level = levels.index(str(facts[study.factor][name]))
        other = others.index(facts[groups][name]) if groups else 0
        mine = run == name
        ax.plot(
            x[mine], height[mine], color=COLORS[level], marker=MARKERS[other], markersize=3.2,
            linewidth=0.7, alpha=0.8, markeredgewidth=0, label="_",
        )  # fmt: skip
    handles = [
        Line2D([], [], color=COLORS[place], linewidth=2.0, label=level)
        for place, level in enumerate(levels)
    ]
    handles += [
        Line2D([], [], color=SAME, marker=MARKERS[place], linestyle="none", label=str(other))
        for place, other in enumerate(others if groups else [])
    ]
    ax.get_figure().legend(handles=handles, loc="outside upper left", ncols=4)
    ax.set_xlabel("loss on legal (nats per token)")
    ax.set_ylabel("loss on wiki minus one\ncurve through all runs")


def _moves(ax: Axes, factor: FactorAttribution) -> None:
    effects = [effect for effect in factor.effects if effect.unit == "loss"]
    words = "nats"
    if factor.verdict is Verdict.PER_TOKEN:  # show bits per byte too
        effects = list(factor.effects)
        words = "nats, or bits per byte"
    names = []
    for place, effect in enumerate(effects):
        mine = SMALL if effect.p_equivalent < OPTIONS.alpha else SAME
        if mine is SAME and factor.verdict.moving:
            mine = MOVED
        ax.fill_betweenx(
            [place - 0.4, place + 0.4], -effect.margin, effect.margin, color="#E8EEF1", linewidth=0
        )
        ax.plot([effect.move.low, effect.move.high], [place, place], color=mine, linewidth=2.0)
        hollow = factor.verdict is Verdict.PROVISIONAL
        ax.plot(
            [effect.move.value], [place], marker="o", markersize=5, color=mine,
            markerfacecolor="white" if hollow else mine,
        )  # fmt: skip
        names.append(f"{effect.y_set}{', bits' if effect.unit != 'loss' else ''}")
        key = (effect.unit, effect.y_set)
        groups = [group.move for group in factor.by_group if (group.unit, group.y_set) == key]
        rows = [place] * len(groups)
        ax.plot(groups, rows, color=mine, marker="D", markersize=4, linestyle="none")
    ax.axvline(0.0, color="#9AA3AB", linewidth=0.8, zorder=0)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    first = effects[0]
    ax.set_xlabel(f"{first.high_level} minus {first.low_level} ({words})")


def main() -> int:
    """Draw all pictures and print their sentences."""
    for picture in PICTURES:
        path = draw(picture)
        _, factor = found(picture)
        assert factor.verdict is picture.verdict, (picture, factor.verdict)
        print(f"{path.name}\n> {factor.sentence}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
