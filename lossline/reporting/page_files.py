"""Files of a report: numbered figures, and a page that replaces only earlier reports."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from lossline.errors import UserError
from lossline.places import to_path
from lossline.reporting import figures
from lossline.reporting.page import Picture
from lossline.terminal import Say, silent
from lossline.workers import HERE, Workers

GENERATOR = '<meta name="generator" content="lossline">'


def page_path(out: str | os.PathLike[str]) -> Path:
    """Return ``<out>/report.html``.

    Raises:
        UserError: the file exists and was not written by lossline.
    """
    page = to_path(out) / "report.html"
    if page.exists() and GENERATOR not in page.read_text("utf-8", errors="replace")[:4000]:
        raise UserError(f"{page} exists and was not written by lossline; give another folder")
    return page


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Saves figures and numbers them in the order of the page.

    Attributes:
        folder: folder of the images.
        say: receives a line of progress for each figure.
        workers: where figures are saved; ``saved`` waits for them.
        counter: numbers of the figures.
    """

    folder: Path
    say: Say = silent
    workers: Workers = HERE
    counter: Iterator[int] = field(default_factory=lambda: iter(range(1, 10_000)))
    _pending: list[Callable[[], Path]] = field(default_factory=list)

    def picture(
        self, name: str, figure: Figure, title: str, caption: str, shows: str = ""
    ) -> Picture:
        """Save a figure and return it with its caption and what it shows."""
        self.say(f"  figures/{name}.png")
        path = self.folder / f"{name}.png"
        width = round(figure.get_figwidth() * 145)
        self._pending.append(self.workers.begin(figures.save, figure, path))
        return Picture(
            title=title,
            caption=caption,
            png=path,
            number=next(self.counter),
            shows=shows,
            width=width,
        )

    def saved(self) -> None:
        """Wait until all figures are saved.

        Raises:
            UserError: a worker process was killed.
        """
        for wait in self._pending:
            wait()
