"""Which facts differ between two runs, over all pairs of runs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

__all__ = ["change_sets"]


def change_sets(
    runs: pd.DataFrame, pairs: Iterable[tuple[int, np.ndarray]] | None = None
) -> frozenset[frozenset[str]]:
    """Every set of columns in which two runs differ; the empty set if two agree in all.

    Args:
      runs: one row per run, one column per fact, as text.
      pairs: (row, rows to compare it with), as positions; by default all pairs of different rows.
    """
    if pairs is None:
        runs = runs.drop_duplicates()
        pairs = ((row, np.arange(row + 1, len(runs))) for row in range(len(runs) - 1))
    varied = runs[[name for name in runs if runs[name].nunique() > 1]]
    codes = np.empty((len(varied), varied.shape[1]), np.int64)
    for place, name in enumerate(varied):
        codes[:, place] = pd.factorize(varied[name])[0]
    found: set[bytes] = set()
    for row, others in pairs:
        masks = np.unique(np.packbits(codes[others] != codes[row], axis=1), axis=0)
        found.update(mask.tobytes() for mask in masks)
    return frozenset(_named(mask, list(map(str, varied))) for mask in found)


def _named(mask: bytes, names: list[str]) -> frozenset[str]:
    bits = np.unpackbits(np.frombuffer(mask, np.uint8), count=len(names)).astype(bool)
    return frozenset(name for name, differs in zip(names, bits, strict=True) if differs)
