"""Sections of ``reproduce.py`` and ``predict.py``: comparisons to print, tables to write."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """One result: published, by the published procedure run here, and by this project.

    Attributes:
        what: the result.
        published: as printed in the paper, or recomputed from its data.
        rerun: by the published procedure, run here.
        ours: by this project.
        methods: by each of several published methods, run here, by the method's name.

    An empty text means: not published, not applicable, or no data.
    """

    what: str
    published: str = ""
    rerun: str = ""
    ours: str = ""
    methods: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """Comparisons under one title.

    Attributes:
        title: the title.
        rows: the comparisons.
        notes: lines below them.
        tables: tables to write as <name>.csv.
    """

    title: str
    rows: Sequence[Comparison] = ()
    notes: Sequence[str] = ()
    tables: dict[str, pd.DataFrame] = dataclasses.field(default_factory=dict)


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Return "low - high" of numbers, one of them if they agree, or an empty string."""
    known = [f"{v:.{digits}f}" for v in sorted(v for v in values if v == v)]
    if not known:
        return ""
    return known[0] if known[0] == known[-1] else f"{known[0]} - {known[-1]}"


def named(values: Iterable[object], most: int = 3) -> str:
    """Return the first few distinct values, sorted, with an ellipsis for more."""
    known = sorted({str(value) for value in values})
    return ", ".join(known[:most]) + (", …" if len(known) > most else "")


def percent(share: float, digits: int = 2) -> str:
    """Return a share in percent; "no answer" for NaN."""
    return f"{100 * share:.{digits}f}%" if share == share else "no answer"
