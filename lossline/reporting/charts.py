"""Charts of results: what each factor does to the line, how well held-out runs were predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lossline.reporting import panels
from lossline.reporting.appearance import MARKERS, Appearance, label
from lossline.reporting.figures import PAGE_WIDTH, new_figure, publication_style
from lossline.reporting.points import Unit

MOVED = "#D55E00"
SAME = "#5B6770"


@dataclass(frozen=True, kw_only=True)
class Effect:
    """How far one factor moves the line, in one unit, with its interval; NaN where not tested."""

    factor: str
    unit: Unit
    effect: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    p_value: float = float("nan")
    moved: bool = False
    message: str = ""

    @property
    def tested(self) -> bool:
        """Whether there is a number to draw."""
        return bool(np.isfinite(self.effect))


def attribution_chart(effects: Sequence[Effect], *, level: float = 0.9) -> Figure:
    """One row per factor, one panel per unit: the shift of the line and its interval.

    Factors stand in the order of their first appearance; an untested one keeps its row and says so.
    """
    factors = list(dict.fromkeys(effect.factor for effect in effects))
    units = [unit for unit in Unit if any(effect.unit is unit for effect in effects)]
    with publication_style():
        figure = new_figure(PAGE_WIDTH, 0.85 + 0.3 * len(factors))
        axes = figure.subplots(1, len(units), squeeze=False, sharey=True)[0]
        for ax, unit in zip(axes, units, strict=True):
            rows = {effect.factor: effect for effect in effects if effect.unit is unit}
            _effects(ax, [rows.get(factor) for factor in factors])
            ax.set_xlabel(f"shift of the line ({unit.value})")
        axes[0].set_yticks(range(len(factors)), [label(factor) for factor in factors])
        axes[0].set_ylim(len(factors) - 0.5, -0.5)
        _effect_legend(figure, level)
    return figure


def _effects(ax: Axes, rows: Sequence[Effect | None]) -> None:
    ax.axvline(0.0, color="#9AA3AB", linewidth=0.8, zorder=1)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    for position, row in enumerate(rows):
        if row is None or not row.tested:
            reason = "not measured" if row is None else (row.message or "not tested")
            ax.annotate(
                _short(reason), (0.0, position), xycoords=("axes fraction", "data"), va="center",
                xytext=(4, 0), textcoords="offset points", color="#8A949E", fontsize=6.2,
                fontstyle="italic", gid=f"untested/{position}",
            )  # fmt: skip
            continue
        color = MOVED if row.moved else SAME
        ax.plot(
            [row.low, row.high], [position, position], color=color, linewidth=2.0, alpha=0.55,
            solid_capstyle="round", zorder=2, gid=f"interval/{row.factor}",
        )  # fmt: skip
        ax.plot(
            [row.effect], [position], marker="o", markersize=5, color=color, linestyle="none",
            markeredgecolor="white", markeredgewidth=0.5, zorder=3, gid=f"effect/{row.factor}",
        )  # fmt: skip
        if np.isfinite(row.p_value):
            ax.annotate(
                p_text(row.p_value), (1.0, position), xycoords=("axes fraction", "data"),
                xytext=(3, 0), textcoords="offset points", va="center", fontsize=6.2, color=color,
                annotation_clip=False,
            )  # fmt: skip
    tested = [row for row in rows if row is not None and row.tested]
    if tested:
        low = min(min(row.low, row.effect, 0.0) for row in tested)
        high = max(max(row.high, row.effect, 0.0) for row in tested)
        margin = 0.08 * (high - low) or 0.01
        ax.set_xlim(low - margin, high + margin)
    else:
        ax.set_xlim(-1, 1)
        ax.set_xticks([0.0])


def _short(reason: str, limit: int = 52) -> str:
    return reason if len(reason) <= limit else reason[: limit - 1].rsplit(" ", 1)[0] + " …"


def p_text(p_value: float) -> str:
    """A p-value as it is printed."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"


def _effect_legend(figure: Figure, level: float) -> None:
    def handle(color: str, words: str) -> Line2D:
        return Line2D([], [], color=color, marker="o", markersize=4.5, linewidth=2.0, label=words)

    figure.legend(
        handles=[
            handle(MOVED, f"another line (estimate, {level:.0%} interval)"),
            handle(SAME, "not told apart from the same line"),
        ],
        loc="outside upper left", ncols=2, columnspacing=1.6, handlelength=2.0,
    )  # fmt: skip


def held_out_chart(
    scores: pd.DataFrame, appearance: Appearance, *, unit: Unit, methods: Sequence[str]
) -> Figure:
    """Left: predicted against measured loss of held-out checkpoints. Right: errors by method.

    Args:
      scores: columns method, pretraining_data, architecture, measured, predicted and, where known,
        low and high (an interval of the prediction).
      methods: the order of the methods; the first is ours and the only one drawn on the left.
    """
    ours = scores[scores["method"] == methods[0]]
    with publication_style():
        figure = new_figure(PAGE_WIDTH, 2.9)
        left, right = figure.subplots(1, 2, width_ratios=[1.0, 1.15])
        _predicted_against_measured(left, ours, appearance)
        left.set_xlabel(f"measured loss ({unit.value})")
        left.set_ylabel(f"predicted loss ({unit.value})")
        _errors_by_method(right, scores, methods)
        groups = panels.legend_handles(appearance, ours, lines=False)
        figure.legend(
            handles=[handle for _, handles in groups for handle in handles],
            loc="outside lower left", ncols=8, columnspacing=1.4, handlelength=1.4,
        )  # fmt: skip
    return figure


def _predicted_against_measured(ax: Axes, rows: pd.DataFrame, appearance: Appearance) -> None:
    both = np.concatenate([rows["measured"].to_numpy(float), rows["predicted"].to_numpy(float)])
    both = both[np.isfinite(both)]
    low, high = (both.min(), both.max()) if both.size else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.05
    ends = (low - margin, high + margin)
    ax.plot(ends, ends, color="#9AA3AB", linewidth=0.8, zorder=1, gid="identity")
    ax.set_xlim(*ends)
    ax.set_ylim(*ends)
    panels.loss_ticks(ax)
    ax.set_aspect("equal")
    size = max(2.0, 4.2 - 1.0 * max(0.0, np.log10(max(len(rows), 1) / 20)))
    groups = rows.groupby(["pretraining_data", "architecture"], sort=True, observed=True)
    for (data, architecture), group in groups:
        color = appearance.color(data)
        measured = group["measured"].to_numpy(float)
        if "low" in group:
            ax.vlines(
                measured, group["low"], group["high"], color=color, linewidth=0.7, alpha=0.6,
                zorder=2,
            )  # fmt: skip
        ax.plot(
            measured, group["predicted"].to_numpy(float), linestyle="none", color=color,
            marker=appearance.marker(architecture), markersize=size, markeredgecolor="white",
            markeredgewidth=0.3, zorder=3, gid=f"held_out/{data}/{architecture}",
        )  # fmt: skip


def _errors_by_method(ax: Axes, scores: pd.DataFrame, methods: Sequence[str]) -> None:
    """Every error as a dot, the median as a bar, on a logarithmic axis (percent)."""
    ax.set_xscale("log")
    ax.grid(axis="y", visible=False)
    for position, method in enumerate(methods):
        rows = scores[scores["method"] == method]
        error = 100.0 * (rows["predicted"] / rows["measured"] - 1.0).abs().to_numpy(float)
        error = np.maximum(error[np.isfinite(error)], 1e-3)
        # A fixed low-discrepancy spread instead of random jitter: the same figure every time.
        spread = ((np.arange(error.size) * 0.6180339887) % 1.0 - 0.5) * 0.5
        color = MOVED if position == 0 else SAME
        ax.plot(
            error, position + spread, linestyle="none", marker=MARKERS[0], markersize=2.0,
            color=color, alpha=0.5, markeredgewidth=0, gid=f"errors/{method}",
        )  # fmt: skip
        if error.size:
            median = float(np.median(error))
            ax.plot(
                [median, median], [position - 0.32, position + 0.32], color=color, linewidth=2.0,
                gid=f"median/{method}",
            )  # fmt: skip
            ax.annotate(
                f"{median:.2g}%", (1.0, position), xycoords=("axes fraction", "data"),
                xytext=(3, 0), textcoords="offset points", va="center", fontsize=6.5, color=color,
            )  # fmt: skip
    ax.set_yticks(range(len(methods)), [label(method, 32) for method in methods])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_xlabel("error of held-out losses (%); bar and number: median")
