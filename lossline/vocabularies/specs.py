"""Vocabulary specifications: the options of each kind of vocabulary."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from lossline.errors import UserError


class Normalization(enum.Enum):
    """Whether to keep the tokenizer's changes to the text, such as NFC or a leading space."""

    KEEP = "keep"  # as in the file; a vocabulary that changes text is then refused
    DROP = "drop"  # remove every step that changes text


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """Gin component: the byte vocabulary (256 bytes and 3 special ids).

    Attributes:
        name: name of the vocabulary.
    """

    name: str = "bytes"


@dataclass(frozen=True, kw_only=True)
class SentencePiece:
    """Gin component: a SentencePiece ``.model`` file.

    Attributes:
        path: path of the model.
        name: name of the vocabulary. Default: ``default_name(path)``.
        eos_token: piece that ends a document. Default: the eos piece of the model.
        normalization: "drop" removes the normalization rule, the added leading space and the
            merging of spaces.
    """

    path: str
    name: str = ""
    eos_token: str = ""
    normalization: Normalization = Normalization.KEEP


@dataclass(frozen=True, kw_only=True)
class HuggingFace:
    """Gin component: a ``tokenizer.json`` of the Hugging Face tokenizers library.

    BPE dropout and Unigram sampling are switched off, so the same text always gives the same ids.

    Attributes:
        path: path of the file.
        name: name of the vocabulary. Default: ``default_name(path)``.
        eos_token: special token that ends a document. Default: the first well-known eos token in
            the file.
        pad_token: token that fills masked positions. Default: the first well-known pad token in
            the file, otherwise the eos token.
        normalization: "drop" removes every step that changes text: Unicode normal forms,
            lower-casing, and replaced, removed or added characters (such as a leading space).
    """

    path: str
    name: str = ""
    eos_token: str = ""
    pad_token: str = ""
    normalization: Normalization = Normalization.KEEP


@dataclass(frozen=True, kw_only=True)
class Tiktoken:
    """Gin component: a file of tiktoken ranks (each line: a base64 token and its rank).

    Attributes:
        path: path of the file.
        pattern: regular expression that splits text before merging, or the name of a known one:
            "gpt2", "cl100k", "o200k" or the name of a tiktoken encoding.
        name: name of the vocabulary. Default: ``default_name(path)``.
        eos_token: name of the special token that ends a document. Its id is the last rank + 1.
    """

    path: str
    pattern: str
    name: str = ""
    eos_token: str = "<|endoftext|>"


VocabularySpec = Bytes | SentencePiece | HuggingFace | Tiktoken


def spec_for(path_or_name: str) -> VocabularySpec:
    """Return the specification for a short string.

    Args:
        path_or_name: "bytes", the path of a ``.model`` file, or the path of a ``.json`` file.

    Raises:
        UserError: the string has none of these forms.
    """
    if path_or_name == "bytes":
        return Bytes()
    if path_or_name.endswith(".model"):
        return SentencePiece(path=path_or_name)
    if path_or_name.endswith(".json"):
        return HuggingFace(path=path_or_name)
    raise UserError(
        f"vocabulary {path_or_name!r}: unknown form. Give 'bytes', a .model (SentencePiece) file "
        "or a .json (Hugging Face) file, or bind @tiktoken() for a file of ranks."
    )


SpecOfFile = TypeVar("SpecOfFile", SentencePiece, HuggingFace)


def drop_remedy(spec: SpecOfFile, build: Callable[[SpecOfFile], object]) -> str:
    """Return the advice to drop normalization if that makes the vocabulary lossless.

    Args:
        spec: specification of a vocabulary that changes text.
        build: builds the vocabulary of a specification.

    Returns:
        One sentence for an error message, or "" if normalization is already dropped or dropping it
        does not help.
    """
    if spec.normalization is Normalization.DROP:
        return ""
    try:
        build(replace(spec, normalization=Normalization.DROP))
    except UserError:
        return ""
    component = "sentencepiece" if isinstance(spec, SentencePiece) else "huggingface"
    return f"Use @{component}() with {component}.normalization = 'drop'."


def default_name(path: str) -> str:
    """Return a readable name for a vocabulary file.

    The name is the stem of the file, or the name of its folder if the stem is generic, such as
    "tokenizer".
    """
    stem = Path(path).stem
    generic = {"tokenizer", "spiece", "model", "sentencepiece", "vocabulary", "vocab"}
    return Path(path).resolve().parent.name if stem in generic else stem
