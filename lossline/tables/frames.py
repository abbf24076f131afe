"""Loss tables in memory: set types, fill derived columns, join tables."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.tables.cells import (
    as_counts,
    as_numbers,
    as_text,
    is_empty,
    name_of_number,
    whole_number,
)
from lossline.tables.schema import COLUMN_NAMES, Column, Kind, Status, column_of, is_known


def row_number(position: int) -> str:
    """Return the name of a row in messages: counted from 1, without headers."""
    return f"row {position + 1}"


def nearest_name(name: str, names: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` if one of ``names`` is similar, else ""."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def nearest_names(name: str, names: Iterable[str], most: int = 12) -> str:
    """Return names as text for a message; of more than ``most``, only those most like ``name``.

    The last part of a dotted name is compared as well as the whole.
    """
    found = list(dict.fromkeys(names))
    if len(found) <= most:
        return ", ".join(found) or "none"

    def unlike(other: str) -> float:
        ends = (other, other.rpartition(".")[2])
        return -max(difflib.SequenceMatcher(None, name, end).ratio() for end in ends)

    return f"{', '.join(sorted(found, key=unlike)[:most])}, … ({len(found)} in all)"


def from_rows(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a typed table from dictionaries.

    Missing columns are empty, a missing status is ``ok``, and derived columns are filled from the
    sums. Nothing is validated: ``write`` and ``validate`` do that.
    """
    frame = pd.DataFrame(list(rows), dtype=object)  # object: whole numbers next to None stay whole
    return derive(typed(complete(frame)))


def complete(frame: pd.DataFrame) -> pd.DataFrame:
    """Add missing columns, empty (status: ok), and put all columns into the schema's order."""
    frame = frame.copy()
    for name in COLUMN_NAMES:
        if name not in frame.columns:
            frame[name] = str(Status.OK) if name == "status" else None
    extras = sorted(name for name in frame.columns if name not in COLUMN_NAMES)
    return frame[[*COLUMN_NAMES, *extras]]


def typed(
    frame: pd.DataFrame,
    *,
    where: str = "the table",
    columns: Callable[[str], Column | None] = column_of,
) -> pd.DataFrame:
    """Return the table with the schema's dtypes.

    A column ``x_…`` becomes numbers if no cell loses anything by it, else text.

    Args:
        frame: the table.
        where: name of the table in messages.
        columns: schema: the column of a name, None for ``x_…``. Default: that of the loss table.

    Raises:
        UserError: a cell cannot be converted; names the column and the row.
    """
    converted = {
        str(name): _typed_extra(frame[name])
        if (column := columns(str(name))) is None
        else _typed_column(frame[name], column, where)
        for name in frame.columns
    }
    return pd.DataFrame(converted, index=pd.RangeIndex(len(frame)))


def exclude_unreadable(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with all cells of the schema's columns convertible.

    A row with another cell gets the status ``excluded``, a message that names the cell, and an
    empty cell instead.
    """
    frame = frame.reset_index(drop=True)
    for column in map(column_of, map(str, frame.columns)):
        if column is None or column.kind is Kind.TEXT:
            continue
        values = frame[column.name]
        faults = _faults(values, column.kind)
        if not faults:
            continue
        broken = list(faults)
        said = [f"{column.name}: {_shown(values[row])} {fault}" for row, fault in faults.items()]
        frame = frame.astype({name: object for name in (column.name, "status", "message")})
        frame.loc[broken, "message"] = said
        frame.loc[broken, "status"] = str(Status.EXCLUDED)
        frame.loc[broken, column.name] = None
    return frame


def _shown(cell: object) -> str:
    """Return a cell for a message: text in quotation marks, numbers without."""
    text = isinstance(cell, str) and as_numbers(pd.Series([cell])).isna().all()
    return repr(cell) if text else str(cell)


def _faults(values: pd.Series, kind: Kind) -> dict[int, str]:
    """Return row -> fault of the cells that are neither empty nor numbers of this kind."""
    converted = as_numbers(values) if kind is Kind.NUMBER else as_counts(values)
    faults = {}
    unread = np.flatnonzero(converted.isna())
    for row in unread[~is_empty(values.iloc[unread]).to_numpy()]:
        if kind is Kind.NUMBER:
            faults[int(row)] = "is not a number"
        elif whole_number(values.array[row]) is None:
            faults[int(row)] = "is not a whole number"
        else:
            faults[int(row)] = "is a whole number beyond 64 bits"
    return faults


def _typed_column(values: pd.Series, column: Column, where: str) -> pd.Series:
    values = values.reset_index(drop=True)
    if column.kind is Kind.TEXT:
        return as_text(values)
    for row, fault in _faults(values, column.kind).items():
        text = np.isnan(as_numbers(values).iloc[row])
        fix = (
            "write a number or leave the cell empty"
            if text
            else f"this column holds counts ({column.meaning})"
        )
        fault = "is not a number" if text else fault
        raise UserError(
            f"{where}: column {column.name!r}, {row_number(row)}: {_shown(values.iloc[row])} "
            f"{fault}; {fix}"
        )
    return as_numbers(values) if column.kind is Kind.NUMBER else as_counts(values)


def _typed_extra(values: pd.Series) -> pd.Series:
    """Return a column outside the schema, equal whether it comes from memory or from a file.

    It becomes numbers if each can be written exactly as it was, else text.
    """
    values = values.reset_index(drop=True)
    if pd.api.types.is_float_dtype(values.dtype):
        return values.astype("float64")
    texts = as_text(values)
    different = texts.dropna().unique()
    numbers = as_numbers(pd.Series(different, dtype=object))
    if all(map(name_of_number, different)) and numbers.is_unique:
        return as_numbers(texts)
    return texts


def kinds_of(frame: pd.DataFrame) -> dict[str, str]:
    """Return the kind of each evaluation set of a loss table."""
    pairs = frame[["eval_set", "kind"]].drop_duplicates()
    return dict(zip(pairs["eval_set"], pairs["kind"], strict=True))


def with_strings(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with texts as strings, which Parquet keeps also in an empty column."""
    frame = frame.infer_objects()
    return frame.astype({c: "string" for c in frame.columns if frame[c].dtype == object})


def derive(frame: pd.DataFrame) -> pd.DataFrame:
    """Fill empty ``loss``, ``bits_per_byte`` and ``accuracy`` from the sums.

    loss = nats / target_tokens; bits_per_byte = nats / (ln 2 · target_bytes); accuracy = correct /
    questions. Existing values stay, so that a published mean is never replaced; ``validate``
    compares both.
    """
    frame = frame.copy()
    ratios = {
        "loss": _quotient(frame, "nats", "target_tokens"),
        "bits_per_byte": _quotient(frame, "nats", "target_bytes") / math.log(2.0),
        "accuracy": _quotient(frame, "correct", "questions"),
    }
    measured = (frame["status"] == str(Status.OK)).to_numpy()
    for name, ratio in ratios.items():
        given = frame[name].to_numpy(dtype="float64")
        frame[name] = np.where(np.isnan(given) & measured, ratio, given)
    return frame


def _quotient(frame: pd.DataFrame, above: str, below: str) -> np.ndarray:
    """Return one column over another; NaN where the denominator is not positive."""
    numerator = frame[above].to_numpy(dtype="float64", na_value=np.nan)
    denominator = frame[below].to_numpy(dtype="float64", na_value=np.nan)
    return np.divide(numerator, denominator, out=np.full(len(frame), np.nan), where=denominator > 0)


def concat(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Join loss tables row after row, with all open and ``x_`` columns. Does not validate."""
    if not tables:
        return typed(complete(pd.DataFrame()))
    extras = sorted(
        {
            name
            for table in tables
            for name in table.columns
            if name not in COLUMN_NAMES and is_known(name)
        }
    )
    columns = [*COLUMN_NAMES, *extras]
    # As objects: pandas would guess a type for a column that is empty in one of the tables.
    parts = [table.reindex(columns=columns).astype(object) for table in tables]
    return typed(pd.concat(parts, ignore_index=True))
