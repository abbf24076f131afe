"""Score of prediction intervals: width and misses in one number."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray


def interval_score(low: Any, high: Any, measured: Any, level: float = 0.9) -> Array:
    """Return the interval score of each measurement, relative to it (lower is better).

    Width plus 2 / (1 - level) times the distance by which the measurement lies outside: Gneiting &
    Raftery 2007, eq. 43. Its expectation is smallest for the true quantiles, so that wide intervals
    gain nothing from holding everything. NaN where an interval or a measurement is missing.

    Args:
        low: lower ends.
        high: upper ends.
        measured: measurements, positive.
        level: probability of the intervals.
    """
    low, high, measured = (np.asarray(v, float) for v in (low, high, measured))
    outside = np.maximum(low - measured, 0) + np.maximum(measured - high, 0)
    return (high - low + 2 / (1 - level) * outside) / measured
