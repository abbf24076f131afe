"""Write the report of a plan of next runs: one HTML file and its figure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lossline.design.plan import Plan
from lossline.design.plan_files import facts_text, sentences
from lossline.files import write_text
from lossline.reporting.grids import count, number, percent
from lossline.reporting.making import making_section
from lossline.reporting.next_runs.chart import width_chart
from lossline.reporting.page import (
    Block,
    Cell,
    Column,
    Grid,
    Listing,
    Page,
    Paragraph,
    Section,
    render,
)
from lossline.reporting.page_files import Pictures, page_path
from lossline.terminal import Say, silent

_CANDIDATES = 40  # rows of the page; candidates.csv has all


def write_plan_report(
    plan: Plan,
    out: str | os.PathLike[str],
    *,
    grid: str,
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any] | None = None,
    say: Say = silent,
) -> Path:
    """Write ``<out>/report.html`` (self-contained) and ``<out>/figures/width.png`` and ``.svg``.

    Args:
        plan: the plan.
        out: folder of the report.
        grid: gin text of a study of the picks.
        settings: options of the plan.
        provenance: origin of the numbers.
        say: receives a line of progress for the figure.

    Returns:
        The path of the page.

    Raises:
        UserError: ``report.html`` exists and was not written by lossline.
    """
    page = page_path(out)
    page.parent.mkdir(parents=True, exist_ok=True)
    pictures = Pictures(folder=page.parent / "figures", say=say)
    picture = pictures.picture(
        "width",
        width_chart(plan),
        "Expected half width of the interval against FLOPs spent",
        "One dot per run, in order; its number is that of the table. The lower curve uses the same "
        "FLOPs better. These are expectations, made before any of the runs.",
    )
    notes: list[Block] = [Paragraph(text=note) for note in plan.notes]
    sections = [
        Section(title="Runs to make next", anchor="picks", blocks=[_pick_grid(plan), picture]),
        Section(
            title="The grid for study",
            anchor="grid",
            intro="It is the file grid.gin of this folder. Look at it with "
            "python -m lossline.study --gin_file=grid.gin --dry_run",
            blocks=[Listing(text=grid)],
        ),
        Section(title="All candidates", anchor="candidates", blocks=[_candidate_grid(plan)]),
        *([Section(title="Notes", anchor="notes", blocks=notes)] if notes else []),
        making_section(provenance or {}, settings),
    ]
    text = Page(
        title="Which runs next?",
        subtitle=f"{len(plan.picks)} of {len(plan.candidates)} candidates chosen.",
        verdicts=sentences(plan),
        sections=sections,
        first="Summary",
    )
    write_text(page, render(text))
    return page


def _pick_grid(plan: Plan) -> Grid:
    columns = [
        Column("run", number=True), Column("parameters", number=True),
        Column("tokens", number=True), Column("FLOPs", number=True), Column("data"),
        Column("expected half width after it", number=True),
        Column("share of the gain", number=True), Column("gain per FLOP", number=True),
    ]  # fmt: skip
    rows = [
        [
            Cell(str(place)),
            Cell(count(pick.candidate.params)),
            Cell(count(pick.candidate.tokens)),
            Cell(number(pick.candidate.flops, 3)),
            Cell(facts_text(pick.candidate)),
            Cell(number(pick.half_width, 3)),
            Cell(percent(pick.share)),
            Cell(number(pick.per_flop, 3)),
        ]
        for place, pick in enumerate(plan.picks, start=1)
    ]
    return Grid(
        columns=columns, rows=rows, empty="No run within the budget narrows the interval.",
        caption="In the order to make them: each counts what the ones before it have told already.",
    )  # fmt: skip


def _candidate_grid(plan: Plan) -> Grid:
    shown = plan.candidates.head(_CANDIDATES)
    counts = {"params", "tokens"}
    numeric = shown.select_dtypes("number").columns
    rows = [
        [
            Cell(
                count(value)
                if name in counts
                else number(value, 3)
                if name in numeric
                else str(value)
            )
            for name, value in row.items()
        ]
        for row in shown.to_dict("records")
    ]
    more = len(plan.candidates) - len(shown)
    return Grid(
        columns=[
            Column(str(name).replace("_", " "), number=name in numeric) for name in shown.columns
        ],
        rows=rows,
        caption="Each on its own, before any other run."
        + (f" {more} more are in candidates.csv." if more > 0 else ""),
        empty="no candidates",
    )
