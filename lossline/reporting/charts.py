"""Charts of results: the move of each factor, and the errors of held-out predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lossline.attribution.results import Attribution, Effect, FactorAttribution, Verdict
from lossline.reporting import panels
from lossline.reporting.appearance import MARKERS, NOT_STATED, Appearance, label, text
from lossline.reporting.figures import PAGE_WIDTH, new_figure, publication_style
from lossline.tables.schema import Unit

MOVED = "#D55E00"
SMALL = "#009E73"
SAME = "#5B6770"
_NOT_VARIED = (Verdict.CONSTANT, Verdict.MISSING)
_NEAR = 30.0  # the axis includes moves on other sets up to this multiple of the named move
_TICKS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_LEGEND = (
    (MOVED, "full", "moves"),
    (MOVED, "none", "moves if noise is alike"),
    (SMALL, "full", "within the margin (shaded)"),
    (SAME, "full", "inconclusive"),
)


def attribution_chart(attribution: Attribution, *, units: Sequence[Unit]) -> Figure:
    """Return a chart of the moves of all factors that vary, largest first, one panel per unit.

    Large dot: move and interval on the evaluation set that the sentence names. Small dots: moves
    between the same two levels on the other sets. Diamonds: groups of runs that move differently.
    The axis is linear within the margin, which is shaded, and logarithmic beyond it, so that moves
    of all sizes are visible. A factor that could not be tested has a row with the reason.
    """
    factors = [factor for factor in attribution.factors if factor.verdict not in _NOT_VARIED]
    with publication_style():
        figure = new_figure(PAGE_WIDTH, 0.85 + 0.36 * len(factors))
        axes = figure.subplots(1, len(units), squeeze=False, sharey=True)[0]
        for ax, unit in zip(axes, units, strict=True):
            _factor_rows(ax, factors, unit, attribution.alpha)
            ax.set_xlabel(f"move of the line ({unit.words})")
        axes[0].set_yticks(
            range(len(factors)), [label(factor.label.removeprefix("the ")) for factor in factors]
        )
        axes[0].set_ylim(len(factors) - 0.4, -0.6)
        _effect_legend(figure)
    return figure


def _factor_rows(ax: Axes, factors: Sequence[FactorAttribution], unit: Unit, alpha: float) -> None:
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ends = [0.0]
    drawn: list[tuple[int, list[float]]] = []
    margins = [e.margin for f in factors for e in f.effects if e.unit == unit.value]
    margin = min(margins, default=0.05)
    for position, factor in enumerate(factors):
        effect = factor.nats if unit is Unit.NATS else factor.bits_per_byte
        if effect is None:
            _reason(ax, position, factor.message or str(factor.verdict))
            continue
        levels = (effect.low_level, effect.high_level)
        others = [
            e.move.value
            for e in factor.effects
            if e.unit == unit.value
            and e.y_set != effect.y_set
            and (e.low_level, e.high_level) == levels
        ]
        groups = [group.move for group in factor.by_group if group.unit == unit.value]
        p_value = factor.p_corrected if effect.unit == factor.unit else effect.p_corrected
        _effect(ax, position, effect, _look(effect, factor.verdict, alpha), p_value)
        ax.plot(
            groups, [position] * len(groups), linestyle="none", marker="D", markersize=3.6,
            color=MOVED, markeredgecolor="white", markeredgewidth=0.4, zorder=3.2,
            gid=f"groups/{factor.factor}",
        )  # fmt: skip
        drawn.append((position, others))
        near = [move for move in others if abs(move) <= _NEAR * abs(effect.move.value)]
        ends += [effect.move.value, effect.move.low, effect.move.high, *groups, *near]
    finite = np.asarray(ends)[np.isfinite(ends)]
    limits = (
        min(1.4 * float(finite.min()), -1.7 * margin),
        max(1.4 * float(finite.max()), 1.7 * margin),
    )
    ax.set_xscale("symlog", linthresh=margin, linscale=0.8)
    for position, others in drawn:
        _other_sets(ax, position, np.asarray(others, float), limits)
    ax.axvspan(-margin, margin, color="#E8EEF1", linewidth=0, zorder=0.5, gid="margin")
    ax.axvline(0.0, color="#9AA3AB", linewidth=0.8, zorder=1)
    ax.set_xlim(*limits)
    ticks = [0.0, margin, *(tick for tick in _TICKS if tick > 2.5 * margin)]
    shown = [t for tick in ticks for t in {tick, -tick} if limits[0] <= t <= limits[1]]
    ax.set_xticks(shown, [f"{tick:g}" for tick in shown])
    ax.set_xticks([], minor=True)


def _other_sets(ax: Axes, row: int, moves: np.ndarray, limits: tuple[float, float]) -> None:
    """Draw the moves on the other sets; a move beyond the limits is an arrowhead at the edge."""
    edges = ((moves < limits[0], "<", limits[0]), (moves > limits[1], ">", limits[1]))
    inside = moves[(moves >= limits[0]) & (moves <= limits[1])]
    parts = [("o", inside), *((marker, moves[out] * 0 + edge) for out, marker, edge in edges)]
    for marker, values in ((marker, values) for marker, values in parts if len(values)):
        ax.plot(
            values,
            np.full(len(values), row),
            linestyle="none",
            marker=marker,
            markersize=2.4 if marker == "o" else 3.4,
            color=SAME,
            alpha=0.6,
            markeredgewidth=0,
            zorder=2.5,
            clip_on=False,
            gid=f"others/{row}/{marker}",
        )


def _look(effect: Effect, verdict: Verdict, alpha: float) -> tuple[str, bool]:
    """Color, and whether the dot is filled.

    They follow the verdict. For a tokenizer, which may move lines in only one unit, they follow the
    effect in this unit.
    """
    if effect.factor == "tokenizer":
        if effect.p_equivalent < alpha:
            return SMALL, True
        moved = effect.p_corrected < alpha
        return (MOVED, effect.noise_from != "borrowed") if moved else (SAME, True)
    if verdict.moving:
        return MOVED, verdict is not Verdict.PROVISIONAL
    return (SMALL if verdict in (Verdict.BELOW, Verdict.NO_MOVE) else SAME), True


def _effect(
    ax: Axes, position: int, effect: Effect, look: tuple[str, bool], p_value: float
) -> None:
    color, filled = look
    ax.plot(
        [effect.move.low, effect.move.high],
        [position, position],
        color=color,
        linewidth=2.0,
        alpha=0.5,
        solid_capstyle="round",
        zorder=2,
        gid=f"interval/{effect.factor}",
    )
    ax.plot(
        [effect.move.value],
        [position],
        marker="o",
        markersize=5,
        color=color if filled else "white",
        linestyle="none",
        markeredgecolor="white" if filled else color,
        markeredgewidth=0.5 if filled else 1.2,
        zorder=3,
        gid=f"effect/{effect.factor}",
    )
    levels = f"{label(effect.low_level, 16)} → {label(effect.high_level, 16)}"
    _inside(ax, f"{levels}, on {label(effect.y_set, 18)}", position + 0.36)
    if np.isfinite(p_value):
        ax.annotate(
            p_text(p_value),
            (1.0, position),
            xycoords=("axes fraction", "data"),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=6.2,
            color=color,
            annotation_clip=False,
        )


def _reason(ax: Axes, position: int, message: str, limit: int = 60) -> None:
    short = message if len(message) <= limit else message[: limit - 1].rsplit(" ", 1)[0] + " …"
    _inside(ax, short, position, fontstyle="italic", gid=f"untested/{position}")


def _inside(ax: Axes, words: str, height: float, **style: Any) -> None:
    """Small gray text at the left end of a row; the layout ignores its width."""
    note = ax.annotate(
        words,
        (0.01, height),
        xycoords=("axes fraction", "data"),
        va="center",
        color="#7A858F",
        fontsize=5.7,
        **style,
    )
    note.set_in_layout(False)


def p_text(p_value: float) -> str:
    """Return a p-value as text."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"


def _effect_legend(figure: Figure) -> None:
    handles = [
        Line2D(
            [], [], color=color, marker="o", markersize=4.5, linewidth=2.0, label=words,
            markerfacecolor=color if fill == "full" else "white",
        )
        for color, fill, words in _LEGEND
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="outside upper left", ncols=4, columnspacing=1.6, handlelength=2.0
    )


def held_out_chart(
    scores: pd.DataFrame, appearance: Appearance, *, unit: Unit, methods: Sequence[str],
    same: pd.DataFrame,
) -> Figure:  # fmt: skip
    """Return a chart of held-out predictions.

    Left: predicted against measured losses, by the first method. Right: errors of every method.

    Args:
        scores: columns method, measured, predicted; where known also low and high (prediction
            interval), pretraining_data and architecture.
        appearance: colors and markers.
        unit: unit of the losses.
        methods: methods in order. The first is ours, and the only one drawn on the left.
        same: rows of ``scores`` for the right panel: losses that all methods predicted.
    """
    ours = scores[scores["method"] == methods[0]]
    looks = ("pretraining_data", "architecture")  # absent if lines are grouped by other facts
    ours = ours.assign(**{n: ours[n].map(text) if n in ours else NOT_STATED for n in looks})
    with publication_style():
        figure = new_figure(PAGE_WIDTH, 2.9)
        left, right = figure.subplots(1, 2, width_ratios=[1.0, 1.15])
        _predicted_against_measured(left, ours, appearance)
        left.set_xlabel(f"measured loss ({unit.words})")
        left.set_ylabel(f"predicted loss ({unit.words})")
        draw_errors(right, same, methods)
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
    shown = {kind.name: kind for kind in appearance.shown_interventions()}
    kinds = rows["run_id"].map(appearance.kind) if "run_id" in rows else ""
    groups = rows.assign(_kind=kinds).groupby(
        ["pretraining_data", "architecture", "_kind"], sort=True, observed=True
    )
    for (data, architecture, kind), group in groups:
        color = appearance.color(data)
        measured = group["measured"].to_numpy(float)
        if "low" in group:
            ax.vlines(
                measured, group["low"], group["high"], color=color, linewidth=0.7, alpha=0.6,
                zorder=2,
            )  # fmt: skip
        ax.plot(
            measured, group["predicted"].to_numpy(float), linestyle="none", color=color,
            marker=appearance.marker(architecture), markersize=size,
            **panels.filling(shown.get(str(kind)), color),
            markeredgecolor=color if kind else "white", markeredgewidth=0.8 if kind else 0.3,
            zorder=3, gid=f"held_out/{data}/{architecture}/{kind or 'usual'}",
        )  # fmt: skip


def draw_errors(ax: Axes, scores: pd.DataFrame, methods: Sequence[str]) -> None:
    """Draw every error as a dot and the median as a bar, on a logarithmic axis in percent.

    Args:
        ax: axes to draw in.
        scores: columns method, measured and predicted.
        methods: methods in order; the first is ours.
    """
    ax.set_xscale("log")
    ax.grid(axis="y", visible=False)
    for position, method in enumerate(methods):
        rows = scores[scores["method"] == method]
        error = 100.0 * (rows["predicted"] / rows["measured"] - 1.0).abs().to_numpy(float)
        error = np.maximum(error[np.isfinite(error)], 1e-3)
        # Golden-ratio steps instead of random jitter, so that the figure is always the same.
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
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("error of held-out predictions (%); bar and number: median")
