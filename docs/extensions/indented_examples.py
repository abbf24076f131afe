"""Show indented examples of docstrings as code.

A docstring's example is indented after a blank line. reStructuredText would read it as a quotation
of prose; it is code here, whether or not the line before it ends in ``::``.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_LIST_ITEM = re.compile(r"([-*]|\d+\.) ")


def mark_examples(lines: list[str]) -> None:
    """Insert ``::`` before each indented block that follows a paragraph, in place.

    Paragraphs of list items and of sections (``Args:``), which are indented too, are left alone.
    """
    number = 1
    while number < len(lines):
        before = next((line for line in reversed(lines[:number]) if line.strip()), "")
        starts = lines[number].startswith(" ") and not lines[number - 1].strip()
        prose = before[:1] not in ("", " ") and not _LIST_ITEM.match(before)
        if starts and prose and not before.endswith("::"):
            lines[number:number] = ["::", ""]
            number += 2
        number += 1


def _mark(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    mark_examples(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect ahead of Napoleon, which rewrites sections."""
    app.connect("autodoc-process-docstring", _mark, priority=400)
    return {"parallel_read_safe": True}
