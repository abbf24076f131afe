"""Requests of stores, as hashes: ``prepare`` skips a store that was made by the same request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lossline.corpora import sources
from lossline.corpora.gathering import file_sha256, job_hash
from lossline.corpora.sources import Source, Subset

FORMAT = 1  # increase when the same text and vocabulary give a different store


def text_job(
    source: Source,
    split: str,
    subset: Subset,
    vocabulary_hash: str,
    *,
    sha256: Callable[[Path], str] = file_sha256,
) -> str:
    """Return the hash of a request for a token store; it changes with the texts of the source.

    Args:
        source: source of the texts.
        split: its split.
        subset: limits of the number and size of the texts.
        vocabulary_hash: hash of the vocabulary.
        sha256: returns the SHA-256 (hex) of a file of a source of files.

    Raises:
        UserError: the source cannot be read.
    """
    limits = [subset.max_documents, subset.max_megabytes, subset.max_document_kilobytes]
    contents = sources.identity(source, split, sha256=sha256)
    return job_hash("text", FORMAT, contents, limits, vocabulary_hash)
