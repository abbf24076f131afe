"""Sources of text: gathered corpora, your own files, TFDS datasets and seqio Tasks.

``seqio_tasks`` turns every source into a seqio Task. This module reads file sources directly,
without TensorFlow; vocabulary training uses that.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lossline.corpora.deduplication import content_hash
from lossline.corpora.file_texts import (
    LineRange,
    RowGroups,
    TextRange,
    WholeFiles,
    line_ranges,
    row_group_ranges,
    whole_file_ranges,
)
from lossline.corpora.gathering import file_sha256, job_hash, read_provenance, text_folder
from lossline.corpora.json_lines import COMPRESSED, matching_files
from lossline.corpora.noisy import Noisy
from lossline.corpora.pools import Pool
from lossline.corpora.selected import Selected
from lossline.errors import UserError

# Bytes per range of files: large sets have about _RANGES of them.
_RANGES = 1024
_SMALLEST_RANGE = 1 << 21
_LARGEST_RANGE = 1 << 26


@dataclass(frozen=True, kw_only=True)
class JsonLines:
    """Gin component: files with one JSON object per line.

    Files may be compressed (``.gz``, ``.zst``, ``.bz2``).

    Attributes:
        name: name of the set.
        train: paths or globs of the training split.
        validation: paths or globs of the validation split.
        field: key of the text.
        license: license of the text.
    """

    name: str
    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    field: str = "text"
    license: str = ""


@dataclass(frozen=True, kw_only=True)
class Parquet:
    """Gin component: Parquet files.

    Attributes:
        name: name of the set.
        train: paths or globs of the training split.
        validation: paths or globs of the validation split.
        column: name of the column with the text.
        license: license of the text.
    """

    name: str
    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    column: str = "text"
    license: str = ""


@dataclass(frozen=True, kw_only=True)
class PlainFiles:
    """Gin component: text files; each file is one document.

    Attributes:
        name: name of the set.
        train: paths or globs of the training split.
        validation: paths or globs of the validation split.
        license: license of the text.
    """

    name: str
    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    license: str = ""


@dataclass(frozen=True, kw_only=True)
class Tfds:
    """Gin component: a TensorFlow dataset.

    Attributes:
        name: name of the set.
        dataset: TFDS name with version, such as ``lm1b:1.1.0``.
        feature: feature that contains the text.
        train: TFDS split or slice to use as the training split.
        validation: TFDS split or slice to use as the validation split.
        data_dir: folder of the TFDS datasets. Default: TFDS's own default.
        license: license of the text.
    """

    name: str
    dataset: str
    feature: str = "text"
    train: str = "train"
    validation: str = "validation"
    data_dir: str = ""
    license: str = ""


@dataclass(frozen=True, kw_only=True)
class SeqioTask:
    """Gin component: a registered seqio Task or Mixture.

    A Mixture ends as soon as one of its Tasks is exhausted.

    Attributes:
        task: registered name.
        name: name of the set. Default: the name of the Task.
        modules: modules to import first; they register the Task.
        feature: feature that contains the text, or ids of a ``SeqioVocabulary``.
        license: license of the text.
    """

    task: str
    name: str = ""
    modules: tuple[str, ...] = ()
    feature: str = "text"
    license: str = ""


FileSource = JsonLines | Parquet | PlainFiles
PageSource = Pool | Selected | Noisy
Source = FileSource | PageSource | Tfds | SeqioTask


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Limits that select part of a set, equally for every vocabulary; 0 means no limit.

    Attributes:
        max_documents: maximum number of documents; those with the smallest content hashes are
            kept.
        max_megabytes: maximum text in 10^6 bytes; documents with the smallest content hashes are
            kept, at least one.
        max_document_kilobytes: maximum size of a document in 10^3 bytes; longer documents are
            truncated at a character boundary.
    """

    max_documents: int = 0
    max_megabytes: float = 0.0
    max_document_kilobytes: float = 0.0

    def apply(self, texts: Iterable[str]) -> Iterable[str]:
        """Return the subset of the texts.

        Texts keep their order if the number of documents and the total size are unlimited.
        Otherwise they are sorted by content hash.
        """
        if self.max_document_kilobytes:
            limit = int(self.max_document_kilobytes * 1000)
            texts = (text.encode()[:limit].decode(errors="ignore") for text in texts)
        if not self.max_documents and not self.max_megabytes:
            return texts
        return self._smallest(texts)

    def describe(self) -> str:
        """Return the limits in words; "" if there are none."""
        parts = []
        if self.max_documents:
            parts.append(f"at most {self.max_documents} documents")
        if self.max_megabytes:
            parts.append(f"at most {self.max_megabytes:g} MB")
        if self.max_document_kilobytes:
            parts.append(f"documents cut to {self.max_document_kilobytes:g} kB")
        return ", ".join(parts)

    def _smallest(self, texts: Iterable[str]) -> list[str]:
        room = int(self.max_megabytes * 1e6) if self.max_megabytes else float("inf")
        count = self.max_documents or float("inf")
        # The heap contains only the candidates, so memory does not grow with the set. heapq removes
        # the smallest entry; negated hashes make that the largest hash.
        heap: list[tuple[int, int, str]] = []
        total = 0
        for number, text in enumerate(texts):
            heapq.heappush(heap, (-int(content_hash(text), 16), -number, text))
            total += len(text.encode())
            while len(heap) > 1 and (len(heap) > count or total > room):
                total -= len(heapq.heappop(heap)[2].encode())
        return [text for _, _, text in sorted(heap, reverse=True)]


def gathered(root: Path, name: str) -> JsonLines:
    """Return the source of a gathered corpus.

    Raises:
        UserError: the corpus is not gathered.
    """
    folder = text_folder(root, name)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such set. Gather {name!r} first with python -m lossline.gather."
        )
    return JsonLines(
        name=name,
        train=(str(folder / "train.jsonl"),),
        validation=(str(folder / "validation.jsonl"),),
        license=read_provenance(folder)["content_license"],
    )


def paths(source: FileSource, split: str) -> list[Path]:
    """Return the files of a split; the matches of each pattern are sorted.

    Raises:
        UserError: the source lacks the split, or a pattern matches no file.
    """
    patterns = {"train": source.train, "validation": source.validation}.get(split, ())
    if not patterns:
        raise UserError(
            f"set {source.name}: has no split {split!r}. Bind its files, or leave "
            "the split out of store.splits."
        )
    return matching_files(patterns, f"set {source.name}, {split}")


def splits(source: FileSource | PageSource) -> list[str]:
    """Return the splits of a source of files or pages."""
    if isinstance(source, Selected | Noisy):
        return ["train"]
    if isinstance(source, Pool):
        return ["train", "validation", "scored"]
    return [split for split in ("train", "validation") if getattr(source, split)]


def text_bytes(source: Source, split: str, subset: Subset) -> int:
    """Return the approximate bytes of text in a split, from file sizes; 0 if unknown.

    Used to estimate the remaining time.
    """
    if isinstance(source, Selected | Noisy):
        return source.text_bytes()
    if not isinstance(source, JsonLines | Parquet | PlainFiles) or subset.max_documents:
        return 0
    files, limit = paths(source, split), int(subset.max_megabytes * 1e6)
    if any(path.suffix in COMPRESSED for path in files):
        return limit
    size = sum(path.stat().st_size for path in files)
    return min(size, limit or size)


def documents(source: FileSource | PageSource, split: str) -> Iterator[str]:
    """Yield the texts of a split in the order of its files; of a pool in the order of its pages.

    Raises:
        UserError: a file cannot be read, or a line, row or file is not UTF-8 text.
    """
    if isinstance(source, Pool):
        yield from (page.text for page in source.pages(split))
        return
    if isinstance(source, Selected):
        yield from (page.text for page in source.pages())
        return
    if isinstance(source, Noisy):
        yield from source.texts()
        return
    for path in paths(source, split):
        try:
            yield from _whole(source, path).texts()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error}). Correct the path.") from error


def _whole(source: FileSource, path: Path) -> TextRange:
    if isinstance(source, JsonLines):
        return LineRange(path=path, field=source.field)
    if isinstance(source, Parquet):
        return RowGroups(path=path, column=source.column)
    return WholeFiles(paths=(path,))


def text_ranges(source: FileSource, split: str) -> list[TextRange]:
    """Return ranges of the files of a split; together they give its documents, in order.

    They depend only on the files: on their sizes, and on the row groups of Parquet.

    Raises:
        UserError: the source lacks the split, or a pattern matches no file.
    """
    files = [path.absolute() for path in paths(source, split)]
    total = sum(path.stat().st_size for path in files)
    size = min(max(total // _RANGES, _SMALLEST_RANGE), _LARGEST_RANGE)
    if isinstance(source, JsonLines):
        return [part for path in files for part in line_ranges(path, source.field, size)]
    if isinstance(source, Parquet):
        return [part for path in files for part in row_group_ranges(path, source.column, size)]
    return list(whole_file_ranges(files, size))


def identity(source: Source, split: str, *, sha256: Callable[[Path], str] = file_sha256) -> str:
    """Return a hash (SHA-256, hex) that identifies the contents of a split.

    For TFDS and seqio it is computed from their options, for other sources from their contents.

    Args:
        source: source of the texts.
        split: its split.
        sha256: returns the SHA-256 (hex) of a file of a source of files.
    """
    if isinstance(source, Pool):
        return job_hash("Pool", source.split_fingerprint(split))
    if isinstance(source, Selected | Noisy):
        return job_hash(type(source).__name__, source.identity())
    if isinstance(source, JsonLines | Parquet | PlainFiles):
        contents = [sha256(path) for path in paths(source, split)]
        column = getattr(source, "field", getattr(source, "column", ""))
        return job_hash(type(source).__name__, column, contents)
    return job_hash(type(source).__name__, repr(source), split)
