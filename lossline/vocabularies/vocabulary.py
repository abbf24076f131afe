"""Vocabularies: text to token ids and back, exactly.

A vocabulary here cuts a text into pieces whose bytes, put one after the other, ARE the text. That
makes bits per byte the same quantity for every vocabulary: the bytes of a scored token are known,
and their sum is the document. A tokenizer that changes the text first (Unicode normal forms,
lower-casing, a leading space) is refused, or loaded without that step if one asks for it.
"""

from __future__ import annotations

import abc
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from lossline.errors import UserError

HASH_VERSION = 1
METASPACE = "\u2581"  # how SentencePiece writes a space inside a piece


@dataclass(frozen=True, kw_only=True)
class VocabularyFacts:
    """What a store remembers of its vocabulary. ``hash`` is of the content alone."""

    name: str
    kind: str
    hash: str
    vocab_size: int
    eos_id: int
    pad_id: int

    def to_dict(self) -> dict[str, str | int]:
        """JSON-able form."""
        return asdict(self)


class Vocabulary(abc.ABC):
    """Cuts text into tokens that stand for known bytes.

    Args:
        name: readable name; becomes the run's fact ``tokenizer`` and a folder name.
        kind: "bytes", "sentencepiece", "huggingface" or "tiktoken".
        pieces: for every id the UTF-8 bytes that it stands for, ``b""`` for specials.
        eos_id: ends every document of a store and stands before the first token.
        pad_id: fills what is masked; may equal ``eos_id``.
        content: hash of what the tokenizer is made of.

    Raises:
        UserError: a text comes back changed.
    """

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
        return self.facts.name

    @property
    def hash(self) -> str:
        return self.facts.hash

    @property
    def vocab_size(self) -> int:
        """Largest id + 1."""
        return self.facts.vocab_size

    @property
    def eos_id(self) -> int:
        return self.facts.eos_id

    @property
    def pad_id(self) -> int:
        return self.facts.pad_id

    @abc.abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids (int32) of each text, without eos. Names of special tokens are plain text."""

    def encode(self, text: str) -> np.ndarray:
        """Token ids (int32) of one text, without eos."""
        return self.encode_batch([text])[0]

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes that the ids stand for, one after the other; specials stand for none."""
        return b"".join(map(self.pieces.__getitem__, np.asarray(ids, np.int64).tolist()))

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of the ids; bytes that are not UTF-8 (a character cut in two) become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def _check_specials(self) -> None:
        for role, token_id in (("eos", self.eos_id), ("pad", self.pad_id)):
            if not 0 <= token_id < self.vocab_size:
                raise UserError(
                    f"vocabulary {self.name}: {role} id {token_id} is outside its "
                    f"{self.vocab_size} ids; name another {role} token"
                )
            if self.pieces[token_id]:
                raise UserError(
                    f"vocabulary {self.name}: the {role} token {self.pieces[token_id]!r} is "
                    f"ordinary text; name a special token as {role}"
                )

    def _check_round_trip(self) -> None:
        probes = self._probes()
        for text, ids in zip(probes, self.encode_batch(probes), strict=True):
            if self.decode_bytes(ids) != text.encode():
                raise UserError(
                    f"vocabulary {self.name} ({self.facts.kind}) gives back "
                    f"{self.decode(ids)[:40]!r} for {text[:40]!r}: it changes text; "
                    f"{self.remedy()}"
                )

    def _probes(self) -> list[str]:
        """Texts that must come back; a kind adds those that its own file may change."""
        return round_trip_probes()

    def remedy(self) -> str:
        """How to mend a vocabulary that changes text, for the message."""
        return "choose one that covers every UTF-8 text (byte-level BPE, byte_fallback)"


class ByteVocabulary(Vocabulary):
    """UTF-8 bytes as ByT5 numbers them: pad 0, eos 1, unknown 2 (never used), then 256 bytes."""

    SPECIALS = 3

    def __init__(self, *, name: str = "bytes") -> None:
        pieces = [b""] * self.SPECIALS + [bytes([value]) for value in range(256)]
        super().__init__(name=name, kind="bytes", pieces=pieces, eos_id=1, pad_id=0, content="byt5")

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [
            np.frombuffer(text.encode(), np.uint8).astype(np.int32) + self.SPECIALS
            for text in texts
        ]


def round_trip_probes() -> list[str]:
    """Texts that a tokenizer with any opinion about text changes; always the same ones."""
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
