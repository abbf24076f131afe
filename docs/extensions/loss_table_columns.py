"""Directives ``loss-table-columns`` and ``score-table-columns``: columns, from the schemas."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from lossline.tables import scores
from lossline.tables.schema import CHECKPOINT, COLUMNS, FACTS, Column, Kind

_KINDS = {Kind.TEXT: "text", Kind.COUNT: "whole number", Kind.NUMBER: "number"}


def part_of_row(column: Column) -> str:
    """Return which part of a row a column belongs to."""
    if column.name in FACTS:
        return "run"
    if column.name in CHECKPOINT:
        return "checkpoint"
    return "set" if column.name in ("eval_set", "kind") else "measurement"


def markdown() -> str:
    """Return the table of columns as Markdown."""
    rows = "".join(
        f"| `{column.name}` | {part_of_row(column)} | {_KINDS[column.kind]} | "
        f"{'required' if column.required else ''} | {column.meaning} |\n"
        for column in COLUMNS
    )
    return f"| column | of the | holds | | meaning, unit |\n|---|---|---|---|---|\n{rows}"


def scores_markdown() -> str:
    """Return the columns of a score table as Markdown."""
    rows = "".join(
        f"| `{column.name}` | {_KINDS[column.kind]} | {column.meaning} |\n"
        for column in scores.COLUMNS
    )
    return f"| column | holds | meaning, unit |\n|---|---|---|\n{rows}"


class LossTableColumns(SphinxDirective):
    """Insert the table of columns."""

    def run(self) -> list[nodes.Node]:
        """Return the nodes of the table."""
        return self.parse_text_to_nodes(markdown())


class ScoreTableColumns(SphinxDirective):
    """Insert the table of columns."""

    def run(self) -> list[nodes.Node]:
        """Return the nodes of the table."""
        return self.parse_text_to_nodes(scores_markdown())


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("loss-table-columns", LossTableColumns)
    app.add_directive("score-table-columns", ScoreTableColumns)
    return {"parallel_read_safe": True}
