"""Encode texts word by word, with the ids of known words kept in memory.

Words repeat: a tokenizer that encodes each word independently of the others gives the same ids for
the same word, so a dictionary of words replaces most of its work. New words are encoded by the
tokenizer itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from lossline.vocabularies.vocabulary import Encoded, Vocabulary, joined
from lossline.vocabularies.word_patterns import CUT

MEMORY_BYTES = 1 << 26  # limit of the kept words, in each process
LONGEST_KEPT = 64  # characters; longer words hardly repeat
GROUP = 1 << 19  # characters of text whose words are in memory at once
JOINED = 1000  # new words that are encoded as one text
_ID = 4  # bytes of an id
# Bytes of a kept word beside its ids and characters: two objects and an entry of a dictionary.
_OVERHEAD = 213

EncodeTexts = Callable[[list[str]], Iterable[Sequence[int]]]


class Split(NamedTuple):
    """How a tokenizer cuts a text into words.

    Attributes:
        words: matches every word, in order.
        added: matches added tokens, which are cut out before; None if there are none.
        separator: a character that is always a word, between any others, and has an id of its own;
            new words are then joined by it, because many short texts take longer. Or "".
    """

    words: re.Pattern[str]
    added: re.Pattern[str] | None = None
    separator: str = ""

    def __call__(self, text: str) -> list[str]:
        """Return the words of a text."""
        if self.added is None:
            return self.words.findall(text)
        found: list[str] = []
        start = 0
        for match in self.added.finditer(text):
            found += self.words.findall(text, start, match.start())
            found.append(match.group())
            start = match.end()
        return found + self.words.findall(text, start)


class WordMemory:
    """Encodes texts word by word.

    Args:
        split: cuts a text into words.
        vocabulary: has the bytes of the words' tokens.
        encode: the tokenizer: returns the ids of each text.
        limit: bytes of memory for the words that are kept. Threads that share a vocabulary may
            exceed it by a factor of their number.
    """

    def __init__(
        self,
        split: Split,
        vocabulary: Vocabulary,
        encode: EncodeTexts,
        *,
        limit: int = MEMORY_BYTES,
    ) -> None:
        self._split = split
        self._vocabulary = vocabulary
        self._encode = encode
        self._limit = limit
        self._kept: dict[str, bytes] = {}
        self.size = 0

    def encode(self, texts: Sequence[str]) -> Encoded | None:
        """Return the ids of all texts; None if the tokenizer changes a text.

        The words of a text, joined, are compared with the text, and the bytes of a word's tokens
        with the word.
        """
        encoded: list[bytes] = []
        lengths = np.zeros(len(texts), np.int64)
        for group in _groups(texts):
            words = [self._split(part) for _, part in group]
            known = self._known(words)
            if known is None:
                return None
            for (number, part), of_part in zip(group, words, strict=True):
                if "".join(of_part) != part:
                    return None
                data = b"".join(map(known.__getitem__, of_part))
                lengths[number] += len(data) // _ID
                encoded.append(data)
        ids = np.frombuffer(bytearray().join(encoded), np.int32)
        return Encoded(ids=ids, lengths=lengths, checked=True)

    def _known(self, words: list[list[str]]) -> dict[str, bytes] | None:
        """Return the ids of every word as bytes; None if the tokenizer changes a word."""
        kept = self._kept
        known: dict[str, bytes] = {}
        new: list[str] = []
        for word in set(chain.from_iterable(words)):
            data = kept.get(word)
            if data is None:
                new.append(word)
            else:
                known[word] = data
        if new:
            encoded = self._encode_words(new)
            sizes = np.fromiter((len(word.encode()) for word in new), np.int64, count=len(new))
            if not self._vocabulary.are_tokens_of(encoded, "".join(new).encode(), sizes):
                return None
            data = encoded.ids.tobytes()
            stops = np.cumsum(encoded.lengths * _ID).tolist()
            known.update(
                zip(new, map(data.__getitem__, map(slice, [0, *stops], stops)), strict=True)
            )
            self._keep(new, known)
        return known

    def _encode_words(self, words: list[str]) -> Encoded:
        separator = self._split.separator
        if separator and separator not in words:
            texts = [
                "".join(f"{word}{separator}" for word in words[first : first + JOINED])
                for first in range(0, len(words), JOINED)
            ]
            end, *rows = self._encode([separator, *texts])
            ids = joined(rows).ids
            ends = np.flatnonzero(ids == end[0])
            if len(end) == 1 and ends.size == len(words):
                return Encoded(ids=np.delete(ids, ends), lengths=np.diff(ends, prepend=-1) - 1)
        return joined(list(self._encode(words)))

    def _keep(self, new: list[str], known: dict[str, bytes]) -> None:
        new, size = _short(new, known)
        kept, size = self._kept, self.size + size
        if size > self._limit:
            # Start again with the words of this group, which are those of the text at hand.
            kept = {}
            new, size = _short(list(known), known)
            if size > self._limit:
                new, size = [], 0
        for word in new:
            kept[word] = known[word]
        self._kept, self.size = kept, size


def _short(words: list[str], known: dict[str, bytes]) -> tuple[list[str], int]:
    """Return the words that may be kept, and the memory that they take."""
    short = [word for word in words if len(word) <= LONGEST_KEPT]
    characters, ids = sum(map(len, short)), sum(map(len, map(known.__getitem__, short)))
    return short, _OVERHEAD * len(short) + 4 * characters + ids


def _groups(texts: Sequence[str]) -> Iterator[list[tuple[int, str]]]:
    """Yield lists of (number of a text, part of it) with about ``GROUP`` characters each."""
    group: list[tuple[int, str]] = []
    size = 0
    for number, text in enumerate(texts):
        for part in _parts(text):
            group.append((number, part))
            size += len(part)
            if size >= GROUP:
                yield group
                group, size = [], 0
    if group:
        yield group


def _parts(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > 2 * GROUP:
        cut = CUT.search(text, start + GROUP)
        if cut is None:
            break
        yield text[start : cut.end()]
        start = cut.end()
    yield text[start:] if start else text
