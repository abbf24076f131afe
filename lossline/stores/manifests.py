"""``manifest.json``: what a store holds, written last, with a hash of itself.

A folder without a manifest is no store; a manifest that was edited no longer matches its own hash;
a file of another length than it says is a truncated store. Each is one line to the person.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tensorstore as ts

from lossline.errors import UserError
from lossline.files import write_json
from lossline.stores.arrays import ArrayFacts
from lossline.vocabularies import VocabularyFacts

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"


class NoStore(UserError):
    """Raised when there is no store at a place: it has not been prepared yet."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a store holds.

    Attributes:
        kind: "text" (a token store) or "task" (a benchmark).
        fingerprint: hash of the arrays and the vocabulary: same fingerprint, same tokens.
        name: the corpus or benchmark; becomes the fact ``pretraining_data`` or ``eval_set``.
        split: "train", "validation", …
        source_task: where the text came from, in words (a seqio task, a file).
        license: of the content, as its source states it.
        documents: documents of a text, questions of a task.
        tokens: tokens in all; for a text one eos per document included.
        bytes: UTF-8 bytes of the text in all.
        dtype: of the token ids.
        job: hash of the request (source's content, vocabulary, subset): the same request finds the
            store ready.
    """

    kind: str
    fingerprint: str
    name: str
    split: str
    source_task: str
    license: str
    vocabulary: VocabularyFacts
    documents: int
    tokens: int
    bytes: int
    dtype: str
    job: str = ""
    arrays: Mapping[str, ArrayFacts] = field(default_factory=dict)


def fingerprint(arrays: Mapping[str, ArrayFacts], vocabulary: VocabularyFacts) -> str:
    """Hash of the arrays' contents and of the vocabulary; no names, no cut into files."""
    content = {name: [facts.dtype, facts.size, facts.sha256] for name, facts in arrays.items()}
    return _sha256({"version": FORMAT_VERSION, "arrays": content, "vocabulary": vocabulary.hash})


def write(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest; the store is whole from then on."""
    body = {"format": FORMAT_VERSION, **asdict(manifest)}
    body["manifest_sha256"] = _sha256(body)
    write_json(folder / FILE_NAME, body)


def read(location: str, *, kind: str) -> Manifest:
    """Reads and checks the manifest below ``location``.

    Raises:
        NoStore: there is none.
        UserError: it was changed, or it is of another kind of store.
    """
    text = _read_text(location)
    try:
        body = json.loads(text)
        claimed = body.pop("manifest_sha256")
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"{location}/{FILE_NAME}: no manifest of a store; prepare it again"
        ) from error
    if claimed != _sha256(body):
        raise UserError(
            f"{location}/{FILE_NAME}: was changed after it was written; prepare the store again"
        )
    version = body.pop("format")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{location}: store format {version}, this lossline reads {FORMAT_VERSION}; prepare it "
            "again"
        )
    if body["kind"] != kind:
        raise UserError(f"{location}: is a {body['kind']} store, a {kind} store is wanted here")
    vocabulary = VocabularyFacts(**body.pop("vocabulary"))
    arrays = {name: ArrayFacts(**facts) for name, facts in body.pop("arrays").items()}
    return Manifest(**body, vocabulary=vocabulary, arrays=arrays)


def check_vocabulary(location: str, manifest: Manifest, vocabulary_hash: str | None) -> None:
    """Raises ``UserError`` where the store was made with another vocabulary than the one wanted."""
    if vocabulary_hash is not None and vocabulary_hash != manifest.vocabulary.hash:
        raise UserError(
            f"{location}: made with vocabulary {manifest.vocabulary.name} "
            f"({manifest.vocabulary.hash[:12]}), but {vocabulary_hash[:12]} is wanted; prepare the "
            "text with that vocabulary"
        )


def _read_text(location: str) -> str:
    if "://" in location:
        found = ts.KvStore.open(location.rstrip("/") + "/").result().read(FILE_NAME).result()
        if found.state == "missing":
            raise NoStore(
                f"{location}: no store (no {FILE_NAME}); make one with `python -m lossline.prepare`"
            )
        return found.value.decode()
    folder = Path(location)
    if not folder.is_dir():
        raise NoStore(f"{location}: no such store; make it with `python -m lossline.prepare`")
    if not (folder / FILE_NAME).is_file():
        raise NoStore(
            f"{location}: no store (no {FILE_NAME}); make one with `python -m lossline.prepare`"
        )
    return (folder / FILE_NAME).read_text(encoding="utf-8", errors="replace")


def _sha256(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
