"""Base class of lossless vocabularies, and the byte vocabulary.

A vocabulary splits a text into pieces. The bytes of the pieces, joined in order, equal the UTF-8
bytes of the text. Bits per byte is therefore the same quantity for every vocabulary: the number of
bytes of each scored token is known, and these numbers add up to the size of the document.

A tokenizer that changes the text (Unicode normal forms, lower-casing, a leading space) is refused.
The option ``normalization = "drop"`` loads it without the steps that change text.
"""

from __future__ import annotations

import abc
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from lossline.errors import UserError

HASH_VERSION = 1
_WINDOW = 8  # bytes of a token that are compared at once
_BLOCK = 1 << 15  # tokens that are compared at once
_MASKS = np.frombuffer(
    b"".join(b"\xff" * size + bytes(_WINDOW - size) for size in range(_WINDOW + 1)), np.uint64
)
METASPACE = "\u2581"  # SentencePiece's character for a space inside a piece


@dataclass(frozen=True, kw_only=True)
class VocabularyFacts:
    """Facts about a vocabulary that a store records.

    Attributes:
        name: readable name.
        kind: "bytes", "sentencepiece", "huggingface" or "tiktoken".
        hash: SHA-256 (hex) of the contents; independent of name and path.
        vocab_size: largest id + 1.
        eos_id: id that ends a document.
        pad_id: id that fills masked positions.
    """

    name: str
    kind: str
    hash: str
    vocab_size: int
    eos_id: int
    pad_id: int

    def to_dict(self) -> dict[str, str | int]:
        """Return the facts as a dict that JSON can store."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Token ids of several texts.

    Attributes:
        ids: int32 [tokens]: ids of all texts, one after the other, without eos.
        lengths: int64 [texts]: number of ids of each text.
        checked: whether the bytes of the tokens have been compared with the texts already.
    """

    ids: np.ndarray
    lengths: np.ndarray
    checked: bool = False

    def split(self) -> list[np.ndarray]:
        """Return the ids of each text."""
        stops = np.cumsum(self.lengths)
        places = zip((stops - self.lengths).tolist(), stops.tolist(), strict=True)
        return [self.ids[start:stop] for start, stop in places]


def joined(rows: Sequence[Sequence[int] | np.ndarray]) -> Encoded:
    """Return the token ids of several texts in one array."""
    lengths = np.fromiter(map(len, rows), np.int64, count=len(rows))
    if isinstance(rows[0] if rows else None, np.ndarray):
        return Encoded(ids=np.concatenate(rows).astype(np.int32, copy=False), lengths=lengths)
    ids = np.fromiter(chain.from_iterable(rows), np.int32, count=int(lengths.sum()))
    return Encoded(ids=ids, lengths=lengths)


class Vocabulary(abc.ABC):
    """Base class: splits text into tokens and knows the bytes of each token.

    Args:
        name: readable name; recorded as the run's ``tokenizer`` and used as a folder name.
        kind: "bytes", "sentencepiece", "huggingface" or "tiktoken".
        pieces: UTF-8 bytes of every id; ``b""`` for special tokens.
        eos_id: id that ends every document of a store and precedes the first token.
        pad_id: id that fills masked positions; may equal ``eos_id``.
        content: hash of the tokenizer's contents.

    Attributes:
        pieces: as above, as a tuple.
        token_bytes: int32 [vocab_size]: number of bytes of each id; 0 for special tokens.
        facts: the facts that a store records about the vocabulary.
        slow_because: why every text is encoded anew by a library; "" if known words are not.

    Raises:
        UserError: the eos or pad id is invalid, or a test text does not survive encoding and
            decoding.
    """

    slow_because = ""

    def __init__(
        self,
        *,
        name: str,
        kind: str,
        pieces: Sequence[bytes],
        eos_id: int,
        pad_id: int,
        content: str,
    ) -> None:
        self.pieces = tuple(pieces)
        self.token_bytes = np.array([len(piece) for piece in self.pieces], np.int32)
        digest = hashlib.sha256(
            json.dumps(
                {
                    "version": HASH_VERSION,
                    "kind": kind,
                    "content": content,
                    "eos": eos_id,
                    "pad": pad_id,
                },
                sort_keys=True,
            ).encode()
        ).hexdigest()
        self.facts = VocabularyFacts(
            name=name,
            kind=kind,
            hash=digest,
            vocab_size=len(self.pieces),
            eos_id=eos_id,
            pad_id=pad_id,
        )
        self._check_specials()
        self._check_round_trip()

    @property
    def name(self) -> str:
        """Readable name."""
        return self.facts.name

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the contents; independent of name and path."""
        return self.facts.hash

    @property
    def vocab_size(self) -> int:
        """Largest id + 1."""
        return self.facts.vocab_size

    @property
    def eos_id(self) -> int:
        """Id that ends a document."""
        return self.facts.eos_id

    @property
    def pad_id(self) -> int:
        """Id that fills masked positions."""
        return self.facts.pad_id

    @abc.abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of each text (int32 [tokens]), without eos.

        Names of special tokens inside a text are encoded as ordinary text.
        """

    def encode_flat(self, texts: Sequence[str]) -> Encoded:
        """Return the token ids of all texts in one array, as ``encode_batch`` gives them."""
        return joined(self.encode_batch(texts))

    def encode(self, text: str) -> np.ndarray:
        """Return the token ids of one text (int32 [tokens]), without eos."""
        return self.encode_batch([text])[0]

    def are_tokens_of(self, encoded: Encoded, text: bytes, sizes: np.ndarray) -> bool:
        """Return whether the tokens of several texts have exactly the bytes of the texts.

        Args:
            encoded: token ids of the texts.
            text: bytes of all texts, joined.
            sizes: int64 [texts]: bytes of each text.
        """
        stops = np.cumsum(self.token_bytes[encoded.ids], dtype=np.int64)
        ends = np.concatenate([[0], stops])[np.cumsum(encoded.lengths)]
        if not np.array_equal(ends, np.cumsum(sizes)) or (ends[-1] if ends.size else 0) != len(
            text
        ):
            return False
        windows = sliding_window_view(np.frombuffer(text + bytes(_WINDOW), np.uint8), _WINDOW)
        start = 0
        for first in range(0, encoded.ids.size, _BLOCK):
            block = slice(first, first + _BLOCK)
            if not self._are_bytes_at(encoded.ids[block], start, stops[block], windows, text):
                return False
            start = int(stops[block][-1])
        return True

    def _are_bytes_at(
        self, ids: np.ndarray, start: int, stops: np.ndarray, windows: np.ndarray, text: bytes
    ) -> bool:
        starts = np.concatenate([[start], stops[:-1]])
        lengths = self.token_bytes[ids]
        found = windows[starts].view(np.uint64)[:, 0] & _MASKS[np.minimum(lengths, _WINDOW)]
        if not np.array_equal(found, self._first_bytes[ids]):
            return False
        longer = np.flatnonzero(lengths > _WINDOW)
        places = (ids[longer].tolist(), starts[longer].tolist(), stops[longer].tolist())
        return all(self.pieces[i] == text[a:b] for i, a, b in zip(*places, strict=True))

    @cached_property
    def _first_bytes(self) -> np.ndarray:
        """uint64 [vocab_size]: the first eight bytes of each piece, then zeros."""
        rows = b"".join(piece[:_WINDOW].ljust(_WINDOW, b"\0") for piece in self.pieces)
        return np.frombuffer(rows, np.uint64)

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """Return the joined bytes of the ids; special tokens have no bytes."""
        return b"".join(map(self.pieces.__getitem__, np.asarray(ids, np.int64).tolist()))

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text of the ids.

        Invalid UTF-8, such as half of a character, becomes U+FFFD.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def _check_specials(self) -> None:
        for role, token_id in (("eos", self.eos_id), ("pad", self.pad_id)):
            if not 0 <= token_id < self.vocab_size:
                raise UserError(
                    f"vocabulary {self.name}: {role} id {token_id} is outside the range 0 to "
                    f"{self.vocab_size - 1}. Name another {role} token."
                )
            if self.pieces[token_id]:
                raise UserError(
                    f"vocabulary {self.name}: the {role} token {self.pieces[token_id]!r} is "
                    f"ordinary text. Name a special token as {role}."
                )

    def _check_round_trip(self) -> None:
        probes = self._probes()
        for text, ids in zip(probes, self.encode_batch(probes), strict=True):
            if self.decode_bytes(ids) != text.encode():
                raise UserError(
                    f"vocabulary {self.name} ({self.facts.kind}) changes text: it decodes "
                    f"{text[:40]!r} as {self.decode(ids)[:40]!r}. {self.remedy()}"
                )

    def _probes(self) -> list[str]:
        """Return texts for the round-trip check; a subclass adds texts that its file may change."""
        return round_trip_probes()

    def remedy(self) -> str:
        """Return how to make the vocabulary lossless, as a sentence of an error message."""
        return "Choose a vocabulary that covers all UTF-8 text (byte-level BPE, byte_fallback)."


class ByteVocabulary(Vocabulary):
    """UTF-8 bytes with ByT5's ids: pad 0, eos 1, unknown 2 (never used), byte b is b + 3.

    Source: Xue et al., TACL 2022 (ByT5).
    """

    SPECIALS = 3

    def __init__(self, *, name: str = "bytes") -> None:
        pieces = [b""] * self.SPECIALS + [bytes([value]) for value in range(256)]
        super().__init__(name=name, kind="bytes", pieces=pieces, eos_id=1, pad_id=0, content="byt5")

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of each text; see ``Vocabulary.encode_batch``."""
        return self.encode_flat(texts).split()

    def encode_flat(self, texts: Sequence[str]) -> Encoded:
        """Return the token ids of all texts; see ``Vocabulary.encode_flat``."""
        data = [text.encode() for text in texts]
        ids = np.frombuffer(b"".join(data), np.uint8).astype(np.int32)
        ids += self.SPECIALS
        lengths = np.fromiter(map(len, data), np.int64, count=len(data))
        return Encoded(ids=ids, lengths=lengths, checked=True)  # the ids are the bytes

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """Return the joined bytes of the ids; special tokens have no bytes."""
        values = np.asarray(ids) - self.SPECIALS
        return values[values >= 0].astype(np.uint8).tobytes()


def round_trip_probes() -> list[str]:
    """Return fixed texts that a tokenizer with normalization is likely to change."""
    fixed = [
        "",
        " ",
        " lead", "trail ", "two  spaces   three", "\t\ttabs\t", "line\n\n\nlines\r\nreturn\r",
        "\u00a0\u3000\u2003",
        "def f(x):\n    return x\n\n\tif y:  # why\n",
        "MiXed CaSe ÀÉÎ straße İI",
        "\u00e9 e\u0301 \u1e69 s\u0323\u0307 \u212b \u2126",  # composed, decomposed, singletons
        "\ufb01 \u2460 \u00bd \uff21 \u3392 x\u00b2 \u2026",  # compatibility characters (NFKC)
        "\uac00 \u1100\u1161 한국어 日本語 中文 हिन्दी العربية עברית ไทย",
        "\u200b\u200d\u2060\ufeff\u00ad\u202e",
        "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 \U0010ffff \U000f0000 \ue000 \uffff \ufffd",
        f"{METASPACE} {METASPACE}{METASPACE}a b{METASPACE} Ġ Ċ ĉ Â <0x41> <0x0A>",
        "<|endoftext|></s><s><unk><pad><eos><bos>[CLS] [SEP][PAD]<|im_start|>|||IP_ADDRESS|||",
        "1234567890 3.14 1,000,000 it's we'LL I'm \"quoted\" a_b-c (d) {e} https://x.y/z?q=1&r=%20",
    ]  # fmt: skip
    controls = "".join(map(chr, range(128)))
    latin = "".join(map(chr, range(128, 0x250)))
    draw = random.Random(20252)
    points = [p for p in (draw.randrange(0x110000) for _ in range(600)) if not 0xD800 <= p < 0xE000]
    mixed = "".join(draw.choice("ab \n\t.▁é中") for _ in range(200))
    return [*fixed, controls, latin, "".join(map(chr, points)), mixed]
