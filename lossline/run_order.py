"""Order runs by their data, so that no result depends on the names of runs.

Resampling gives the n-th run the n-th random weight, and ties go to the first run. If runs were
numbered by name, renaming them would change intervals.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray


def run_numbers(runs: Any, *columns: Array) -> Array:
    """Return the number of the run of each of M points, 0 to R - 1, int [M].

    A run is placed by its points in sorted order, compared by the first column, then the next; NaN
    comes last. Only runs with equal data keep the order of their names, which has no effect because
    their data are equal.

    Args:
        runs: name of each point's run, [M].
        columns: data of the points, each [M].
    """
    names, number = np.unique(np.asarray(runs).astype(str), return_inverse=True)
    rows = np.column_stack([np.asarray(column, float) for column in columns])
    rows = np.where(np.isnan(rows), np.inf, rows)
    rows = rows[np.lexsort((*rows.T[::-1], number))]
    ends = np.cumsum(np.bincount(number, minlength=len(names)))
    first = rows[ends - np.bincount(number, minlength=len(names))]
    place = np.empty(len(names), int)
    if len(np.unique(first, axis=0)) == len(names):  # first points tell all runs apart
        place[np.lexsort(first.T[::-1])] = np.arange(len(names))
        return place[number.ravel()]
    data = [part.tolist() for part in np.split(rows, ends)[: len(names)]]
    place[sorted(range(len(names)), key=data.__getitem__)] = np.arange(len(names))
    return place[number.ravel()]
