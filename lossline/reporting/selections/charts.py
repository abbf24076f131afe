"""Figures of selections: coefficients of domains, and what the selections consist of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lossline.choices.options import POOL
from lossline.reporting import panels
from lossline.reporting.appearance import COLORS, RC, label
from lossline.reporting.figures import PAGE_WIDTH, hide_unused, new_figure, publication_style

_BEST, _WORST = 14, 4  # domains of a panel
_INCLUDED, _OTHER = COLORS[0], "#9AA3AB"
_PARTS = 9  # domains with a color of their own
_REST = "#D0D4D8"


def coefficient_panels(coefficients: pd.DataFrame, targets: Sequence[str]) -> Figure:
    """Return a figure with one panel per target and method: best and worst domains with intervals.

    Panels of one method share their scale; estimators of other methods may have other scales.

    Args:
        coefficients: rows of ``Choices.coefficients``.
        targets: targets to draw.
    """
    methods = list(coefficients["method"].drop_duplicates())
    drawn = [(target, method) for target in targets for method in methods]
    columns = min(2, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    parts = [
        _ordered(coefficients[(coefficients[["target", "method"]] == pair).all(axis=1)])
        for pair in drawn
    ]
    most = min(max(map(len, parts), default=1), _BEST + _WORST)
    with publication_style():
        figure = new_figure(PAGE_WIDTH, rows * (0.7 + 0.135 * most) + 0.3)
        axes = figure.subplots(rows, columns, squeeze=False, sharex=len(methods) == 1)
        first: dict[str, Axes] = {}
        for ax, (target, method), part in zip(axes.flat, drawn, parts, strict=False):
            if len(methods) > 1 and first.setdefault(method, ax) is not ax:
                ax.sharex(first[method])
            _coefficients(ax, part)
            title = target if len(methods) == 1 else f"{target}, {method}"
            ax.set_title(label(title, 40), loc="left")
        hide_unused(axes, len(drawn))
        figure.supxlabel("coefficient of the domain's losses", fontsize=RC["axes.labelsize"])
        handles = [
            Line2D([], [], marker="o", linestyle="", color=color, label=name)
            for name, color in (("included", _INCLUDED), ("not included", _OTHER))
        ]
        panels.figure_legend(figure, [("domain", handles)])
    return figure


def composition_chart(composition: pd.DataFrame, target: str) -> Figure:
    """Return a figure of bars: which domains each method's selection consists of.

    Args:
        composition: rows of ``Choices.composition`` of one target, of methods without a target, and
            of the pool.
        target: the target, for the title.
    """
    rows = composition[composition["part"] == "domain"]
    methods = [m for m in rows["method"].drop_duplicates() if m != POOL]
    shown = [POOL, *methods]
    wide = rows.pivot_table(index="method", columns="level", values="share", aggfunc="sum")
    wide = wide.reindex(shown).fillna(0.0)
    # Domains with a large share of any selection have a color; small ones share one.
    largest = wide.loc[methods].max().sort_values(ascending=False, kind="stable")
    named = list(largest.index[:_PARTS])
    with publication_style():
        figure = new_figure(PAGE_WIDTH, 0.9 + 0.27 * len(shown))
        ax = figure.subplots()
        left = np.zeros(len(shown))
        places = np.arange(len(shown))
        for number, domain in enumerate(named):
            values = 100 * wide[domain].to_numpy()
            ax.barh(places, values, left=left, color=COLORS[number % len(COLORS)], height=0.7)
            left += values
        ax.barh(places, 100 - left, left=left, color=_REST, height=0.7)
        ax.set_yticks(places, [label(name, 30) for name in shown])
        ax.invert_yaxis()
        ax.set_xlim(0, 100)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel("share of the selected bytes (%)")
        ax.set_title(label(target, 60), loc="left")
        names = [label(name, 24) for name in named]
        colors = [COLORS[i % len(COLORS)] for i in range(len(named))]
        if others := len(wide.columns) - len(named):
            names.append(f"{others} others")
            colors.append(_REST)
        handles = [
            Line2D([], [], marker="s", linestyle="", color=color, label=name)
            for name, color in zip(names, colors, strict=True)
        ]
        panels.figure_legend(figure, [("domain", handles)])
    return figure


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the domains with a coefficient, best first."""
    return rows.dropna(subset=["estimate"]).sort_values(
        ["estimate", "domain"], ascending=[False, True]
    )


def _coefficients(ax: Axes, rows: pd.DataFrame) -> None:
    """Draw the best and the worst domains, with a gap where others are left out."""
    left_out = len(rows) > _BEST + _WORST
    if left_out:
        rows = pd.concat([rows.iloc[:_BEST], rows.iloc[-_WORST:]])
    places = np.arange(len(rows), dtype=float)
    if left_out:
        places[_BEST:] += 0.8
    ax.axvline(0, color="#777777", linewidth=0.7, zorder=1)
    for place, row in zip(places, rows.to_dict("records"), strict=True):
        color = _INCLUDED if row["included"] else _OTHER
        if pd.notna(row["low"]):
            ax.plot([row["low"], row["high"]], [place, place], color=color, linewidth=1.2, zorder=2)
        ax.plot(row["estimate"], place, marker="o", markersize=3.5, color=color, zorder=3)
    ax.set_yticks(places, [label(str(name), 22) for name in rows["domain"]])
    ax.grid(axis="y", visible=False)
    ax.set_ylim(places.max(initial=0.0) + 0.8, -0.8)
