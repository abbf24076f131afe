"""Means and differences of levels on one target, with Student intervals over seeds.

Two or three seeds per level say little about their own spread, so all levels share one. A seed
fixes initialization and data order, which move all its runs together; a difference between two
levels is therefore taken seed by seed, and its spread is what level and seed together do not
explain (randomized blocks). The spread is assumed to be the same for all levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special  # scipy.stats takes half a second to import

Array = np.ndarray
NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Variance of one run, and its degrees of freedom; both NaN if it cannot be estimated.

    Attributes:
        variance: in squared units of the loss.
        freedom: degrees of freedom.
    """

    variance: float
    freedom: float

    def interval(self, center: float, weight: float, confidence: float) -> tuple[float, ...]:
        """Return standard error, low and high of an estimate with variance ``weight × variance``.

        Args:
            center: the estimate.
            weight: 1/n for the mean of n runs, 2/n for a difference of two.
            confidence: level of the interval.
        """
        if math.isnan(self.variance):
            return NAN, NAN, NAN
        error = math.sqrt(weight * self.variance)
        reach = error * float(special.stdtrit(self.freedom, 0.5 + confidence / 2))
        return error, center - reach, center + reach


def level_statistics(rows: pd.DataFrame, *, baseline: str, confidence: float) -> pd.DataFrame:
    """Return the statistics of the levels on one target, best (lowest mean) first.

    Args:
        rows: method, seed and value of each run; one run per method and seed.
        baseline: method that the others are compared to; may be absent.
        confidence: level of the intervals.

    Returns:
        method, runs, mean, se, low, high, difference (from the baseline, over the seeds that both
        have), difference_se, difference_low, difference_high, rank (midranks).
    """
    of_runs, of_pairs = spreads(rows)
    wide = rows.pivot(index="seed", columns="method", values="value")
    found = []
    for method in wide:
        values = wide[method].dropna()
        mean = float(values.mean())
        error, low, high = of_runs.interval(mean, 1 / len(values), confidence)
        row = {"method": method, "runs": len(values), "mean": mean, "se": error}
        row |= {"low": low, "high": high}
        row |= dict.fromkeys((f"difference{part}" for part in ("", "_se", "_low", "_high")), NAN)
        if baseline in wide and method != baseline:
            pairs = (wide[method] - wide[baseline]).dropna()
            if len(pairs):
                center = float(pairs.mean())
                error, low, high = of_pairs.interval(center, 2 / len(pairs), confidence)
                row |= {"difference": center, "difference_se": error}
                row |= {"difference_low": low, "difference_high": high}
        found.append(row)
    frame = pd.DataFrame(found)
    frame["rank"] = midranks(frame["mean"].to_numpy())
    return frame.sort_values(["rank", "method"], ignore_index=True)


def spreads(rows: pd.DataFrame) -> tuple[Spread, Spread]:
    """Return the spread of runs within a level, and of what level and seed do not explain.

    The first pools the variances within all levels. Runs of one seed move together, so it has
    fewer degrees of freedom than runs minus levels: they follow from its two parts, seeds and
    remainder (Satterthwaite 1946). If runs of a seed are independent, they are runs minus levels;
    if the seed explains everything, seeds minus one.

    Args:
        rows: method, seed and value of each run.
    """
    value = rows["value"].to_numpy(float)
    level = pd.get_dummies(rows["method"], dtype=float).to_numpy()
    seed = pd.get_dummies(rows["seed"], dtype=float).to_numpy()
    within, free_within = _left(level, value)
    rest, free_rest = _left(np.hstack([level, seed]), value)
    nothing = Spread(variance=NAN, freedom=NAN)
    pairs = Spread(variance=rest / free_rest, freedom=free_rest) if free_rest else nothing
    if not free_within:
        return nothing, pairs
    parts = [(within - rest, free_within - free_rest), (rest, free_rest)]
    spent = sum(square**2 / free for square, free in parts if free)
    freedom = within**2 / spent if spent > 0 else float(free_within)
    return Spread(variance=within / free_within, freedom=freedom), pairs


def _left(columns: Array, value: Array) -> tuple[float, int]:
    """Return the sum of squares that a linear model leaves, and its degrees of freedom."""
    fitted, _, rank, _ = np.linalg.lstsq(columns, value, rcond=None)
    free = len(value) - int(rank)
    return (float(np.sum((value - columns @ fitted) ** 2)) if free else 0.0), free


def midranks(values: Array) -> Array:
    """Return ranks from 1 along the last axis; equal values share the mean of their ranks."""
    below = (values[..., None, :] < values[..., :, None]).sum(axis=-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(axis=-1)
    return below + (equal + 1) / 2
