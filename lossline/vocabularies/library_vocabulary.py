"""Vocabularies whose ids come from the tokenizer of a library."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence

import numpy as np

from lossline.vocabularies.vocabulary import Encoded, Vocabulary, joined
from lossline.vocabularies.word_memory import Split, WordMemory

# Text at which two ways to split into words would differ, if they differ at all.
HARD_TO_SPLIT = [
    "it's IT'S we'LL I'd they'RE 'tis ''s 'sa it'\u017f \u017f's 're'd",
    "1 12 123 1234 12345.678 1,000 x1y2 \u00bd1 1\u00b2 \u0661\u0662 a\u0661",
    "stop.\n        next!\n       ?\n ...\n\n /\n// \r\n\r\n\t x\x0b\x0cy  \n z \n",
    "a  b   \u00e9  \u00a0c \u00a0\u00a0 d\u3000 e\u2003\n\u00e9 \n \u00e9\n\u00e9 f\x85g \x1ch",
    "camelCase HTTPServer iPhone ABc \u00c9Cole a\u0301b \U0001f600a a\U0001f600 \u4e2da b\u4e2d",
    "(x) [y]={z}; f(x)(y) a_b __c__ d-e 'q' \"r\" <|s|> @t #u \x00v\x7f w ",
    "   lead", "trail   ", " ", "  ", "\n", " \n", "\n ", "\t\t", "\u00e9", " \u00e9 ", "",
]  # fmt: skip


class LibraryVocabulary(Vocabulary):
    """A vocabulary that a library encodes, through a memory of words if that gives equal ids."""

    _memory: WordMemory | None = None

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of each text; see ``Vocabulary.encode_batch``."""
        return self.encode_flat(texts).split()

    def encode_flat(self, texts: Sequence[str]) -> Encoded:
        """Return the token ids of all texts; see ``Vocabulary.encode_flat``."""
        if self._memory is None:
            return self._encode_anew(texts)
        apart = [number for number, text in enumerate(texts) if self._is_encoded_apart(text)]
        if len(apart) == len(texts):
            return self._encode_anew(texts)
        if not apart:
            found = self._memory.encode(texts)
            return found or self._encode_anew(texts)
        # A few texts by the library, the others by words.
        rows = self.encode_flat(_without(texts, apart)).split()
        others = self._encode_anew([texts[number] for number in apart]).split()
        for number, row in zip(apart, others, strict=True):
            rows.insert(number, row)
        return joined(rows)

    @abc.abstractmethod
    def _encode_texts(self, texts: list[str]) -> Iterable[Sequence[int]]:
        """Return the ids of each text from the library."""

    def _is_encoded_apart(self, text: str) -> bool:
        """Return whether a text contains characters that words do not know."""
        return False

    def _keep_words(self, split: Split | str) -> None:
        """Encode word by word from now on, if that gives the library's ids.

        Args:
            split: cuts a text into words that the library encodes independently, or the reason why
                none is known.
        """
        if isinstance(split, str):
            self.slow_because = split
            return
        texts = [*self._probes(), *HARD_TO_SPLIT]
        memory = WordMemory(split, self, self._encode_texts)
        texts = [text for text in texts if not self._is_encoded_apart(text)]
        by_word, anew = memory.encode(texts), self._encode_anew(texts)
        if by_word is None or not _equal(by_word, anew):
            self.slow_because = "its words are not those of the installed library"
            return
        self._memory = memory

    def _encode_anew(self, texts: Sequence[str]) -> Encoded:
        return joined(list(self._encode_texts(list(texts))))


def _without(texts: Sequence[str], numbers: Sequence[int]) -> list[str]:
    left_out = set(numbers)
    return [text for number, text in enumerate(texts) if number not in left_out]


def _equal(a: Encoded, b: Encoded) -> bool:
    return np.array_equal(a.ids, b.ids) and np.array_equal(a.lengths, b.lengths)
