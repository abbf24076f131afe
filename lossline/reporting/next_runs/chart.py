"""Figure of a plan: expected half width of the interval against FLOPs spent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossline.design.plan import Pick, Plan
from lossline.reporting.appearance import COLORS
from lossline.reporting.figures import new_figure, publication_style

_GRAY = "#7F7F7F"
_ROOM = 0.03  # between two numbers, as a share of the FLOPs of all picks


def width_chart(plan: Plan) -> Figure:
    """Return a figure: expected half width against FLOPs spent, picks against largest first."""
    with publication_style():
        figure = new_figure(4.6, 2.7)
        ax = figure.subplots()
        now = plan.now.half_width
        others = {"color": _GRAY, "ls": "--", "mfc": "white", "ms": 5.0}
        _curve(ax, plan.largest_first, now, label="largest runs first", **others)
        _curve(ax, plan.picks, now, label="these picks", color=COLORS[0], ms=3.2)
        _number(ax, _steps(plan.picks, now))
        ax.axhline(now / 2, color=_GRAY, lw=0.7, ls=(0, (1, 2)))
        ax.annotate(
            "half of now", (0, now / 2), xycoords=("axes fraction", "data"), xytext=(3, -2),
            textcoords="offset points", va="top", fontsize=6.5, color=_GRAY,
        )  # fmt: skip
        ax.set_ylim(0, 1.12 * now)
        ax.set_xlim(left=0)
        ax.set_xlabel("training FLOPs spent on new runs")
        ax.set_ylabel(f"expected half width ({plan.unit})")
        ax.legend(loc="lower left")
    return figure


def _curve(ax: Axes, picks: Sequence[Pick], now: float, **style: Any) -> None:
    if picks:
        x, y = zip(*_steps(picks, now), strict=True)
        ax.plot(x, y, marker="o", lw=1.3, drawstyle="steps-post", **style)


def _number(ax: Axes, steps: Sequence[tuple[float, float]]) -> None:
    """Write the number of each run beside its dot, if the one before is far enough away."""
    room, last = _ROOM * steps[-1][0], -float("inf")
    for place, (x, y) in enumerate(steps[1:], start=1):
        if x - last > room:
            last = x
            ax.annotate(
                str(place), (x, y), xytext=(3, 3), textcoords="offset points", fontsize=6.5,
                color=COLORS[0],
            )  # fmt: skip


def _steps(picks: Sequence[Pick], now: float) -> list[tuple[float, float]]:
    """Return (FLOPs spent, expected half width) before the first run and after each."""
    points = [(0.0, now)]
    for pick in picks:
        points.append((points[-1][0] + pick.candidate.flops, pick.half_width))
    return points
