"""Write the report of token dynamics: report.html with its figures, and text.html."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossline.files import write_text
from lossline.options.identity import identity
from lossline.reporting.grids import interval, number, percent
from lossline.reporting.making import making_section
from lossline.reporting.page import (
    Block,
    Cell,
    Column,
    Grid,
    Page,
    Paragraph,
    Section,
    render,
)
from lossline.reporting.page_files import Pictures, page_path
from lossline.reporting.token_dynamics.charts import curve_chart, excess_chart, share_chart
from lossline.reporting.token_dynamics.text_page import text_page
from lossline.terminal import Say, now_and_then, silent
from lossline.token_dynamics.classes import CLASSES, PUBLISHED_SHARES, Rule
from lossline.token_dynamics.options import AnalysisOptions
from lossline.token_dynamics.results import TokenDynamics
from lossline.token_dynamics.summary import PUBLISHED, rule_words, subtitle, summary_sentences

TEXT_PAGE = "text.html"
_RUNS = 4  # runs of a figure of curves
_EXCESS_RUNS = 12  # runs of a figure of excess loss


def write_dynamics_report(
    found: TokenDynamics,
    options: AnalysisOptions,
    out: str | os.PathLike[str],
    *,
    title: str = "Token dynamics",
    provenance: Mapping[str, Any] | None = None,
    say: Say = silent,
) -> Path:
    """Write ``<out>/report.html`` (self-contained), its figures, and ``<out>/text.html``.

    There is no text.html if the bytes of the vocabulary are not known.

    Args:
        found: the results.
        options: their options.
        out: folder of the report.
        title: title of the page.
        provenance: origin of the numbers.
        say: receives a line of progress now and then.

    Returns:
        The path of report.html.

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
    if found.sample.pieces is not None:
        write_text(page.with_name(TEXT_PAGE), text_page(found, options))
    return page


@dataclass(frozen=True, kw_only=True)
class _Report:
    """The results, with what all sections share."""

    found: TokenDynamics
    options: AnalysisOptions
    pictures: Pictures
    provenance: dict[str, Any]

    def page(self, title: str) -> Page:
        return Page(
            title=title,
            subtitle=subtitle(self.found),
            verdicts=summary_sentences(self.found, self.options),
            sections=[section for section in self._sections() if section.blocks],
            first="Summary",
        )

    def _sections(self) -> Iterator[Section]:
        yield self._shares()
        yield self._curves()
        yield self._excess()
        yield self._agreement()
        yield self._text()
        yield making_section(self.provenance, identity(self.options))

    def _shares(self) -> Section:
        found, options = self.found, self.options
        columns = [Column("run", keep=True), Column("threshold", keep=True)]
        columns += [Column(name, number=True) for name in CLASSES]
        body = []
        for (run, rule), rows in found.classes.groupby(["run", "rule"], sort=False):
            cells = [
                Cell(percent(row.share), note=interval(100 * row.low, 100 * row.high))
                for row in rows.itertuples()
            ]
            body.append([Cell(str(run)), Cell(rule_words(str(rule), options)), *cells])
        published = [Cell(percent(share)) for share in PUBLISHED_SHARES]
        body.append([Cell("published", note=PUBLISHED), Cell("threshold 0.2 nats"), *published])
        caption = (
            f"Share of each class, with its {percent(options.confidence)} interval from a "
            "bootstrap over documents. Dashed: published shares."
        )
        return Section(
            title="Classes",
            anchor="classes",
            intro="A line is fitted to the losses of each token over the checkpoints. H→L: its "
            "change from first to last checkpoint is below minus the threshold; L→H: above the "
            "threshold; otherwise L→L if the last loss is at most the mean last loss of all "
            "tokens, else H→H. The fixed threshold is the same for all tokens. The one scaled to "
            "noise is what a token without a trend exceeds with the stated probability, given its "
            "own scatter around the line (Student's t).",
            blocks=[
                self.pictures.picture("shares", share_chart(found.classes), "Classes", caption),
                Grid(columns=columns, rows=body),
                self._run_grid(),
            ],
        )

    def _run_grid(self) -> Grid:
        columns = [Column("run", keep=True)]
        names = ("checkpoints", "steps", "mean last loss", "median noise threshold")
        columns += [Column(name, number=True) for name in (*names, "neighboring residuals")]
        body = [
            [Cell(str(r.run)), Cell(str(r.checkpoints)),
             Cell(f"{r.first_step:,} – {r.last_step:,}"), Cell(number(r.mean_last)),
             Cell(number(r.noise_median, 3)), Cell(f"{r.lag:+.2f}")]
            for r in self.found.runs.itertuples()
        ]  # fmt: skip
        return Grid(
            title="Runs",
            columns=columns,
            rows=body,
            caption="Losses in nats per token. Neighboring residuals: their correlation above that "
            "of independent noise; near 0, the noise threshold has its stated rate of false "
            "positives.",
        )

    def _curves(self) -> Section:
        runs = self.found.runs["run"].tolist()
        blocks: list[Block] = []
        for part, start in enumerate(range(0, len(runs), _RUNS), start=1):
            name = "curves" + (f"-{part}" if len(runs) > _RUNS else "")
            figure = curve_chart(self.found.curves, runs[start : start + _RUNS])
            caption = (
                "Mean loss of the tokens of each class at every checkpoint; band: "
                f"{percent(self.options.confidence)} interval over documents. Classes are those of "
                "the whole training, so that falling and rising curves follow from the rule."
            )
            blocks.append(self.pictures.picture(name, figure, "Losses of the classes", caption))
        return Section(title="Losses over training", anchor="curves", blocks=blocks)

    def _excess(self) -> Section:
        found, options = self.found, self.options
        if found.excess.empty:
            return Section(title="Excess loss", anchor="excess", blocks=[])
        blocks: list[Block] = []
        runs = found.runs["run"].tolist()
        for part, start in enumerate(range(0, len(runs), _EXCESS_RUNS), start=1):
            name = "excess" + (f"-{part}" if len(runs) > _EXCESS_RUNS else "")
            shown = found.excess[found.excess["run"].isin(runs[start : start + _EXCESS_RUNS])]
            figure = excess_chart(shown, found.reference)
            caption = "Mean over the tokens of a class and over all checkpoints."
            blocks.append(self.pictures.picture(name, figure, "Excess loss by class", caption))
        columns = [Column("run", keep=True), Column("threshold", keep=True), Column("class")]
        names = ("excess", "first checkpoint", "last checkpoint", "selected")
        columns += [Column(name, number=True) for name in names]
        body = [
            [Cell(str(r.run)), Cell(rule_words(str(r.rule), options)), Cell(str(r.name)),
             Cell(number(r.excess, 3), note=interval(r.low, r.high)), Cell(number(r.first, 3)),
             Cell(number(r.last, 3)), Cell(percent(r.selection_frequency))]
            for r in found.excess.rename(columns={"class": "name"}).itertuples()
        ]  # fmt: skip
        blocks.append(Grid(columns=columns, rows=body))
        return Section(
            title="Excess loss",
            anchor="excess",
            intro=f"Loss minus the loss under {found.reference}, in nats. Selected: how often a "
            f"token of the class is among the {100 * options.share:g}% of the sample with the "
            "largest excess loss, over all checkpoints.",
            blocks=blocks,
        )

    def _agreement(self) -> Section:
        columns = [Column("runs", keep=True), Column("classes by", keep=True)]
        columns += [Column("tokens that agree", number=True), Column("kappa", number=True)]
        words = {Rule.FIXED.value: "fixed threshold", Rule.NOISE.value: "noise threshold"}
        body = [
            [Cell(str(r.runs)), Cell(words.get(str(r.rule), "the two thresholds")),
             Cell(percent(r.agreed), note=interval(100 * r.agreed_low, 100 * r.agreed_high)),
             Cell(number(r.kappa, 3), note=interval(r.kappa_low, r.kappa_high))]
            for r in self.found.agreement.itertuples()
        ]  # fmt: skip
        return Section(
            title="Agreement",
            anchor="agreement",
            intro="Kappa (Cohen 1960) corrects for chance: 1 if all tokens have equal classes, 0 "
            "if the classes are independent. Between seeds it says how far a class is a property "
            "of the token.",
            blocks=[Grid(columns=columns, rows=body)],
        )

    def _text(self) -> Section:
        blocks: list[Block] = []
        if self.found.sample.pieces is not None:
            blocks.append(Paragraph(text=f"{TEXT_PAGE} in this folder shows text with its tokens."))
        return Section(title="Text", anchor="text", blocks=blocks)
