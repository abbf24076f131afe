"""Where text comes from: gathered corpora, one's own files, TFDS, seqio Tasks. Light; no
TensorFlow.

Every source is turned into a seqio Task by ``seqio_tasks``; those that are files can also be read
directly here, which training a vocabulary does.
"""

from __future__ import annotations

import glob
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossline.corpora import utf8
from lossline.corpora.deduplication import content_hash
from lossline.corpora.gathering import file_sha256, job_hash, read_provenance, text_folder
from lossline.corpora.json_lines import COMPRESSED, kind_of, read_objects
from lossline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class JsonLines:
    """Gin component: files with one JSON object per line, plain or compressed (``.gz``, ``.zst``,
    ``.bz2``).

    Attributes:
        name: of the set.
        train: paths or globs of the training split.
        validation: paths or globs of the validation split.
        field: key of the text.
        license: of the text.
    """

    name: str
    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    field: str = "text"
    license: str = ""


@dataclass(frozen=True, kw_only=True)
class Parquet:
    """Gin component: Parquet files; attributes as ``JsonLines``, ``column`` holds the text."""

    name: str
    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    column: str = "text"
    license: str = ""


@dataclass(frozen=True, kw_only=True)
class PlainFiles:
    """Gin component: text files, each one document; attributes as ``JsonLines``."""

    name: str
    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    license: str = ""


@dataclass(frozen=True, kw_only=True)
class Tfds:
    """Gin component: a TensorFlow dataset.

    Attributes:
        name: of the set.
        dataset: TFDS name with version, such as ``lm1b:1.1.0``.
        feature: feature that holds the text.
        train: TFDS split or slice that is the training split.
        validation: the same for the validation split.
        data_dir: where TFDS keeps its files; default: its own.
        license: of the text.
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
    """Gin component: a registered seqio Task, or a Mixture (which ends with its first Task).

    Attributes:
        name: of the set; default: the Task's.
        task: registered name.
        modules: modules to import first, which register it.
        feature: feature with the text, or with ids of a ``SeqioVocabulary``.
        license: of the text.
    """

    task: str
    name: str = ""
    modules: tuple[str, ...] = ()
    feature: str = "text"
    license: str = ""


FileSource = JsonLines | Parquet | PlainFiles
Source = JsonLines | Parquet | PlainFiles | Tfds | SeqioTask


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Part of a set, the same for every vocabulary; 0 means no limit.

    Attributes:
        max_documents: that many documents of smallest content hash.
        max_megabytes: of those as many as fit into 10^6 bytes of text, at least one.
        max_document_kilobytes: every document is cut to its first 10^3 bytes, at a character.
    """

    max_documents: int = 0
    max_megabytes: float = 0.0
    max_document_kilobytes: float = 0.0

    def apply(self, texts: Iterable[str]) -> Iterable[str]:
        """The subset; in its given order where nothing is left out, else by content hash."""
        if self.max_document_kilobytes:
            limit = int(self.max_document_kilobytes * 1000)
            texts = (text.encode()[:limit].decode(errors="ignore") for text in texts)
        if not self.max_documents and not self.max_megabytes:
            return texts
        return self._smallest(texts)

    def describe(self) -> str:
        """In words, empty for everything."""
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
        # A heap with the largest hash on top holds what may still be kept: memory is the subset's.
        heap: list[tuple[int, int, str]] = []
        total = 0
        for number, text in enumerate(texts):
            heapq.heappush(heap, (-int(content_hash(text), 16), -number, text))
            total += len(text.encode())
            while len(heap) > 1 and (len(heap) > count or total > room):
                total -= len(heapq.heappop(heap)[2].encode())
        return [text for _, _, text in sorted(heap, reverse=True)]


def gathered(root: Path, name: str) -> JsonLines:
    """The source of a gathered corpus.

    Raises:
        UserError: it was not gathered.
    """
    folder = text_folder(root, name)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such set; gather {name!r} first (python -m lossline.gather)")
    return JsonLines(
        name=name,
        train=(str(folder / "train.jsonl"),),
        validation=(str(folder / "validation.jsonl"),),
        license=read_provenance(folder)["content_license"],
    )


def paths(source: FileSource, split: str) -> list[Path]:
    """Files of a split, sorted.

    Raises:
        UserError: no such split, or a pattern that matches nothing.
    """
    patterns = {"train": source.train, "validation": source.validation}.get(split, ())
    if not patterns:
        raise UserError(f"set {source.name}: has no split {split!r}; bind its files")
    found: list[Path] = []
    for pattern in patterns:
        matches = sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise UserError(f"set {source.name}, {split}: no file {pattern}; correct the path")
        found += map(Path, matches)
    return found


def text_bytes(source: Source, split: str, subset: Subset) -> int:
    """Bytes of text to come, about: the files' sizes; 0 where not known. For the time left."""
    if not isinstance(source, JsonLines | Parquet | PlainFiles) or subset.max_documents:
        return 0
    files, limit = paths(source, split), int(subset.max_megabytes * 1e6)
    if any(path.suffix in COMPRESSED for path in files):
        return limit
    size = sum(path.stat().st_size for path in files)
    return min(size, limit or size)


def documents(source: FileSource, split: str) -> Iterator[str]:
    """Texts of a split of files, in order.

    Raises:
        UserError: a line, column or file that holds no text in UTF-8, or cannot be read.
    """
    for path in paths(source, split):
        try:
            if isinstance(source, JsonLines):
                yield from _json_lines(path, source.field)
            elif isinstance(source, Parquet):
                yield from _parquet(path, source.column)
            else:
                yield _plain(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error}); correct the path") from error


def identity(source: Source, split: str) -> str:
    """Hash of what a source's split holds: of the files' contents, or of names where none are."""
    if isinstance(source, JsonLines | Parquet | PlainFiles):
        contents = [file_sha256(path) for path in paths(source, split)]
        column = getattr(source, "field", getattr(source, "column", ""))
        return job_hash(type(source).__name__, column, contents)
    return job_hash(type(source).__name__, repr(source), split)


def _json_lines(path: Path, field: str) -> Iterator[str]:
    for where, record in read_objects(path):
        text = record.get(field)
        if not isinstance(text, str):
            found = f"it holds {kind_of(text)}" if field in record else f"it has {_listed(record)}"
            raise UserError(
                f"{where}: no text under {field!r} ({found}); correct the line or jsonl.field"
            )
        utf8.require(text, f"{where}, {field!r}")
        yield text


def _listed(names: Iterable[str]) -> str:
    shown = [repr(name) for name in names][:8]
    return ", ".join(shown) or "no key"


def _parquet(path: Path, column: str) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    row = 0
    try:
        file = pyarrow.parquet.ParquetFile(path)
        if column not in file.schema_arrow.names:
            raise UserError(
                f"{path}: no column {column!r}; it has {_listed(file.schema_arrow.names)}"
            )
        for batch in file.iter_batches(columns=[column]):
            for data in _undecoded(batch.column(0), f"{path}: {column!r}"):
                yield _decoded(data, f"{path}, row {row} (from 0): {column!r}")
                row += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: no Parquet file, or damaged after row {row} ({error})") from error


def _undecoded(column: Any, where: str) -> list[bytes | None]:
    """A column's texts as the file holds them: pyarrow names no row where it meets bad UTF-8."""
    from pyarrow import large_binary, types

    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if str(column.type) not in ("string", "large_string", "string_view"):
        raise UserError(f"{where} holds {column.type}, no text; correct parquet.column")
    return column.cast(large_binary()).to_pylist()


def _decoded(data: bytes | None, where: str) -> str:
    if data is None:
        raise UserError(f"{where} holds no text (null); leave out the row")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} holds no text in UTF-8 ({error}); repair or leave out the row"
        ) from error


def _plain(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = len((data[: error.start] + b".").splitlines())
        raise UserError(
            f"{path}, line {line}: not UTF-8 ({error}); convert the file to UTF-8 or leave it out"
        ) from error
