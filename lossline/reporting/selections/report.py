"""Write the report of a selection: one HTML file and its figures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lossline.choices.correlation_method import PerplexityCorrelations
from lossline.choices.options import ANY, POOL, Choices, ChooseOptions
from lossline.choices.summary import (
    selection_rows,
    subtitle,
    summary_sentences,
)
from lossline.files import write_text
from lossline.options.identity import identity
from lossline.reporting.grids import interval, number, percent
from lossline.reporting.making import making_section
from lossline.reporting.page import Block, Cell, Column, Grid, Page, Section, render
from lossline.reporting.page_files import Pictures, page_path
from lossline.reporting.selections.charts import coefficient_panels, composition_chart
from lossline.terminal import Say, now_and_then, silent

_PANELS = 6  # targets of a figure
_ROWS = 400  # most rows of a table of the page; the files have all


def write_selection_report(
    found: Choices,
    options: ChooseOptions,
    out: str | os.PathLike[str],
    *,
    title: str = "Selected pages",
    provenance: Mapping[str, Any] | None = None,
    say: Say = silent,
) -> Path:
    """Write ``<out>/report.html`` (self-contained) and ``<out>/figures/*.png`` and ``*.svg``.

    Args:
        found: the selections.
        options: their options.
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
    report = _Report(
        found=found, options=options, pictures=pictures, provenance=dict(provenance or {})
    )
    write_text(page, render(report.page(title)))
    return page


@dataclass(frozen=True, kw_only=True)
class _Report:
    """The selections, with what all sections share."""

    found: Choices
    options: ChooseOptions
    pictures: Pictures
    provenance: dict[str, Any]

    def page(self, title: str) -> Page:
        options = self.options
        return Page(
            title=title,
            subtitle=subtitle(self.found, options),
            verdicts=summary_sentences(self.found, options),
            sections=list(filter(lambda section: section.blocks, self._sections())),
            first="Summary",
            no_verdict="Nothing was selected.",
        )

    def _sections(self) -> Iterator[Section]:
        yield self._selections()
        yield self._coefficients()
        yield self._compositions()
        yield self._pool()
        yield making_section(self.provenance, identity(self.options))

    def _selections(self) -> Section:
        rows = selection_rows(self.found, self.options)
        columns = [Column("target", keep=True), Column("method", keep=True)]
        columns += [Column(name, number=True) for name in ("pages", "tokens", "MB", "epochs")]
        columns += [Column("largest domains", wide=True), Column("quality", wide=True)]
        body = [
            [
                Cell(row["target"]), Cell(row["method"]), Cell(f"{row['pages']:,}"),
                Cell(f"{row['tokens']:,}"), Cell(number(row["bytes"] / 1e6, 3)),
                Cell(number(row["epochs"], 3)), Cell(row["largest"]), Cell(row["quality"]),
            ]
            for row in rows
        ]  # fmt: skip
        return Section(
            title="Selections",
            anchor="selections",
            intro="A selection ends with the page that reaches the budget. Epochs: how often a "
            "training reads the selection. Quality: of the classifier, on pages it was not trained "
            "on.",
            blocks=[Grid(columns=columns, rows=body)],
        )

    def _coefficients(self) -> Section:
        found = self.found
        blocks: list[Block] = []
        if len(found.coefficients):
            targets = list(found.coefficients["target"].drop_duplicates())
            for part, start in enumerate(range(0, len(targets), _PANELS), start=1):
                name = "coefficients" + (f"-{part}" if len(targets) > _PANELS else "")
                blocks.append(
                    self.pictures.picture(
                        name,
                        coefficient_panels(found.coefficients, targets[start : start + _PANELS]),
                        "Coefficients of the domains",
                        "How strongly the losses of many models on a domain go along with their "
                        "error on the target: best and worst domains, by the estimators "
                        f"{self._estimators()}. Included: with a weight above 0. Bar: "
                        f"{percent(self.options.confidence)} interval from a bootstrap over "
                        "models, families together.",
                    )
                )
            blocks += [_heldout_grid(found.heldout), _coefficient_grid(found.coefficients)]
        return Section(
            title="Coefficients",
            anchor="coefficients",
            intro="In resamples: share of bootstrap resamples in which the domain gets weight. p: "
            "probability that any domain has a coefficient this large if losses and errors were "
            "unrelated; a small one does not say that the domain is better than others.",
            blocks=blocks,
        )

    def _estimators(self) -> str:
        methods = self.options.methods.values()
        names = [m.estimator for m in methods if isinstance(m, PerplexityCorrelations)]
        return ", ".join(dict.fromkeys(names))

    def _compositions(self) -> Section:
        rows, blocks = self.found.composition, []
        for target in self.options.targets:
            part = rows[rows["target"].isin([target.name, ANY, POOL])]
            blocks.append(
                self.pictures.picture(
                    f"composition-{target.name}",
                    composition_chart(part, target.name),
                    f"What the selections for {target.name} consist of",
                    "Share of each domain in the bytes of the pool and of each selection.",
                )
            )
        return Section(
            title="Composition",
            anchor="composition",
            blocks=[
                *blocks,
                _composition_grid(rows, "language"),
                _composition_grid(rows, "length"),
            ],
        )

    def _pool(self) -> Section:
        frame = self.found.domains
        columns = [Column("domain", keep=True)]
        columns += [Column(n, number=True) for n in ("pages", "kept", "MB", "near-duplicates")]
        body = [
            [Cell(str(r.domain)), Cell(f"{r.pages:,}"), Cell(f"{r.kept:,}"),
             Cell(number(r.bytes / 1e6, 3)), Cell(f"{r.near_duplicates:,}")]
            for r in frame.head(_ROWS).itertuples()
        ]  # fmt: skip
        blocks: list[Block] = [Grid(title="Domains", columns=columns, rows=body)]
        overlap = self.found.overlap
        overlap = overlap[overlap["overlapping"] > 0] if len(overlap) else overlap
        columns = [Column("benchmark", keep=True), Column("domain", keep=True)]
        columns += [Column("pages", number=True), Column("questions", number=True)]
        body = [
            [Cell(str(r.benchmark)), Cell(str(r.domain)), Cell(f"{r.overlapping:,}"),
             Cell(f"{r.questions:,}")]
            for r in overlap.head(_ROWS).itertuples()
        ]  # fmt: skip
        blocks.append(
            Grid(
                title="Pages with benchmark text",
                columns=columns,
                rows=body,
                empty="No page contains text of a benchmark.",
            )
        )
        return Section(title="Pool", anchor="pool", blocks=blocks)


def _heldout_grid(heldout: pd.DataFrame) -> Grid:
    columns = [Column("target", keep=True), Column("method", keep=True)]
    columns += [Column("rank correlation", number=True), Column("over splits", number=True)]
    columns += [Column("families held out", number=True), Column("by mean loss", number=True)]
    columns += [Column("models", number=True)]
    body = [
        [Cell(str(r.target)), Cell(str(r.method)), Cell(number(r.spearman, 3)),
         Cell(interval(r.lowest, r.highest)), Cell(number(r.by_family, 3)),
         Cell(number(r.mean_loss, 3)), Cell(number(r.models))]
        for r in heldout.itertuples()
    ]  # fmt: skip
    return Grid(
        title="Order of held-out models",
        caption="Models are held out in five folds; weights are estimated from the others and "
        "order the held-out models by their weighted losses. Correlation with their true order: "
        "mean, lowest and highest of 20 splits. By mean loss: all domains weigh the same.",
        columns=columns,
        rows=body,
    )


def _coefficient_grid(rows: pd.DataFrame) -> Grid:
    columns = [Column(name, keep=True) for name in ("target", "method", "domain")]
    columns += [Column("coefficient", number=True), Column("interval", number=True)]
    columns += [Column("in resamples", number=True), Column("p", number=True)]
    columns += [Column("models", number=True), Column("weight", number=True)]
    ordered = rows.sort_values(
        ["target", "method", "estimate"], ascending=[True, True, False], kind="stable"
    )
    body = [
        [Cell(str(r.target)), Cell(str(r.method)), Cell(str(r.domain)), Cell(number(r.estimate, 3)),
         Cell(interval(r.low, r.high)), Cell(percent(r.selected)), Cell(number(r.p_value, 2)),
         Cell(str(r.models)), Cell(number(r.weight, 3) if r.weight else "")]
        for r in ordered.head(_ROWS).itertuples()
    ]  # fmt: skip
    caption = "" if len(ordered) <= _ROWS else f"The first {_ROWS} of {len(ordered)} rows."
    return Grid(title="All domains", columns=columns, rows=body, caption=caption)


def _composition_grid(rows: pd.DataFrame, part: str) -> Grid:
    """Return shares by language, or bytes of pages by length."""
    rows = rows[rows["part"] == part]
    levels = list(rows["level"].drop_duplicates())[:8]
    columns = [Column("target", keep=True), Column("method", keep=True)]
    columns += [Column(str(level), number=True) for level in levels]
    body = []
    for (target, method), group in rows.groupby(["target", "method"], sort=False):
        values = group.set_index("level")
        if part == "length":
            shown = [Cell(number(values["bytes"].get(level), 4)) for level in levels]
        else:
            shown = [Cell(percent(values["share"].get(level, 0.0))) for level in levels]
        body.append([Cell(str(target)), Cell(str(method)), *shown])
    title = "By length (bytes of a page)" if part == "length" else f"By {part}"
    caption = "In a sample of 1,000 pages each." if part == "language" else ""
    return Grid(title=title, columns=columns, rows=body, caption=caption, empty="not measured")
