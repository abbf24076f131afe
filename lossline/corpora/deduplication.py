"""Duplicates: the same text, and nearly the same text."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence

import numpy as np

SHINGLE_WORDS = 8
_BASE = np.uint64(0x9E3779B97F4A7C15)


def content_hash(text: str) -> str:
    """Hash of a text up to its white space: decides what is the same document, and its split."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def split_of(content: str, validation_share: float) -> str:
    """ "validation" for a ``validation_share`` of all content hashes, "train" for the others."""
    return "validation" if int(content[:8], 16) < validation_share * 2**32 else "train"


def near_duplicates(texts: Sequence[str], *, threshold: float = 0.5) -> np.ndarray:
    """Marks the documents that mostly repeat earlier ones.

    A document is marked where at least ``threshold`` of its word 8-grams stood in a document before
    it, be it in one or in several: paraphrased copies, texts inside longer texts, collages of
    boilerplate. Marked documents count as "before" too, so a rare text may go that stood only in a
    marked one.

    Returns:
        bool [documents].
    """
    shingles = [_shingles(text) for text in texts]
    owner = np.repeat(np.arange(len(texts)), [len(s) for s in shingles])
    flat = np.concatenate(shingles) if shingles else np.empty(0, np.uint64)
    _, first, inverse = np.unique(flat, return_index=True, return_inverse=True)
    seen_before = owner[first][inverse] < owner
    totals = np.bincount(owner, minlength=len(texts))
    repeats = np.bincount(owner, weights=seen_before, minlength=len(texts))
    return repeats >= threshold * np.maximum(totals, 1)


def _shingles(text: str) -> np.ndarray:
    """One 64-bit hash per run of eight words (of all words where there are fewer)."""
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    codes = np.array([zlib.crc32(word.encode()) for word in words], np.uint64)
    if len(codes) == 0:
        return np.zeros(1, np.uint64)
    width = min(SHINGLE_WORDS, len(codes))
    total = np.zeros(len(codes) - width + 1, np.uint64)
    for place in range(width):  # a polynomial modulo 2^64, mixed so that word order counts
        total = (total ^ codes[place : place + len(total)]) * _BASE
        total ^= total >> np.uint64(29)
    return np.unique(total)
