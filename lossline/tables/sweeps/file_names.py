"""Columns that no file has and the files' names do: what a star stands for in each name.

``file[evaluation_*_heavy]`` is ``m1`` for ``evals/evaluation_m1_heavy.json``, and
``file[*/results_*]`` is ``m1`` for ``m1/results_2024.json``: a pattern with folders is compared
with as many of the file's, the first star is the value, further ones stand for any text. The suffix
(``.json``, ``.csv.gz``) need not be in the pattern. A file of another name has no value.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath

__all__ = ["in_file_name", "is_file_name", "pattern_without_star", "without_suffix"]

_COLUMN = re.compile(r"file\[(?P<pattern>.+)\]")
_SUFFIX = re.compile(r"\.[^.]+(\.gz)?$")


def is_file_name(column: str) -> bool:
    """Whether a column is to be read off the names of the files."""
    return _COLUMN.fullmatch(column) is not None


def pattern_without_star(column: str) -> str | None:
    """The pattern of such a column if it can give no value, for a message."""
    found = _COLUMN.fullmatch(column)
    return found["pattern"] if found and "*" not in found["pattern"] else None


def without_suffix(name: str) -> str:
    """A file's name without ``.csv``, ``.csv.gz``, …"""
    return _SUFFIX.sub("", name)


def in_file_name(column: str, path: Path) -> str | None:
    """What the star of such a column stands for in the name of a file; None of another name."""
    found = _COLUMN.fullmatch(column)
    assert found is not None, column
    folders = PurePath(found["pattern"]).parts
    name = "/".join(path.absolute().parts[-len(folders) :])
    before, *after = map(re.escape, "/".join(folders).split("*"))
    pattern = re.compile(f"{before}([^/]+){'[^/]+'.join(after)}")
    match = pattern.fullmatch(without_suffix(name)) or pattern.fullmatch(name)
    return match[1] if match else None
