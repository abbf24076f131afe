"""Find exact duplicates and near-duplicates, and assign documents to splits."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Sequence

import numpy as np

SHINGLE_WORDS = 8  # near-duplicates are compared by word 8-grams
DUPLICATE_SHARE = 0.5  # share of repeated 8-grams that makes a document a near-duplicate
_WORDS = re.compile(r"[^\W_]+")  # runs of letters and digits
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


def near_duplicates(texts: Sequence[str], *, threshold: float = DUPLICATE_SHARE) -> np.ndarray:
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
    if not len(texts):
        return np.zeros(0, bool)
    each = [shingles(text) for text in texts]
    totals = np.array([len(own) for own in each])
    flat = np.concatenate(each)
    del each
    # A stable sort keeps equal shingles in document order: the first is in the earliest document.
    # A document has a shingle once, so all others repeat an earlier document.
    order = np.argsort(flat, kind="stable")
    flat = flat[order]
    repeated = order[1:][flat[1:] == flat[:-1]]
    documents = np.searchsorted(np.cumsum(totals), repeated, side="right")
    return np.bincount(documents, minlength=len(texts)) >= threshold * totals


def shingles(text: str) -> np.ndarray:
    """Return the distinct 64-bit hashes of all word 8-grams; of all words if there are fewer."""
    words = _WORDS.findall(text.lower())
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
