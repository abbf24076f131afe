"""Find exact duplicates and near-duplicates, and assign documents to splits."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence

import numpy as np

SHINGLE_WORDS = 8  # near-duplicates are compared by word 8-grams
_BASE = np.uint64(0x9E3779B97F4A7C15)


def content_hash(text: str) -> str:
    """Return the SHA-256 (hex) of a text with white space normalized.

    Documents with equal hashes are duplicates. The hash also determines the split.
    """
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def split_of(content: str, validation_share: float) -> str:
    """Return the split of a document: "train" or "validation".

    The split depends only on the content hash, never on the other documents. A document in
    validation stays there when ``validation_share`` grows.

    Args:
        content: content hash of the document.
        validation_share: share of all hashes in validation, between 0 and 1.
    """
    return "validation" if int(content[:8], 16) < validation_share * 2**32 else "train"


def near_duplicates(texts: Sequence[str], *, threshold: float = 0.5) -> np.ndarray:
    """Mark documents that mostly repeat earlier documents.

    A document is marked if at least ``threshold`` of its distinct word 8-grams occur in earlier
    documents, in one of them or in several together. This finds edited copies, excerpts and
    collections of boilerplate. Earlier documents count even if they are marked themselves.

    Args:
        texts: documents in order.
        threshold: share of repeated 8-grams, between 0 and 1.

    Returns:
        bool [documents]: True for a near-duplicate.
    """
    shingles = [_shingles(text) for text in texts]
    owner = np.repeat(np.arange(len(texts)), [len(s) for s in shingles])
    flat = np.concatenate(shingles) if shingles else np.empty(0, np.uint64)
    # ``flat`` is in document order, so the first occurrence of a shingle is in the earliest
    # document that contains it.
    _, first, inverse = np.unique(flat, return_index=True, return_inverse=True)
    seen_before = owner[first][inverse] < owner
    totals = np.bincount(owner, minlength=len(texts))
    repeats = np.bincount(owner, weights=seen_before, minlength=len(texts))
    return repeats >= threshold * np.maximum(totals, 1)


def _shingles(text: str) -> np.ndarray:
    """Return the distinct 64-bit hashes of all word 8-grams; of all words if there are fewer."""
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    codes = np.array([zlib.crc32(word.encode()) for word in words], np.uint64)
    if len(codes) == 0:
        return np.zeros(1, np.uint64)
    width = min(SHINGLE_WORDS, len(codes))
    total = np.zeros(len(codes) - width + 1, np.uint64)
    # A polynomial hash modulo 2^64. The shift mixes high bits into low bits between two
    # multiplications, so the hash depends on the order of the words.
    for place in range(width):
        total = (total ^ codes[place : place + len(total)]) * _BASE
        total ^= total >> np.uint64(29)
    return np.unique(total)
