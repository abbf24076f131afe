"""The commands of the documentation: blocks of shell in Markdown, as files and words.

A block that a test cannot run starts with a comment that names its needs::

    # needs: a TPU slice
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "docs" / "guides").glob("*.md")),
]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_HEREDOC = re.compile(r"^cat > (\S+) <<'EOF'\n(.*?)^EOF$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block of shell.

    Attributes:
        page: the Markdown file.
        number: from 1, within the page.
        needs: text of its ``# needs:`` line; empty for a block that tests run.
        files: name -> text of the files that it writes with ``cat``.
        commands: words of each other command, in order.
    """

    page: Path
    number: int
    needs: str
    files: dict[str, str]
    commands: list[list[str]]

    @property
    def name(self) -> str:
        """Readable id of the block."""
        return f"{self.page.relative_to(REPOSITORY)}-{self.number}"


def fenced(page: Path, language: str) -> list[str]:
    """Return the texts of all fenced blocks of a language."""
    found = _FENCE.findall(page.read_text(encoding="utf-8"))
    return [text for name, text in found if name == language]


def shell_blocks(page: Path) -> list[Block]:
    """Return the shell blocks of a page, in order."""
    return [_block(page, number, text) for number, text in enumerate(fenced(page, "sh"), start=1)]


def _block(page: Path, number: int, text: str) -> Block:
    marked = re.match(r"# needs: (.+)", text)
    files = dict(_HEREDOC.findall(text))
    rest = re.sub(r"\\\n\s*", " ", _HEREDOC.sub("", text))
    lines = [shlex.split(line.partition(" | ")[0], comments=True) for line in rest.splitlines()]
    return Block(
        page=page,
        number=number,
        needs=marked[1] if marked else "",
        files=files,
        commands=[words for words in lines if words],
    )
