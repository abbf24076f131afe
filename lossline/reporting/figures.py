"""Figures of several panels: the overview, validation and task grids, and losses over compute."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from lossline.fits.results import ComputeLawFit
from lossline.laws.compute_laws import Chinchilla, Kaplan
from lossline.reporting import panels
from lossline.reporting.appearance import RC, Appearance, label, text
from lossline.reporting.lines import Curve, curves_for
from lossline.reporting.points import MOST_POINTS, SHARE_POINTS, Losses
from lossline.tables.continued import fresh, is_continued
from lossline.tables.schema import Unit

PAGE_WIDTH = 6.9  # inches: the text width of a two-column page
LEGEND_WIDTH = 1.25
PANELS_PER_FIGURE = 12
_LAWS = {law.name: law for law in (Chinchilla(), Kaplan())}
# Tags hold no other ">" and no other quotes than these: matplotlib escapes both.
_PATH = re.compile(rb"(?<=<path )[^>]*")
_COORDINATES = re.compile(rb'(?<=\bd=")[^"]*')
_DECIMALS = re.compile(rb"(\.\d\d)\d+")
_USE = re.compile(rb'(<use xlink:href="#\w+" x="-?\d+(?:\.\d\d?)?)\d*(" y="-?\d+(?:\.\d\d?)?)\d*')


@contextmanager
def publication_style() -> Iterator[None]:
    """Set the rcParams of every figure, and restore the old ones afterwards."""
    with mpl.rc_context(cast("Any", RC)):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return a new figure of this size in inches, independent of pyplot's global state."""
    layout = ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04, wspace=0.03, hspace=0.03)
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, and an SVG next to it, and return the path of the PNG.

    The same figure gives the same bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with publication_style():
        figure.savefig(path, metadata={"Software": None})
        # Keep the layout of the PNG: computing it again takes as long as drawing.
        figure.set_layout_engine("none")
        vector = io.BytesIO()
        figure.savefig(vector, format="svg", metadata={"Date": None, "Creator": None})
    path.with_suffix(".svg").write_bytes(short_coordinates(vector.getvalue()))
    return path


def short_coordinates(svg: bytes) -> bytes:
    """Return a figure with coordinates of two decimals: hundredths of a point, 3.5 µm.

    matplotlib writes six. The page holds every figure, and two thirds of it compressed are digits.
    """
    svg = _PATH.sub(lambda tag: _COORDINATES.sub(_short, tag[0], count=1), svg)
    return _USE.sub(rb"\1\2", svg)


def _short(coordinates: re.Match[bytes]) -> bytes:
    return _DECIMALS.sub(rb"\1", coordinates[0])


def draw_panel(
    ax: Axes,
    losses: Losses,
    curves: Sequence[Curve],
    appearance: Appearance,
    *,
    x: str,
    y: str,
    unit: Unit,
) -> pd.DataFrame:
    """Draw points and lines of one pair of sets, and return the points drawn."""
    frame = losses.paired(x, y, unit=unit)
    panels.draw_points(ax, frame, appearance)
    panels.fit_limits(ax, frame["x"], frame["y"])
    for curve in curves:
        panels.draw_line(ax, curve, appearance)
    panels.loss_ticks(ax)
    return frame


def loss_grid(
    losses: Losses,
    lines: Sequence[Curve],
    appearance: Appearance,
    *,
    x: str,
    ys: Sequence[str],
    unit: Unit,
) -> Figure:
    """Return a figure with one panel per set of ``ys``, all against the same x."""
    columns = grid_columns(len(ys))
    rows = math.ceil(len(ys) / columns)
    with publication_style():
        figure = new_figure(*grid_size(rows, columns))
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True)
        frames = []
        for ax, y in zip(axes.flat, ys, strict=False):
            frames.append(
                draw_panel(
                    ax, losses, curves_for(lines, x=x, y=y, unit=unit), appearance,
                    x=x, y=y, unit=unit,
                )
            )  # fmt: skip
            ax.set_title(label(y, 34), loc="left")
        hide_unused(axes, len(ys))
        points = pd.concat(frames)
        for ax in axes.flat:
            panels.fit_limits(ax, points["x"], ())
        figure.supxlabel(f"loss on {label(x, 60)} ({unit.words})", fontsize=RC["axes.labelsize"])
        figure.supylabel(f"loss ({unit.words})", fontsize=RC["axes.labelsize"])
        panels.figure_legend(figure, panels.legend_handles(appearance, points))
    return figure


def grid_columns(count: int) -> int:
    """Return the number of columns for so many panels."""
    return {1: 1, 2: 2, 4: 2}.get(count, 3 if count <= 9 else 4)


def grid_size(rows: int, columns: int) -> tuple[float, float]:
    """Return width and height in inches; wide panels are flatter."""
    if columns == 1:
        return 4.6, 2.9
    cell = (PAGE_WIDTH - LEGEND_WIDTH) / columns
    return PAGE_WIDTH, 0.35 + rows * cell * (0.8 if columns < 3 else 0.92)


def hide_unused(axes: np.ndarray, used: int) -> None:
    """Hide the panels after ``used``; the lowest panel of each column keeps its tick labels."""
    columns = axes.shape[1]
    for index, ax in enumerate(axes.flat):
        ax.set_visible(index < used)
        ax.tick_params(labelbottom=index + columns >= used)


def overview(
    losses: Losses,
    lines: Sequence[Curve],
    appearance: Appearance,
    *,
    x: str,
    y: str,
    units: Sequence[Unit],
) -> Figure:
    """Return the fit in one figure: one loss against another, one panel per unit."""
    width = PAGE_WIDTH if len(units) > 1 else 4.6
    with publication_style():
        figure = new_figure(width, 2.75)
        axes = figure.subplots(1, len(units), squeeze=False)[0]
        for ax, unit in zip(axes, units, strict=True):
            frame = draw_panel(
                ax, losses, curves_for(lines, x=x, y=y, unit=unit), appearance, x=x, y=y, unit=unit
            )
            panels.label_axes(ax, x, y, unit)
        panels.figure_legend(figure, panels.legend_handles(appearance, frame))
    return figure


def loss_over_compute(
    losses: Losses,
    laws: Sequence[ComputeLawFit],
    appearance: Appearance,
    *,
    sets: Sequence[str],
    unit: Unit,
) -> Figure:
    """Return a figure of losses during training, against training FLOPs (tokens if unknown).

    A fitted law from scale to loss is drawn as its prediction for the best model size of the group
    at each compute.
    """
    columns = grid_columns(len(sets))
    rows = math.ceil(len(sets) / columns)
    frame = losses.wide(sets, unit=unit)
    compute = "flops" if "flops" in frame and frame["flops"].notna().any() else "tokens"
    with publication_style():
        figure = new_figure(*grid_size(rows, columns))
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True)
        for ax, name in zip(axes.flat, sets, strict=False):
            _trajectories(ax, frame, name, compute, appearance)
            if compute == "flops":
                for law in laws:
                    if law.eval_set == name and law.unit == unit.value:
                        _frontier(ax, frame[frame[name].notna()], law, appearance)
            ax.set_title(label(name, 34), loc="left")
        hide_unused(axes, len(sets))
        axis = "training FLOPs" if compute == "flops" else "training tokens"
        if is_continued(frame).any():
            axis += " (of continued runs: since their start)"
        figure.supxlabel(axis, fontsize=RC["axes.labelsize"])
        figure.supylabel(f"loss ({unit.words})", fontsize=RC["axes.labelsize"])
        panels.figure_legend(figure, panels.legend_handles(appearance, frame))
    return figure


def _trajectories(
    ax: Axes, frame: pd.DataFrame, name: str, compute: str, appearance: Appearance
) -> None:
    rows = frame[frame[name].notna() & (frame[compute] > 0)]
    points = rows.assign(x=rows[compute].astype(float), y=rows[name].astype(float))
    # A run of one checkpoint has no curve. A sweep has hundreds of them, and one artist each per
    # panel would be slow.
    trained_on = _some_runs(points[points.duplicated("run_id", keep=False)])
    for run_id, run in trained_on.groupby("run_id", sort=True):
        first = run.iloc[0]
        ax.plot(
            run["x"].to_numpy(),
            run["y"].to_numpy(),
            color=appearance.color(first["pretraining_data"]),
            linestyle=appearance.dash(first["architecture"]),
            linewidth=0.6,
            alpha=0.6,
            zorder=2,
            gid=f"run/{run_id}",
        )
    panels.compute_ticks(ax)
    panels.draw_points(ax, points[points["final"]], appearance)


def _some_runs(points: pd.DataFrame) -> pd.DataFrame:
    """Return an even share of the runs if they have more than ``MOST_POINTS`` checkpoints."""
    if len(points) <= MOST_POINTS:
        return points
    runs = np.sort(points["run_id"].unique())
    chosen = np.linspace(0, len(runs) - 1, max(1, len(runs) * SHARE_POINTS // len(points)))
    return points[points["run_id"].isin(runs[chosen.round().astype(int)])]


def _frontier(ax: Axes, frame: pd.DataFrame, fit: ComputeLawFit, appearance: Appearance) -> None:
    """Draw the law at the best size for each compute, within the measured sizes and compute."""
    if fit.law not in _LAWS or not fit.parameters:
        return
    rows = fresh(frame)  # the law has no place for continued runs
    rows = rows[rows["flops"].notna() & rows["params"].notna()]
    for fact, value in fit.group.items():
        if fact in rows:
            rows = rows[rows[fact] == text(value)]
    if rows.empty:
        return
    sizes, tokens, flops = (rows[name].to_numpy(float) for name in ("params", "tokens", "flops"))
    # FLOPs per parameter and token: 6 if the table uses C = 6 N D, more if it counts exactly.
    per_token = float(np.median(flops / (sizes * tokens)))
    compute = np.geomspace(flops.min(), flops.max(), 80)
    size = np.geomspace(sizes.min(), sizes.max(), 60)[:, None]
    inputs = {"N": size + 0.0 * compute, "D": compute / (per_token * size)}
    loss = _LAWS[fit.law].predict(
        fit.parameters, {name: values.ravel() for name, values in inputs.items()}
    )
    ax.plot(
        compute,
        np.asarray(loss).reshape(len(size), len(compute)).min(axis=0),
        color=appearance.color(fit.group.get("pretraining_data")),
        linestyle=(0, (1, 1)),
        linewidth=1.4,
        zorder=2.8,
        gid=f"law/{'/'.join(text(value) for value in fit.group.values())}",
    )
