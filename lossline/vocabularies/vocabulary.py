"""Vocabularies: text to token ids and back, exactly.

A vocabulary here cuts a text into pieces whose bytes, put one after the other, ARE the text. That
makes bits per byte the same quantity for every vocabulary: the bytes of a scored token are known,
and their sum is the document. A tokenizer that changes the text first (Unicode normal forms,
lower-casing, a leading space) is refused, or loaded without that step if one asks for it.
"""

from __future__ import annotations

import abc
import enum
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from lossline.errors import UserError

HASH_VERSION = 1
METASPACE = "\u2581"  # how SentencePiece writes a space inside a piece


class Normalization(enum.Enum):
    """What to do with a tokenizer's own changes to the text (normal forms, a leading space)."""

    KEEP = "keep"
    DROP = "drop"


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


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """Gin component: the byte vocabulary."""

    name: str = "bytes"


@dataclass(frozen=True, kw_only=True)
class SentencePiece:
    """Gin component: a SentencePiece ``.model`` file.

    Attributes:
        path: the model.
        name: default: the file's stem, or its folder's name where the stem says nothing.
        eos_token: piece that ends a document; default: the model's own eos.
        normalization: ``drop`` loads it without leading space and whitespace folding.
    """

    path: str
    name: str = ""
    eos_token: str = ""
    normalization: Normalization = Normalization.KEEP


@dataclass(frozen=True, kw_only=True)
class HuggingFace:
    """Gin component: a ``tokenizer.json`` of the Hugging Face tokenizers library.

    The same text always gives the same ids: BPE dropout and Unigram sampling are switched off.

    Attributes:
        path: the file.
        name: default: the file's stem, or its folder's name where the stem says nothing.
        eos_token: special token that ends a document; default: a well-known one that it has.
        pad_token: default: a well-known one that it has, else the eos token.
        normalization: ``drop`` leaves out Unicode normal forms, lower-casing, and characters that
            the tokenizer replaces, drops or adds (a leading space).
    """

    path: str
    name: str = ""
    eos_token: str = ""
    pad_token: str = ""
    normalization: Normalization = Normalization.KEEP


@dataclass(frozen=True, kw_only=True)
class Tiktoken:
    """Gin component: a file of tiktoken ranks (lines of base64 and rank).

    Attributes:
        path: the file.
        pattern: "gpt2", "cl100k", "o200k", the name of one of tiktoken's encodings, or the regular
            expression itself, which cuts text before merging.
        name: default: the file's stem.
        eos_token: special token that ends a document; gets the id after the last rank.
    """

    path: str
    pattern: str
    name: str = ""
    eos_token: str = "<|endoftext|>"


VocabularySpec = Bytes | SentencePiece | HuggingFace | Tiktoken


def spec_for(path_or_name: str) -> VocabularySpec:
    """The specification that a short string stands for: "bytes", a ``.model`` file, or a
    ``tokenizer.json``.

    Raises:
        UserError: the string is none of these.
    """
    if path_or_name == "bytes":
        return Bytes()
    if path_or_name.endswith(".model"):
        return SentencePiece(path=path_or_name)
    if path_or_name.endswith(".json"):
        return HuggingFace(path=path_or_name)
    raise UserError(
        f"vocabulary {path_or_name!r}: name 'bytes', a .model (SentencePiece) or .json (Hugging "
        "Face) file, or bind @tiktoken() for a file of ranks"
    )


def load(spec: VocabularySpec | str) -> Vocabulary:
    """Builds a vocabulary.

    Raises:
        UserError: no such file, not such a file, or a vocabulary that changes text.
    """
    if isinstance(spec, str):
        spec = spec_for(spec)
    if isinstance(spec, Bytes):
        return ByteVocabulary(name=spec.name)
    if not Path(spec.path).is_file():
        raise UserError(
            f"vocabulary: no file {spec.path}; train one with `prepare --train_vocabulary`"
        )
    if isinstance(spec, SentencePiece):
        from lossline.vocabularies.sentencepiece import SentencePieceVocabulary

        return SentencePieceVocabulary(spec)
    if isinstance(spec, HuggingFace):
        from lossline.vocabularies.huggingface import HuggingFaceVocabulary

        return HuggingFaceVocabulary(spec)
    from lossline.vocabularies.tiktoken import TiktokenVocabulary

    return TiktokenVocabulary(spec)


def drop_remedy(spec: SentencePiece | HuggingFace) -> str:
    """What a message proposes where leaving out a vocabulary's normalization makes it exact.

    Empty where that is done already or does not help.
    """
    if spec.normalization is Normalization.DROP:
        return ""
    try:
        load(replace(spec, normalization=Normalization.DROP))
    except UserError:
        return ""
    component = "sentencepiece" if isinstance(spec, SentencePiece) else "huggingface"
    return f"set normalization = 'drop' (of @{component}())"


def default_name(path: str) -> str:
    """A readable name for a vocabulary file: its stem, or its folder where that says nothing."""
    stem = Path(path).stem
    generic = {"tokenizer", "spiece", "model", "sentencepiece", "vocabulary", "vocab"}
    return Path(path).resolve().parent.name if stem in generic else stem


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
