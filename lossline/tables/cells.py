"""What one cell of a table says, as text or as a number.

A reader of text tables guesses no types: "1.10" is a number where a number is asked for and stays
"1.10" where a name is. Numbers are read exactly: a float as Python writes it comes back as itself,
and whole numbers beyond 2**53 keep all their digits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container
from decimal import Decimal
from numbers import Real

import numpy as np
import pandas as pd

__all__ = [
    "as_counts",
    "as_numbers",
    "as_text",
    "holds_word",
    "is_empty",
    "name_of_number",
    "whole_number",
]

TEXT = pd.StringDtype(na_value=np.nan)

_NUMBER = re.compile(
    r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf(?:inity)?)", re.ASCII | re.IGNORECASE
)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_MOST = 2**63
# What programs write into a column of numbers where there is none.
_EMPTY = frozenset(
    ("", "na", "n/a", "nan", "-nan", "none", "null", "<na>", "#na", "#n/a", "#n/a n/a",
     "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan")
)  # fmt: skip


def is_empty(cells: pd.Series) -> pd.Series:
    """Mask of the cells of a column of numbers that hold nothing, or a word for nothing (``NA``).
    (In a column of text these words are names like any other.)"""
    return cells.isna() | holds_word(cells, _EMPTY)


def holds_word(cells: pd.Series, words: Container[str]) -> pd.Series:
    """Mask of the cells of text that are one of these words, which are written small."""
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
    """Cells as float64; NaN for those that are empty or no numbers."""
    if pd.api.types.is_numeric_dtype(cells.dtype) and not pd.api.types.is_bool_dtype(cells.dtype):
        return cells.astype("float64")
    values = np.full(len(cells), np.nan)
    known = cells.notna().to_numpy()
    values[known] = [_number(cell) for cell in cells.to_numpy(dtype=object)[known]]
    return pd.Series(values, index=cells.index, name=cells.name)


def _number(cell: object) -> float:
    if isinstance(cell, str):
        text = cell.strip()
        return float(text) if _NUMBER.fullmatch(text) else math.nan
    if isinstance(cell, (bool, np.bool_)) or not isinstance(cell, (Real, Decimal)):
        return math.nan
    return float(cell)


def as_counts(cells: pd.Series) -> pd.Series:
    """Cells as Int64, all digits of them; empty where they are no whole numbers of 64 bits."""
    if pd.api.types.is_integer_dtype(cells.dtype):
        return cells.astype("Int64")
    counts = np.zeros(len(cells), np.int64)
    empty = np.ones(len(cells), bool)
    objects = cells.to_numpy(dtype=object)
    for place in np.flatnonzero(as_numbers(cells).notna()):
        whole = whole_number(objects[place])
        if whole is not None and -_MOST <= whole < _MOST:
            counts[place], empty[place] = whole, False
    return pd.Series(pd.arrays.IntegerArray(counts, empty), index=cells.index, name=cells.name)


def whole_number(cell: object) -> int | None:
    """A cell's whole number, all digits of it; None where it is none."""
    if isinstance(cell, str) and _WHOLE.fullmatch(cell.strip()):
        return int(cell)
    if isinstance(cell, (int, np.integer)) and not isinstance(cell, bool):
        return int(cell)
    number = _number(cell)
    return int(number) if number.is_integer() else None


def as_text(cells: pd.Series) -> pd.Series:
    """Cells as text, each as it stands; an empty string is an empty cell, because CSV cannot tell
    the two apart."""
    texts = cells.astype(object).map(str, na_action="ignore").astype(TEXT)
    return texts.mask((cells.isna() | (texts == "")).to_numpy()).astype(TEXT)


def name_of_number(text: str) -> bool:
    """Whether a text is how Python writes a number, so that both can be had from each other."""
    number = _number(text)
    if math.isnan(number):
        return False
    return text == repr(number) or (number.is_integer() and text == str(int(number)))
