"""Write token stores: resumable, atomic, and never over another store.

A store is built in ``<path>.partial`` and renamed when it is complete. Workers of an engine
tokenize the text in parts (``lossline.stores.parts``). After a kill, the next start reuses every
undamaged part whose text and vocabulary are unchanged. The store does not depend on the parts, on
the engine or on the order in which parts are finished.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lossline import files, vocabularies
from lossline.cluster import Engine, connect
from lossline.corpora import utf8
from lossline.corpora.file_texts import TextRange
from lossline.corpora.gathering import job_hash
from lossline.errors import UserError
from lossline.files import building
from lossline.places import in_bucket, to_path
from lossline.stores import arrays, manifests, parts
from lossline.stores.assembly import assemble
from lossline.stores.manifests import Manifest
from lossline.stores.parts import Making, Part, Wanted, id_dtype
from lossline.stores.sealed_json import FILE_NAME
from lossline.stores.text_shards import write_shard
from lossline.stores.token_store import TokenStore
from lossline.stores.tokenization import CHUNK_BYTES, chunked, text_sha256
from lossline.terminal import Say, silent
from lossline.vocabularies import Vocabulary, VocabularySpec

_TRIES = 3
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


@dataclass(frozen=True, kw_only=True)
class RangedTexts:
    """Documents in ranges of files, which workers read themselves.

    Attributes:
        ranges: the ranges in order, with absolute paths.
        hashes: SHA-256 (hex) of every file.
        max_document_kilobytes: limit of the size of a document; see ``Subset``. Its other limits
            need one reader of all documents.
    """

    ranges: Sequence[TextRange]
    hashes: Mapping[Path, str]
    max_document_kilobytes: float = 0.0


def write_store(
    path: str | Path,
    documents: Iterable[str | bytes] | RangedTexts,
    vocabulary: Vocabulary | VocabularySpec,
    *,
    name: str = "documents",
    split: str = "train",
    source_task: str = "documents",
    license: str = "",
    selection: Mapping[str, Any] | None = None,
    job: str = "",
    processes: int = 1,
    engine: Engine | None = None,
    shard: int = arrays.SHARD,
    chunk: int = CHUNK_BYTES,
    report: Report = lambda done: None,
    found: Report | None = None,
    say: Say = silent,
) -> TokenStore:
    """Tokenize documents into a token store and open it.

    If ``path`` already contains a store with equal contents, that store is opened.

    Args:
        path: folder of the store.
        documents: texts in order (``bytes`` must be UTF-8), or the ranges of files that hold them.
        vocabulary: a vocabulary, or its specification. An engine of several processes needs a
            specification.
        name: name of the set, for the manifest.
        split: split of the set, for the manifest.
        source_task: origin of the text, for the manifest.
        license: license of the text, for the manifest.
        selection: provenance of selected pages, for the manifest.
        job: hash of the request, for the manifest.
        processes: number of tokenizing processes of this machine, if no engine is given.
        engine: engine that tokenizes.
        shard: tokens per file.
        chunk: characters that are tokenized at once, and of a part if the documents are not ranges;
            a kill loses the work of at most a few parts.
        report: called with the bytes of text tokenized since the last call.
        found: called with the bytes of text that an earlier start has tokenized. Default:
            ``report``.
        say: receives a line of progress now and then while the arrays are written.

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
    if isinstance(vocabulary, Vocabulary):
        here, processes = vocabulary, 1
    else:
        here = vocabularies.load(vocabulary)
    limit = documents.max_document_kilobytes if isinstance(documents, RangedTexts) else 0.0
    making = Making(
        vocabulary=for_workers(vocabulary),
        hash=here.hash,
        max_document_kilobytes=limit,
        chunk=chunk,
    )
    with (
        building(path) as partial,
        _cleaning_up_after_user_error(partial),
        nullcontext(engine) if engine else connect("local", processes=processes) as used,
    ):
        parts_of_store = _Parts(partial, making, report, found or report)
        made = parts_of_store.make(documents, used)
        manifest = _assemble(partial, made, here, description, shard=shard, engine=used, say=say)
        parts_of_store.remove()
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


class _Parts:
    """The parts of one store in their folder.

    Args:
        partial: folder of the unfinished store.
        making: how parts are made.
        report: called with bytes of text that are tokenized.
        found: called with bytes of text that an earlier start has tokenized.
    """

    def __init__(self, partial: Path, making: Making, report: Report, found: Report) -> None:
        self._folder = _absolute(partial / "parts")
        self._shards = _absolute(partial / "text")
        self._making, self._report, self._found = making, report, found
        self._done: dict[int, Part] = {}
        if self._shards.is_dir():  # of an interrupted start
            files.remove_folder(self._shards)
        self._folder.mkdir(exist_ok=True)

    def make(self, documents: Iterable[str | bytes] | RangedTexts, engine: Engine) -> list[Part]:
        """Make all parts on an engine, and return them in order."""
        if isinstance(documents, RangedTexts):
            wanted = self._of_ranges(documents)
        else:
            wanted = self._of_documents(documents)
        for _, part in engine.run(functools.partial(parts.make, self._making), wanted):
            self._done[part.number] = part
            (self._found if part.found else self._report)(part.bytes)
            self._shard(part.number).unlink(missing_ok=True)
        return [self._done[number] for number in sorted(self._done)]

    def remove(self) -> None:
        """Delete all parts, once the store has their contents."""
        if self._shards.is_dir():
            files.remove_folder(self._shards)
        for _ in range(_TRIES):
            with suppress(OSError):  # a worker that is late may be writing a part again
                files.remove_folder(self._folder)
                return
        files.remove_folder(self._folder)

    def _of_ranges(self, documents: RangedTexts) -> Iterator[Wanted]:
        limit = self._making.max_document_kilobytes
        for number, text in enumerate(documents.ranges):
            key = job_hash("part", text.identity(documents.hashes), limit, self._making.hash)
            yield self._wanted(number, key, text)

    def _of_documents(self, documents: Iterable[str | bytes]) -> Iterator[Wanted]:
        """Yield the parts that no earlier start has made; write their text for the workers."""
        for number, texts in enumerate(chunked(_texts(documents), self._making.chunk)):
            key = job_hash("part", text_sha256(texts), self._making.hash)
            part = parts.find(number, self._path(number, key), key)
            if part is None:
                self._shards.mkdir(exist_ok=True)
                yield self._wanted(number, key, write_shard(self._shard(number), texts))
            else:
                self._done[number] = part
                self._found(part.bytes)

    def _wanted(self, number: int, key: str, text: parts.Text) -> Wanted:
        return Wanted(number=number, path=self._path(number, key), key=key, text=text)

    def _path(self, number: int, key: str) -> Path:
        return self._folder / parts.file_name(number, key)

    def _shard(self, number: int) -> Path:
        return self._shards / f"{number:08d}.npz"


def _absolute(path: Path) -> Path:
    """Return the same path for workers whose current folder is another one."""
    return path if in_bucket(path) else path.absolute()


def for_workers(vocabulary: Vocabulary | VocabularySpec) -> Vocabulary | VocabularySpec:
    """Return a vocabulary whose file workers with another current folder find."""
    path = getattr(vocabulary, "path", "")
    if isinstance(vocabulary, Vocabulary) or not path:
        return vocabulary
    return replace(vocabulary, path=str(_absolute(Path(path))))  # type: ignore[arg-type]


def _assemble(
    partial: Path,
    made: list[Part],
    vocabulary: Vocabulary,
    description: Description,
    *,
    shard: int,
    engine: Engine,
    say: Say,
) -> Manifest:
    documents = sum(part.documents for part in made)
    if not documents:
        raise UserError(
            f"{description.name}/{description.split}: the source has no documents. Check the "
            "source."
        )
    facts = assemble(_absolute(partial), made, vocabulary, shard=shard, engine=engine, say=say)
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
        tokens=sum(part.tokens for part in made),
        bytes=sum(part.bytes for part in made),
        dtype=id_dtype(vocabulary),
        job=description.job,
        arrays=facts,
    )
