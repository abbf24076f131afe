"""Figures of predictions: one panel per task, and how good the backtests were."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lossline.fits.prediction_numbers import (
    coverage,
    errors_by_method,
    has_number,
    on_common_scores,
    scored,
)
from lossline.prediction.results import LEVELS, Predictions, TargetKind
from lossline.reporting import panels
from lossline.reporting.appearance import COLORS, RC, label
from lossline.reporting.charts import draw_errors
from lossline.reporting.figures import (
    PAGE_WIDTH,
    grid_columns,
    grid_size,
    hide_unused,
    new_figure,
    publication_style,
)
from lossline.reporting.grids import count

_TARGET = "#111111"
_LEGEND_SIZES = 7
_BINS = 6  # of the extrapolation distance
_FIRST = 0.02  # earliest compute drawn, of the smallest run's


def method_colors(found: Predictions) -> dict[str, str]:
    """Return a color for each method: the default method has the first."""
    others = [m for m in found.predictions["method"].drop_duplicates() if m != found.default]
    names = [found.default, *others]
    return {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}


def task_panels(found: Predictions, group: str, tasks: Sequence[str]) -> Figure:
    """Return a figure with one panel per task: score against training FLOPs.

    Args:
        found: the predictions.
        group: group of runs.
        tasks: tasks to draw.
    """
    colors = method_colors(found)
    points = found.points[found.points["group"] == group]
    shades = size_colors(points["params"])
    columns = grid_columns(len(tasks))
    rows = math.ceil(len(tasks) / columns)
    with publication_style():
        figure = new_figure(*grid_size(rows, columns))
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True)
        for ax, task in zip(axes.flat, tasks, strict=False):
            _panel(ax, _Task(found, group, task), colors, shades)
            panels.compute_ticks(ax, most=7 if columns < 4 else 4)
            ax.set_title(label(task, {1: 34, 2: 34, 3: 24}.get(columns, 17)), loc="left")
        hide_unused(axes, len(tasks))
        metric = ", ".join(sorted(points["metric"].unique())).replace("_", " ")
        figure.supxlabel("training FLOPs", fontsize=RC["axes.labelsize"])
        figure.supylabel(metric, fontsize=RC["axes.labelsize"])
        panels.figure_legend(figure, _legend(colors, shades, found))
    return figure


def size_colors(params: pd.Series) -> dict[float, str]:
    """Return a color for each model size, dark to light."""
    sizes = sorted(set(params.dropna().astype(float)))
    shades = colormaps["viridis"](np.linspace(0.08, 0.86, max(len(sizes), 1)))
    return {size: to_hex(shade) for size, shade in zip(sizes, shades, strict=False)}


class _Task:
    """The parts of one panel."""

    def __init__(self, found: Predictions, group: str, task: str) -> None:
        def part(frame: pd.DataFrame) -> pd.DataFrame:
            return frame[(frame["group"] == group) & (frame["task"] == task)]

        self.points, self.curves = part(found.points), part(found.curves)
        rows = part(found.predictions)
        self.targets = rows[(rows["method"] == found.default) & has_number(rows)]
        self.default = found.default


def _panel(ax: Axes, task: _Task, colors: Mapping[str, str], shades: Mapping[float, str]) -> None:
    points = task.points[task.points["flops"] > 0]
    finals = points.loc[points["final"].astype(bool), "flops"]
    if len(finals):
        points = points[points["flops"] >= _FIRST * finals.min()]
    ax.set_xscale("log")
    _points(ax, points, shades)
    for method, curve in task.curves.groupby("method", sort=False):
        _curve(ax, str(method), curve, colors, method == task.default)
    _targets(ax, task.targets, colors[task.default])
    chance = task.points["chance"].dropna()
    if len(chance) and chance.iloc[0] > 0:
        ax.axhline(
            chance.iloc[0], color="#9AA3AB", linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=1
        )
    bounds = [points["value"], task.targets["predicted"], task.targets["actual"]]
    bounds += [task.targets["low_90"], task.targets["high_90"], chance[chance > 0]]
    everything = pd.concat([b.astype(float) for b in bounds])
    finite = everything[np.isfinite(everything)]
    if len(finite):
        margin = 0.05 * (finite.max() - finite.min()) or 0.02
        ax.set_ylim(finite.min() - margin, finite.max() + margin)


def _points(ax: Axes, points: pd.DataFrame, shades: Mapping[float, str]) -> None:
    """Draw checkpoints: color is size, hollow is not above chance, a ring is held out."""
    looks = points.groupby(["params", "final", "emerged", "held_out"], dropna=False, sort=True)
    for (size, final, emerged, held_out), rows in looks:
        color = shades.get(float(size), "#7F7F7F")
        ax.plot(
            rows["flops"].to_numpy(float), rows["value"].to_numpy(float), linestyle="none",
            marker="D" if held_out else "o", markersize=(3.6 if final else 1.6), color=color,
            markerfacecolor=color if emerged else "white", markeredgecolor=color,
            markeredgewidth=0.6 if final or not emerged else 0.0,
            alpha=1.0 if final else 0.35, zorder=3.2 if final else 2.0,
            rasterized=not final,  # thousands of points would make the SVG large
            gid=f"points/{size:g}/{'final' if final else 'earlier'}/"
            f"{'emerged' if emerged else 'not_emerged'}/{'held_out' if held_out else 'fitted'}",
        )  # fmt: skip


def _curve(
    ax: Axes, method: str, curve: pd.DataFrame, colors: Mapping[str, str], default: bool
) -> None:
    x, y = curve["flops"].to_numpy(float), curve["predicted"].to_numpy(float)
    if default:
        low, high = curve["low_90"].to_numpy(float), curve["high_90"].to_numpy(float)
        ax.fill_between(
            x, low, high, color=colors[method], alpha=0.16, linewidth=0, zorder=1.5,
            gid=f"band/{method}",
        )  # fmt: skip
    ax.plot(
        x, y, color=colors[method], linewidth=1.5 if default else 0.8,
        alpha=1.0 if default else 0.85, zorder=4.5 if default else 2.6, gid=f"curve/{method}",
    )  # fmt: skip


def _targets(ax: Axes, targets: pd.DataFrame, color: str) -> None:
    """Draw predictions of targets with their 90% interval, and what was measured as a star."""
    for row in targets.to_dict("records"):
        x = [float(row["flops"])]
        ax.vlines(x, row["low_90"], row["high_90"], color=color, linewidth=1.1, zorder=4.8)
        ax.plot(
            x, [row["predicted"]], linestyle="none", marker="s", markersize=3.4, color=color,
            markeredgecolor="white", markeredgewidth=0.4, zorder=5, gid=f"target/{row['target']}",
        )  # fmt: skip
        if pd.notna(row["actual"]):
            ax.plot(
                x, [row["actual"]], linestyle="none", marker="*", markersize=6.5, color=_TARGET,
                markeredgecolor="white", markeredgewidth=0.4, zorder=5.2,
                gid=f"actual/{row['target']}",
            )  # fmt: skip


def _legend(
    colors: Mapping[str, str], shades: Mapping[float, str], found: Predictions
) -> list[tuple[str, list[Any]]]:
    """Return titled groups of legend handles for what occurs."""
    grey = "#555555"
    drawn = set(found.curves.loc[found.curves["predicted"].notna(), "method"])
    lines: list[Any] = [
        Line2D([], [], color=color, linewidth=1.5 if name == found.default else 0.9,
               label=label(name))
        for name, color in colors.items()
        if name in drawn
    ]  # fmt: skip
    if found.default in drawn:
        lines.append(Patch(color=colors[found.default], alpha=0.16, label="90% band"))
    targets = [_dot("s", colors[found.default], 4.0, "predicted, 90%")]
    if (found.predictions["kind"] == str(TargetKind.PREDICTION)).any():
        targets.append(_dot("*", _TARGET, 7.0, "measured"))
    sizes = list(shades)
    if len(sizes) > _LEGEND_SIZES:
        places = np.linspace(0, len(sizes) - 1, _LEGEND_SIZES).round().astype(int)
        sizes = [sizes[i] for i in places]
    points = [_dot("o", shades[size], 4.0, count(size)) for size in sizes]
    states = [_dot("o", grey, 4.0, "last"), _dot("o", grey, 2.0, "earlier")]
    if not found.points["emerged"].astype(bool).all():
        states.append(_dot("o", grey, 4.0, "not emerged", filled=False))
    if found.points["held_out"].astype(bool).any():
        states.append(_dot("D", grey, 3.4, "left out"))
    groups = [("method", lines), ("target", targets), ("size", points), ("checkpoint", states)]
    return [(title, handles) for title, handles in groups if handles]


def _dot(marker: str, color: str, size: float, words: str, *, filled: bool = True) -> Line2D:
    return Line2D(
        [], [], linestyle="none", marker=marker, color=color, markersize=size, label=words,
        markeredgewidth=0.5, markerfacecolor=color if filled else "white",
    )  # fmt: skip


def measured_chart(found: Predictions) -> Figure:
    """Return a figure of left-out runs: predicted against measured scores, and all errors.

    Left: predictions of the default method with their 90% intervals, one color per metric. Right:
    errors of every method on the scores that all of them predicted.
    """
    common = on_common_scores(found)
    errors = errors_by_method(found)
    compared = errors[errors["compared"].astype(bool)]
    others = compared[compared["method"] != found.default].sort_values("median", kind="stable")
    with publication_style():
        figure = new_figure(PAGE_WIDTH, 2.9)
        left, right = figure.subplots(1, 2, width_ratios=[1.0, 1.15])
        _against_measured(left, scored(found), found.default)
        draw_errors(
            right, common.rename(columns={"actual": "measured"}), [found.default, *others["method"]]
        )
    return figure


def _against_measured(ax: Axes, rows: pd.DataFrame, default: str) -> None:
    rows = rows[rows["method"] == default]
    values = rows[["actual", "predicted"]].to_numpy(float)
    low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.05
    ends = (low - margin, high + margin)
    ax.plot(ends, ends, color="#9AA3AB", linewidth=0.8, zorder=1, gid="identity")
    for color, (metric, part) in zip(COLORS, rows.groupby("metric", sort=True), strict=False):
        ax.vlines(
            part["actual"], part["low_90"].astype(float), part["high_90"].astype(float),
            color=color, linewidth=0.7, alpha=0.6, zorder=2,
        )  # fmt: skip
        ax.plot(
            part["actual"].to_numpy(float), part["predicted"].to_numpy(float), linestyle="none",
            marker="o", markersize=3, color=color, markeredgecolor="white", markeredgewidth=0.3,
            zorder=3, gid=f"scores/{metric}", label=str(metric).replace("_", " "),
        )  # fmt: skip
    ax.set_xlim(*ends)
    ax.set_ylim(*ends)
    panels.loss_ticks(ax)
    ax.set_aspect("equal")
    ax.set_xlabel("measured")
    ax.set_ylabel("predicted")
    if rows.empty:
        ax.text(0.5, 0.9, f"{label(default)}: no number", transform=ax.transAxes, ha="center")
    else:
        ax.legend(loc="upper left", handlelength=1.0)


def backtest_chart(found: Predictions) -> Figure:
    """Return a figure of the backtests: error against distance, and coverage of the intervals."""
    colors = method_colors(found)
    rows = found.backtest[found.backtest["predicted"].notna()]
    with publication_style():
        figure = new_figure(PAGE_WIDTH, 2.8)
        left, right = figure.subplots(1, 2, width_ratios=[1.35, 1.0])
        _errors_by_distance(left, rows, colors, found.default)
        _coverage(right, coverage(found), colors, found.default)
        names = set(rows["method"])
        handles = [
            Line2D([], [], color=color, linewidth=1.6 if name == found.default else 1.0,
                   label=label(name))
            for name, color in colors.items()
            if name in names
        ]  # fmt: skip
        panels.figure_legend(figure, [("method", handles)])
    return figure


def _errors_by_distance(
    ax: Axes, rows: pd.DataFrame, colors: Mapping[str, str], default: str
) -> None:
    """Draw the median error of each method by distance, and every error of the default method."""
    distance = rows["extrapolation"].astype(float)
    error = 100 * rows["relative_error"].abs().astype(float)
    known = (distance > 0) & np.isfinite(error)
    ax.set_xscale("log")
    if known.any():
        low, high = distance[known].min(), distance[known].max()
        edges = np.geomspace(low, high * (1 + 1e-9), _BINS + 1)
        place = np.clip(np.digitize(distance, edges) - 1, 0, _BINS - 1)
        middle = np.sqrt(edges[1:] * edges[:-1])
        own = known & (rows["method"] == default)
        ax.plot(
            distance[own], error[own], linestyle="none", marker="o", markersize=1.6,
            color=colors[default], alpha=0.25, markeredgewidth=0, zorder=1.5, gid="errors/default",
        )  # fmt: skip
        for name, color in colors.items():
            used = (known & (rows["method"] == name)).to_numpy()
            medians = error[used].groupby(place[used]).median()
            ax.plot(
                middle[medians.index.to_numpy(int)], medians.to_numpy(float), marker="o",
                markersize=2.6, color=color, linewidth=1.6 if name == default else 0.9,
                zorder=4 if name == default else 3, gid=f"median/{name}",
            )  # fmt: skip
        highest = [float(error[own].quantile(0.9))] if own.any() else []
        for line in ax.lines:
            if str(line.get_gid()).startswith("median/"):
                highest += list(np.asarray(line.get_ydata(), float))
        ax.set_ylim(0, 1.15 * max(highest, default=0.0) or 1.0)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    ax.xaxis.set_minor_formatter(lambda value, _: f"{value:g}×" if value in (2, 5, 20) else "")
    ax.set_xlabel("compute of the later run, of the largest fitted")
    ax.set_ylabel("error (%); lines: median")


def _coverage(ax: Axes, rows: pd.DataFrame, colors: Mapping[str, str], default: str) -> None:
    """Draw the share of measurements within each interval against its nominal level."""
    ax.plot([0, 100], [0, 100], color="#9AA3AB", linewidth=0.8, zorder=1, gid="nominal")
    levels = [round(100 * level) for level in LEVELS]
    for row in rows.to_dict("records"):
        name = str(row["method"])
        ax.plot(
            levels, [100 * row[f"within_{level}"] for level in levels], marker="o", markersize=3,
            color=colors[name], linewidth=1.6 if name == default else 0.9,
            zorder=4 if name == default else 3, gid=f"coverage/{name}",
        )  # fmt: skip
    ax.set_xlim(40, 100)
    ax.set_ylim(0, 103)
    ax.set_xticks(levels)
    ax.set_xlabel("nominal level of the interval (%)")
    ax.set_ylabel("measurements within (%)")
