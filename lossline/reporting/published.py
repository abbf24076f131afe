"""Published figures, redrawn from imported tables; `notebooks/published_sweeps.ipynb` shows them.

Every function takes a loss table of `lossline.tables.sweeps` and draws: nothing is downloaded, and
nothing of the published data is part of this project.
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
from lossline.reporting import figures, panels, plots
from lossline.reporting.points import Unit, paired
from lossline.scaling.compute_laws import Kaplan, OverTrainingByParams
from lossline.scaling.groups import GROUP_BY, split
from lossline.scaling.laws import ErrorLaw
from lossline.scaling.lines import Line, LineOptions, fit_line, fit_lines, r_squared
from lossline.scaling.pairing import Pairs, one_set, pair_checkpoints, pair_groups
from lossline.scaling.solver import fit
from lossline.tables.schema import OWN_SET
from lossline.tables.sweeps import import_sweep

__all__ = [
    "load_sweep",
    "matched_interventions",
    "over_training",
    "train_and_test",
    "translation",
]

# The 17 tasks of arXiv 2403.08540 that are averaged, by the names of the released table.
GADRE_TASKS = (
    "bigbench_operators", "bigbench_dyck_languages", "bigbench_novel_concepts",
    "bigbench_cs_algorithms", "bigbench_qa_wikidata", "pubmed_qa_labeled", "hellaswag_zeroshot",
    "hellaswag", "boolq", "arc_easy", "coqa", "lambada_openai", "winograd", "commonsense_qa",
    "copa", "squad", "piqa",
)  # fmt: skip
# Tokens per parameter of the runs that a translation may see (arXiv 2411.12925 section 5).
_FEW = (16.0, 23.0)


def load_sweep(source: str, folder: str | os.PathLike[str], name: str) -> pd.DataFrame | None:
    """The loss table of a published file, or None, said aloud, where the file is absent."""
    path = Path(folder) / name
    if not path.exists():
        print(f"{path}: not here, so this section is left out")
        return None
    imported = import_sweep(source, path)
    for note in imported.notes:
        print(note)
    return imported.table


def train_and_test(table: pd.DataFrame, *, base: str, test: str) -> Figure:
    """Figure 1 of arXiv 2411.12925: train to train, train to test, test to test.

    Args:
      base: pretraining data of the models on the x axis of the first and the last panel.
      test: evaluation set of the second and the last panel.
    """
    groups = _by_data(table)
    if base not in groups:
        raise UserError(f"no models trained on {base!r}; the table has {', '.join(groups)}")
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
    """Section 5 of arXiv 2411.12925: the law of `base`, carried to other data by a few runs there.

    A law from scale to loss is fitted to all runs on `base`; a train-to-train line to the runs on
    the other data with 16 to 23 tokens per parameter; their composition predicts every run there.

    Returns:
      The figure, and a table with R² over all target runs: of the translated law, and of a law
      fitted to the same few runs.
    """
    groups = _by_data(table)
    source = _law(one_set(groups[base], OWN_SET, "loss"))
    rows, points = [], []
    for name in (name for name in groups if name != base):
        every = one_set(groups[name], OWN_SET, "loss")
        per_parameter = every["tokens"] / every["params"]
        few = every[(per_parameter > _FEW[0]) & (per_parameter < _FEW[1])]
        seen = groups[name][groups[name]["run_id"].isin(few["run_id"])]
        line = fit_line(pair_groups(groups[base], seen, OWN_SET, OWN_SET))
        loss = every["value"].to_numpy(float)
        if not line.drawable:
            rows.append({"target": name, "runs seen": len(few), "remark": line.message})
            continue
        predicted = line.predict(_predict(source, every))
        alone = _law(few)
        rows.append(
            {
                "target": name,
                "runs seen": len(few),
                "translated R²": r_squared(loss, predicted),
                "law on the few R²": r_squared(loss, _predict(alone, every)),
            }
        )
        points.append(pd.DataFrame({"target": name, "measured": loss, "predicted": predicted}))
    with figures.publication_style():
        figure = figures.new_figure(4.6, 2.9)
        ax = figure.subplots()
        drawn = pd.concat(points)
        plots.plot_against(drawn, x="measured", y="predicted", by="target", ax=ax)
        _legend_inside(ax)
        ends = [drawn["measured"].min(), drawn["measured"].max()]
        ax.plot(ends, ends, color="#9AA3AB", linewidth=0.8, zorder=1)
        _titles(ax, f"translated from {base}, nats per token", "measured", "predicted")
    return figure, pd.DataFrame(rows)


def _law(rows: pd.DataFrame):
    scale = {"N": rows["params"].to_numpy(float), "D": rows["tokens"].to_numpy(float)}
    return fit(Kaplan(), scale, rows["value"].to_numpy(float))


def _predict(law, rows: pd.DataFrame) -> np.ndarray:
    return law.predict(N=rows["params"].to_numpy(float), D=rows["tokens"].to_numpy(float))


def matched_interventions(
    table: pd.DataFrame, *, x: str, ys: Sequence[str], vary: str, unit: str = "loss"
) -> Figure | None:
    """Figures 4 to 6 of arXiv 2502.12120: one fact varied, the other two of a line's facts fixed.

    One column per combination of the fixed facts that has at least two values of `vary`, one row
    per y set. Lines are fitted also to the checkpoints of a single run, as the paper does; such a
    line has no band. None, said aloud, where no combination has two values of `vary`.
    """
    fixed = [fact for fact in GROUP_BY if fact != vary]
    columns = [
        group for group in split(table, fixed) if group.table[vary].astype(str).nunique() > 1
    ]
    columns = [group for group in columns if not paired(group.table, x, ys[0]).empty]
    if not columns:
        print(f"{vary} never varies while {' and '.join(fixed)} stay the same: nothing to draw")
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
    """Moves the legend into a corner that is free of points, with room made for it."""
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
    """Figure 1 of arXiv 2403.08540: loss against compute, and average top-1 error against loss.

    Both laws are fitted to the models up to `largest_fitted` parameters; larger ones (stars) are
    predicted. The error is averaged over the paper's 17 tasks.
    """
    losses = one_set(table, eval_set, "loss").merge(
        table[["run_id", "pretraining_data"]].drop_duplicates(), on="run_id"
    )
    losses = losses.assign(held_out=losses["params"] > largest_fitted, C=losses["flops"])
    losses = losses.merge(_average_error(table), on="run_id", how="left")
    compute_curves, error_curves = [], []
    for name, rows in losses.groupby("pretraining_data", sort=True):
        seen = rows[~rows["held_out"]]
        compute_curves.append(_over_training_curve(seen, rows, str(name)))
        error_curves.append(_error_curve(seen.dropna(subset=["error"]), rows, str(name)))
    with figures.publication_style():
        figure = figures.new_figure(figures.PAGE_WIDTH, 2.7)
        left, right = figure.subplots(1, 2)
        plots.plot_against(
            losses, x="C", y="value", by="pretraining_data", curve=pd.concat(compute_curves),
            held_out="held_out", log_x=True, ax=left,
        )  # fmt: skip
        _legend_inside(left, corner="upper right")
        title = "loss against compute (line: 20 tokens per parameter)"
        _titles(left, title, "training FLOPs", f"loss on {eval_set}")
        plots.plot_against(
            losses.dropna(subset=["error"]), x="value", y="error", by="pretraining_data",
            curve=pd.concat(error_curves), held_out="held_out", ax=right,
        )  # fmt: skip
        _legend_inside(right, corner="lower right")
        _titles(right, "error against loss", f"loss on {eval_set}", "average top-1 error, 17 tasks")
    return figure


def _average_error(table: pd.DataFrame) -> pd.DataFrame:
    tasks = table[table["eval_set"].isin(GADRE_TASKS) & table["accuracy"].notna()]
    wide = tasks.pivot_table(index="run_id", columns="eval_set", values="accuracy")
    complete = wide.dropna()
    return (1.0 - complete.mean(axis=1)).rename("error").reset_index()


def _over_training_curve(seen: pd.DataFrame, rows: pd.DataFrame, name: str) -> pd.DataFrame:
    params, tokens = seen["params"].to_numpy(float), seen["tokens"].to_numpy(float)
    law = fit(
        OverTrainingByParams(), {"N": params, "M": tokens / params}, seen["value"].to_numpy(float)
    )
    compute = np.geomspace(rows["C"].min(), rows["C"].max(), 60)
    size = np.sqrt(compute / (6.0 * 20.0))
    loss = law.predict(N=size, M=np.full(len(size), 20.0))
    return pd.DataFrame({"C": compute, "value": loss, "pretraining_data": name})


def _error_curve(seen: pd.DataFrame, rows: pd.DataFrame, name: str) -> pd.DataFrame:
    law = fit(ErrorLaw(), {"x": seen["value"].to_numpy(float)}, seen["error"].to_numpy(float))
    loss = np.linspace(rows["value"].min(), rows["value"].max(), 60)
    return pd.DataFrame({"value": loss, "error": law.predict(x=loss), "pretraining_data": name})
