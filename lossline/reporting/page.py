"""Parts of a report, and how they become one self-contained HTML file.

All text of a table (names of runs and sets, messages) is untrusted. The template escapes it, and
the content security policy of the page admits its own scripts only and forbids external files.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import ClassVar

import jinja2

from lossline.explorer.parts import Explorer, policy, scripts

MOST_VECTOR = 400_000  # bytes of a compressed SVG that a page holds


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: text of the cell.
        tone: class of the style sheet: good, warn, bad, moved or same; empty for none.
        note: small text below it: an interval or a reason.
    """

    text: str
    tone: str = ""
    note: str = ""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        title: header of the column.
        number: align right, for numbers.
        keep: forbid line breaks.
        wide: give the column room for sentences.
    """

    title: str
    number: bool = False
    keep: bool = False
    wide: bool = False

    @property
    def css(self) -> str:
        """Class of its cells in the style sheet."""
        return "number" if self.number else "keep" if self.keep else "wide" if self.wide else ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure with its caption.

    Attributes:
        title: what the figure is of.
        caption: how to read it and how it was made.
        png: path of the image; the same figure as SVG is beside it.
        number: number of the figure.
        shows: what a reader sees in it, for those who do not; goes into the alternative text.
        width: width on the page, in pixels.
    """

    kind: ClassVar[str] = "picture"
    title: str
    caption: str
    png: Path
    number: int
    shows: str = ""
    width: int = 1000

    @property
    def alternative(self) -> str:
        """Alternative text."""
        return f"{self.title}. {self.shows}".strip()

    @property
    def base64(self) -> str:
        """Content of the file for a data URI."""
        return base64.b64encode(self.png.read_bytes()).decode("ascii")

    @property
    def vector(self) -> str:
        """The SVG, deflated (zlib), in base64, for its download; "" if there is none or too large.

        Text of this kind is a fifth of the SVG, so that it costs a page less than its image does.
        """
        svg = self.png.with_suffix(".svg")
        packed = zlib.compress(svg.read_bytes(), 9) if svg.exists() else b""
        return base64.b64encode(packed).decode("ascii") if len(packed) <= MOST_VECTOR else ""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table.

    Attributes:
        columns: its columns.
        rows: its rows of cells.
        title: title above it.
        caption: caption above it.
        empty: text that replaces a table without rows.
    """

    kind: ClassVar[str] = "grid"
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    caption: str = ""
    empty: str = "nothing to show"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Preformatted text, such as a command."""

    kind: ClassVar[str] = "listing"
    text: str
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """A paragraph of text."""

    kind: ClassVar[str] = "paragraph"
    text: str


Block = Picture | Grid | Listing | Paragraph | Explorer


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page with a title and an anchor."""

    title: str
    anchor: str
    blocks: Sequence[Block]
    intro: str = ""


@dataclass(frozen=True, kw_only=True)
class Page:
    """The whole report.

    Attributes:
        title: headline.
        subtitle: small text below it.
        verdicts: sentences of the first section.
        sections: the other sections.
        no_verdict: text of the first section if it has no sentence.
        first: title of the first section.
    """

    title: str
    subtitle: str
    verdicts: Sequence[str]
    sections: Sequence[Section]
    no_verdict: str = "No factor could be tested; see the reasons below."
    first: str = "Verdict"


def render(page: Page) -> str:
    """Return the page as HTML that contains its pictures and style."""
    templates = resources.files("lossline.reporting") / "templates"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((templates / "report.html.j2").read_text("utf-8"))
    style = jinja2.filters.Markup((templates / "report.css").read_text("utf-8"))
    blocks = [block for section in page.sections for block in section.blocks]
    parts = scripts(explorer=any(isinstance(block, Explorer) for block in blocks))
    return template.render(
        page=page,
        style=style,
        policy=policy(parts),
        scripts=[jinja2.filters.Markup(part) for part in parts],
    )
