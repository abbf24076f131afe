"""Which vocabulary to load, and how: the options that a gin file or a short string gives."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from lossline.errors import UserError


class Normalization(enum.Enum):
    """What to do with a tokenizer's own changes to the text (normal forms, a leading space)."""

    KEEP = "keep"
    DROP = "drop"


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


SpecOfFile = TypeVar("SpecOfFile", SentencePiece, HuggingFace)


def drop_remedy(spec: SpecOfFile, build: Callable[[SpecOfFile], object]) -> str:
    """What a message proposes where leaving out a vocabulary's normalization makes it exact.

    Empty where that is done already or does not help. `build` makes the vocabulary of a
    specification.
    """
    if spec.normalization is Normalization.DROP:
        return ""
    try:
        build(replace(spec, normalization=Normalization.DROP))
    except UserError:
        return ""
    component = "sentencepiece" if isinstance(spec, SentencePiece) else "huggingface"
    return f"set normalization = 'drop' (of @{component}())"


def default_name(path: str) -> str:
    """A readable name for a vocabulary file: its stem, or its folder where that says nothing."""
    stem = Path(path).stem
    generic = {"tokenizer", "spiece", "model", "sentencepiece", "vocabulary", "vocab"}
    return Path(path).resolve().parent.name if stem in generic else stem
