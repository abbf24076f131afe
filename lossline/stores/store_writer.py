"""Write token stores: resumable, atomic, and never over another store.

A store is built in ``<path>.partial`` and renamed when it is complete. The text is tokenized in
chunks. Each chunk is saved as a part, with hashes of its text and its tokens. After a kill, the
next start reuses every undamaged part whose text and vocabulary are unchanged.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lossline import files
from lossline.corpora import utf8
from lossline.errors import UserError
from lossline.files import building, write_bytes
from lossline.places import to_path
from lossline.stores import arrays, manifests
from lossline.stores.manifests import Manifest
from lossline.stores.sealed_json import FILE_NAME
from lossline.stores.token_store import TokenStore
from lossline.stores.tokenization import CHUNK_BYTES, Tokenizer, Tokens, chunked, text_sha256
from lossline.vocabularies import Vocabulary, VocabularySpec

Report = Callable[[int], None]  # called with a number of UTF-8 bytes of text


@dataclass(frozen=True, kw_only=True)
class Description:
    """Descriptive fields of a manifest; see ``Manifest``."""

    name: str
    split: str = "train"
    source_task: str = "documents"
    license: str = ""
    selection: Mapping[str, Any] = field(default_factory=dict)
    job: str = ""


def write_store(
    path: str | Path,
    documents: Iterable[str | bytes],
    vocabulary: Vocabulary | VocabularySpec,
    *,
    name: str = "documents",
    split: str = "train",
    source_task: str = "documents",
    license: str = "",
    selection: Mapping[str, Any] | None = None,
    job: str = "",
    processes: int = 1,
    shard: int = arrays.SHARD,
    chunk: int = CHUNK_BYTES,
    report: Report = lambda done: None,
    found: Report | None = None,
) -> TokenStore:
    """Tokenize documents into a token store and open it.

    If ``path`` already contains a store with equal contents, that store is opened.

    Args:
        path: folder of the store.
        documents: texts in order; ``bytes`` must be UTF-8.
        vocabulary: a vocabulary, or its specification. Several processes need a specification.
        name: name of the set, for the manifest.
        split: split of the set, for the manifest.
        source_task: origin of the text, for the manifest.
        license: license of the text, for the manifest.
        selection: provenance of selected pages, for the manifest.
        job: hash of the request, for the manifest.
        processes: number of tokenizing processes.
        shard: tokens per file.
        chunk: characters per chunk; a kill loses the work of at most a few chunks.
        report: called with the bytes of text tokenized since the last call.
        found: called with the bytes of text that an earlier start has tokenized. Default:
            ``report``.

    Raises:
        UserError: ``path`` contains another store, the source has no documents, a text is not
            UTF-8, or another process writes to the same path.
    """
    path = to_path(path)
    description = Description(
        name=name,
        split=split,
        source_task=source_task,
        license=license,
        selection=selection or {},
        job=job,
    )
    tokenizer = Tokenizer(vocabulary, processes=processes)
    with building(path) as partial, _cleaning_up_after_user_error(partial):
        chunks = chunked(_texts(documents), chunk)
        parts = _tokenize_parts(partial, chunks, tokenizer, report, found or report)
        manifest = _assemble(partial, parts, tokenizer.vocabulary, description, shard=shard)
        publish(partial, path, manifest)
    return TokenStore.open(path)


def publish(partial: Path, path: Path, manifest: Manifest) -> None:
    """Move ``partial`` to ``path``, or delete it if ``path`` contains an equal store.

    Args:
        partial: folder with the arrays of the new store.
        path: folder of the store.
        manifest: manifest of the new store.

    Raises:
        UserError: ``path`` contains another store.
    """
    if files.is_published(path, mark=FILE_NAME):
        present = manifests.read(str(path), kind=manifest.kind)
        if present.fingerprint != manifest.fingerprint:
            raise UserError(
                f"{path}: contains another store ({present.name}, {present.documents} documents, "
                f"vocabulary {present.vocabulary.name}). Choose another folder or delete it."
            )
        files.remove_folder(partial)
        return
    manifests.write(partial, manifest)
    files.publish(partial, path, mark=FILE_NAME)


@contextmanager
def _cleaning_up_after_user_error(partial: Path) -> Iterator[None]:
    """Delete ``partial`` after a user error if it contains no finished part."""
    try:
        yield
    except UserError:
        if not any((partial / "parts").glob("*")):
            with suppress(OSError):
                files.remove_folder(partial)
        raise


@dataclass(frozen=True, kw_only=True)
class _Part:
    path: Path
    documents: int
    tokens: int

    def load(self) -> Tokens:
        with self.path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return Tokens(ids=stored["ids"], lengths=stored["lengths"], bytes=stored["bytes"])


def _texts(documents: Iterable[str | bytes]) -> Iterator[str]:
    for number, document in enumerate(documents):
        try:
            text = document.decode() if isinstance(document, bytes) else document
        except UnicodeDecodeError as error:
            raise UserError(
                f"document {number} (from 0) is not UTF-8: {error}. Fix or remove it."
            ) from error
        utf8.require(text, f"document {number} (from 0) is not UTF-8")
        yield text


def _tokenize_parts(
    partial: Path,
    chunks: Iterable[list[str]],
    tokenizer: Tokenizer,
    report: Report,
    found: Report,
) -> list[_Part]:
    folder = partial / "parts"
    folder.mkdir(exist_ok=True)
    parts: dict[int, _Part] = {}
    count = 0

    def missing() -> Iterator[tuple[int, list[str]]]:
        nonlocal count
        for number, chunk in enumerate(chunks):
            count = number + 1
            part = _kept_part(folder, number, chunk, tokenizer.vocabulary)
            if part is None:
                yield number, chunk
            else:
                parts[number] = part
                found(sum(len(text.encode()) for text in chunk))

    for number, chunk, tokens in tokenizer.map(missing()):
        parts[number] = _write_part(folder, number, chunk, tokens, tokenizer.vocabulary)
        report(int(tokens.bytes.sum()))
    return [parts[number] for number in range(count)]


def _part_paths(folder: Path, number: int) -> tuple[Path, Path]:
    return folder / f"{number:08d}.npz", folder / f"{number:08d}.json"


def _write_part(
    folder: Path, number: int, chunk: list[str], tokens: Tokens, vocabulary: Vocabulary
) -> _Part:
    data_path, facts_path = _part_paths(folder, number)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        ids=tokens.ids.astype(id_dtype(vocabulary)),
        lengths=tokens.lengths,
        bytes=tokens.bytes,
    )
    data = buffer.getvalue()
    facts = {
        "text_sha256": text_sha256(chunk),
        "vocabulary": vocabulary.hash,
        "sha256": hashlib.sha256(data).hexdigest(),
        "documents": len(chunk),
        "tokens": len(tokens.ids),
    }
    # The facts are written last: they mark the part as finished.
    for path, content in ((data_path, data), (facts_path, json.dumps(facts).encode())):
        write_bytes(path, content)
    return _Part(path=data_path, documents=len(chunk), tokens=len(tokens.ids))


def _kept_part(folder: Path, number: int, chunk: list[str], vocabulary: Vocabulary) -> _Part | None:
    """Return the part of an earlier start, or None.

    None means that the part is missing or damaged, or is from another text or vocabulary.
    """
    data_path, facts_path = _part_paths(folder, number)
    if not (data_path.is_file() and facts_path.is_file()):
        return None
    try:
        facts = json.loads(facts_path.read_text())
        same = (facts["text_sha256"], facts["vocabulary"]) == (text_sha256(chunk), vocabulary.hash)
    except (ValueError, KeyError, TypeError):
        return None
    if not same or hashlib.sha256(data_path.read_bytes()).hexdigest() != facts["sha256"]:
        return None
    return _Part(path=data_path, documents=facts["documents"], tokens=facts["tokens"])


def _assemble(
    partial: Path,
    parts: list[_Part],
    vocabulary: Vocabulary,
    description: Description,
    *,
    shard: int,
) -> Manifest:
    documents = sum(part.documents for part in parts)
    if not documents:
        raise UserError(
            f"{description.name}/{description.split}: the source has no documents. Check the "
            "source."
        )
    tokens = sum(part.tokens for part in parts)
    lengths: list[np.ndarray] = []
    sizes: list[np.ndarray] = []

    def blocks() -> Iterator[np.ndarray]:
        # Reads every part once: fills ``lengths`` and ``sizes`` while the tokens are written.
        for part in parts:
            loaded = part.load()
            lengths.append(loaded.lengths)
            sizes.append(loaded.bytes)
            yield loaded.ids

    facts = {
        "tokens": arrays.write(
            partial / "tokens", blocks(), dtype=id_dtype(vocabulary), size=tokens, shard=shard
        )
    }
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    small: dict[str, np.ndarray] = {
        "offsets": offsets,
        "document_bytes": np.concatenate(sizes).astype(np.int64),
        "token_bytes": vocabulary.token_bytes,
    }
    for name, values in small.items():
        facts[name] = arrays.write(
            partial / name, [values], dtype=values.dtype.name, size=values.size
        )
    files.remove_folder(partial / "parts")
    return Manifest(
        kind="text",
        fingerprint=manifests.fingerprint(facts, vocabulary.facts),
        name=description.name,
        split=description.split,
        source_task=description.source_task,
        license=description.license,
        selection=description.selection,
        vocabulary=vocabulary.facts,
        documents=documents,
        tokens=tokens,
        bytes=int(small["document_bytes"].sum()),
        dtype=id_dtype(vocabulary),
        job=description.job,
        arrays=facts,
    )


def id_dtype(vocabulary: Vocabulary) -> str:
    """Return the smallest type for the ids: "uint16" for up to 65,536 ids, else "uint32"."""
    return "uint16" if vocabulary.vocab_size <= 1 << 16 else "uint32"
