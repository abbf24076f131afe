"""The tokenizer of a model: files for transformers, and those from which lossline loads it again.

A folder written here has both: ``tokenizer.json`` with ``tokenizer_config.json`` and
``generation_config.json``, and ``lossline_vocabulary.json`` with the kind, name and hash of the
vocabulary. An imported run keeps the files of its source in its folder ``vocabulary``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossline.conversion.tokenizer_json import describe, name_of
from lossline.errors import UserError
from lossline.files import copy_file, write_bytes, write_json
from lossline.vocabularies import (
    Bytes,
    HuggingFace,
    Normalization,
    SentencePiece,
    Tiktoken,
    Vocabulary,
    VocabularySpec,
    load,
    spec_for,
)

TOKENIZER = "tokenizer.json"
RECORD = "lossline_vocabulary.json"
GENERATION = "generation_config.json"
PUBLISHED = (  # files of a tokenizer as its authors published it
    TOKENIZER,
    GENERATION,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
ROLES = ("bos_token_id", "eos_token_id", "pad_token_id")  # entries of config.json
_KINDS = {kind.__name__: kind for kind in (Bytes, HuggingFace, SentencePiece, Tiktoken)}
_SOURCES = {"SentencePiece": "tokenizer.model", "Tiktoken": "tokenizer.tiktoken"}


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A vocabulary that can be written into a Hugging Face folder.

    Attributes:
        spec: its specification.
        vocabulary: the vocabulary, loaded.
        published: entries of config.json of the folder that ``spec.path`` is in, if its files are
            written as they are; None: files are made from the vocabulary.
    """

    spec: VocabularySpec
    vocabulary: Vocabulary
    published: Mapping[str, Any] | None = None

    def write(self, folder: Path, *, context_length: int) -> dict[str, Any]:
        """Write all files of the tokenizer; return its entries of config.json.

        Raises:
            UserError: the tokenizers library would give other token ids.
        """
        if self.published is not None:
            self.keep(folder)
            entries = dict(self.published)
            if not (folder / GENERATION).is_file() and entries:
                write_json(folder / GENERATION, entries, indent=2)
            return entries
        vocabulary, description = self.vocabulary, describe(self.spec, self.vocabulary)
        eos = name_of(description, vocabulary.eos_id)
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": eos,  # the end of a document precedes the next one, and the first
            "eos_token": eos,
            "pad_token": name_of(description, vocabulary.pad_id),
            "model_max_length": context_length,
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,  # their names in a text are text
        }
        ids = (vocabulary.eos_id, vocabulary.eos_id, vocabulary.pad_id)
        entries = dict(zip(ROLES, ids, strict=True))
        write_bytes(folder / TOKENIZER, json.dumps(description, ensure_ascii=False).encode())
        write_json(folder / "tokenizer_config.json", settings, indent=2)
        write_json(folder / GENERATION, entries, indent=2)
        self.keep(folder)
        return entries

    def keep(self, folder: Path) -> None:
        """Write the files from which ``recorded`` loads this tokenizer."""
        folder.mkdir(parents=True, exist_ok=True)
        spec = dataclasses.asdict(self.spec)
        kind, path = type(self.spec).__name__, spec.pop("path", None)
        if self.published is not None:
            for name in PUBLISHED:
                if (source := Path(path).parent / name).is_file():
                    copy_file(source, folder / name)
        elif isinstance(self.spec, SentencePiece):
            from lossline.vocabularies.sentencepiece import exact_model

            write_bytes(folder / _SOURCES[kind], exact_model(self.spec))
        elif isinstance(self.spec, Tiktoken):
            copy_file(Path(self.spec.path), folder / _SOURCES[kind])
        elif isinstance(self.spec, HuggingFace) and not (folder / TOKENIZER).is_file():
            copy_file(Path(self.spec.path), folder / TOKENIZER)
        if isinstance(self.spec, (HuggingFace, SentencePiece)):
            spec["normalization"] = self.spec.normalization.value
        facts = self.vocabulary.facts
        record = {"kind": kind, **spec, "name": facts.name, "hash": facts.hash}
        write_json(folder / RECORD, {**record, "published": self.published}, indent=2)


def given(spec: VocabularySpec | str, *, name: str = "") -> Tokenizer:
    """Return the tokenizer of a specification, or of a string such as "bytes" or a path.

    Args:
        spec: the specification, or a string that ``vocabularies.spec_for`` accepts.
        name: name of the vocabulary; default: as in the specification.
    """
    spec = spec_for(spec) if isinstance(spec, str) else spec
    spec = dataclasses.replace(spec, name=name or spec.name)
    return Tokenizer(spec=spec, vocabulary=load(spec))


def of_folder(folder: Path) -> Tokenizer | None:
    """Return the tokenizer of a Hugging Face folder; None if there is no known file.

    Raises:
        UserError: the record or a file is broken, or the files are not those that were recorded.
    """
    if (folder / RECORD).is_file():
        return recorded(folder)
    if not (folder / TOKENIZER).is_file():
        return None
    return published(given(str(folder / TOKENIZER)), folder)


def published(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    """Return the tokenizer as published if its file is the ``tokenizer.json`` of a folder."""
    spec = tokenizer.spec
    if (
        not isinstance(spec, HuggingFace)
        or spec.normalization is Normalization.DROP
        or Path(spec.path).resolve() != (folder / TOKENIZER).resolve()
    ):
        return tokenizer
    try:
        tree = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return tokenizer  # the reader of the model says what is wrong with it
    entries = {name: tree[name] for name in ROLES if name in tree}
    return dataclasses.replace(tokenizer, published=entries)


def recorded(folder: Path) -> Tokenizer:
    """Return the tokenizer whose files ``Tokenizer.keep`` wrote into a folder.

    Raises:
        UserError: the record or a file is broken, or the files are not those that were recorded.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        kind, entries = record.pop("kind"), record.pop("published")
        known, options = record.pop("hash"), dict(record)
        if kind != "Bytes":
            options["path"] = str(folder / _SOURCES.get(kind, TOKENIZER))
        if "normalization" in options:
            options["normalization"] = Normalization(options["normalization"])
        spec = _KINDS[kind](**options)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is no record of a vocabulary ({error!r}); delete it and set convert.vocabulary"
        ) from None
    vocabulary = load(spec)
    if vocabulary.hash != known:
        raise UserError(
            f"{path} records vocabulary {vocabulary.name} ({known[:8]}), but the files beside it "
            f"give another one ({vocabulary.hash[:8]}); restore them, or delete the record"
        )
    return Tokenizer(spec=spec, vocabulary=vocabulary, published=entries)
