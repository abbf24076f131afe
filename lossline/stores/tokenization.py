"""Tokenize documents in worker processes, without TensorFlow."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NoReturn

import numpy as np

from lossline import vocabularies
from lossline.errors import UserError
from lossline.vocabularies import Encoded, Vocabulary, VocabularySpec
from lossline.workers import killed, no_interrupts, process_pool

# Characters per chunk. A chunk is the unit of work of a process, and the unit that a killed
# `prepare` repeats.
CHUNK_BYTES = 1 << 21


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Tokens of consecutive documents.

    Attributes:
        ids: int32 [tokens]: ids of all documents, each with its eos.
        lengths: int64 [documents]: tokens of each document, eos included.
        bytes: int64 [documents]: UTF-8 bytes of each document.
    """

    ids: np.ndarray
    lengths: np.ndarray
    bytes: np.ndarray


def tokenize(texts: Sequence[str], vocabulary: Vocabulary) -> Tokens:
    """Tokenize documents and check that the tokens have exactly the bytes of the text.

    Raises:
        UserError: the vocabulary changes the text of a document.
    """
    encoded = vocabulary.encode_flat(texts)
    sizes = np.fromiter(map(utf8_size, texts), np.int64, count=len(texts))
    if not encoded.checked:
        _check(texts, sizes, encoded, vocabulary)
    lengths = encoded.lengths + 1
    ids = np.full(int(lengths.sum()), vocabulary.eos_id, np.int32)
    of_text = np.ones(ids.size, bool)
    of_text[np.cumsum(lengths) - 1] = False
    ids[of_text] = encoded.ids
    return Tokens(ids=ids, lengths=lengths, bytes=sizes)


def utf8_size(text: str) -> int:
    """Return the number of UTF-8 bytes of a text."""
    return len(text) if text.isascii() else len(text.encode())


def _check(
    texts: Sequence[str], sizes: np.ndarray, encoded: Encoded, vocabulary: Vocabulary
) -> None:
    """Raise a ``UserError`` if the tokens of a text have other bytes than the text."""
    if vocabulary.are_tokens_of(encoded, "".join(texts).encode(), sizes):
        return
    for text, ids in zip(texts, encoded.split(), strict=True):
        if vocabulary.decode_bytes(ids) != text.encode():
            _raise_for_changed_text(vocabulary, text, ids)


def _raise_for_changed_text(vocabulary: Vocabulary, text: str, ids: np.ndarray) -> NoReturn:
    back = vocabulary.decode(ids)
    pairs = enumerate(zip(text, back, strict=False))
    place = next((i for i, (a, b) in pairs if a != b), min(len(text), len(back)))
    start = max(0, place - 20)
    before, after = text[start : place + 20], back[start : place + 20]
    raise UserError(
        f"vocabulary {vocabulary.name} changes the text {text[:60]!r} at character {place}: it "
        f"decodes {before!r} as {after!r}. {vocabulary.remedy()}"
    )


def chunked(documents: Iterable[str], limit: int) -> Iterator[list[str]]:
    """Yield lists of consecutive documents with at least ``limit`` characters each.

    The last list may be shorter. The lists depend only on the documents and ``limit``.
    """
    chunk: list[str] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document)
        if size >= limit:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def text_sha256(texts: Sequence[str]) -> str:
    """Return the SHA-256 (hex) of a list of documents and their boundaries."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(b"%d\n" % len(data))
        digest.update(data)
    return digest.hexdigest()


class Tokenizer:
    """Tokenizes chunks of documents in order, in one or several processes.

    Args:
        spec: a vocabulary (always in this process), or its specification.
        processes: number of worker processes; 1 means this process.
    """

    def __init__(self, spec: VocabularySpec | Vocabulary, *, processes: int = 1) -> None:
        self._spec: Any = spec
        self.vocabulary = spec if isinstance(spec, Vocabulary) else vocabularies.load(spec)
        self._processes = 1 if isinstance(spec, Vocabulary) else processes

    def map(
        self, chunks: Iterable[tuple[int, list[str]]]
    ) -> Iterator[tuple[int, list[str], Tokens]]:
        """Yield ``(number, texts, tokens)`` for every ``(number, texts)``, in order.

        Raises:
            UserError: the vocabulary changes the text of a document.
        """
        source = iter(chunks)
        first = list(islice(source, 2))
        # Starting workers takes a second, which is too long for a single chunk.
        if self._processes <= 1 or len(first) < 2:
            for number, texts in chain(first, source):
                yield number, texts, tokenize(texts, self.vocabulary)
            return
        with process_pool(self._processes) as pool:
            try:
                yield from self._pipeline(pool, chain(first, source))
            except BrokenProcessPool:
                raise killed("while it tokenized") from None

    def _pipeline(
        self, pool: ProcessPoolExecutor, chunks: Iterator[tuple[int, list[str]]]
    ) -> Iterator[tuple[int, list[str], Tokens]]:
        pending: list[tuple[int, list[str], Future[Tokens]]] = []

        def submit(count: int) -> None:
            for number, texts in islice(chunks, count):
                with no_interrupts():  # a process starts with its first texts
                    future = pool.submit(_tokenize_in_worker, self._spec, texts)
                pending.append((number, texts, future))

        # Two chunks per process keep all processes busy while results are returned in order.
        submit(2 * self._processes)
        try:
            while pending:
                number, texts, future = pending.pop(0)
                tokens = future.result()
                submit(1)
                yield number, texts, tokens
        finally:
            for _, _, future in pending:
                future.cancel()


@functools.lru_cache(maxsize=4)
def loaded(spec: VocabularySpec) -> Vocabulary:
    """Return the vocabulary of a specification, loaded once per process."""
    return vocabularies.load(spec)


def _tokenize_in_worker(spec: VocabularySpec, texts: list[str]) -> Tokens:
    return tokenize(texts, loaded(spec))
