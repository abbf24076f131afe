"""Columns whose values are parts of file names: the text that a star matches.

``file[evaluation_*_heavy]`` is ``m1`` for ``evals/evaluation_m1_heavy.json``, and
``file[*/results_*]`` is ``m1`` for ``m1/results_2024.json``. A pattern with folders is compared
with as many folders of the file. The first star is the value; further stars match any text. The
suffix (``.json``, ``.csv.gz``) may be left out of the pattern. A file that does not match has no
value.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath

_COLUMN = re.compile(r"file\[(?P<pattern>.+)\]")
_SUFFIX = re.compile(r"\.[^.]+(\.gz)?$")


def is_file_name(column: str) -> bool:
    """Return whether a column is read from the names of files."""
    return _COLUMN.fullmatch(column) is not None


def pattern_without_star(column: str) -> str | None:
    """Return the pattern of such a column if it has no star, for a message; else None."""
    found = _COLUMN.fullmatch(column)
    return found["pattern"] if found and "*" not in found["pattern"] else None


def without_suffix(name: str) -> str:
    """Return a file's name without ``.csv``, ``.csv.gz``, …"""
    return _SUFFIX.sub("", name)


def in_file_name(column: str, path: Path) -> str | None:
    """Return the text that the star of such a column matches in a file's name, or None."""
    found = _COLUMN.fullmatch(column)
    assert found is not None, column
    folders = PurePath(found["pattern"]).parts
    name = "/".join(path.absolute().parts[-len(folders) :])
    before, *after = map(re.escape, "/".join(folders).split("*"))
    pattern = re.compile(f"{before}([^/]+){'[^/]+'.join(after)}")
    match = pattern.fullmatch(without_suffix(name)) or pattern.fullmatch(name)
    return match[1] if match else None
