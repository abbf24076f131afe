"""What the sections of `reproduce.py` hand over: comparisons to print, tables to write."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import pandas as pd

__all__ = ["Comparison", "Section", "named", "percent", "spread"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """One published result: as printed in the paper (or recomputed from its data), by the published
    procedure run here, and by this project. Empty: not published, not applicable, or no data."""

    what: str
    published: str = ""
    rerun: str = ""
    ours: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """Comparisons under one title; notes; tables to be written as <name>.csv."""

    title: str
    rows: Sequence[Comparison] = ()
    notes: Sequence[str] = ()
    tables: dict[str, pd.DataFrame] = dataclasses.field(default_factory=dict)


def spread(values: Sequence[float], digits: int = 3) -> str:
    """ "low - high" of numbers, or one of them if they agree, or nothing."""
    known = [f"{v:.{digits}f}" for v in sorted(v for v in values if v == v)]
    if not known:
        return ""
    return known[0] if known[0] == known[-1] else f"{known[0]} - {known[-1]}"


def named(values: Iterable[object], most: int = 3) -> str:
    """The first few distinct values, sorted, and an ellipsis for the others."""
    known = sorted({str(value) for value in values})
    return ", ".join(known[:most]) + (", …" if len(known) > most else "")


def percent(share: float, digits: int = 2) -> str:
    """A share in percent; "no answer" for NaN."""
    return f"{100 * share:.{digits}f}%" if share == share else "no answer"
