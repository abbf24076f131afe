"""Hash the word n-grams of texts, vectorized over many texts at once.

A hash depends on the n-gram alone: not on the process, the machine or the other texts.

Words are found in the lower-cased text as NLTK's WordPunctTokenizer finds them: runs of letters,
digits and underscores, and runs of other visible characters ("marks"). In scripts that write no
spaces between words (Han, kana, Thai, Lao, Khmer, Burmese), every character is a word, so that word
n-grams are character n-grams there.

Own code because it is the common core of DSIR, the classifier and the check for benchmark text, and
is about 8 times as fast as scikit-learn's HashingVectorizer, which knows only words with spaces
(experiments/benchmarks/README.md).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_SPACE, _MARK, _WORD, _ALONE = range(4)  # classes of characters
# First and last character of the blocks whose words have no spaces between them.
_WITHOUT_SPACES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),  # Katakana extensions
    (0x3400, 0x4DBF),  # Han, extension A
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),  # Han, compatibility
    (0xFF66, 0xFF9F),  # Katakana, half width
    (0x20000, 0x323AF),  # Han, other extensions
)
_CHARACTERS = 0x110000
_CHUNK = 1 << 18  # characters hashed at once; the arrays of more do not fit into a cache
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64


@dataclass(frozen=True)
class Grams:
    """Hashed n-grams of consecutive texts.

    Attributes:
        hashes: uint64 [grams]: hash of each n-gram, text by text.
        counts: int64 [texts]: number of n-grams of each text.
    """

    hashes: np.ndarray
    counts: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """Number of the text of each n-gram, int64 [grams]."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def buckets(self, count: int) -> np.ndarray:
        """Bucket of each n-gram, int64 [grams] from 0 to ``count`` - 1."""
        return (self.hashes % np.uint64(count)).astype(np.int64)


def chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield consecutive texts, about 2^18 characters together."""
    start = total = 0
    for number, text in enumerate(texts, 1):
        total += len(text)
        if total >= _CHUNK or number == len(texts):
            yield texts[start:number]
            start, total = number, 0


def hash_ngrams(texts: Sequence[str], longest: int) -> list[Grams]:
    """Hash the n-grams of 1, 2, …, ``longest`` words; one ``Grams`` for each length."""
    words = hash_words(texts)
    return [words, *(join_words(words, length) for length in range(2, longest + 1))]


def hash_words(texts: Sequence[str], *, marks: bool = True) -> Grams:
    """Hash the words of texts.

    Args:
        texts: one or more texts that UTF-8 can encode.
        marks: whether runs of marks count as words.
    """
    lowered = [text.lower() for text in texts]
    codes = np.frombuffer("\n".join([*lowered, ""]).encode("utf-32-le"), np.uint32)
    kinds, values = _tables()
    kind = kinds[codes]
    starts, ends = _runs(kind)
    kept = kind[starts] >= (_MARK if marks else _WORD)
    starts, ends = starts[kept], ends[kept]
    powers, inverses = _powers(max(2 * _CHUNK, 1 << len(codes).bit_length()))
    # The hash of a word is a polynomial of its characters: a difference of two prefixes.
    prefix = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(values[codes] * powers[: len(codes)], out=prefix[1:])
    hashes = _mixed((prefix[ends] - prefix[starts]) * inverses[starts])
    stops = np.cumsum([len(text) + 1 for text in lowered], dtype=np.int64)
    return Grams(hashes, np.diff(np.searchsorted(starts, stops), prepend=0))


def join_words(words: Grams, length: int) -> Grams:
    """Return the n-grams of ``length`` words; a text with fewer words has none."""
    total = words.hashes
    for place in range(1, length):
        # Mixing at each step makes the hash depend on the order of the words.
        total = _mixed(total[:-1] * np.uint64(_BASE) + words.hashes[place:])
    counts = np.maximum(words.counts - (length - 1), 0)
    first = np.cumsum(words.counts) - words.counts
    shift = np.repeat(first - (np.cumsum(counts) - counts), counts)
    return Grams(total[np.arange(len(shift)) + shift], counts)


def space_words(text: str) -> str:
    """Put spaces around each character that is a word of its own."""
    return _alone().sub(r" \g<0> ", text)


def _runs(kind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return start and end of the runs of characters of one class."""
    breaks = (kind[1:] != kind[:-1]) | (kind[1:] == _ALONE)
    ends = np.append(np.flatnonzero(breaks) + 1, len(kind))
    return np.concatenate([[0], ends[:-1]]), ends


def _mixed(values: np.ndarray) -> np.ndarray:
    """Mix the bits of uint64 values, one to one (the finalizer of SplitMix64)."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


@functools.cache
def _alone() -> re.Pattern[str]:
    blocks = "".join(f"{chr(first)}-{chr(last)}" for first, last in _WITHOUT_SPACES)
    return re.compile(f"(?![\\W_])[{blocks}]")


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Return class (uint8) and value (uint64) of every character."""
    kinds = np.array(
        [
            _SPACE if c.isspace() else _WORD if c.isalnum() or c == "_" else _MARK
            for c in map(chr, range(_CHARACTERS))
        ],
        np.uint8,
    )
    for first, last in _WITHOUT_SPACES:
        block = kinds[first : last + 1]
        block[block == _WORD] = _ALONE
    return kinds, _mixed(np.arange(1, _CHARACTERS + 1, dtype=np.uint64) * np.uint64(_BASE))


@functools.lru_cache(maxsize=1)
def _powers(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the powers 0 to ``size`` - 1 of the base and of its inverse, modulo 2^64."""

    def powers(base: int) -> np.ndarray:
        return np.cumprod(np.array([1] + [base] * (size - 1), np.uint64))

    return powers(_BASE), powers(pow(_BASE, -1, 2**64))
