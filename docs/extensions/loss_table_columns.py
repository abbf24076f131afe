"""The directive ``loss-table-columns``: the columns of a loss table, from the schema."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

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


class LossTableColumns(SphinxDirective):
    """Insert the table of columns."""

    def run(self) -> list[nodes.Node]:
        """Return the nodes of the table."""
        return self.parse_text_to_nodes(markdown())


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("loss-table-columns", LossTableColumns)
    return {"parallel_read_safe": True}
