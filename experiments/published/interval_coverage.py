"""How often intervals hold the measurement: per table, and pooled over all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from records import Comparison, Section
from scipy import stats

from lossline.lines.interval_scores import interval_score
from lossline.prediction.results import LEVELS

# Tables of predictions at rolling cuts or folds. Names of our method in them.
_ENDINGS = ("_backtest", "_folds")
_OURS = ("lossline", "ours")


def score_row(what: str, points: pd.DataFrame, measured: str) -> Comparison:
    """Return the mean interval score of 90% intervals, percent of the measurement."""
    scores = interval_score(points["low"], points["high"], points[measured])
    return Comparison(what=f"{what}: interval score", ours=f"{100 * np.nanmean(scores):.2f}%")


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
            "Tasks at chance count. Score: mean interval score of the 90% intervals (Gneiting & "
            "Raftery 2007), in units of the target."
        ],
    )


def held(table: pd.DataFrame) -> pd.DataFrame:
    """Return whether each measurement lies inside our intervals, by level, and its score."""
    rows = table[table["method"].isin(_OURS)] if "method" in table else table
    rows = rows[rows["actual"].notna() & rows["low_90"].notna()]
    ends = {level: (f"low_{level}", f"high_{level}") for level in _percents()}
    inside = {
        level: (rows["actual"] >= rows[low]) & (rows["actual"] <= rows[high])
        for level, (low, high) in ends.items()
    }
    one = np.ones(len(rows))  # scores near 0 make relative ones meaningless
    away = (rows[name] - rows["actual"] + 1 for name in ends[90])
    return pd.DataFrame({**inside, "score": interval_score(*away, one)})


def _percents() -> list[int]:
    return [round(100 * level) for level in LEVELS]


def _row(name: str, inside: pd.DataFrame) -> Comparison:
    texts = []
    for level in _percents():
        hits, count = int(inside[level].sum()), len(inside)
        found = stats.binomtest(hits, count).proportion_ci(0.95, method="exact")
        ends = f"{100 * found.low:.1f}-{100 * found.high:.1f}"
        texts.append(f"{100 * hits / count:.1f} ({ends}; {hits} of {count})")
    texts.append(f"score {inside['score'].mean():.3g}")
    return Comparison(what=name, published=", ".join(map(str, _percents())), ours=", ".join(texts))
