"""Pages that ``lossline.select`` chose out of a pool, as a source of ``prepare``.

A selection is a folder with the index of its pages (``pages.parquet``) and ``manifest.json``, which
states how they were chosen. The text stays in the pool.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lossline.corpora.gathering import file_sha256
from lossline.corpora.pools import MissingDomains, Page, Pool
from lossline.errors import UserError
from lossline.files import replacing, write_json

INDEX = "pages.parquet"
MANIFEST = "manifest.json"
# Columns of the index, best page first.
COLUMNS = ("id", "domain", "rank", "score", "tokens", "bytes")
# What the manifest of a store keeps of a selection's manifest.
PROVENANCE = (
    "method", "target", "benchmarks", "options", "pool", "scores", "budget", "tokens", "pages",
    "seed",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Selected:
    """Gin component: the pages of one selection.

    Attributes:
        name: name of the set; recorded as ``pretraining_data``.
        folder: folder of the selection, such as ``selections/code/dsir``.
        pool: the pool, if it was moved since. Default: the pool as the manifest states it.
    """

    name: str
    folder: str
    pool: Pool | None = None

    @functools.cached_property
    def manifest(self) -> dict[str, Any]:
        """How the pages were chosen; see ``read_manifest``."""
        return read_manifest(Path(self.folder))

    @property
    def license(self) -> str:
        """License of the texts: that of the pool."""
        return self._pool.license

    @property
    def provenance(self) -> dict[str, Any]:
        """How the pages were chosen, for the manifest of a store."""
        return {name: self.manifest[name] for name in PROVENANCE}

    def __str__(self) -> str:
        m = self.manifest
        target = f" for {m['target']}" if m["target"] else ""
        return (
            f"{m['pages']:,} pages of pool {m['pool']['name']} chosen by {m['method']}{target}, "
            f"{m['tokens']:,} tokens"
        )

    def identity(self) -> str:
        """Return the SHA-256 (hex) of the index, which names every page by its content."""
        return str(self.manifest["index_sha256"])

    def text_bytes(self) -> int:
        """Return the UTF-8 bytes of all pages."""
        return int(self.manifest["bytes"])

    def pages(self) -> Iterator[Page]:
        """Yield the pages, in the order of the pool.

        Raises:
            UserError: the pool lacks a page of the selection.
        """
        index = read_index(Path(self.folder))
        wanted = {
            (row.domain, row.id): row.bytes
            for row in index[["domain", "id", "bytes"]].itertuples(index=False)
        }
        domains = set(index["domain"])
        pool = self._pool
        kept = tuple(name for name in pool.domains if name in domains)
        if kept or pool.files:  # do not read domains without a selected page
            pool = dataclasses.replace(pool, domains=kept)
        for page in pool.pages("train"):
            if wanted.get((page.domain, page.id)) == len(page.text.encode()):
                del wanted[page.domain, page.id]
                yield page
        if wanted:
            domain, content = next(iter(wanted))
            raise UserError(
                f"{self.folder}: {len(wanted)} of {len(index)} selected pages are not in pool "
                f"{pool.name} (first: {content[:12]} of domain {domain}). The pool was changed or "
                "moved: select again, or bind selected.pool."
            )

    @property
    def _pool(self) -> Pool:
        return self.pool or pool_from_facts(self.manifest["pool"], self.folder)


def selections(
    *,
    folder: str,
    targets: Sequence[str],
    methods: Sequence[str],
    shared: Sequence[str] = (),
    any_target: str = "any",
) -> tuple[Selected, ...]:
    """Gin component: the selections of every target by every method, as ``@selected()`` each.

    Args:
        folder: output folder of ``lossline.select``.
        targets: names of the targets.
        methods: methods that depend on the target; ``<folder>/<target>/<method>``.
        shared: methods that do not; ``<folder>/<any_target>/<method>``.
        any_target: name that stands for every target.

    Returns:
        Sources called ``<target>-<method>``; nothing is read yet.
    """
    pairs = [*itertools.product(targets, methods), *itertools.product([any_target], shared)]
    return tuple(
        Selected(name=f"{target}-{method}", folder=f"{folder}/{target}/{method}")
        for target, method in pairs
    )


def pool_facts(pool: Pool, fingerprint: str, present: Sequence[str] = ()) -> dict[str, Any]:
    """Return a pool as JSON: its options, the domains it has, and its fingerprint.

    Args:
        pool: the pool.
        fingerprint: ``pool.fingerprint()``.
        present: ``pool.names()``, if it is known.
    """
    options = {item.name: _plain(getattr(pool, item.name)) for item in dataclasses.fields(pool)}
    return options | {"domains_present": list(present or pool.names()), "fingerprint": fingerprint}


def pool_from_facts(facts: dict[str, Any], where: str) -> Pool:
    """Return the pool that ``pool_facts`` described.

    Raises:
        UserError: the facts are of another version.
    """
    names = {item.name for item in dataclasses.fields(Pool)}
    options = {name: value for name, value in facts.items() if name in names}
    try:
        lists = {name: tuple(value) for name, value in options.items() if isinstance(value, list)}
        return Pool(**{**options, **lists, "missing": MissingDomains(options["missing"])})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where}/{MANIFEST}: its pool cannot be read ({error}). Select again."
        ) from error


def write_selection(folder: Path, index: pd.DataFrame, manifest: dict[str, Any]) -> None:
    """Write the index and then the manifest of a selection into ``folder``.

    Args:
        folder: folder of the selection; made if missing.
        index: the selected pages with ``COLUMNS``, best first.
        manifest: what ``PROVENANCE`` names, and more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / INDEX) as partial:
        index.loc[:, list(COLUMNS)].to_parquet(partial, index=False)
    facts = {**manifest, "index_sha256": file_sha256(folder / INDEX)}
    write_json(folder / MANIFEST, facts)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a selection.

    Raises:
        UserError: the folder has no selection, or its files were changed.
    """
    if not (folder / MANIFEST).is_file() or not (folder / INDEX).is_file():
        raise UserError(f"{folder}: contains no selection. Make it with python -m lossline.select.")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        complete = all(name in manifest for name in (*PROVENANCE, "bytes", "index_sha256"))
        complete = complete and "name" in manifest["pool"]
    except (ValueError, TypeError):
        manifest, complete = {}, False
    if not complete:
        raise UserError(f"{folder / MANIFEST}: not the manifest of a selection. Select again.")
    if file_sha256(folder / INDEX) != manifest["index_sha256"]:
        raise UserError(f"{folder / INDEX}: changed after it was written. Select again.")
    return manifest


def read_index(folder: Path) -> pd.DataFrame:
    """Return the index of a selection: one row per page with ``COLUMNS``, best first."""
    return pd.read_parquet(folder / INDEX)


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value
