"""Read tables with any columns from .csv (.csv.gz), .tsv, .parquet and .jsonl files.

Every cell arrives as it was written: no column is moved or becomes the index, and text stays text
(``cells`` converts it to numbers where needed).
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
from lossline.files import local_copy
from lossline.places import to_path
from lossline.tables.json_text import objects

SUFFIXES = (
    ".parquet",
    ".csv",
    ".csv.gz",
    ".tsv",
)  # of tables in a folder; .jsonl only if there is none
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def read_any(path: str | os.PathLike[str], *, repeated_names: bool = False) -> pd.DataFrame:
    """Read any table; the suffix gives the format. It need not be a loss table.

    Cells of text tables are text; empty ones are NaN.

    Args:
        path: the file.
        repeated_names: whether two columns may have the same name, for callers that join a second
            header line to the first.

    Raises:
        UserError: the file is missing, incomplete or of another kind; a row does not fit the
            header; two different columns have one name.
    """
    path = to_path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file; give an existing table")
    if path.is_dir():
        raise UserError(f"{path}: a folder, not a table; give the file inside it")
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
        raise UserError(f"{path}: not UTF-8 text; save it again with this encoding") from error
    except (ValueError, OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: cannot be read as {path.suffix[1:]}: {reason}; is the file complete?"
        ) from error
    return frame if repeated_names else one_column_each(frame, str(path))


def one_column_each(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return the table without columns that repeat another column exactly.

    Raises:
        UserError: two columns of one name differ.
    """
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
                f"{where}: column {name!r} exists twice (columns {before + 1} and {place + 1}) "
                "with different cells; rename or delete one of them"
            )
    return frame.iloc[:, keep]


def _parquet(path: Path) -> pd.DataFrame:
    """Return a Parquet file's table."""
    import pyarrow.parquet as pq

    # Read as a single file: as a data set, names of parent folders would become columns.
    with local_copy(path) as local, pq.ParquetFile(local) as file:
        table = file.read()
    places = [
        place
        for place, name in enumerate(table.column_names)
        if not re.fullmatch(r"__index_level_\d+__", name)
    ]
    # Keep each cell as it is: no column becomes the index, and whole numbers next to empty cells
    # do not become floats.
    columns = [
        table.column(place).to_pandas(integer_object_nulls=True).reset_index(drop=True)
        for place in places
    ]
    columns = [c.astype(object) if isinstance(c.dtype, pd.CategoricalDtype) else c for c in columns]
    frame = pd.concat(columns, axis=1) if columns else pd.DataFrame()
    return frame.set_axis([table.column_names[place] for place in places], axis="columns")


def _text_table(path: Path, separator: str) -> pd.DataFrame:
    """Return a table of text, each cell below the name at its position."""
    header, rows = _fields(path, separator)
    named = max((place for place, name in enumerate(header, 1) if name.strip()), default=0)
    if not named:
        raise UserError(f"{path}: no header; write the names of the columns into its first line")
    width = _common_width(path, separator, header[:named], len(header), rows)
    names = [name or f"Unnamed: {place}" for place, name in enumerate(header)][:width]
    cells = np.array([row[: len(names)] for _, row in rows], dtype=object)
    cells = cells.reshape(len(rows), len(names))
    cells[cells == ""] = np.nan
    frame = pd.DataFrame(cells, columns=names, dtype=object)
    kept = [place < named or frame.iloc[:, place].notna().any() for place in range(len(names))]
    return frame.loc[:, kept]


def _fields(path: Path, separator: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and line number and fields of each row.

    Empty lines are skipped, and so are repeated headers, which appear where files were
    concatenated.
    """
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
            "mark not closed?"
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
    """Return the number of fields that all rows have.

    It is the number of names in the header, or more if the additional fields are empty in all rows
    (a separator at the end of each). A single longer row is an error, because its cells may be
    shifted.
    """
    counts = Counter(len(cells) for _, cells in rows)
    width = fields if fields in counts or not rows else counts.most_common(1)[0][0]
    for line, cells in rows:
        if len(cells) != width or width < len(header) or any(c.strip() for c in cells[fields:]):
            raise _unequal(path, line, cells, header, separator)
    return width


def _unequal(
    path: Path, line: int, cells: Sequence[str], header: Sequence[str], separator: str
) -> UserError:
    """Return the error for a row that does not fit the header."""
    fix = (
        "put quotation marks around a cell that holds the separator, and name every column"
        if len(cells) > len(header)
        else f"complete the row with {_SEPARATORS[separator]}, or delete it if it was cut off"
    )
    return UserError(
        f"{path}, line {line}: {len(cells)} fields, but the header has {len(header)} columns; {fix}"
    )


def _check_separator(header: Sequence[str], separator: str, path: Path) -> None:
    """Raise an error if the only column's name contains another separator."""
    only = header[0] if len(header) == 1 else ""
    for other, word in _SEPARATORS.items():
        if other != separator and other in only:
            wanted = _SEPARATORS[separator]
            points = ", and with decimal points" if wanted == "commas" else ""
            raise UserError(
                f"{path}: its columns are separated by {word}; save it with {wanted}{points}"
            )
