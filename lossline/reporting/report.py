"""Write the report of a fit: one HTML file and its figures."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lossline.attribution.results import Verdict
from lossline.errors import UserError
from lossline.explorer.parts import Explorer
from lossline.files import write_text
from lossline.fits.results import TableFit
from lossline.lines.common_cases import compare
from lossline.reporting import charts, figures, grids
from lossline.reporting.appearance import Appearance
from lossline.reporting.lines import (
    Curve,
    calibration_note,
    curves_for,
    drawable,
    line_grid,
)
from lossline.reporting.making import making_section
from lossline.reporting.page import Block, Page, Paragraph, Section, render
from lossline.reporting.page_files import Pictures, page_path
from lossline.reporting.points import MOST_POINTS, SHARE_POINTS, Losses, usable
from lossline.reporting.reading.descriptions import (
    errors_show,
    moves_show,
    panels_show,
    training_shows,
)
from lossline.reporting.reading.exploration import exploration
from lossline.tables.continued import continued_note
from lossline.tables.schema import Unit
from lossline.terminal import Say, now_and_then, silent
from lossline.workers import Workers

_LARGE = 100_000  # rows of a table whose figures worker processes save
_NOT_VARIED = (Verdict.CONSTANT, Verdict.MISSING)


def write_report(
    results: TableFit,
    out: str | os.PathLike[str],
    *,
    title: str = "Loss-to-loss report",
    processes: int = 1,
    say: Say = silent,
) -> Path:
    """Write ``<out>/report.html`` (self-contained) and ``<out>/figures/*.png`` and ``*.svg``.

    A report that lossline wrote before is replaced. The page appears only when it is complete.

    Args:
        results: results of the fits.
        out: folder of the report.
        title: title of the page.
        processes: processes that save the figures of a large table; those of a small one are saved
            sooner than a process starts.
        say: receives a line of progress now and then.

    Returns:
        The path of the page.

    Raises:
        UserError: ``report.html`` exists and was not written by lossline, or the table has no
            measured rows.
    """
    page = page_path(out)
    if usable(results.table).empty:
        raise UserError("the loss table has no measured rows: there is nothing to report")
    page.parent.mkdir(parents=True, exist_ok=True)
    with Workers(processes if len(results.table) >= _LARGE else 1) as workers:
        workers.start(functools.partial(figures.grid_columns, 1))
        report = _Report.of(results, page.parent / "figures", workers, say)
        found = report.page(title)
        report.pictures.saved()
    write_text(page, render(found))
    return page


@dataclass(frozen=True, kw_only=True)
class _Report:
    """The fit, with everything that all sections share."""

    results: TableFit
    losses: Losses
    pictures: Pictures
    appearance: Appearance
    curves: Sequence[Curve]
    units: Sequence[Unit]
    x: str
    partners: Mapping[Unit, frozenset[str]]

    @classmethod
    def of(cls, results: TableFit, folder: Path, workers: Workers, say: Say) -> _Report:
        losses = Losses(results.table)
        x = _main_x(results, losses)
        units = [
            unit
            for unit in Unit
            if any(losses.eval_sets(kind=kind, unit=unit) for kind in ("validation", "task"))
        ]
        return cls(
            results=results,
            losses=losses,
            pictures=Pictures(folder=folder, say=now_and_then(say), workers=workers),
            appearance=Appearance.of(losses.table),
            curves=drawable(results.lines),
            units=units,
            x=x,
            partners={unit: losses.partners(x, unit=unit) for unit in units},
        )

    def page(self, title: str) -> Page:
        results = self.results
        runs = [grids.run_grid(results.table)]
        sections = [
            self._explore(), self._factors(), self._lines(), self._compute(), self._fits(),
            self._held_out(), self._exclusions(),
            making_section(results.provenance, results.settings, more=runs),
        ]  # fmt: skip
        table = self.losses.table
        checkpoints = len(table[["run_id", "step"]].drop_duplicates())
        subtitle = (
            f"{table['run_id'].nunique():,} runs, {checkpoints:,} checkpoints, "
            f"{table['eval_set'].nunique():,} evaluation sets; pretraining data: "
            f"{', '.join(self.appearance.colors)}; architectures: "
            f"{', '.join(self.appearance.markers)}."
        )
        return Page(
            title=title,
            subtitle=subtitle,
            verdicts=verdicts(self.results),
            sections=sections,
            no_verdict=self.results.attribution.message or "No factor was tested.",
        )

    def _explore(self) -> Section:
        _, y, _ = self._shown
        study = exploration(
            self.results, self.losses, self.curves, self.appearance, x=self.x, y=y or self.x,
            units=self.units,
        )  # fmt: skip
        return Section(title="Explore", anchor="explore", blocks=[Explorer(study=study)])

    def _lines(self) -> Section:
        blocks: list[Block] = [Paragraph(text=self._reading())]
        tasks = _sets(self.losses, "task", self.units)
        validation, y, units = self._shown
        if units:
            figure = figures.overview(
                self.losses, self.curves, self.appearance, x=self.x, y=y, units=units
            )
            blocks.append(
                self.pictures.picture(
                    "overview",
                    figure,
                    f"Loss on {y} against loss on {self.x}",
                    self._caption([y], units),
                    panels_show(self.losses, self.x, [y], units),
                )
            )
        for kind, names in (("validation", validation), ("task", tasks)):
            blocks += self._grids(kind, names)
        return Section(
            title="Loss-to-loss lines",
            anchor="lines",
            intro="One point is one checkpoint of one run. Where two groups lie on one line, the "
            "loss on one set predicts the loss on the other, whatever else differs between the "
            "groups.",
            blocks=blocks
            if len(blocks) > 1
            else [Paragraph(text="Only one evaluation set was measured: there are no lines.")],
        )

    @property
    def _shown(self) -> tuple[list[str], str, Sequence[Unit]]:
        """Validation sets but the x set; set and units of the first figure."""
        validation = [
            name for name in _sets(self.losses, "validation", self.units) if name != self.x
        ]
        return validation, *self._main_y(_sets(self.losses, "task", self.units), validation)

    def _main_y(
        self, tasks: Sequence[str], validation: Sequence[str]
    ) -> tuple[str, Sequence[Unit]]:
        """HellaSwag if measured (as in figure 1 of the paper), else the first set with pairs."""
        famous = [name for name in tasks if "hellaswag" in name.lower()]
        for y in (*famous, *tasks, *validation):
            units = [unit for unit in self.units if y in self.partners[unit]]
            if units:
                return y, units
        return "", ()

    def _grids(self, kind: str, names: Sequence[str]) -> list[Block]:
        blocks: list[Block] = []
        for unit in self.units:
            known = [name for name in names if name in self.partners[unit]]
            step = figures.PANELS_PER_FIGURE
            for part, start in enumerate(range(0, len(known), step), start=1):
                ys = known[start : start + step]
                figure = figures.loss_grid(
                    self.losses, self.curves, self.appearance, x=self.x, ys=ys, unit=unit
                )
                what = "Validation losses" if kind == "validation" else "Task losses"
                suffix = f"-{part}" if len(known) > step else ""
                short = "nats" if unit is Unit.NATS else "bits"
                blocks.append(
                    self.pictures.picture(
                        f"{kind}-{short}{suffix}",
                        figure,
                        f"{what} against loss on {self.x}, {unit.words}",
                        self._caption(ys, [unit]),
                        panels_show(self.losses, self.x, ys, [unit]),
                    )
                )
        return blocks

    def _caption(self, ys: Sequence[str], units: Sequence[Unit]) -> str:
        drawn = [
            curve
            for y in ys
            for unit in units
            for curve in curves_for(self.curves, x=self.x, y=y, unit=unit)
        ]
        words = "Both axes are losses of the same checkpoint."
        if drawn:
            bands = "line with its 90% band" if len(drawn) == 1 else "lines with their 90% bands"
            words += f" {len(drawn)} fitted {bands}."
        if any(self.losses.crowded(self.x, ys, unit=unit) for unit in units):
            words += (
                f" A panel with more than {MOST_POINTS:,} checkpoints shows an even share of them, "
                f"about {SHARE_POINTS:,}; its lines, bands and limits are those of all."
            )
        return words

    def _reading(self) -> str:
        words = (
            "How to read the figures. Color: pretraining data. Marker: architecture. Open or "
            "half-filled marker: the run differs from most others in what the legend names. Large "
            "marker: last checkpoint of a run; small marker: earlier checkpoint."
        )
        if self.curves:
            words += (
                " Line: y = K (x − E_x)^κ + E_y, fitted to one group over the range shown. Shaded: "
                "90% band of the line, by a bootstrap over runs. Dashes: architecture. Hollow "
                "line: another tokenizer than most runs. A line that the data do not determine is "
                "not drawn; the table of fits gives the reason."
            )
        return words

    def _factors(self) -> Section:
        attribution = self.results.attribution
        blocks: list[Block] = []
        if any(factor.verdict not in _NOT_VARIED for factor in attribution.factors):
            figure = charts.attribution_chart(attribution, units=self.units or [Unit.NATS])
            blocks.append(
                self.pictures.picture(
                    "attribution",
                    figure,
                    "Move of the line when only one factor changes, largest move first",
                    "Large dot: move on the evaluation set that the sentence names, with an "
                    "interval that holds for all pairs of levels together; below it, the two "
                    "levels and the set. Small dots: the other sets (arrowhead: beyond the axis). "
                    "Diamonds: groups of runs that move differently. p: p-value of no move, with "
                    "the run as the unit of evidence, Holm-corrected over the comparisons of the "
                    f"unit; significant below {attribution.alpha:g}. The axis is linear within the "
                    f"margin and logarithmic beyond it. {attribution.margins}",
                    moves_show(attribution),
                )
            )
        blocks += [grids.factor_grid(attribution), grids.effect_grid(attribution)]
        return Section(
            title="What moves the line",
            anchor="factors",
            intro="Only runs that agree in every other recorded fact are compared. The moves use "
            "the measured losses, not the fitted lines.",
            blocks=blocks,
        )

    def _compute(self) -> Section:
        blocks: list[Block] = []
        unit = self.units[0]
        for kind, name in (("validation", "compute-validation"), ("task", "compute-task")):
            sets = self.losses.eval_sets(kind=kind, unit=unit)[: figures.PANELS_PER_FIGURE]
            if sets:
                crowded = self.losses.crowded(sets[0], sets, unit=unit)
                figure = figures.loss_over_compute(
                    self.losses,
                    self.results.compute_laws,
                    self.appearance,
                    sets=sets,
                    unit=unit,
                )
                blocks.append(
                    self.pictures.picture(
                        name,
                        figure,
                        f"Losses during training ({kind} sets)",
                        "One curve per run; marker: last checkpoint. Losses as measured, not "
                        "smoothed; compute as recorded in the loss table. Dotted: the law from "
                        "scale to loss, at the best model size of the group."
                        + (" Only an even share of the runs has a curve." if crowded else ""),
                        training_shows(self.losses, sets, unit),
                    )
                )
        blocks.append(grids.compute_law_grid(self.results.compute_laws))
        return Section(
            title="Losses against compute",
            anchor="compute",
            intro=continued_note(self.losses.table),
            blocks=blocks,
        )

    def _fits(self) -> Section:
        lines = self.results.lines
        blocks = [
            line_grid([line for line in lines if Unit(line.unit) is unit], unit)
            for unit in Unit
            if unit is Unit.NATS or any(Unit(line.unit) is unit for line in lines)
        ]
        return Section(
            title="Table of fits",
            anchor="fits",
            intro="y = K (x − E_x)^κ + E_y. R² is in loss space. The R² of a straight line beside "
            "it shows where a curve explains no more than a straight line. "
            + calibration_note(lines),
            blocks=blocks,
        )

    def _held_out(self) -> Section:
        heldout = self.results.heldout
        blocks: list[Block] = []
        for found in compare(heldout):
            if not found.common:
                continue
            unit, methods = Unit(found.unit), found.methods
            figure = charts.held_out_chart(
                heldout[heldout["unit"] == found.unit], self.appearance, unit=unit,
                methods=methods, same=found.rows,
            )  # fmt: skip
            short = "nats" if unit is Unit.NATS else "bits"
            blocks.append(
                self.pictures.picture(
                    f"held-out-{short}",
                    figure,
                    f"Held-out runs: predicted and measured, {unit.words}",
                    f"Left: predictions of held-out runs by “{methods[0]}”, with 90% prediction "
                    "intervals where known. Right: the size of every error, by method, on the "
                    f"{found.common} losses that all of these methods predicted; bar and number: "
                    "median.",
                    errors_show(found),
                )
            )
        blocks.append(grids.held_out_grid(heldout))
        return Section(title="Held-out predictions", anchor="held-out", blocks=blocks)

    def _exclusions(self) -> Section:
        return Section(
            title="Data left out, and why",
            anchor="excluded",
            blocks=grids.exclusion_grids(self.results),
        )


def verdicts(results: TableFit) -> list[str]:
    """Return the verdict section as sentences.

    They are the ranking and the margin, one text per factor that varies, notes on single runs, and
    the factors that do not vary.
    """
    factors = results.attribution.factors
    found = results.attribution
    sentences = [factor.sentence for factor in factors if factor.verdict not in _NOT_VARIED]
    if sentences:
        first = " ".join(text for text in (found.ranking, found.margins) if text)
        sentences = [*([first] if first else []), *sentences, *found.notes]
    same = [
        f"{factor.label.removeprefix('the ')} ({factor.verdict})"
        for factor in factors
        if factor.verdict in _NOT_VARIED
    ]
    if sentences and same:
        sentences.append(f"Not tested: {', '.join(same)}.")
    return sentences


def _sets(losses: Losses, kind: str | None, units: Sequence[Unit]) -> list[str]:
    """Sets of one kind (None: any kind) that were measured in at least one of the units."""
    kinds = ("validation", "task") if kind is None else (kind,)
    found = {name for k in kinds for unit in units for name in losses.eval_sets(kind=k, unit=unit)}
    return sorted(found)


def _main_x(results: TableFit, losses: Losses) -> str:
    """Set of the x axis: that of the attribution, else that of most lines, else the first."""
    sets = _sets(losses, None, list(Unit))
    counts = Counter(line.x_set for line in results.lines)
    candidates = [results.attribution.x_set, *sorted(counts, key=lambda s: (-counts[s], s))]
    validation = _sets(losses, "validation", list(Unit))
    return next(name for name in [*candidates, *validation, *sets] if name in sets)
