"""Write the report of a comparison of levels: one HTML file and its figure."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossline.comparisons.compare import LevelComparison
from lossline.comparisons.results import sentences
from lossline.files import write_text
from lossline.reporting.appearance import COLORS, RC, label, labels
from lossline.reporting.figures import (
    PAGE_WIDTH,
    grid_columns,
    new_figure,
    publication_style,
)
from lossline.reporting.grids import number, percent, with_interval
from lossline.reporting.making import making_section
from lossline.reporting.page import (
    Block,
    Cell,
    Column,
    Grid,
    Page,
    Paragraph,
    Section,
    render,
)
from lossline.reporting.page_files import Pictures, page_path
from lossline.tables.schema import Unit
from lossline.terminal import Say, silent

_ROW = 0.17  # inches per method in a panel
_BASELINE = "#4D4D4D"


def write_comparison_report(
    found: LevelComparison,
    out: str | os.PathLike[str],
    *,
    provenance: Mapping[str, Any] | None = None,
    say: Say = silent,
) -> Path:
    """Write ``<out>/report.html`` (self-contained) and ``<out>/figures/methods.png`` and ``.svg``.

    Args:
        found: the comparison.
        out: folder of the report.
        provenance: origin of the numbers.
        say: receives a line of progress for the figure.

    Returns:
        The path of the page.

    Raises:
        UserError: ``report.html`` exists and was not written by lossline.
    """
    page = page_path(out)
    page.parent.mkdir(parents=True, exist_ok=True)
    pictures = Pictures(folder=page.parent / "figures", say=say)
    factor = str(found.settings["factor"])
    level = f"{100 * found.settings['confidence']:g}%"
    picture = pictures.picture(
        "methods",
        methods_chart(found),
        "Loss of each method on each target",
        "A dot is one run; the diamond above it is the mean over seeds, the bar its "
        f"{level} interval. Dashed: mean of the baseline. Lower is better.",
    )
    sections = [
        Section(title="Targets", anchor="targets", blocks=[picture, *_target_grids(found, level)]),
        Section(title="Average ranks", anchor="ranks", blocks=[_rank_grid(found, level)]),
        _notes_section(found),
        making_section(provenance or {}, found.settings),
    ]
    runs = found.values["run_id"].nunique()
    text = Page(
        title=f"Comparison of {factor}",
        subtitle=f"{runs} runs, {found.values['seed'].nunique()} seeds, "
        f"{found.values['target'].nunique()} targets.",
        verdicts=sentences(found),
        sections=sections,
        first="Summary",
    )
    write_text(page, render(text))
    return page


def methods_chart(found: LevelComparison) -> Figure:
    """Return a figure with one panel per target: every run, mean and interval of each method."""
    targets = list(found.methods["target"].drop_duplicates())
    columns = grid_columns(len(targets))
    rows = math.ceil(len(targets) / columns)
    most = int(found.methods.groupby("target").size().max())
    width = PAGE_WIDTH if columns > 1 else 4.6
    with publication_style():
        figure = new_figure(width, 0.3 + rows * (0.45 + _ROW * most))
        axes = figure.subplots(rows, columns, squeeze=False)
        for ax, target in zip(axes.flat, targets, strict=False):
            _panel(
                ax,
                found.methods[found.methods["target"] == target],
                found.values[found.values["target"] == target],
                str(found.settings["baseline"]),
            )
            ax.set_title(label(target, 34), loc="left")
        for ax in axes.flat[len(targets) :]:
            ax.set_visible(False)
        unit = Unit(found.settings["unit"])
        figure.supxlabel(f"loss ({unit.words})", fontsize=RC["axes.labelsize"])
    return figure


def _panel(ax: Axes, methods: pd.DataFrame, values: pd.DataFrame, baseline: str) -> None:
    """Draw one target; the best method is on top."""
    names = list(methods["method"])
    place = {name: len(names) - 1 - number_ for number_, name in enumerate(names)}
    for row in methods.to_dict("records"):
        y = place[row["method"]]
        color = _BASELINE if row["method"] == baseline else COLORS[0]
        if pd.notna(row["low"]):
            ax.plot([row["low"], row["high"]], [y, y], color=color, lw=1.2, zorder=2)
        ax.plot(row["mean"], y, "D", color=color, ms=3.6, zorder=4)
        if row["method"] == baseline:
            ax.axvline(row["mean"], color=color, lw=0.7, ls=(0, (4, 2)), zorder=1)
    heights = values["method"].map(place) - 0.28  # below the mean, which would hide a run
    ax.plot(values["value"], heights, "o", color=COLORS[1], ms=1.8, zorder=3)
    ax.set_yticks(list(place.values()), labels(list(place)))
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.grid(visible=False, axis="y")
    ax.locator_params(axis="x", nbins=4)


def _target_grids(found: LevelComparison, level: str) -> list[Block]:
    columns = [
        Column("method", keep=True),
        Column("rank", number=True),
        Column("runs", number=True),
        Column(f"mean, {level} interval", number=True),
        Column("difference from the baseline", number=True),
    ]
    return [
        Grid(
            title=str(target),
            columns=columns,
            rows=[
                [
                    Cell(str(row["method"])),
                    Cell(number(row["rank"], 3)),
                    Cell(str(row["runs"])),
                    with_interval(row["mean"], row["low"], row["high"]),
                    with_interval(row["difference"], row["difference_low"], row["difference_high"]),
                ]
                for row in part.to_dict("records")
            ],
        )
        for target, part in found.methods.groupby("target", sort=False)
    ]


def _rank_grid(found: LevelComparison, level: str) -> Grid:
    return Grid(
        caption="Rank 1 is the lowest loss; equal losses share the mean of their ranks. The "
        "interval comes from resampled seeds: with two or three seeds it is rather too narrow.",
        columns=[
            Column("method", keep=True),
            Column(f"average rank, {level} interval", number=True),
            Column("lowest in", number=True),
            Column("seeds", number=True),
        ],
        rows=[
            [
                Cell(str(row["method"])),
                with_interval(row["average_rank"], row["low"], row["high"]),
                Cell(percent(row["best_share"])),
                Cell(str(row["seeds"])),
            ]
            for row in found.ranks.to_dict("records")
        ],
        empty="No method has runs for every target.",
    )


def _notes_section(found: LevelComparison) -> Section:
    blocks: list[Block] = [Paragraph(text=note) for note in found.notes]
    rows = [[Cell(str(row.what)), Cell(str(row.reason))] for row in found.left_out.itertuples()]
    blocks.append(
        Grid(
            title="Left out",
            columns=[Column("what"), Column("reason", wide=True)],
            rows=rows,
            empty="nothing",
        )
    )
    return Section(
        title="Notes",
        anchor="notes",
        intro="Intervals of means pool the variance within all methods of a target. Differences "
        "are taken seed by seed; their variance is what method and seed together do not explain. "
        "Both assume the same variance for all methods.",
        blocks=blocks,
    )
