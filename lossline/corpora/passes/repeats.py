"""Find near-duplicates among documents that do not fit into memory.

The rule is that of ``deduplication.near_duplicates``: a document is a near-duplicate if at least
half of its distinct word 8-grams occur in earlier documents. Each worker writes the 8-grams of some
documents in the order of their hashes; other workers each read one range of hashes from all these
files and count, for each document, the 8-grams that an earlier document has. The sums of the counts
are the same however documents and hashes are divided.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lossline.corpora.deduplication import shingles
from lossline.corpora.passes.sorted_texts import read_array, write_array

PIECE = 1 << 22  # 8-grams that one worker counts at once
_HASHES = 1 << 64
_ENTRY = np.dtype([("shingle", "<u8"), ("document", "<u4")])
_COUNT = np.dtype([("document", "<u4"), ("repeats", "<u4")])


def write_shingles(path: Path, texts: Iterable[str], places: np.ndarray) -> np.ndarray:
    """Write the distinct 8-grams of documents, sorted.

    Args:
        path: file to write.
        texts: texts of the documents.
        places: place of each in the order of all documents; below 2^32.

    Returns:
        int64 [documents]: distinct 8-grams of each.
    """
    own = [shingles(text) for text in texts]
    totals = np.array([len(some) for some in own], np.int64)
    entries = np.zeros(int(totals.sum()), _ENTRY)
    flat = np.concatenate([np.zeros(0, np.uint64), *own])
    del own
    order = np.argsort(flat, kind="stable")
    entries["shingle"] = flat[order]
    entries["document"] = np.repeat(places, totals)[order]
    write_array(path, entries)
    return totals


def count_repeats(path: Path, files: Sequence[Path], piece: int, pieces: int) -> None:
    """Write how many 8-grams of one range of hashes each document repeats.

    Args:
        path: file to write.
        files: files of ``write_shingles`` of all documents.
        piece: number of the range.
        pieces: number of ranges.
    """
    low, high = piece * _HASHES // pieces, (piece + 1) * _HASHES // pieces
    parts = [np.zeros(0, _ENTRY)]
    for file in files:
        entries = read_array(file)
        start = bisect.bisect_left(entries["shingle"], low)
        stop = bisect.bisect_left(entries["shingle"], high) if high < _HASHES else len(entries)
        parts.append(np.array(entries[start:stop]))
    entries = np.concatenate(parts)
    del parts
    order = np.argsort(entries["shingle"], kind="stable")  # merges the files, which are sorted
    hashes, documents = entries["shingle"][order], entries["document"][order]
    del entries, order
    new = np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)]
    shared = ~(new & np.append(new[1:], True)[: len(hashes)])  # by several documents
    documents, starts = documents[shared], np.flatnonzero(new[shared])
    # A document has a shingle once, so all but the earliest document of a hash repeat it.
    earliest = np.minimum.reduceat(documents, starts) if len(starts) else documents
    documents, repeats = np.unique(documents, return_counts=True)
    np.subtract.at(repeats, np.searchsorted(documents, earliest), 1)
    counts = np.zeros(len(documents), _COUNT)
    counts["document"], counts["repeats"] = documents, repeats
    write_array(path, counts[repeats > 0])


def sum_repeats(files: Iterable[Path], documents: int) -> np.ndarray:
    """Return the repeated 8-grams of each document: int64 [documents].

    Args:
        files: files of ``count_repeats`` of all ranges.
        documents: number of documents.
    """
    total = np.zeros(documents, np.int64)
    for file in files:
        counts = read_array(file)
        total[counts["document"]] += counts["repeats"]
    return total
