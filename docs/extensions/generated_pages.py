"""Write generated pages, so that Sphinx reads again only what has changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def replace_pages(folder: Path, pages: Mapping[str, str], *, whole: bool = False) -> None:
    """Write pages into a folder; a page with the same text keeps its time.

    Args:
        folder: made if it does not exist.
        pages: file name -> text.
        whole: whether the folder holds nothing else, so that pages of an earlier build (of a room
            that was renamed since) are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in folder.glob("*.md") if whole else ():
        if path.name not in pages:
            path.unlink()
