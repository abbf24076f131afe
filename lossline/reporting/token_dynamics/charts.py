"""Figures of token dynamics: shares of classes, their losses over training, their excess loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lossline.reporting import panels
from lossline.reporting.appearance import COLORS, MARKERS, RC, label
from lossline.reporting.figures import PAGE_WIDTH, hide_unused, new_figure, publication_style
from lossline.reporting.grids import count
from lossline.token_dynamics.analysis import ALL
from lossline.token_dynamics.classes import CLASSES, PUBLISHED_SHARES, Rule

# H→H orange, L→H magenta, H→L blue, L→L gray: as the tints of the text page.
CLASS_COLORS = dict(zip(CLASSES, (COLORS[1], COLORS[3], COLORS[0], "#6B7680"), strict=True))
_ALL_COLOR = "#1b1f24"
_TITLES = {Rule.FIXED.value: "fixed threshold", Rule.NOISE.value: "threshold scaled to noise"}
_COLUMNS = 3


def share_chart(classes: pd.DataFrame) -> Figure:
    """Return a figure with one panel per class: share of each run under both rules, and published.

    Args:
        classes: ``TokenDynamics.classes``.
    """
    runs = list(classes["run"].drop_duplicates())
    with publication_style():
        figure = new_figure(PAGE_WIDTH, 1.0 + 0.24 * len(runs) + 0.35)
        axes = figure.subplots(1, len(CLASSES), sharey=True)
        for ax, name, published in zip(axes, CLASSES, PUBLISHED_SHARES, strict=True):
            ax.axvline(100 * published, color="#777777", linewidth=0.9, linestyle=(0, (4, 2)))
            for number, rule in enumerate(Rule):
                rows = classes[(classes["class"] == name) & (classes["rule"] == rule.value)]
                places = np.arange(len(runs)) + (number - 0.5) * 0.3
                _intervals(ax, places, rows, CLASS_COLORS[name], MARKERS[number], number == 0)
            ax.set_title(name, loc="left")
            ax.set_xlim(left=0)
            ax.margins(x=0.08)
            ax.grid(axis="y", visible=False)
        axes[0].set_yticks(range(len(runs)), [label(run, 22) for run in runs])
        axes[0].set_ylim(len(runs) - 0.4, -0.6)
        figure.supxlabel("share of the tokens (%)", fontsize=RC["axes.labelsize"])
        handles = _rule_handles()
        handles.append(
            Line2D([], [], color="#777777", linewidth=0.9, linestyle=(0, (4, 2)), label="published")
        )
        figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure


def _intervals(
    ax: Axes, places: np.ndarray, rows: pd.DataFrame, color: str, marker: str, filled: bool
) -> None:
    share, low, high = (100 * rows[name].to_numpy() for name in ("share", "low", "high"))
    ax.hlines(places, low, high, color=color, linewidth=1.4)
    ax.plot(
        share, places, linestyle="none", marker=marker, markersize=4, color=color,
        markerfacecolor=color if filled else "white",
    )  # fmt: skip


def curve_chart(curves: pd.DataFrame, runs: Sequence[str]) -> Figure:
    """Return a figure of the mean loss of each class over training, one panel per run and rule.

    Args:
        curves: ``TokenDynamics.curves``.
        runs: runs to draw.
    """
    drawn = [(run, rule.value) for run in runs for rule in Rule]
    rows = len(runs)
    with publication_style():
        figure = new_figure(PAGE_WIDTH, 0.6 + 1.9 * rows)
        axes = figure.subplots(rows, 2, squeeze=False, sharey=True, sharex="row")
        for ax, (run, rule) in zip(axes.flat, drawn, strict=True):
            part = curves[(curves["run"] == run) & (curves["rule"] == rule)]
            for name in (ALL, *CLASSES):
                _curve(ax, part[part["class"] == name], name)
            ax.set_title(f"{label(run, 20)}, {_TITLES[rule]}", loc="left")
            ax.xaxis.set_major_formatter(lambda value, _: count(value))
        figure.supxlabel("training tokens", fontsize=RC["axes.labelsize"])
        figure.supylabel("mean loss (nats per token)", fontsize=RC["axes.labelsize"])
        panels.figure_legend(figure, [("class", _class_handles((*CLASSES, ALL)))])
    return figure


def _curve(ax: Axes, rows: pd.DataFrame, name: str) -> None:
    x = rows["tokens"].to_numpy(float)
    color = CLASS_COLORS.get(name, _ALL_COLOR)
    low, high = rows["low"].to_numpy(float), rows["high"].to_numpy(float)
    if np.isfinite(low).all():
        ax.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
    ax.plot(
        x, rows["nats"].to_numpy(float), color=color, linewidth=1.3, marker="o", markersize=2.2,
        linestyle=(0, (4, 2)) if name == ALL else "-", gid=f"curve/{name}",
    )  # fmt: skip


def excess_chart(excess: pd.DataFrame, reference: str) -> Figure:
    """Return a figure of the mean excess loss of each class, one panel per run.

    Args:
        excess: ``TokenDynamics.excess``.
        reference: the reference, for the axis.
    """
    runs = list(excess["run"].drop_duplicates())
    columns = min(_COLUMNS, len(runs))
    rows = math.ceil(len(runs) / columns)
    names = (*CLASSES, ALL)
    with publication_style():
        figure = new_figure(PAGE_WIDTH if columns > 1 else 4.6, 0.7 + 1.35 * rows)
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for ax, run in zip(axes.flat, runs, strict=False):
            ax.axvline(0, color="#777777", linewidth=0.7, zorder=1)
            for number, rule in enumerate(Rule):
                part = excess[(excess["run"] == run) & (excess["rule"] == rule.value)]
                part = part.set_index("class").reindex(names)
                for place, (name, row) in enumerate(part.iterrows()):
                    color = CLASS_COLORS.get(str(name), _ALL_COLOR)
                    y = place + (number - 0.5) * 0.3
                    ax.plot([row["low"], row["high"]], [y, y], color=color, linewidth=1.4)
                    ax.plot(
                        row["excess"], y, marker=MARKERS[number], color=color, markersize=4,
                        markerfacecolor=color if number == 0 else "white",
                    )  # fmt: skip
            ax.set_title(label(run, 28), loc="left")
            ax.grid(axis="y", visible=False)
            ax.set_yticks(range(len(names)), names)
            ax.set_ylim(len(names) - 0.4, -0.6)
        hide_unused(axes, len(runs))
        figure.supxlabel(
            f"mean excess loss over {label(reference, 40)} (nats)", fontsize=RC["axes.labelsize"]
        )
        figure.legend(handles=_rule_handles(), loc="outside upper left", ncols=2)
    return figure


def _class_handles(names: Sequence[str]) -> list[Line2D]:
    return [
        Line2D([], [], color=CLASS_COLORS.get(name, _ALL_COLOR), linewidth=1.6, label=name,
               linestyle=(0, (4, 2)) if name == ALL else "-")
        for name in names
    ]  # fmt: skip


def _rule_handles() -> list[Line2D]:
    return [
        Line2D([], [], marker=MARKERS[number], color="#444444", linestyle="none", markersize=4,
               markerfacecolor="#444444" if number == 0 else "white", label=_TITLES[rule.value])
        for number, rule in enumerate(Rule)
    ]  # fmt: skip
