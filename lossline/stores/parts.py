"""Parts of a store that is being made: the tokens of consecutive documents, one file each.

A part is written whole or not at all, by any process that sees the folder. Its name and its last
line hold a key, the hash of its text and vocabulary, so the next start reuses what is finished.

A file holds the ids, the lengths and the sizes of the documents (see ``Tokens``), then a JSON
object with the facts, and the length of that object in 8 bytes. All numbers are little endian.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from lossline.cluster import worker_name
from lossline.cluster.engine import HERE
from lossline.corpora.sources import Subset
from lossline.errors import UserError
from lossline.files import replacing
from lossline.stores.tokenization import CHUNK_BYTES, Tokens, chunked, loaded, tokenize
from lossline.vocabularies import Vocabulary, VocabularySpec

_BLOCK = 1 << 22  # elements read at once
_SIZES = np.dtype("<i8")  # of the lengths and the sizes of documents


class Text(Protocol):
    """A piece of text that any process can read; small, so that it can be sent to one."""

    def texts(self) -> Iterator[str]:
        """Yield the documents."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A finished part.

    Attributes:
        number: position in the store.
        path: its file.
        key: hash of its text and vocabulary.
        documents: number of documents.
        tokens: number of tokens, with one eos per document.
        bytes: UTF-8 bytes of its documents.
        found: whether an earlier start has made it.
    """

    number: int
    path: Path
    key: str
    documents: int
    tokens: int
    bytes: int
    found: bool = False


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A part to make: the unit of work of ``prepare``.

    Attributes:
        number: position in the store.
        path: its file.
        key: hash of its text and vocabulary.
        text: its documents.
    """

    number: int
    path: Path
    key: str
    text: Text


@dataclass(frozen=True, kw_only=True)
class Making:
    """How parts are made.

    Attributes:
        vocabulary: specification, or a vocabulary if everything happens in this process.
        hash: hash of the vocabulary; a worker with another file of it is refused.
        max_document_kilobytes: limit of the size of a document; see ``Subset``.
        chunk: characters that are tokenized at once.
    """

    vocabulary: Vocabulary | VocabularySpec
    hash: str
    max_document_kilobytes: float = 0.0
    chunk: int = CHUNK_BYTES


def make(making: Making, wanted: Wanted) -> Part:
    """Make a part, unless an earlier start has made it and it is undamaged.

    Raises:
        UserError: a text is invalid or changed by the vocabulary, or the vocabulary of this worker
            is another one.
    """
    part = find(wanted.number, wanted.path, wanted.key)
    if part is not None:
        return part
    if worker_name() != HERE:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # every core already has a worker
    vocabulary = checked_vocabulary(making.vocabulary, making.hash)
    subset = Subset(max_document_kilobytes=making.max_document_kilobytes)
    texts = subset.apply(_readable(wanted.text))
    tokens = (tokenize(chunk, vocabulary) for chunk in chunked(texts, making.chunk))
    return _write(wanted, tokens, id_dtype(vocabulary))


def checked_vocabulary(spec: Vocabulary | VocabularySpec, expected: str) -> Vocabulary:
    """Return a vocabulary, loaded once per process.

    Args:
        spec: specification, or a vocabulary.
        expected: hash that it must have.

    Raises:
        UserError: its file cannot be loaded here, or it has another hash.
    """
    if isinstance(spec, Vocabulary):
        return spec
    try:
        vocabulary = loaded(spec)
        if vocabulary.hash != expected:  # its file may have changed since it was loaded
            loaded.cache_clear()
            vocabulary = loaded(spec)
    except UserError as error:
        if worker_name() == HERE:
            raise
        raise UserError(f"{worker_name()}: {error}") from error
    if vocabulary.hash != expected:
        raise UserError(
            f"{worker_name()}: vocabulary {vocabulary.name} is {vocabulary.hash[:12]} there, but "
            f"this command uses {expected[:12]}. Give all workers the same file at "
            f"{getattr(spec, 'path', 'its path')}."
        )
    return vocabulary


def id_dtype(vocabulary: Vocabulary) -> str:
    """Return the smallest type for the ids: "uint16" for up to 65,536 ids, else "uint32"."""
    return "uint16" if vocabulary.vocab_size <= 1 << 16 else "uint32"


def _readable(text: Text) -> Iterator[str]:
    """Yield the documents; name what cannot be read here.

    A path that a worker of a cluster does not see is named by the engine, with the worker.
    """
    try:
        yield from text.texts()
    except OSError as error:
        if worker_name() != HERE:
            raise
        raise UserError(
            f"{error.filename or 'the text'}: cannot be read ({error}). Correct the path."
        ) from error


def file_name(number: int, key: str) -> str:
    """Return the name of the file of a part.

    It contains the key, so that a worker that is late never overwrites a part of another text.
    """
    return f"{number:08d}-{key[:16]}.part"


def _write(wanted: Wanted, pieces: Iterable[Tokens], dtype: str) -> Part:
    ids_type = np.dtype(dtype).newbyteorder("<")
    lengths: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    tokens = 0
    digest = hashlib.sha256()
    with replacing(wanted.path) as partial, partial.open("wb") as file:

        def add(values: np.ndarray, kind: np.dtype) -> None:
            data = values.astype(kind, copy=False).tobytes()
            digest.update(data)
            file.write(data)

        for piece in pieces:
            add(piece.ids, ids_type)
            tokens += piece.ids.size
            lengths.append(piece.lengths)
            sizes.append(piece.bytes)
        for values in (*lengths, *sizes):
            add(values, _SIZES)
        facts = {
            "key": wanted.key,
            "documents": sum(values.size for values in sizes),
            "tokens": tokens,
            "bytes": sum(int(values.sum()) for values in sizes),
            "width": ids_type.itemsize,
            "sha256": digest.hexdigest(),
        }
        footer = json.dumps(facts).encode()
        file.write(footer)
        file.write(len(footer).to_bytes(8, "little"))
    return _part(wanted.number, wanted.path, facts)


def _part(number: int, path: Path, facts: dict[str, Any], *, found: bool = False) -> Part:
    return Part(
        number=number,
        path=path,
        key=facts["key"],
        documents=facts["documents"],
        tokens=facts["tokens"],
        bytes=facts["bytes"],
        found=found,
    )


def find(number: int, path: Path, key: str) -> Part | None:
    """Return the part of an earlier start; None if it is missing, damaged or of another text."""
    try:
        with path.open("rb") as file:
            facts = _facts(file)
            if facts["key"] != key or facts["sha256"] != _content_sha256(file, facts):
                return None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return None
    return _part(number, path, facts, found=True)


def _facts(file: BinaryIO) -> dict[str, Any]:
    """Return the facts at the end of a file.

    Raises:
        ValueError: the file is damaged or truncated.
    """
    size = file.seek(0, os.SEEK_END)
    if size < 8:
        raise ValueError("too short")
    file.seek(size - 8)
    length = int.from_bytes(file.read(8), "little")
    start = size - 8 - length
    if start < 0:
        raise ValueError("too short")
    file.seek(start)
    facts = json.loads(file.read(length))
    if not isinstance(facts, dict) or start != _content_bytes(facts):
        raise ValueError("not the file of a part")
    return facts


def _content_bytes(facts: dict[str, Any]) -> int:
    return int(facts["tokens"]) * int(facts["width"]) + 2 * int(facts["documents"]) * 8


def _content_sha256(file: BinaryIO, facts: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    left = _content_bytes(facts)
    while left and (data := file.read(min(_BLOCK, left))):
        digest.update(data)
        left -= len(data)
    return digest.hexdigest()


def ids(part: Part, dtype: str, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
    """Yield ids ``start:stop`` of a part, in blocks."""
    kind = np.dtype(dtype).newbyteorder("<")
    stop = part.tokens if stop is None else stop
    with _opened(part) as file:
        yield from _blocks(file, kind, start * kind.itemsize, stop - start)


def lengths(part: Part, dtype: str) -> Iterator[np.ndarray]:
    """Yield the tokens of each document of a part, in blocks."""
    with _opened(part) as file:
        yield from _blocks(file, _SIZES, part.tokens * np.dtype(dtype).itemsize, part.documents)


def sizes(part: Part, dtype: str) -> Iterator[np.ndarray]:
    """Yield the UTF-8 bytes of each document of a part, in blocks."""
    start = part.tokens * np.dtype(dtype).itemsize + part.documents * _SIZES.itemsize
    with _opened(part) as file:
        yield from _blocks(file, _SIZES, start, part.documents)


@contextlib.contextmanager
def _opened(part: Part) -> Iterator[BinaryIO]:
    try:
        with part.path.open("rb") as file:
            facts = _facts(file)
            if (facts["key"], facts["documents"], facts["tokens"]) != (
                part.key,
                part.documents,
                part.tokens,
            ):
                raise ValueError("another part")
            yield file
    except FileNotFoundError as error:
        raise UserError(
            f"{part.path}: a worker has written it, but it is not here. All workers must share "
            "this file system with this machine."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{part.path}: damaged ({error}). Run the same command again; it is made anew."
        ) from error


def _blocks(file: BinaryIO, kind: np.dtype, start: int, count: int) -> Iterator[np.ndarray]:
    file.seek(start)
    while count:
        block = np.frombuffer(file.read(min(count, _BLOCK) * kind.itemsize), kind)
        if not block.size:
            raise ValueError("truncated")
        count -= block.size
        yield block
