"""One panel of a figure: points of a loss-to-loss plot, fitted lines, and the legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.offsetbox import DrawingArea, HPacker
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from lossline.reporting.appearance import Appearance, Intervention, label
from lossline.reporting.lines import Curve
from lossline.reporting.points import thinned
from lossline.tables.schema import Unit

CURVE_POINTS = 120
BAND_LEVEL = 0.9


def loss_ticks(ax: Axes, *, count: int = 5) -> None:
    """Set a few round ticks on both axes."""
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(count, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))


def compute_ticks(ax: Axes, most: int = 7) -> None:
    """Make the x axis logarithmic, with one tick per decade, or fewer if there are too many."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(numticks=most))
    ax.xaxis.set_major_formatter(_power_of_ten)
    ax.xaxis.set_minor_formatter(NullFormatter())


def _power_of_ten(value: float, _position: float) -> str:
    """Return text such as 10¹⁸ in plain characters, because figures do not render LaTeX."""
    exponent = round(math.log10(value))
    return f"10{str(exponent).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def draw_points(ax: Axes, frame: pd.DataFrame, appearance: Appearance) -> None:
    """Draw columns x and y of ``frame`` (``points.paired``); last checkpoints are larger.

    Points that look the same share one artist, so that thousands of checkpoints draw fast. Earlier
    checkpoints are translucent, so that many of them appear as density. Of more than
    ``MOST_POINTS``, some are left out.
    """
    frame = thinned(frame)
    kinds = frame["run_id"].map(appearance.kind)
    shown = {kind.name: kind for kind in appearance.shown_interventions()}
    small, large = _sizes(len(frame), int(frame["final"].sum()))
    looks = frame.assign(_kind=kinds).groupby(
        ["final", "_kind", "pretraining_data", "architecture"], sort=True, observed=True
    )
    for (final, kind, data, architecture), rows in looks:
        color = appearance.color(data)
        open_marker = kind != ""
        ax.plot(
            rows["x"].to_numpy(float),
            rows["y"].to_numpy(float),
            linestyle="none",
            marker=appearance.marker(architecture),
            markersize=large if final else small,
            color=color,
            **filling(shown.get(str(kind)), color),
            markeredgecolor=color if open_marker else ("white" if final else color),
            markeredgewidth=(0.8 if final else 0.5) if open_marker else (0.35 if final else 0.0),
            alpha=1.0 if final else (0.7 if open_marker else 0.45),
            # Draw interventions on top: they are few, and the reader looks for them.
            zorder=3.0 + 0.5 * bool(final) + 0.2 * open_marker,
            gid=f"points/{data}/{architecture}/{kind or 'usual'}/{'final' if final else 'earlier'}",
        )


def filling(kind: Intervention | None, color: str) -> dict[str, Any]:
    """Return marker properties: filled for usual runs, open or half filled for interventions."""
    if kind is not None and kind.fillstyle == "none":
        return {"fillstyle": "full", "markerfacecolor": "white"}
    half = "full" if kind is None else kind.fillstyle
    return {"fillstyle": half, "markerfacecolor": color, "markerfacecoloralt": "white"}


def _sizes(points: int, finals: int) -> tuple[float, float]:
    crowding = max(0.0, math.log10(max(points, 1) / 100))
    final_crowding = max(0.0, math.log10(max(finals, 1) / 30))
    return max(1.1, 2.2 - 0.5 * crowding), max(2.0, 3.9 - 1.0 * final_crowding)


def darker(color: str, amount: float = 0.3) -> tuple[float, float, float]:
    """Return a darker shade of a color, so that a line is visible on points of the same color."""
    red, green, blue = to_rgb(color)
    return (red * (1 - amount), green * (1 - amount), blue * (1 - amount))


def draw_line(
    ax: Axes,
    curve: Curve,
    appearance: Appearance,
    *,
    level: float = BAND_LEVEL,
) -> None:
    """Draw a fitted line with its band, only over the range of its points.

    The line of an unusual tokenizer is hollow, like the markers of its points.
    """
    facts, line = curve.facts, curve.line
    color = appearance.color(facts.get("pretraining_data"))
    ink = darker(color)
    dash = appearance.dash(facts.get("architecture"))
    x = np.linspace(*curve.domain, CURVE_POINTS)
    low, high = line.band(x, level)
    ax.fill_between(
        x, low, high, color=color, alpha=0.16, linewidth=0, zorder=1.5, gid=f"band/{curve.name}"
    )
    y = np.asarray(line.predict(x))
    ax.plot(x, y, color=ink, linestyle=dash, linewidth=1.0, zorder=4.6, gid=f"line/{curve.name}")
    if "tokenizer" in facts and not appearance.is_usual("tokenizer", facts["tokenizer"]):
        ax.plot(x, y, color="white", linewidth=0.4, zorder=4.7, gid=f"core/{curve.name}")


def fit_limits(ax: Axes, x: ArrayLike, y: ArrayLike, *, pad: float = 0.05) -> None:
    """Set the limits of the axes from the points only, so that a wide band does not shrink them."""
    for values, setter in ((x, ax.set_xlim), (y, ax.set_ylim)):
        finite = np.asarray(values, float)
        finite = finite[np.isfinite(finite)]
        if finite.size:
            low, high = float(finite.min()), float(finite.max())
            margin = pad * (high - low) or 0.05 * abs(high) or 1.0
            setter(low - margin, high + margin)


def label_axes(ax: Axes, x: str, y: str, unit: Unit) -> None:
    """Write the set and the unit on each axis."""
    ax.set_xlabel(f"{label(x, 40)} ({unit.words})")
    ax.set_ylabel(f"{label(y, 34)} ({unit.words})")


def legend_handles(
    appearance: Appearance, frame: pd.DataFrame, *, lines: bool = True
) -> list[tuple[str, list[Any]]]:
    """Return titled groups of legend handles for what occurs in ``frame``."""
    grey = "#555555"
    has = {fact: set(frame[fact].unique()) for fact in ("pretraining_data", "architecture")}
    data = [
        Patch(facecolor=color, label=label(name))
        for name, color in appearance.colors.items()
        if name in has["pretraining_data"]
    ]
    architecture = [
        Line2D([], [], color=grey, marker=marker, markersize=4.2, markeredgecolor="white",
               markeredgewidth=0.3, linewidth=1.1, label=label(name),
               linestyle=appearance.dash(name) if lines else "none")
        for name, marker in appearance.markers.items()
        if name in has["architecture"]
    ]  # fmt: skip
    runs = set(frame["run_id"].unique()) if "run_id" in frame else set()
    present = {kind.name for run, kind in appearance.interventions.items() if run in runs}
    other = [
        Line2D([], [], color=grey, marker="o", markersize=4.4, linestyle="none",
               markeredgewidth=0.8, markeredgecolor=grey, label=f"other {kind.name}",
               **filling(kind, grey))
        for kind in appearance.shown_interventions()
        if kind.name in present
    ]  # fmt: skip
    groups: list[tuple[str, list[Any]]]
    groups = [("pretraining data", data), ("architecture", architecture), ("intervention", other)]
    return [(title, handles) for title, handles in groups if handles]


def figure_legend(figure: Figure, groups: Sequence[tuple[str, list[Any]]]) -> None:
    """Draw the legend next to all panels, where it covers no point; one titled block per group."""
    entries: list[Any] = []
    titles: list[int] = []
    for title, handles in groups:
        if entries:
            entries.append(Line2D([], [], linestyle="none", label=" "))
        titles.append(len(entries))
        entries += [Line2D([], [], linestyle="none", label=title), *handles]
    if not entries:
        return
    per_column = max(8, int(figure.get_figheight() / 0.15))
    legend = figure.legend(
        handles=entries, loc="outside right upper", ncols=-(-len(entries) // per_column),
        borderaxespad=0.2, handlelength=1.9,
    )  # fmt: skip
    packs = legend.findobj(HPacker)
    rows = [row for row in packs if isinstance(row.get_children()[0], DrawingArea)]
    for index in titles:
        legend.get_texts()[index].set_fontweight("bold")
        # A title has no handle, so its text starts where the handles below it start.
        cast("DrawingArea", rows[index].get_children()[0]).width = 0
        rows[index].sep = 0
