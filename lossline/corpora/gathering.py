"""Gather a corpus: extract documents, drop duplicates, split by hash, record provenance.

``<root>/text/<corpus>/`` contains ``train.jsonl``, ``validation.jsonl`` and ``provenance.json``.
Each line is an object with ``id`` (the content hash), ``source`` and ``text``. Lines are in the
order of the content hashes, so every prefix of a file is a random sample.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossline.cluster import Engine, connect
from lossline.corpora.domains.corpus import Corpus
from lossline.corpora.passes.corpus_passes import SPLITS, VERSION, CorpusPasses, Limits
from lossline.corpora.passes.sorted_texts import FILE_BYTES
from lossline.corpora.passes.steps import Job, run_side_by_side
from lossline.corpora.registries.packages import Package, fetch
from lossline.errors import UserError
from lossline.files import building, publish, write_json
from lossline.terminal import Say, silent

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
    corpus: Corpus, root: Path, *, downloads: Path, selection: Selection
) -> dict[str, Any]:
    """Gather ``<root>/text/<corpus>`` in this process; see ``gather_corpora``.

    Returns:
        Its provenance.
    """
    found: list[dict[str, Any]] = []
    with connect("local", processes=1) as engine:
        gather_corpora(
            [corpus], root, downloads=downloads, selection=selection, engine=engine,
            finished=lambda number, provenance: found.append(provenance),
        )  # fmt: skip
    return found[0]


def gather_corpora(
    corpora: Sequence[Corpus],
    root: Path,
    *,
    downloads: Path,
    selection: Selection,
    engine: Engine,
    say: Say = silent,
    finished: Callable[[int, dict[str, Any]], None] = lambda number, provenance: None,
) -> None:
    """Gather ``<root>/text/<corpus>`` for each corpus whose folder does not exist.

    Until a corpus is complete, its files are in ``<corpus>.partial``; the next start continues with
    the units that are finished there.

    Args:
        corpora: corpora to gather.
        root: data root; with an engine of several machines, on a disk that all of them share.
        downloads: folder of the package files; likewise.
        selection: selection of documents.
        engine: what runs the units; several processes need registered corpora, or such that can be
            pickled.
        say: receives a line of progress now and then.
        finished: called with the number and the provenance of each corpus as soon as it exists.

    Raises:
        UserError: a package cannot be fetched, a folder exists with different contents, or a split
            has no documents.
    """
    jobs = [_gathering(corpus, root, downloads, selection) for corpus in corpora]
    run_side_by_side(jobs, engine, say=say, finished=finished)


def _gathering(
    corpus: Corpus, root: Path, downloads: Path, selection: Selection
) -> Job[dict[str, Any]]:
    """Return the provenance of a corpus; gather it if it does not exist."""
    path = text_folder(root, corpus.name)
    job = _job(corpus, selection)
    present = find_gathered(path, job)
    if present is not None:
        return present
    archives = tuple(fetch(package, downloads) for package in corpus.packages)
    with building(path) as partial:
        work = partial / f"work-{job[:16]}-{VERSION}"
        for other in partial.glob("work-*"):  # of a start with other settings
            if other != work:
                shutil.rmtree(other)
        passes = CorpusPasses(
            corpus=corpus,
            # Workers may have another current folder.
            archives=tuple(archive.absolute() for archive in archives),
            work=work.absolute(),
            out=partial.absolute(),
            limits=_limits(selection),
        )
        gathered = yield from passes.job()
        shutil.rmtree(work)
        if not all(gathered.files[split]["documents"] for split in SPLITS):
            for split in SPLITS:
                (partial / f"{split}.jsonl").unlink()
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
            "counts": gathered.counts,
            "files": gathered.files,
        }
        write_json(partial / PROVENANCE, provenance)
        publish(partial, path, mark=PROVENANCE)
    return provenance


def _limits(selection: Selection) -> Limits:
    return Limits(
        validation_share=selection.validation_share,
        train=selection.max_megabytes * 1e6,
        validation=selection.max_validation_megabytes * 1e6,
        least=selection.min_bytes,
        page=int(selection.page_kilobytes * 1000),
        piece=FILE_BYTES,
    )


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
        UserError: ``provenance.json`` is missing, or not a JSON object.
    """
    try:
        content = json.loads((path / PROVENANCE).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no object")
        return content
    except FileNotFoundError as error:
        raise UserError(f"{path}: no {PROVENANCE} there. Run python -m lossline.gather.") from error
    except ValueError as error:
        raise UserError(
            f"{path / PROVENANCE} is damaged: it is no JSON object. Delete {path} and run the "
            "command again that made it."
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
