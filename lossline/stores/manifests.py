"""Write, read and check ``manifest.json``, which describes a store.

The manifest is written last, so a folder without a manifest is an unfinished store. It contains a
hash of itself, so edits are detected. It records the size of every file, so truncated files are
detected. Each of these problems raises ``UserError``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lossline.errors import UserError
from lossline.stores.arrays import ArrayFacts
from lossline.stores.sealed_json import SealedJson, sha256
from lossline.vocabularies import VocabularyFacts

FORMAT_VERSION = 1
_MANIFEST = SealedJson(
    what="store",
    version=FORMAT_VERSION,
    make="Run python -m lossline.prepare or give another path.",
    remedy="Prepare the store again.",
)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Description of a store.

    Attributes:
        kind: "text" (a token store) or "task" (a task store).
        fingerprint: hash of the arrays and the vocabulary. Stores with equal fingerprints contain
            equal tokens.
        name: corpus or benchmark; recorded as ``pretraining_data`` or ``eval_set``.
        split: "train", "validation", ….
        source_task: origin of the text in words, such as a seqio Task.
        license: license of the content, as its source states it.
        vocabulary: facts about the vocabulary.
        documents: number of documents (token store) or questions (task store).
        tokens: total number of tokens; a token store includes one eos per document.
        bytes: total UTF-8 bytes of the text.
        dtype: type of the token ids.
        selection: provenance of pages that ``lossline.select`` chose: method, target, benchmarks,
            pool, scores, estimator, budget; empty for other text.
        job: hash of the request: contents of the source, vocabulary and limits. ``prepare`` skips
            a store whose job equals the request.
        arrays: facts about every array, by name.
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
    selection: Mapping[str, Any] = field(default_factory=dict)
    job: str = ""
    arrays: Mapping[str, ArrayFacts] = field(default_factory=dict)


def fingerprint(arrays: Mapping[str, ArrayFacts], vocabulary: VocabularyFacts) -> str:
    """Return the SHA-256 (hex) of the arrays' contents and the vocabulary.

    Independent of names, paths and shard sizes.
    """
    content = {name: [facts.dtype, facts.size, facts.sha256] for name, facts in arrays.items()}
    return sha256({"version": FORMAT_VERSION, "arrays": content, "vocabulary": vocabulary.hash})


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest; this completes the store."""
    _MANIFEST.write(folder, asdict(manifest))


def read(location: str, *, kind: str) -> Manifest:
    """Read and check the manifest of a store.

    Args:
        location: folder or URL of the store.
        kind: expected kind of store, "text" or "task".

    Raises:
        NoStore: the location contains no manifest.
        UserError: the manifest was changed, has another format, or is of another kind.
    """
    body = _MANIFEST.read(location)
    if body["kind"] != kind:
        raise UserError(
            f"{location}: is a {body['kind']} store, not a {kind} store. Give a {kind} store."
        )
    vocabulary = VocabularyFacts(**body.pop("vocabulary"))
    arrays = {name: ArrayFacts(**facts) for name, facts in body.pop("arrays").items()}
    return Manifest(**body, vocabulary=vocabulary, arrays=arrays)


def check_vocabulary(location: str, manifest: Manifest, vocabulary_hash: str | None) -> None:
    """Check that a store was made with the expected vocabulary.

    Args:
        location: folder or URL of the store, for the message.
        manifest: manifest of the store.
        vocabulary_hash: hash of the expected vocabulary; None skips the check.

    Raises:
        UserError: the store was made with another vocabulary.
    """
    if vocabulary_hash is not None and vocabulary_hash != manifest.vocabulary.hash:
        raise UserError(
            f"{location}: made with vocabulary {manifest.vocabulary.name} "
            f"({manifest.vocabulary.hash[:12]}) instead of {vocabulary_hash[:12]}. Prepare the "
            "text with the same vocabulary."
        )
