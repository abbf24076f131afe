"""Write the report of predictions: one HTML file and its figures."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lossline.files import write_text
from lossline.fits.prediction_numbers import (
    OPEN,
    coverage,
    errors_by_method,
    has_number,
    largest_changes,
    of_default,
)
from lossline.fits.prediction_summary import counted, score, summary_sentences
from lossline.prediction.results import Predictions, TargetKind
from lossline.reporting.figures import PANELS_PER_FIGURE
from lossline.reporting.grids import interval, number, percent
from lossline.reporting.making import making_section
from lossline.reporting.page import (
    Block,
    Cell,
    Column,
    Grid,
    Page,
    Section,
    render,
)
from lossline.reporting.page_files import Pictures, page_path
from lossline.reporting.prediction_charts import backtest_chart, measured_chart, task_panels
from lossline.terminal import Say, now_and_then, silent

_ROWS = 400  # most rows of a table of the page; the files have all


def write_prediction_report(
    found: Predictions,
    out: str | os.PathLike[str],
    *,
    title: str = "Predicted scores",
    provenance: Mapping[str, Any] | None = None,
    say: Say = silent,
) -> Path:
    """Write ``<out>/report.html`` (self-contained) and ``<out>/figures/*.png`` and ``*.svg``.

    Args:
        found: the predictions.
        out: folder of the report.
        title: title of the page.
        provenance: origin of the numbers.
        say: receives a line of progress now and then.

    Returns:
        The path of the page.

    Raises:
        UserError: ``report.html`` exists and was not written by lossline.
    """
    page = page_path(out)
    page.parent.mkdir(parents=True, exist_ok=True)
    pictures = Pictures(folder=page.parent / "figures", say=now_and_then(say))
    report = _Report(found=found, pictures=pictures, provenance=dict(provenance or {}))
    write_text(page, render(report.page(title)))
    return page


@dataclass(frozen=True, kw_only=True)
class _Report:
    """The predictions, with what all sections share."""

    found: Predictions
    pictures: Pictures
    provenance: dict[str, Any]

    def page(self, title: str) -> Page:
        found = self.found
        points = found.points
        subtitle = (
            f"{counted(points['run_id'].nunique(), 'run')}, "
            f"{counted(points['task'].nunique(), 'task')}, "
            f"{counted(found.predictions['method'].nunique(), 'method')}; default method: "
            f"{found.default}."
        )
        return Page(
            title=title,
            subtitle=subtitle,
            verdicts=summary_sentences(found),
            sections=[
                self._numbers(), self._tasks(), self._methods(), self._backtests(),
                self._stages(), self._influence(),
                making_section(self.provenance, self.found.settings),
            ],
            first="Summary",
            no_verdict="No score was predicted; see the reasons below.",
        )  # fmt: skip

    def _numbers(self) -> Section:
        kinds = [(kind, _prediction_grid(self.found, kind)) for kind in TargetKind]
        missing = of_default(self.found)
        missing = missing[~has_number(missing)]
        blocks: list[Block] = [grid for _, grid in kinds if grid.rows]
        if len(missing):
            blocks.append(_missing_grid(missing))
        return Section(
            title="Predictions",
            anchor="predictions",
            intro="A prediction is of a run that exists and was left out of the fit; its error is "
            "shown. A projection is of a model that nobody has trained. Intervals are those of the "
            "default method; predictions.csv has every method.",
            blocks=blocks,
        )

    def _tasks(self) -> Section:
        found = self.found
        blocks: list[Block] = []
        groups = list(found.points["group"].drop_duplicates())
        for number_, group in enumerate(groups, start=1):
            tasks = list(found.points.loc[found.points["group"] == group, "task"].drop_duplicates())
            for part, start in enumerate(range(0, len(tasks), PANELS_PER_FIGURE), start=1):
                shown = tasks[start : start + PANELS_PER_FIGURE]
                name = "tasks" + (f"-{number_}" if len(groups) > 1 else "")
                name += f"-{part}" if len(tasks) > PANELS_PER_FIGURE else ""
                blocks.append(
                    self.pictures.picture(
                        name,
                        task_panels(found, group, shown),
                        "Scores against compute" + (f": {group}" if group else ""),
                        "One point is one checkpoint; large: the last of its run. Hollow: the run "
                        "is not above chance. Diamond: left out of the fit. Lines: each method "
                        "along compute, at the tokens per parameter of the target of most compute, "
                        "so runs with another ratio lie off the lines. Shaded: 90% interval of one "
                        "more run, default method. Square with bar: prediction of a target; star: "
                        "what was measured. Dotted: accuracy of guessing. Axes follow the points "
                        "and the default method; other methods may leave them.",
                    )
                )
        return Section(title="Tasks", anchor="tasks", blocks=blocks)

    def _methods(self) -> Section:
        errors = errors_by_method(self.found)
        blocks: list[Block] = [_method_grid(errors)]
        if len(errors):
            picture = self.pictures.picture(
                "errors",
                measured_chart(self.found),
                "Left-out runs: predicted and measured, and the errors of every method",
                "Left: every score by the default method, with its 90% interval. Right: the size "
                "of every error on the scores that all of these methods predicted; bar and number: "
                "median.",
            )
            blocks = [picture, *blocks, _error_grid(self.found)]
        if len(self.found.decisions):
            blocks.append(_decision_grid(self.found))
        return Section(
            title="Errors by method",
            anchor="methods",
            intro="Methods are compared on the scores that all of them predicted.",
            blocks=blocks,
        )

    def _backtests(self) -> Section:
        found = self.found
        blocks: list[Block] = []
        if found.backtest["predicted"].notna().any():
            blocks.append(
                self.pictures.picture(
                    "backtests",
                    backtest_chart(found),
                    "Backtests: error against distance, and coverage of the intervals",
                    "Left: errors on later runs against how far they lie beyond the largest fitted "
                    "run. Dots: every error of the default method (the largest tenth may lie "
                    "beyond the axis). Right: share of the measurements within their interval; "
                    "grey: the nominal level.",
                )
            )
        blocks.append(_coverage_grid(found))
        return Section(
            title="Backtests",
            anchor="backtests",
            intro="All runs up to a cut in compute are fitted, every later run is predicted, for "
            "several cuts. The size of the intervals beyond the resampled runs is learned here.",
            blocks=blocks,
        )

    def _stages(self) -> Section:
        return Section(
            title="Stages",
            anchor="stages",
            intro="A stage is one fitted law: from scale to a loss, from a loss to the score, or "
            "directly from scale to the score. Flatness: how far the data leave the weakest "
            f"direction of the parameters open; above {OPEN} it rests on the prior. Outliers: runs "
            "far from the law.",
            blocks=_stage_grids(self.found),
        )

    def _influence(self) -> Section:
        return Section(
            title="Leaving out one size",
            anchor="influence",
            blocks=[_influence_grid(self.found)],
        )


def _prediction_grid(found: Predictions, kind: TargetKind) -> Grid:
    rows = of_default(found, kind)
    rows = rows[has_number(rows)]
    measured = kind is TargetKind.PREDICTION
    columns = [*_group_column(rows), Column("task", keep=True), Column("target", keep=True)]
    columns += [Column("beyond the runs", number=True), Column("predicted", number=True)]
    columns += [Column(f"{p}% interval", number=True) for p in (50, 80, 90)]
    if measured:
        columns += [Column("measured", number=True), Column("error", number=True)]
    columns += [Column("note", wide=True)]
    body = []
    for row in rows.head(_ROWS).to_dict("records"):
        cells = [*_group_cell(rows, row), Cell(row["task"]), Cell(row["target"])]
        cells += [Cell(_times(float(row["extrapolation"])))]
        cells += [Cell(score(row["predicted"], row["metric"]))]
        cells += [Cell(interval(row[f"low_{p}"], row[f"high_{p}"])) for p in (50, 80, 90)]
        if measured:
            within = row["low_90"] <= row["actual"] <= row["high_90"]
            tone = "" if within or pd.isna(row["low_90"]) else "warn"
            cells += [Cell(score(row["actual"], row["metric"]), tone)]
            cells += [Cell(percent(row["relative_error"]))]
        body.append([*cells, Cell(_text(row["reason"]))])
    title = "Left-out runs" if measured else "Models that nobody has trained"
    return Grid(title=title, columns=columns, rows=body, caption=_cut(rows))


def _times(factor: float) -> str:
    """Return a factor as text: "0.27×", "2.7×", "230×"."""
    if factor >= 100:
        return f"{float(f'{factor:.2g}'):,.0f}×"
    return f"{number(factor, 2)}×"


def _missing_grid(rows: pd.DataFrame) -> Grid:
    columns = [*_group_column(rows), Column("task", keep=True), Column("target", keep=True)]
    columns += [Column("why", keep=True), Column("reason", wide=True)]
    body = [
        [*_group_cell(rows, row), Cell(row["task"]), Cell(row["target"]),
         Cell(row["status"], "warn"), Cell(_text(row["reason"]))]
        for row in rows.head(_ROWS).to_dict("records")
    ]  # fmt: skip
    return Grid(title="No number", columns=columns, rows=body, caption=_cut(rows))


def _method_grid(errors: pd.DataFrame) -> Grid:
    columns = [Column("method", keep=True), Column("mean error", number=True)]
    columns += [Column("median error", number=True), Column("scores", number=True), Column("note")]
    rows = [
        [
            Cell(str(row.method)), Cell(percent(row.mean)), Cell(percent(row.median)),
            Cell(str(row.common if row.compared else row.predicted)),
            Cell("" if row.compared else "predicted too few scores to compare"),
        ]
        for row in errors.sort_values(["compared", "mean"], ascending=[False, True]).itertuples()
    ]  # fmt: skip
    return Grid(columns=columns, rows=rows, empty="No run was left out: there are no errors.")


def _error_grid(found: Predictions) -> Grid:
    """Return the relative error of each method, one row per task and target."""
    rows = found.predictions
    rows = rows[(rows["kind"] == str(TargetKind.PREDICTION)) & rows["actual"].notna()]
    keys = ["group", "task", "target"]
    wide = rows.pivot_table(
        index=keys, columns="method", values="relative_error", sort=False, dropna=False
    ).dropna(how="all")
    first = [found.default] if found.default in wide else []
    methods = [*first, *sorted(set(wide.columns) - {found.default})]
    table = wide.reset_index()
    columns = [*_group_column(table), Column("task", keep=True), Column("target", keep=True)]
    columns += [Column(name, number=True) for name in methods]
    body = [
        [*_group_cell(table, row), Cell(row["task"]), Cell(row["target"]),
         *[Cell(percent(row[name])) for name in methods]]
        for row in table.head(_ROWS).to_dict("records")
    ]  # fmt: skip
    return Grid(
        title="Relative error of each score", columns=columns, rows=body, caption=_cut(table)
    )


def _decision_grid(found: Predictions) -> Grid:
    columns = [Column("method", keep=True), Column("task", keep=True)]
    columns += [Column("pairs", number=True), Column("called right", number=True)]
    columns += [Column("by ranking at one scale", number=True)]
    rows = [
        [Cell(str(row.method)), Cell(str(row.task)), Cell(str(row.pairs)),
         Cell(percent(row.accuracy)), Cell(percent(row.single_scale_accuracy))]
        for row in found.decisions.head(_ROWS).itertuples()
    ]  # fmt: skip
    return Grid(title="Is the better of two recipes called?", columns=columns, rows=rows)


def _coverage_grid(found: Predictions) -> Grid:
    columns = [Column("method", keep=True), Column("measurements", number=True)]
    columns += [Column("median error", number=True)]
    columns += [Column(f"within {p}%", number=True) for p in (50, 80, 90)]
    rows = [
        [Cell(row["method"]), Cell(f"{row['measurements']:,}"), Cell(percent(row["error"])),
         *[Cell(percent(row[f"within_{p}"])) for p in (50, 80, 90)]]
        for row in coverage(found).to_dict("records")
    ]  # fmt: skip
    return Grid(columns=columns, rows=rows, empty="Too few runs for a backtest.")


def _stage_grids(found: Predictions) -> list[Block]:
    rows = found.stages[found.stages["method"] == found.default]
    laws = found.stages.drop_duplicates(["law"])
    equations = Grid(
        title="Laws",
        columns=[Column("law", keep=True), Column("equation", wide=True),
                 Column("source", wide=True), Column("used by")],
        rows=[
            [Cell(row.law), Cell(row.equation), Cell(row.source),
             Cell(", ".join(found.stages.loc[found.stages["law"] == row.law, "method"].unique()))]
            for row in laws.itertuples()
        ],
        empty="No law could be fitted.",
    )  # fmt: skip
    columns = [*_group_column(rows), Column("task", keep=True), Column("stage", keep=True)]
    columns += [
        Column("law", keep=True),
        Column("parameters", wide=True),
        Column("R²", number=True),
    ]
    columns += [Column("runs", number=True), Column("points", number=True)]
    columns += [Column("flatness", number=True), Column("weakest", keep=True), Column("outliers")]
    body = [
        [*_group_cell(rows, row), Cell(row["task"]), Cell(row["stage"]), Cell(row["law"]),
         Cell(_parameters(row["parameters"])), Cell(number(row["r2"])), Cell(str(row["runs"])),
         Cell(str(row["points"])),
         Cell(number(row["flatness"], 2), "warn" if row["flatness"] > OPEN else ""),
         Cell(_text(row["weakest"])), Cell(_text(row["outliers"]))]
        for row in rows.head(_ROWS).to_dict("records")
    ]  # fmt: skip
    stages = Grid(
        title=f"Stages of {found.default} (stages.csv has all methods)", columns=columns, rows=body,
        caption=_cut(rows), empty="No stage could be fitted.",
    )  # fmt: skip
    return [equations, stages]


def _parameters(text: str) -> str:
    """Return fitted parameters as text; the centers of the inputs are left out."""
    values = json.loads(text)
    return ", ".join(f"{name} = {number(v, 3)}" for name, v in values.items() if name != "centers")


def _influence_grid(found: Predictions) -> Grid:
    rows = largest_changes(found)
    columns = [*_group_column(rows), Column("left out", keep=True), Column("runs", number=True)]
    columns += [Column("largest change", number=True), Column("task", keep=True), Column("target")]
    body = [
        [*_group_cell(rows, row), Cell(row["left_out"]), Cell(str(row["runs"])),
         Cell(f"{row['change']:+.3f}" if pd.notna(row["change"]) else "no prediction"),
         Cell(row["task"]), Cell(row["target"])]
        for row in rows.to_dict("records")
    ]  # fmt: skip
    return Grid(
        columns=columns, rows=body, empty="All runs have one size.",
        caption="Largest change of a prediction of the default method; influence.csv has all.",
    )  # fmt: skip


def _group_column(rows: pd.DataFrame) -> list[Column]:
    return [Column("group", keep=True)] if _grouped(rows) else []


def _group_cell(rows: pd.DataFrame, row: Mapping[Any, Any]) -> list[Cell]:
    return [Cell(str(row["group"]))] if _grouped(rows) else []


def _grouped(rows: pd.DataFrame) -> bool:
    return bool(len(rows)) and rows["group"].nunique() > 1


def _cut(rows: pd.DataFrame) -> str:
    return f"Only the first {_ROWS} of {len(rows)} rows are shown." if len(rows) > _ROWS else ""


def _text(value: Any) -> str:
    return "" if pd.isna(value) else str(value)
