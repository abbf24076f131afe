"""Read one cell of a table as text or as a number.

Text tables have no types, and none are guessed: "1.10" becomes a number in a column of numbers, and
stays "1.10" in a column of names. Numbers are read exactly: a float that Python wrote gives the
same float, and whole numbers beyond 2**53 keep all digits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container
from decimal import Decimal
from numbers import Real

import numpy as np
import pandas as pd

TEXT = pd.StringDtype(na_value=np.nan)

_NUMBER = re.compile(
    r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf(?:inity)?)", re.ASCII | re.IGNORECASE
)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_MOST = 2**63
_EXACT = 2.0**53
# Of text in these letters, float() reads exactly what _NUMBER matches.
_LETTERS = re.compile(r"[0-9+\-.eE]*")
# Words that programs write into a column of numbers for a missing value.
_EMPTY = frozenset(
    ("", "na", "n/a", "nan", "-nan", "none", "null", "<na>", "#na", "#n/a", "#n/a n/a",
     "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan")
)  # fmt: skip


def is_empty(cells: pd.Series) -> pd.Series:
    """Return a mask of cells of numbers without a value: empty, or a word like ``NA``.

    In a column of text these words are ordinary names.
    """
    return cells.isna() | holds_word(cells, _EMPTY)


def holds_word(cells: pd.Series, words: Container[str]) -> pd.Series:
    """Return a mask of the text cells that are one of these words (given in lower case)."""
    if pd.api.types.is_numeric_dtype(cells.dtype):
        return pd.Series(False, index=cells.index)
    found = np.zeros(len(cells), bool)
    known = cells.notna().to_numpy()
    found[known] = [
        isinstance(cell, str) and cell.strip().casefold() in words
        for cell in cells.to_numpy(dtype=object)[known]
    ]
    return pd.Series(found, index=cells.index)


def as_numbers(cells: pd.Series) -> pd.Series:
    """Return cells as float64; NaN for cells that are empty or not numbers."""
    if pd.api.types.is_numeric_dtype(cells.dtype) and not pd.api.types.is_bool_dtype(cells.dtype):
        return cells.astype("float64")
    values = np.full(len(cells), np.nan)
    known = cells.notna().to_numpy()
    objects = cells.to_numpy(dtype=object)[known].tolist()
    plain = _read_plain(objects)
    values[known] = [_number(cell) for cell in objects] if plain is None else plain
    return pd.Series(values, index=cells.index, name=cells.name)


def _read_plain(cells: list) -> list[float] | None:
    """Return all cells as float, as ``_number`` reads each; None if any cell needs a closer look.

    Columns of a million cells are mostly plain numbers, and one call reads these faster.
    """
    kinds = set(map(type, cells))
    texts = kinds == {str} and _LETTERS.fullmatch("".join(cells))
    if not (texts or kinds <= {float, int, np.float64}):
        return None
    try:
        return list(map(float, cells))
    except ValueError:  # such as "1-2"
        return None


def _number(cell: object) -> float:
    """Return a cell as float; NaN for cells that are not numbers."""
    if isinstance(cell, str):
        text = cell.strip()
        return float(text) if _NUMBER.fullmatch(text) else math.nan
    if isinstance(cell, (bool, np.bool_)) or not isinstance(cell, (Real, Decimal)):
        return math.nan
    return float(cell)


def as_counts(cells: pd.Series) -> pd.Series:
    """Return cells as Int64 with all digits; empty for cells that are not 64-bit whole numbers."""
    if pd.api.types.is_integer_dtype(cells.dtype):
        return cells.astype("Int64")
    numbers = as_numbers(cells).to_numpy()
    # Below 2**53 a float holds all digits of a whole number, so most cells are read at once.
    exact = (np.abs(numbers) < _EXACT) & (numbers == np.floor(numbers))
    counts = np.where(exact, numbers, 0.0).astype(np.int64)
    empty = ~exact
    objects = cells.to_numpy(dtype=object)
    for place in np.flatnonzero(np.abs(numbers) >= _EXACT):
        whole = whole_number(objects[place])
        if whole is not None and -_MOST <= whole < _MOST:
            counts[place], empty[place] = whole, False
    return pd.Series(pd.arrays.IntegerArray(counts, empty), index=cells.index, name=cells.name)


def whole_number(cell: object) -> int | None:
    """Return a cell's whole number with all digits; None for other cells."""
    if isinstance(cell, str) and _WHOLE.fullmatch(cell.strip()):
        return int(cell)
    if isinstance(cell, (int, np.integer)) and not isinstance(cell, bool):
        return int(cell)
    number = _number(cell)
    return int(number) if number.is_integer() else None


def as_text(cells: pd.Series) -> pd.Series:
    """Return cells as text; an empty string is an empty cell, because in CSV they are the same."""
    if cells.dtype == TEXT:
        empty = (cells == "").to_numpy()
        return cells.mask(empty) if empty.any() else cells.copy()
    missing = cells.isna().to_numpy()
    objects = cells.astype(object).to_numpy()  # in two steps: whole numbers of a categorical stay
    texts = [
        None if gone else str(cell) or None for gone, cell in zip(missing, objects, strict=True)
    ]
    return pd.Series(texts, index=cells.index, name=cells.name, dtype=TEXT)


def name_of_number(text: str) -> bool:
    """Return whether Python writes a number exactly like this text."""
    number = _number(text)
    if math.isnan(number):
        return False
    return text == repr(number) or (number.is_integer() and text == str(int(number)))
