"""Definition of a corpus: packages, extraction and license."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lossline.corpora.extraction import Document
from lossline.corpora.registries.packages import Package

Extract = Callable[[Path], Iterator[Document]]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A set of documents inside released packages.

    Attributes:
        name: short name; recorded as ``pretraining_data`` or ``eval_set``.
        title: description in one line.
        packages: each package, with the function that reads documents from its file.
        content_license: license of the text as its source states it; "(unverified)" if the source
            states none.
        cleaning: description of the changes to the text.
        near_duplicates: whether to drop near-duplicates as well as exact duplicates.
        megabytes: approximate text before any document is dropped, in 10^6 bytes; used to
            estimate the remaining time. 0 means unknown.
        recipe: version of the extraction; increase it when the extracted documents change.
    """

    name: str
    title: str
    packages: Mapping[Package, Extract]
    content_license: str
    cleaning: str = "none"
    near_duplicates: bool = False
    megabytes: float = 0.0
    recipe: int = 1
