"""Pseudo-random permutations of range(n) in constant memory: a Feistel network with cycle walking.

Source: Black & Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002, methods 2 and 3;
Luby & Rackoff, SIAM J. Comput. 17(2), 1988. Use it only to shuffle, not to encrypt.
"""

from __future__ import annotations

import hashlib

import numpy as np

_ROUNDS = 6  # Feistel rounds


class Permutation:
    """A bijection of ``range(size)``, determined by ``key``; expected O(1) time per element.

    The result is the same on every machine.

    Args:
        size: number of elements, at least 1.
        key: values that identify the shuffle; they are joined to a text and hashed.

    Raises:
        ValueError: ``size`` is below 1.
    """

    def __init__(self, size: int, *key: str | int) -> None:
        if size < 1:
            raise ValueError(f"a permutation of {size} elements")
        self.size = size
        # A balanced Feistel network needs two halves of equal width, so odd widths are rounded up.
        bits = max(2, (size - 1).bit_length())
        self._half = np.uint64((bits + 1) // 2)
        self._mask = np.uint64((1 << int(self._half)) - 1)
        # SHA-512 gives eight 64-bit words, enough for one key per round.
        digest = hashlib.sha512("\x00".join(map(str, key)).encode()).digest()
        self._keys = np.frombuffer(digest, "<u8")[:_ROUNDS].astype(np.uint64)

    def __call__(self, index: np.ndarray | int) -> np.ndarray:
        """Return the image of each index.

        Args:
            index: int64 of any shape, in ``range(size)``.

        Returns:
            int64 of the same shape.

        Raises:
            IndexError: an index is outside ``range(size)``.
        """
        flat = np.atleast_1d(np.asarray(index, np.int64))
        if flat.size and (flat.min() < 0 or flat.max() >= self.size):
            raise IndexError(f"index outside range({self.size})")
        value = self._once(flat.astype(np.uint64))
        # The network permutes range(2^m) with 2^m at most 4 · size. Applying it again until the
        # value is inside range(size) (cycle walking) gives a permutation of range(size).
        outside = value >= self.size
        while outside.any():
            value[outside] = self._once(value[outside])
            outside = value >= self.size
        return value.astype(np.int64).reshape(np.shape(index))

    def _once(self, value: np.ndarray) -> np.ndarray:
        left, right = value >> self._half, value & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
        return (left << self._half) | right


def _mix(value: np.ndarray) -> np.ndarray:
    """Mix the bits of uint64 values: finalizer of splitmix64 (Steele et al., OOPSLA 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
