"""Average rank of each level over the targets, with an interval by resampling seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lossline.comparisons.intervals import NAN, midranks

COLUMNS = ("method", "average_rank", "low", "high", "best_share", "targets", "seeds")


def average_ranks(
    rows: pd.DataFrame, *, confidence: float, resamples: int, seed: int
) -> pd.DataFrame:
    """Return the average rank of the methods that every target has, best first.

    A resample draws seeds with replacement, the same for all methods and targets, so that what a
    seed does to all of them stays together. Only seeds that every method and target has are drawn.
    Few seeds resample to few different means, so the interval is then rather too narrow.

    Args:
        rows: target, method, seed and value of each run.
        confidence: level of the intervals.
        resamples: number of resamples.
        seed: seed of the bootstrap.

    Returns:
        method, average_rank, low and high (empty with fewer than two seeds), best_share (share of
        the resamples in which its average rank is the lowest; ties share it), targets, seeds.
    """
    cells = rows.pivot(index="seed", columns=["target", "method"], values="value")
    targets = list(dict.fromkeys(rows["target"]))
    have = rows.groupby("method")["target"].nunique()
    methods = sorted(have.index[have == len(targets)])
    if not methods:
        return pd.DataFrame(columns=list(COLUMNS))
    wide = cells[[(target, method) for target in targets for method in methods]]
    shape = (len(targets), len(methods))
    average = midranks(wide.mean().to_numpy().reshape(shape)).mean(axis=0)
    complete = wide.dropna().to_numpy().reshape(-1, *shape)
    found = pd.DataFrame(
        {
            "method": methods,
            "average_rank": average,
            "low": NAN,
            "high": NAN,
            "best_share": NAN,
            "targets": len(targets),
            "seeds": len(complete),
        }
    )
    if len(complete) > 1:
        drawn = np.random.default_rng(seed).integers(len(complete), size=(resamples, len(complete)))
        ranks = midranks(complete[drawn].mean(axis=1)).mean(axis=1)
        tail = (1 - confidence) / 2
        found["low"], found["high"] = np.quantile(ranks, [tail, 1 - tail], axis=0)
        best = ranks == ranks.min(axis=1, keepdims=True)
        found["best_share"] = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
    return found.sort_values(["average_rank", "method"], ignore_index=True)
