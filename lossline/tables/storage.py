"""Loss tables on disk: validated when read, written atomically, found in run directories."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from lossline.errors import UserError
from lossline.files import replacing
from lossline.places import to_path
from lossline.tables.checks import check_columns, validate
from lossline.tables.frames import complete, concat, derive, exclude_unreadable, typed
from lossline.tables.reading import read_any

_IN_RUN_DIRECTORY = ("losses.parquet", "losses.jsonl")


def read(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a loss table from one Parquet, CSV or JSONL file, typed, derived and validated.

    A table of an earlier version lacks the columns that were added since: they are empty.

    Raises:
        UserError: anything is wrong; names file, column and row.
    """
    frame = read_any(path)
    check_columns(frame, where=str(path))
    frame = derive(typed(complete(frame), where=str(path)))
    validate(frame, where=str(path))
    return frame


def read_unchecked(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a loss table and check only its columns, for callers that handle bad rows themselves.

    Rows with a cell of the wrong type have status ``excluded``.

    Raises:
        UserError: the file cannot be read, or a column is missing or unknown.
    """
    frame = read_any(path)
    check_columns(frame, where=str(path))
    return derive(typed(complete(exclude_unreadable(frame)), where=str(path)))


def write(frame: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Validate a loss table and write it to ``path`` (.parquet or .csv) atomically.

    An existing file is replaced; the caller decides whether that is allowed.

    Raises:
        UserError: the table is not valid, or the suffix is not known.
    """
    path = to_path(path)
    check_columns(frame, where=str(path))
    frame = derive(typed(complete(frame), where=str(path)))
    validate(frame, where=str(path))
    return write_frame(frame, path, "a loss table")


def write_frame(frame: pd.DataFrame, path: Path, what: str) -> Path:
    """Write a checked table to ``path`` (.parquet or .csv) atomically.

    Args:
        frame: the table, typed.
        path: file; an existing one is replaced.
        what: what the table is, for messages ("a loss table").

    Raises:
        UserError: the suffix is not known.
    """
    if path.suffix not in (".parquet", ".csv"):
        raise UserError(f"{path}: {what} is written as .parquet or .csv; change the suffix")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        if path.suffix == ".parquet":
            frame.to_parquet(partial, index=False)
        else:
            frame.to_csv(partial, index=False)
    return path


EXAMPLE = Path(__file__).with_name("example.parquet")
"""Loss table of a planted study of known truth, shaped like the quickstart's: 10 runs, 6 sets."""


def load(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> pd.DataFrame:
    """Load one loss table from files, run directories, or folders of run directories.

    Raises:
        UserError: a path holds no losses, or two of them measure the same checkpoint and set.
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    files = [file for path in given for file in find_tables(path)]
    if not files:
        raise UserError(
            "no loss table given; give a file, a run directory or a folder of run directories"
        )
    if len(files) == 1:
        return read(files[0])
    tables = [read(file) for file in files]
    joined = concat(tables)
    validate(
        joined,
        where=f"{len(files)} tables from {', '.join(str(path) for path in given)}, joined",
    )
    return joined


def find_tables(path: str | os.PathLike[str]) -> list[Path]:
    """Return the table files of ``path``: itself, a run directory's, or its children's, by name.

    Raises:
        UserError: the path does not exist or holds no losses.
    """
    path = to_path(path)
    if not path.exists():
        raise UserError(
            f"{path}: no such file or folder; give a loss table, a run directory or a folder of "
            "run directories"
        )
    if path.is_file():
        return [path]
    own = _table_of(path)
    if own is not None:
        return [own]
    children = [_table_of(child) for child in sorted(path.iterdir()) if child.is_dir()]
    found = [child for child in children if child is not None]
    if not found:
        raise UserError(
            f"{path}: holds no losses.parquet and no run directory with one; "
            "measure the runs first with `python -m lossline.evaluate`"
        )
    return found


def _table_of(folder: Path) -> Path | None:
    """Return the table file of a run directory, or None."""
    for name in _IN_RUN_DIRECTORY:
        if (folder / name).is_file():
            return folder / name
    return None
