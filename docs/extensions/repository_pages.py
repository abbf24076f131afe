"""Bring pages of the repository that lie outside docs/ into the documentation.

Each ``experiments/NAME/README.md`` becomes ``docs/experiments/NAME.md``. Links between Markdown
files of the repository are rewritten to the pages; links to files without a page become code.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from generated_pages import replace_pages
from sphinx.application import Sphinx

REPOSITORY = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_ELSEWHERE = re.compile(r"^(#|[a-z]+:)")  # an anchor of the same page, or a URL


def page_of(path: str) -> str | None:
    """Return the page below docs/ that shows a file of the repository; None where none does."""
    parts = PurePosixPath(path).parts
    if parts[0] == "docs":
        return "/".join(parts[1:])
    if parts[0] == "experiments" and parts[-1] == "README.md":
        return f"experiments/{'-'.join(parts[1:-1]) or 'index'}.md"
    return None


def with_links(text: str, *, source: str, page: str) -> str:
    """Return Markdown whose links, written for the file ``source``, are right on ``page``.

    Args:
        text: the Markdown.
        source: path of the file in the repository.
        page: path of the page below docs/.
    """

    def rewritten(found: re.Match[str]) -> str:
        target, text = found["target"], found["text"]
        if _ELSEWHERE.match(target):
            return found[0]
        path, hash_, anchor = target.partition("#")
        file = os.path.normpath(PurePosixPath(source).parent / path)
        shown = page_of(file)
        if found["image"]:
            return f"![{text}]({_relative(f'docs/{page}', file)})"
        if shown is None:
            return text if text.startswith("`") else f"{text} (`{file}`)"
        return f"[{text}]({_relative(page, shown)}{hash_}{anchor})"

    return _LINK.sub(rewritten, text)


def _relative(page: str, target: str) -> str:
    return os.path.relpath(target, PurePosixPath(page).parent)


def experiment_pages() -> dict[str, str]:
    """Return file name -> text of the pages of ``experiments/``."""
    pages = {}
    for readme in sorted((REPOSITORY / "experiments").rglob("README.md")):
        source = readme.relative_to(REPOSITORY).as_posix()
        page = page_of(source) or ""
        text = with_links(readme.read_text(encoding="utf-8"), source=source, page=page)
        pages[PurePosixPath(page).name] = text
    pages["index.md"] += "\n```{toctree}\n:glob:\n:maxdepth: 1\n\n*\n```\n"
    return pages


def _write(app: Sphinx) -> None:
    replace_pages(Path(app.srcdir) / "experiments", experiment_pages(), whole=True)


def _rewrite(app: Sphinx, docname: str, content: list[str]) -> None:
    page = f"{docname}.md"
    if not page.startswith(("experiments/", "reference/")):
        content[0] = with_links(content[0], source=f"docs/{page}", page=page)


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx looks for sources, and rewrite links as it reads them."""
    app.connect("builder-inited", _write)
    app.connect("source-read", _rewrite)
    return {"parallel_read_safe": True}
