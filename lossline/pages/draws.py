"""Random numbers that belong to pages: they depend on the seed and the page's id alone.

So the order of the pages, the other pages and the process change nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


def uniform(ids: Iterable[str], *, seed: int, purpose: str) -> np.ndarray:
    """Return a number between 0 and 1, both excluded, for each id: float64 [ids].

    Args:
        ids: ids of pages; equal ids have equal numbers.
        seed: seed of the selection.
        purpose: what the numbers are for; those of two purposes are independent.
    """
    start = hashlib.blake2b(f"{purpose}\n{seed}\n".encode(), digest_size=8)

    def bits(id: str) -> bytes:
        own = start.copy()
        own.update(id.encode())
        return own.digest()

    values = np.frombuffer(b"".join(map(bits, ids)), "<u8")
    return ((values >> np.uint64(12)) + 0.5) / 2.0**52


def gumbel(ids: Iterable[str], *, seed: int, purpose: str) -> np.ndarray:
    """Return a standard Gumbel number for each id: float64 [ids]."""
    return -np.log(-np.log(uniform(ids, seed=seed, purpose=purpose)))
