"""Published figures, redrawn from imported tables. ``notebooks/published_sweeps.ipynb`` shows them.

Every function draws from a loss table that ``lossline.tables.sweeps`` has read. Nothing is
downloaded, and no published data are part of this project.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossline.errors import UserError
from lossline.lines.fitting import Line, LineOptions, fit_line, fit_lines
from lossline.lines.groups import GROUP_BY, split
from lossline.lines.translation import near_optimal, score_translations, translate
from lossline.prediction.gadre import ErrorPrediction, loss_and_error, predict_error
from lossline.reporting import figures, panels, plots
from lossline.reporting.points import paired
from lossline.tables.pairing import Pairs, one_set, pair_checkpoints, pair_groups
from lossline.tables.schema import OWN_SET, Unit
from lossline.tables.sweeps import import_sweep

# The 17 tasks whose errors arXiv 2403.08540 averages, named as in the released table.
GADRE_TASKS = (
    "bigbench_operators", "bigbench_dyck_languages", "bigbench_novel_concepts",
    "bigbench_cs_algorithms", "bigbench_qa_wikidata", "pubmed_qa_labeled", "hellaswag_zeroshot",
    "hellaswag", "boolq", "arc_easy", "coqa", "lambada_openai", "winograd", "commonsense_qa",
    "copa", "squad", "piqa",
)  # fmt: skip


def load_sweep(source: str, folder: str | os.PathLike[str], name: str) -> pd.DataFrame | None:
    """Return the loss table of a published file; print a line and return None if it is absent."""
    path = Path(folder) / name
    if not path.exists():
        print(f"{path}: file not found, so this section is skipped")
        return None
    imported = import_sweep(source, path)
    for note in imported.notes:
        print(note)
    return imported.table


def train_and_test(table: pd.DataFrame, *, base: str, test: str) -> Figure:
    """Draw figure 1 of arXiv 2411.12925: train to train, train to test, test to test.

    Args:
        table: loss table.
        base: pretraining data of the models on the x axis of the first and the last panel.
        test: evaluation set of the second and the last panel.

    Raises:
        UserError: no model was trained on ``base``.
    """
    groups = _by_data(table)
    if base not in groups:
        raise UserError(
            f"base = {base!r}: no model in the table was trained on it; choose one of "
            f"{', '.join(groups)}"
        )
    others = [name for name in groups if name != base]
    panels_of = (
        (others, lambda name: pair_groups(groups[base], groups[name], OWN_SET, OWN_SET)),
        (list(groups), lambda name: pair_checkpoints(groups[name], OWN_SET, test)),
        (others, lambda name: pair_groups(groups[base], groups[name], test, test)),
    )
    titles = ("train to train", "train to test", "test to test")
    x_labels = (f"own loss, {base}", "own loss", f"{test}, {base}")
    y_labels = ("own loss, other data", f"{test}, same model", f"{test}, other data")
    with figures.publication_style():
        figure = figures.new_figure(figures.PAGE_WIDTH, 2.6)
        for ax, (names, pairing), title, x, y in zip(
            figure.subplots(1, 3), panels_of, titles, x_labels, y_labels, strict=True
        ):
            fits = [_fitted(pairing(name)) for name in names]
            plots.plot_pairs(fits, names=names, ax=ax)
            _legend_inside(ax)
            _titles(ax, title, x, y)
    return figure


def _fitted(pairs: Pairs) -> tuple[Line, Pairs]:
    return fit_line(pairs), pairs


def _by_data(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {
        str(group.facts["pretraining_data"]): group.table
        for group in split(table, ["pretraining_data"])
    }


def _titles(ax: Axes, title: str, x: str, y: str) -> None:
    ax.set_title(title, loc="left")
    ax.set_xlabel(x)
    ax.set_ylabel(y)


def translation(table: pd.DataFrame, *, base: str) -> tuple[Figure, pd.DataFrame]:
    """Translate the law of ``base`` to other data with a few runs (arXiv 2411.12925, section 6).

    The few runs are those with 16 to 23 tokens per parameter. Every run on the other data is
    predicted.

    Args:
        table: loss table.
        base: pretraining data of the law that is translated.

    Returns:
        The figure, and a table of R² over all runs of each target
        (``lossline.lines.translation``): translated law, law fitted to the few runs (baseline), law
        fitted to all runs (skyline).
    """
    groups = _by_data(table)
    choose = near_optimal()
    points = []
    for name in (name for name in groups if name != base):
        every = one_set(groups[name], OWN_SET, "loss")
        try:
            found = translate(groups[base], groups[name][choose(groups[name])])
        except UserError as mistake:
            print(f"{base} to {name}: {mistake}")
            continue
        predicted = found.predict(N=every["params"], D=every["tokens"])
        points.append(every.assign(target=name, predicted=predicted))
    drawn = pd.concat(points)
    with figures.publication_style():
        figure = figures.new_figure(4.6, 2.9)
        ax = figure.subplots()
        plots.plot_against(drawn, x="value", y="predicted", by="target", ax=ax)
        _legend_inside(ax)
        ends = [drawn["value"].min(), drawn["value"].max()]
        ax.plot(ends, ends, color="#9AA3AB", linewidth=0.8, zorder=1)
        _titles(ax, f"translated from {base}, nats per token", "measured", "predicted")
    scores = score_translations(table, group_by=["pretraining_data"])
    return figure, scores[scores["source"] == base].reset_index(drop=True)


def matched_interventions(
    table: pd.DataFrame, *, x: str, ys: Sequence[str], vary: str, unit: str = "loss"
) -> Figure | None:
    """Draw figures 4 to 6 of arXiv 2502.12120: one fact of a line varies, the other two are fixed.

    One column per combination of the fixed facts with at least two values of ``vary``, one row per
    y set. As in the paper, lines are also fitted to the checkpoints of a single run; such a line
    has no band.

    Args:
        table: loss table.
        x: evaluation set of the x axis.
        ys: evaluation sets of the y axes.
        vary: fact that varies: "pretraining_data", "architecture" or "tokenizer".
        unit: "loss" (nats per token) or "bits_per_byte".

    Returns:
        The figure. If no combination has two values of ``vary``, prints a line and returns None.
    """
    fixed = [fact for fact in GROUP_BY if fact != vary]
    columns = [
        group for group in split(table, fixed) if group.table[vary].astype(str).nunique() > 1
    ]
    columns = [group for group in columns if not paired(group.table, x, ys[0]).empty]
    if not columns:
        print(f"{vary} never varies at equal {' and '.join(fixed)}: nothing to draw")
        return None
    options = LineOptions(min_runs=1)
    with figures.publication_style():
        width = max(4.6, 0.4 + 2.15 * len(columns))
        figure = figures.new_figure(width, 0.3 + 2.0 * len(ys))
        axes = figure.subplots(len(ys), len(columns), squeeze=False, sharex="col")
        for row, y in enumerate(ys):
            for ax, group in zip(axes[row], columns, strict=True):
                lines = fit_lines(
                    group.table, x_sets=[x], y_sets=[y], group_by=[vary], unit=unit, options=options
                )
                _matched_panel(ax, group.table, lines, x, y, vary, unit)
                if row == 0:
                    ax.set_title(group.name, loc="left")
            axes[row][0].set_ylabel(f"{y} ({Unit(unit).words})")
        figure.supxlabel(f"{x} ({Unit(unit).words})", fontsize=7.5)
    return figure


def _matched_panel(
    ax: Axes, table: pd.DataFrame, lines: Sequence[Line], x: str, y: str, vary: str, unit: str
) -> None:
    frame = paired(table, x, y, unit=Unit(unit))
    curves = [
        pd.DataFrame({"x": grid, "y": line.predict(grid), vary: str(line.group[vary])})
        for line in lines
        if line.drawable
        for grid in [np.linspace(*line.x_range, panels.CURVE_POINTS)]
    ]
    curve = pd.concat(curves) if curves else None
    plots.plot_against(frame, x="x", y="y", by=vary, curve=curve, ax=ax)
    _legend_inside(ax)
    ax.set_xlabel("")
    ax.set_ylabel("")


def _legend_inside(ax: Axes, *, corner: str = "upper left") -> None:
    """Move the legend into a corner, and extend the axis so that it covers no point."""
    legend = ax.get_legend()
    if legend is None:
        return
    handles: list[Any] = list(legend.legend_handles)
    words = [str(label.get_text()) for label in legend.get_texts()]
    ax.legend(
        handles, words, loc=cast("Any", corner), borderaxespad=0.1, handlelength=1.4, fontsize=6.2
    )
    low, high = ax.get_ylim()
    room = (0.075 * len(words)) * (high - low)
    ax.set_ylim(low, high + room) if corner.startswith("upper") else ax.set_ylim(low - room, high)


def over_training(table: pd.DataFrame, *, eval_set: str, largest_fitted: float = 1e9) -> Figure:
    """Draw figure 1 of arXiv 2403.08540: loss against compute, and mean top-1 error against loss.

    Both laws are fitted to models with up to ``largest_fitted`` parameters. Larger models (stars)
    are predicted. The error is the mean over the 17 tasks of the paper.
    """
    runs = loss_and_error(table, eval_set, GADRE_TASKS).merge(
        table[["run_id", "pretraining_data"]].drop_duplicates(), on="run_id"
    )
    runs = runs.assign(held_out=runs["params"] > largest_fitted)
    laws = {
        name: predict_error(rows[~rows["held_out"]])
        for name, rows in runs.groupby("pretraining_data", sort=True)
    }
    over_compute = [_at_20_tokens(law, runs["flops"], str(name)) for name, law in laws.items()]
    over_loss = [_over_loss(law, runs["loss"], str(name)) for name, law in laws.items()]
    with figures.publication_style():
        figure = figures.new_figure(figures.PAGE_WIDTH, 2.7)
        left, right = figure.subplots(1, 2)
        plots.plot_against(
            runs, x="flops", y="loss", by="pretraining_data", curve=pd.concat(over_compute),
            held_out="held_out", log_x=True, ax=left,
        )  # fmt: skip
        _legend_inside(left, corner="upper right")
        title = "loss against compute (line: 20 tokens per parameter)"
        _titles(left, title, "training FLOPs", f"loss on {eval_set}")
        plots.plot_against(
            runs.dropna(subset=["error"]), x="loss", y="error", by="pretraining_data",
            curve=pd.concat(over_loss), held_out="held_out", ax=right,
        )  # fmt: skip
        _legend_inside(right, corner="lower right")
        _titles(right, "error against loss", f"loss on {eval_set}", "top-1 error, mean of 17 tasks")
    return figure


def _at_20_tokens(law: ErrorPrediction, compute: pd.Series, name: str) -> pd.DataFrame:
    flops = np.geomspace(compute.min(), compute.max(), 60)
    params = np.sqrt(flops / (6.0 * 20.0))
    loss = law.loss(N=params, D=20.0 * params)
    return pd.DataFrame({"flops": flops, "loss": loss, "pretraining_data": name})


def _over_loss(law: ErrorPrediction, losses: pd.Series, name: str) -> pd.DataFrame:
    loss = np.linspace(losses.min(), losses.max(), 60)
    error = law.error_law.predict(x=loss)
    return pd.DataFrame({"loss": loss, "error": error, "pretraining_data": name})
