"""Which facts differ between two runs, over all pairs of runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import pandas as pd

__all__ = ["CodedFacts", "change_sets"]


def change_sets(runs: pd.DataFrame) -> frozenset[frozenset[str]]:
    """Every set of columns in which two different rows differ.

    Args:
      runs: one row per run, one column per fact, as text.
    """
    kinds = runs.drop_duplicates()
    rows = range(len(kinds) - 1)
    return CodedFacts.of(kinds).changes((row, np.arange(row + 1, len(kinds))) for row in rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodedFacts:
    """Facts of runs as whole numbers, to be compared quickly.

    Attributes:
      names: the facts that vary.
      codes: (runs, facts), equal where the text is equal.
    """

    names: tuple[str, ...]
    codes: np.ndarray

    @classmethod
    def of(cls, runs: pd.DataFrame) -> CodedFacts:
        """Of one row per run, one column per fact, as text."""
        names = [str(name) for name in runs if runs[name].nunique() > 1]
        codes = np.empty((len(runs), len(names)), np.int64)
        for place, name in enumerate(names):
            codes[:, place] = pd.factorize(runs[name])[0]
        return cls(names=tuple(names), codes=codes)

    def changes(self, pairs: Iterable[tuple[int, np.ndarray]]) -> frozenset[frozenset[str]]:
        """Every set of facts in which the runs of a pair differ; the empty set if two agree in all.

        Args:
          pairs: (run, runs to compare it with), as row numbers.
        """
        found: set[bytes] = set()
        for row, others in pairs:
            masks = np.packbits(self.codes[others] != self.codes[row], axis=1)
            found.update(mask.tobytes() for mask in np.unique(masks, axis=0))
        return frozenset(self._named(mask) for mask in found)

    def _named(self, mask: bytes) -> frozenset[str]:
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), count=len(self.names))
        return frozenset(name for name, bit in zip(self.names, bits, strict=True) if bit)
