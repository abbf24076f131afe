"""Convert contrasts to effects per evaluation set, and to rows of a table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from lossline.attribution.analysis import Analysis
from lossline.attribution.contrasts import Contrast, Kind
from lossline.attribution.results import Effect, Interval, Verdict
from lossline.attribution.sentences import clearest, largest
from lossline.attribution.verdicts import Judgement
from lossline.matching.nested import Shares
from lossline.tables.schema import Unit

_NO_SHARES = Shares(share=math.nan, partial_r2=math.nan, spread=math.nan)


def effects_of(
    found: Analysis, factor: str, contrasts: Sequence[Contrast], judged: Sequence[Judgement]
) -> Iterator[Effect]:
    """Yield one effect per evaluation set and unit: the two levels that represent the factor.

    Args:
        found: analysis that made the contrasts.
        factor: column of the loss table.
        contrasts: all contrasts of this factor.
        judged: judgements on the factor; the one that decides the verdict comes first.
    """
    main = [item for item in contrasts if item.kind is Kind.LEVELS]
    keys = sorted(
        {(item.unit, item.y_set) for item in main},
        key=lambda key: (list(Unit).index(Unit(key[0])), key[1]),
    )
    for unit, y_set in keys:
        pairs = [item for item in main if (item.unit, item.y_set) == (unit, y_set)]
        item = _representative(pairs, judged)
        share = found.shares.get((factor, unit, y_set), _NO_SHARES)
        low, high = item.interval()
        yield Effect(
            factor=factor,
            x_set=found.x_set,
            y_set=y_set,
            unit=unit,
            low_level=item.low_level,
            high_level=item.high_level,
            move=Interval(value=item.move, low=low, high=high),
            p_value=min(1.0, item.p_value * len(pairs)) if item.uncertainty.known else math.nan,
            p_corrected=item.p_corrected,
            p_resampled=item.comparison.p_resampled,
            p_equivalent=float(np.max([pair.p_equivalent for pair in pairs])),
            margin=item.margin,
            detectable=item.detectable,
            share=share.share,
            partial_r2=share.partial_r2,
            spread=share.spread,
            degrees=item.uncertainty.degrees,
            noise=item.run_noise.deviation,
            noise_from=_noise_from(item),
            runs=item.comparison.runs,
            groups=item.comparison.groups,
            fewest=item.fewest[1],
            x_low=item.comparison.x_low,
            x_high=item.comparison.x_high,
            y_middle=item.comparison.y_middle,
        )


def _representative(pairs: Sequence[Contrast], judged: Sequence[Judgement]) -> Contrast:
    """The largest move among those that decide the verdict, else the largest of all.

    For BELOW, where all moves are small, it is the one of smallest p-value.
    """
    moved = [item for item in pairs if any(item in found.moved for found in judged)]
    return clearest(pairs) if judged[0].verdict is Verdict.BELOW else largest(moved or pairs)


def contrast_rows(found: Analysis) -> pd.DataFrame:
    """Return a table with one row per contrast."""
    return pd.DataFrame([_row(found.x_set, item) for item in found.contrasts])


def _row(x_set: str, item: Contrast) -> dict[str, object]:
    comparison = item.comparison
    low, high = item.interval()
    return {
        "factor": item.factor,
        "kind": str(item.kind),
        "unit": item.unit,
        "x_set": x_set,
        "y_set": item.y_set,
        "low_level": item.low_level,
        "high_level": item.high_level,
        "other_factor": item.sides[0].factor if item.sides else "",
        "other_level": item.sides[0].level if item.sides else "",
        "move": item.move,
        "low": low,
        "high": high,
        "margin": item.margin,
        "p_value": item.p_value,
        "p_corrected": item.p_corrected,
        "p_equivalent": item.p_equivalent,
        "p_resampled": comparison.p_resampled,
        "detectable": item.detectable,
        "noise": item.run_noise.deviation,
        "degrees": item.uncertainty.degrees,
        "noise_from": _noise_from(item),
        "runs": comparison.runs,
        "groups": comparison.groups,
        "sizes": "pooled" if item.pooled_sizes else "equal",
        "x_low": comparison.x_low,
        "x_high": comparison.x_high,
        "moves_by_group": json.dumps(item.by_group, ensure_ascii=False),
    }


def _noise_from(item: Contrast) -> str:
    if not item.uncertainty.known:
        return ""
    return "borrowed" if item.uncertainty.borrowed else "own"
