"""An order of runs by their data, so that no result depends on what runs are called.

Resampling gives the n-th run the n-th random weight, and ties go to the first run: numbered by
name, runs would change intervals when they are renamed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["run_numbers"]

Array = np.ndarray


def run_numbers(runs: Any, *columns: Array) -> Array:
    """Number (M,) of the run of each of M points, 0 to R - 1.

    `runs` (M,) names each point's run; `columns`, each (M,), are the points' data. A run is placed
    by its points in sorted order, compared by the first column, then the next; NaN comes last. Only
    runs with equal data keep the order of their names: exchanging them changes nothing.
    """
    names, number = np.unique(np.asarray(runs).astype(str), return_inverse=True)
    rows = np.column_stack([np.asarray(column, float) for column in columns])
    rows = np.where(np.isnan(rows), np.inf, rows)
    rows = rows[np.lexsort((*rows.T[::-1], number))]
    ends = np.cumsum(np.bincount(number, minlength=len(names)))
    data = [part.tolist() for part in np.split(rows, ends)[: len(names)]]
    place = np.empty(len(names), int)
    place[sorted(range(len(names)), key=data.__getitem__)] = np.arange(len(names))
    return place[number.ravel()]
