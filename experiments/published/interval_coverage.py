"""How often intervals hold the measurement: per table, and pooled over all."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from records import Comparison, Section
from scipy import stats

from lossline.prediction.results import LEVELS

# Tables of predictions at rolling cuts or folds. Names of our method in them.
_ENDINGS = ("_backtest", "_folds")
_OURS = ("lossline", "ours")


def coverage(sections: Sequence[Section]) -> Section | None:
    """Return the section of coverage; None if no table has intervals."""
    tables = {
        name: held(table)
        for section in sections
        for name, table in section.tables.items()
        if name.endswith(_ENDINGS) and "low_90" in table
    }
    tables = {name: rows for name, rows in tables.items() if len(rows)}
    if not tables:
        return None
    rows = [_row(name, found) for name, found in tables.items()]
    if len(tables) > 1:
        rows.append(_row("pooled over all tables", pd.concat(tables.values())))
    return Section(
        title="Intervals: measurements inside, of the rolling cuts and folds (our method)",
        rows=rows,
        notes=[
            "Published: the nominal levels. Ours: percent inside, with its 95% Clopper-Pearson "
            "interval and the counts. "
            "Tasks at chance count."
        ],
    )


def held(table: pd.DataFrame) -> pd.DataFrame:
    """Return whether each measurement lies inside our intervals, one column per level."""
    rows = table[table["method"].isin(_OURS)] if "method" in table else table
    rows = rows[rows["actual"].notna() & rows["low_90"].notna()]
    ends = {level: (f"low_{level}", f"high_{level}") for level in _percents()}
    return pd.DataFrame(
        {
            level: (rows["actual"] >= rows[low]) & (rows["actual"] <= rows[high])
            for level, (low, high) in ends.items()
        }
    )


def _percents() -> list[int]:
    return [round(100 * level) for level in LEVELS]


def _row(name: str, inside: pd.DataFrame) -> Comparison:
    texts = []
    for level in _percents():
        hits, count = int(inside[level].sum()), len(inside)
        found = stats.binomtest(hits, count).proportion_ci(0.95, method="exact")
        ends = f"{100 * found.low:.1f}-{100 * found.high:.1f}"
        texts.append(f"{100 * hits / count:.1f} ({ends}; {hits} of {count})")
    return Comparison(what=name, published=", ".join(map(str, _percents())), ours=", ".join(texts))
