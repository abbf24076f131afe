"""Summaries of ``predict_table``'s results that the sections of ``predict.py`` share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from records import Comparison

OURS = "lossline"  # name of our method in the results
_MOST = 100.0  # larger errors are printed with an exponent


def compared(what: str, texts: Mapping[str, str], published: str = "") -> Comparison:
    """Return a comparison from one text per method."""
    methods = {name: text for name, text in texts.items() if name != OURS}
    return Comparison(what=what, published=published, methods=methods, ours=texts.get(OURS, ""))


def errors(
    what: str, rows: pd.DataFrame, published: str = "", statistic: str = "mean"
) -> Comparison:
    """Return the mean (median, max) relative error of each method, in percent."""
    texts = _texts(rows["relative_error"].abs(), rows["method"], statistic)
    return compared(what, texts, published)


def points(what: str, rows: pd.DataFrame, published: str = "") -> Comparison:
    """Return the mean absolute error of each method, in points of accuracy."""
    away = (rows["predicted"] - rows["actual"]).abs()
    return compared(what, _texts(away, rows["method"], "mean"), published)


def _texts(values: pd.Series, methods: pd.Series, statistic: str) -> dict[str, str]:
    """Return a statistic in percent by method; with the number of values where some lack."""
    known = values.groupby(methods, sort=False).agg([statistic, "count"])
    most = known["count"].max()
    return {
        str(name): _text(float(value), "" if count == most else f" ({count})")
        for name, value, count in known.itertuples()
    }


def _text(value: float, note: str) -> str:
    if not np.isfinite(value):
        return "no answer"
    return (f"{100 * value:.2f}" if value < _MOST else f"{100 * value:.1e}") + note


def at_farthest(backtest: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each task and cut at the run of most compute."""
    known = backtest[backtest["predicted"].notna()]
    most = known.groupby(["group", "task", "cut"])["flops"].transform("max")
    return known[np.isclose(known["flops"], most, rtol=1e-9)]


def rolling(backtest: pd.DataFrame) -> list[Comparison]:
    """Return the errors of rolling cuts: at the farthest run, and over all later runs."""
    what = "rolling cuts, all later runs"
    return [
        errors("rolling cuts, farthest run: mean relative error, %", at_farthest(backtest)),
        errors(f"{what}: mean relative error, %", backtest),
        errors(f"{what}: median relative error, %", backtest, statistic="median"),
        points(f"{what}: mean absolute error, points", backtest),
    ]
