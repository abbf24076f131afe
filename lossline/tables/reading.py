"""Tables of any columns out of .csv (.csv.gz), .tsv, .parquet and .jsonl files.

Every cell arrives as it was written: no column is moved, none is made the index, and text stays
text (`cells` makes numbers of it where numbers are asked for).
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.tables.json_text import objects

__all__ = ["SUFFIXES", "one_column_each", "read_any"]

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".tsv")  # of tables in a folder; .jsonl comes second
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def read_any(path: str | os.PathLike[str], *, repeated_names: bool = False) -> pd.DataFrame:
    """Any table of a file by its suffix. No loss table is presumed; cells of text tables are text,
    empty ones NaN.

    Args:
      path: the file.
      repeated_names: whether two columns may have one name, for who joins a second header to it.

    Raises `UserError` for a file that is missing, not whole or of another kind, for rows that do
    not fit the header, and for two different columns of one name.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file; name an existing table")
    if path.is_dir():
        raise UserError(f"{path}: is a folder, not a table; name the file within it")
    name = path.name.lower()
    try:
        if name.endswith(".parquet"):
            frame = _parquet(path)
        elif name.endswith((".csv", ".csv.gz")):
            frame = _text_table(path, ",")
        elif name.endswith(".tsv"):
            frame = _text_table(path, "\t")
        elif name.endswith(".jsonl"):
            frame = pd.DataFrame([row for _, row in objects(path)], dtype=object)
        else:
            raise UserError(f"{path}: unknown kind of table; use .parquet, .csv, .tsv or .jsonl")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not text in UTF-8; save it anew with this encoding") from error
    except (ValueError, OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: cannot be read as {path.suffix[1:]}: {reason}; is the file whole?"
        ) from error
    return frame if repeated_names else one_column_each(frame, str(path))


def one_column_each(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """The table without columns that repeat another of the same name in every cell; `UserError`
    where two of one name differ."""
    if frame.columns.is_unique:
        return frame
    keep: list[int] = []
    first: dict[object, int] = {}
    for place, name in enumerate(frame.columns):
        before = first.setdefault(name, place)
        if before == place:
            keep.append(place)
        elif not frame.iloc[:, place].equals(frame.iloc[:, before]):
            raise UserError(
                f"{where}: column {name!r} is there twice (columns {before + 1} and {place + 1}) "
                "with different cells; rename or delete one of them"
            )
    return frame.iloc[:, keep]


def _parquet(path: Path) -> pd.DataFrame:
    import pyarrow.parquet as pq

    # By itself: read as a data set, the names of the folders above it would become columns.
    with pq.ParquetFile(path) as file:
        table = file.read()
    places = [
        place
        for place, name in enumerate(table.column_names)
        if not re.fullmatch(r"__index_level_\d+__", name)
    ]
    # Each cell as it is: no column as the index, whole numbers beside empty cells not as floats.
    columns = [
        table.column(place).to_pandas(integer_object_nulls=True).reset_index(drop=True)
        for place in places
    ]
    columns = [c.astype(object) if isinstance(c.dtype, pd.CategoricalDtype) else c for c in columns]
    frame = pd.concat(columns, axis=1) if columns else pd.DataFrame()
    return frame.set_axis([table.column_names[place] for place in places], axis="columns")


def _text_table(path: Path, separator: str) -> pd.DataFrame:
    """A table of text, each cell under the name at its place."""
    header, rows = _fields(path, separator)
    named = max((place for place, name in enumerate(header, 1) if name.strip()), default=0)
    if not named:
        raise UserError(f"{path}: has no header; name the columns in its first line")
    width = _common_width(path, separator, header[:named], len(header), rows)
    names = [name or f"Unnamed: {place}" for place, name in enumerate(header)][:width]
    cells = np.array([row[: len(names)] for _, row in rows], dtype=object)
    cells = cells.reshape(len(rows), len(names))
    cells[cells == ""] = np.nan
    frame = pd.DataFrame(cells, columns=names, dtype=object)
    kept = [place < named or frame.iloc[:, place].notna().any() for place in range(len(names))]
    return frame.loc[:, kept]


def _fields(path: Path, separator: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and the number of the line and the fields of each row. Empty lines are left out,
    and headers that come again where files were put one after the other."""
    content = path.read_bytes()
    if path.suffix.lower() == ".gz":
        content = gzip.decompress(content)
    text = io.StringIO(content.decode("utf-8-sig"), newline="")
    lines = csv.reader(text, delimiter=separator, strict=True)
    try:
        header = next((cells for cells in lines if cells), [])
        _check_separator(header, separator, path)
        rows = [(lines.line_num, cells) for cells in lines if cells]
    except csv.Error as error:
        raise UserError(
            f"{path}, line {lines.line_num}: cannot be read as a table: {error}; is a quotation "
            "mark left open?"
        ) from error
    again = [[cells[0].lstrip("\ufeff"), *cells[1:]] == header for _, cells in rows]
    return header, [row for row, header_again in zip(rows, again, strict=True) if not header_again]


def _common_width(
    path: Path,
    separator: str,
    header: Sequence[str],
    fields: int,
    rows: Sequence[tuple[int, list[str]]],
) -> int:
    """How many fields all rows have: as many as the header has names, or more that are empty in
    all rows (a separator at the end of each); one row alone with more may have moved its cells."""
    counts = Counter(len(cells) for _, cells in rows)
    width = fields if fields in counts or not rows else counts.most_common(1)[0][0]
    for line, cells in rows:
        if len(cells) != width or width < len(header) or any(c.strip() for c in cells[fields:]):
            raise _unequal(path, line, cells, header, separator)
    return width


def _unequal(
    path: Path, line: int, cells: Sequence[str], header: Sequence[str], separator: str
) -> UserError:
    mend = (
        "put quotation marks around a cell that holds the separator, and name every column"
        if len(cells) > len(header)
        else f"fill up the row with {_SEPARATORS[separator]}, or delete it if it was cut off"
    )
    return UserError(
        f"{path}, line {line}: {len(cells)} fields where the header names {len(header)} columns; "
        f"{mend}"
    )


def _check_separator(header: Sequence[str], separator: str, path: Path) -> None:
    """One column whose name holds another separator is a table that was written with it."""
    only = header[0] if len(header) == 1 else ""
    for other, word in _SEPARATORS.items():
        if other != separator and other in only:
            wanted = _SEPARATORS[separator]
            points = ", and with points in its numbers" if wanted == "commas" else ""
            raise UserError(
                f"{path}: its columns are separated by {word}; save it with {wanted}{points}"
            )
