"""Find which facts differ between two runs, over many pairs of runs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd


def change_sets(runs: pd.DataFrame) -> frozenset[frozenset[str]]:
    """Return every set of columns in which some two runs differ.

    Args:
        runs: one row per run, one column per fact, as text.
    """
    runs = runs.drop_duplicates()
    rows = range(len(runs) - 1)
    return Changes(runs).between((row, np.arange(row + 1, len(runs))) for row in rows)


class Changes:
    """Facts of runs, encoded once as integers, to compare many pairs of runs quickly.

    Args:
        runs: one row per run, one column per fact, as text.
    """

    def __init__(self, runs: pd.DataFrame) -> None:
        """Encode the columns that vary."""
        varied = runs[[name for name in runs if runs[name].nunique() > 1]]
        self._names = list(map(str, varied))
        self._codes = np.empty((len(varied), varied.shape[1]), np.int64)
        for place, name in enumerate(varied):
            self._codes[:, place] = pd.factorize(varied[name])[0]

    def between(self, pairs: Iterable[tuple[int, np.ndarray]]) -> frozenset[frozenset[str]]:
        """Return every set of columns in which some pair differs.

        The empty set is included if a pair agrees in all columns.

        Args:
            pairs: (row, rows to compare it with), as positions.
        """
        found: set[bytes] = set()
        for row, others in pairs:
            differ = np.packbits(self._codes[others] != self._codes[row], axis=1)
            found.update(mask.tobytes() for mask in np.unique(differ, axis=0))
        return frozenset(map(self._named, found))

    def _named(self, mask: bytes) -> frozenset[str]:
        names = self._names
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), count=len(names)).astype(bool)
        return frozenset(name for name, differs in zip(names, bits, strict=True) if differs)
