"""The parts of a report and how they become one HTML file that needs nothing else.

Everything a study brings along (names of runs, sets, messages) is untrusted text: the template
escapes all of it, and the page's own content policy forbids scripts and anything from elsewhere.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import ClassVar

import jinja2


@dataclass(frozen=True)
class Cell:
    """One cell of a table; `tone` is a class of the style sheet: good, warn, bad, moved, same.

    `note` stands small beneath the text: an interval, a reason.
    """

    text: str
    tone: str = ""
    note: str = ""


@dataclass(frozen=True)
class Column:
    """One column: numbers are set flush right, `keep` forbids line breaks, `wide` is for prose."""

    title: str
    number: bool = False
    keep: bool = False
    wide: bool = False

    @property
    def css(self) -> str:
        """Class of its cells."""
        return "number" if self.number else "keep" if self.keep else "wide" if self.wide else ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure: the PNG, and a caption that says what it shows and how it was made."""

    kind: ClassVar[str] = "picture"
    title: str
    caption: str
    png: Path
    number: int
    width: int = 1000

    @property
    def base64(self) -> str:
        """The file's bytes for a data URI."""
        return base64.b64encode(self.png.read_bytes()).decode("ascii")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table; `empty` is said where it has no rows."""

    kind: ClassVar[str] = "grid"
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    caption: str = ""
    empty: str = "nothing to show"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Preformatted text: a command, a configuration."""

    kind: ClassVar[str] = "listing"
    text: str
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """A sentence or two."""

    kind: ClassVar[str] = "paragraph"
    text: str


Block = Picture | Grid | Listing | Paragraph


@dataclass(frozen=True, kw_only=True)
class Section:
    """A titled part of the page with an anchor of its own."""

    title: str
    anchor: str
    blocks: Sequence[Block]
    intro: str = ""


@dataclass(frozen=True, kw_only=True)
class Page:
    """The whole report."""

    title: str
    subtitle: str
    verdicts: Sequence[str]
    sections: Sequence[Section]
    no_verdict: str = "Nothing could be attributed; the reasons are given below."


def render(page: Page) -> str:
    """The page as HTML, pictures and style inside."""
    templates = resources.files("lossline.reporting") / "templates"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((templates / "report.html.j2").read_text("utf-8"))
    style = jinja2.filters.Markup((templates / "report.css").read_text("utf-8"))
    return template.render(page=page, style=style)
