"""Plots for notebooks, one function call each.

Fit a table and draw one pair of sets:

    table = tables.load("runs/")
    lines = fit_lines(table)
    plot_lines(lines, table, x="wiki", y="hellaswag")
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lossline.errors import UserError
from lossline.fits.results import TableFit
from lossline.lines.fitting import Line
from lossline.reporting import figures, panels
from lossline.reporting.appearance import COLORS, Appearance, label
from lossline.reporting.lines import curves_for, drawable
from lossline.reporting.points import Losses
from lossline.tables.pairing import Pairs
from lossline.tables.schema import Unit


def plot_lines(
    lines: TableFit | Sequence[Line],
    table: pd.DataFrame | None = None,
    *,
    x: str,
    y: str,
    unit: str = "loss",
    ax: Axes | None = None,
    appearance: Appearance | None = None,
) -> Axes:
    """Plot losses on ``y`` against losses on ``x`` of the same checkpoints, with fitted lines.

    Args:
        lines: results of a fit, or fitted lines. Lines of other sets and units are ignored.
        table: loss table; not needed with results of a fit.
        x: evaluation set of the x axis.
        y: evaluation set of the y axis.
        unit: "loss" (nats per token) or "bits_per_byte".
        ax: axes to draw in; a new figure if None.
        appearance: colors shared with other plots; made from the table if None.

    Returns:
        The axes.

    Raises:
        UserError: lines are given without a table, or a set is not in the table.
    """
    if isinstance(lines, TableFit):
        table, lines = lines.table, lines.lines
    if table is None:
        raise UserError("plot_lines: no loss table. Pass it as the second argument.")
    look = appearance or Appearance.of(table)
    with figures.publication_style():
        ax = _axes() if ax is None else ax
        curves = curves_for(drawable(lines), x=x, y=y, unit=Unit(unit))
        frame = figures.draw_panel(ax, Losses(table), curves, look, x=x, y=y, unit=Unit(unit))
        panels.label_axes(ax, x, y, Unit(unit))
        handles = [h for _, group in panels.legend_handles(look, frame) for h in group]
        _legend(ax, handles)
    return ax


def plot_pairs(
    fits: Sequence[tuple[Line, Pairs]], *, names: Sequence[str], ax: Axes | None = None
) -> Axes:
    """Plot paired losses of several groups, one color per name, each with its line and band.

    Use it for lines between two groups of runs (train to train, test to test). Such pairs are not
    rows of the loss table; ``lossline.tables.pairing.pair_groups`` makes them.

    Args:
        fits: line and pairs of each group.
        names: name of each group.
        ax: axes to draw in; a new figure if None.

    Returns:
        The axes.
    """
    with figures.publication_style():
        ax = _axes() if ax is None else ax
        handles = []
        for position, ((line, pairs), name) in enumerate(zip(fits, names, strict=True)):
            color = COLORS[position % len(COLORS)]
            _scatter(ax, pairs.x, pairs.y, color, name)
            if line.drawable:
                x = np.linspace(*line.x_range, panels.CURVE_POINTS)
                low, high = line.band(x, panels.BAND_LEVEL)
                ax.fill_between(x, low, high, color=color, alpha=0.16, linewidth=0, zorder=1.5)
                ax.plot(x, line.predict(x), color=color, linewidth=1.1, gid=f"line/{name}")
            handles.append(_handle(color, f"{label(name)}  R² {line.r2:.4f}"))
        panels.loss_ticks(ax)
        first = fits[0][0]
        words = Unit(first.unit).words
        ax.set_xlabel(f"{label(first.x_set, 40)} of x ({words})")
        ax.set_ylabel(f"{label(first.y_set, 40)} of y ({words})")
        _legend(ax, handles)
    return ax


def plot_against(
    table: pd.DataFrame,
    *,
    x: str,
    y: str,
    by: str,
    curve: pd.DataFrame | None = None,
    held_out: str | None = None,
    log_x: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Plot one column of a table against another, one color per value of ``by``.

    Args:
        table: table with the columns named below.
        x: column of the x axis.
        y: column of the y axis.
        by: column that gives the color.
        curve: predictions to draw as lines, with the same columns x, y and by.
        held_out: column of booleans; rows where it is true are drawn as stars.
        log_x: use a logarithmic x axis, for compute.
        ax: axes to draw in; a new figure if None.

    Returns:
        The axes.
    """
    with figures.publication_style():
        ax = _axes() if ax is None else ax
        handles = []
        for position, (name, rows) in enumerate(table.groupby(by, sort=True, observed=True)):
            color = COLORS[position % len(COLORS)]
            away = rows[held_out].to_numpy(bool) if held_out else np.zeros(len(rows), bool)
            seen = rows[~away]
            _scatter(ax, seen[x], seen[y], color, str(name))
            if away.any():
                words = f"{name}, held out"
                _scatter(ax, rows[x][away], rows[y][away], color, words, marker="*", size=9)
            if curve is not None:
                part = curve[curve[by] == name].sort_values(x)
                ax.plot(
                    part[x].to_numpy(float),
                    part[y].to_numpy(float),
                    color=color,
                    linewidth=1.1,
                    zorder=2,
                    gid=f"line/{name}",
                )
            handles.append(_handle(color, label(str(name))))
        if held_out:
            handles.append(_handle("#555555", "held out", marker="*", size=8))
        if log_x:
            panels.compute_ticks(ax)
        else:
            panels.loss_ticks(ax)
        ax.set_xlabel(x)
        ax.set_ylabel(y)
        _legend(ax, handles)
    return ax


def _axes() -> Axes:
    # With pyplot, a notebook shows the figure at the end of the cell.
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(5.6, 3.3), layout="constrained", dpi=160)[1]


def _scatter(
    ax: Axes, x: object, y: object, color: str, name: str, *, marker: str = "o", size: float = 3.0
) -> None:
    ax.plot(
        np.asarray(x, float),
        np.asarray(y, float),
        linestyle="none",
        marker=marker,
        markersize=size,
        color=color,
        markeredgecolor="white",
        markeredgewidth=0.25,
        alpha=0.9,
        zorder=3,
        gid=f"points/{name}",
    )


def _handle(color: str, words: str, *, marker: str = "o", size: float = 4.2) -> Line2D:
    return Line2D([], [], color=color, marker=marker, markersize=size, linewidth=1.1, label=words)


def _legend(ax: Axes, handles: Sequence[Line2D]) -> None:
    """Draw the legend next to the axes, where it covers no point."""
    ax.legend(handles=list(handles), loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
