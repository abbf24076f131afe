"""Pools of pages from many domains: pages to score models on, and pages to select from.

The pages to score come from the validation split; selection never sees them.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import heapq
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lossline.corpora import utf8
from lossline.corpora.deduplication import content_hash, split_of
from lossline.corpora.gathering import text_folder
from lossline.corpora.json_lines import kind_of, matching_files, read_objects
from lossline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of a pool.

    Attributes:
        id: content hash of the text; see ``content_hash``.
        domain: name of its domain.
        text: the text.
    """

    id: str
    domain: str
    text: str


class MissingDomains(enum.Enum):
    """What to do with a domain that ``gather`` cannot fetch, or that is not gathered."""

    REFUSE = "refuse"
    SKIP = "skip"


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Gin component: pages of many domains.

    Attributes:
        name: name of the pool, and of its stores.
        root: data root, as in ``gather``.
        domains: names of gathered corpora; each one is a domain.
        files: paths or globs of JSON lines, which may be compressed; each line is a page with its
            text and the name of its domain.
        text_field: key of the text in ``files``.
        domain_field: key of the domain in ``files``.
        validation_share: share of the pages of ``files`` in the validation split, by content hash.
            Gathered corpora keep the split that ``gather`` made.
        scored_pages: maximum number of pages per domain to score models on: those of the
            validation split with the smallest content hashes.
        missing: "refuse" raises an error for a domain that is not gathered, or that has no page in
            one of the splits; "skip" leaves it out and prints its name.

    Raises:
        UserError: the pool has no domains, names one twice, or a number is out of range.
    """

    name: str = "pool"
    root: str = "data"
    domains: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    text_field: str = "text"
    domain_field: str = "domain"
    validation_share: float = 0.1
    scored_pages: int = 25
    missing: MissingDomains = MissingDomains.REFUSE

    def __post_init__(self) -> None:
        if not self.domains and not self.files:
            raise UserError("pool.domains, pool.files: the pool has no domains. Bind one of them.")
        for domain in self.domains:
            if self.domains.count(domain) > 1:
                raise UserError(f"pool.domains: {domain!r} occurs twice. Name each domain once.")
        if self.scored_pages < 1:
            raise UserError(f"pool.scored_pages = {self.scored_pages}: give at least 1.")
        if not 0 < self.validation_share < 1:
            raise UserError(
                f"pool.validation_share = {self.validation_share}: give a number between 0 and 1."
            )

    def names(self) -> tuple[str, ...]:
        """Return the domains of the pool: the gathered ones, then those of ``files``.

        Domains of ``files`` are in the order of their first page.

        Raises:
            UserError: a domain is missing and ``missing`` is "refuse", no domain is left, a domain
                is both gathered and in ``files``, or a line of a file is invalid.
        """
        return self.present(self._own_splits())[0]

    def present(self, own: Mapping[str, set[str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the domains of the pool, and those that are left out; see ``names``.

        Args:
            own: domain of ``files`` -> the splits in which it has a page.
        """
        faults = self._faults(own)
        left_out = tuple(domain for domain, fault in faults.items() if fault)
        if left_out and self.missing is MissingDomains.REFUSE:
            raise UserError(
                f"pool {self.name}, domain {left_out[0]!r}: {faults[left_out[0]]}, or set "
                'pool.missing = "skip".'
            )
        names = tuple(domain for domain, fault in faults.items() if not fault)
        if not names:
            raise UserError(
                f"pool {self.name}: none of its {len(faults)} domains has pages. Gather them with "
                "python -m lossline.gather."
            )
        if left_out:
            _print_once(f"pool {self.name}: leaves out {', '.join(left_out)} (no pages there)")
        return names, left_out

    def left_out(self) -> tuple[str, ...]:
        """Return the domains that have no pages in one of the splits."""
        return tuple(domain for domain, fault in self._faults(self._own_splits()).items() if fault)

    def pages(self, split: str = "train") -> Iterator[Page]:
        """Yield the pages of a split.

        Gathered domains come one by one, then the pages of ``files`` in the order of the files.
        The second copy of a page in a domain is dropped.

        Args:
            split: "train" for the pages to select from; "validation" for those that selection must
                not see; "scored" for the pages of ``scored``. No page of "validation" is in
                "train", not even as a copy in another domain.

        Raises:
            UserError: the split is unknown, or one of the errors of ``names``.
        """
        if split == "scored":
            yield from self.scored()
            return
        if split not in ("train", "validation"):
            raise UserError(
                f"pool {self.name}: has no split {split!r}. Use train, validation or scored."
            )
        yield from self._pages(split, self.names())

    def scored(self) -> Iterator[Page]:
        """Yield the pages to score: domain by domain, each in the order of the content hashes.

        Raises:
            UserError: see ``names``.
        """
        names = self.names()
        # Negated hashes make heapq remove the largest hash.
        smallest: dict[str, list[tuple[int, str]]] = {name: [] for name in names}
        for page in self._pages("validation", names):
            kept = smallest[page.domain]
            heapq.heappush(kept, (-int(page.id, 16), page.text))
            if len(kept) > self.scored_pages:
                heapq.heappop(kept)
        for name in names:
            for _, text in sorted(smallest[name], reverse=True):
                yield Page(id=content_hash(text), domain=name, text=text)

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of all pages to score and to select from.

        It depends on names, texts and their order, not on where the files are.

        Raises:
            UserError: see ``names``.
        """
        digest = hashlib.sha256()
        for split in ("scored", "train"):
            digest.update(self.split_fingerprint(split).encode())
        return digest.hexdigest()

    def split_fingerprint(self, split: str) -> str:
        """Return the SHA-256 (hex) of the pages of a split; see ``pages``."""
        digest = hashlib.sha256()
        for page in self.pages(split):
            for text in (page.domain, page.text):
                data = text.encode()
                digest.update(len(data).to_bytes(8, "big") + data)
        return digest.hexdigest()

    @property
    def license(self) -> str:
        """License of the texts."""
        return "each domain has its own; see the provenance of its corpus"

    def _pages(self, split: str, names: tuple[str, ...]) -> Iterator[Page]:
        chosen = frozenset(names)
        held_out: frozenset[str] = frozenset()
        if split == "train":
            held_out = frozenset(page.id for page in self._pages("validation", names))
        seen: set[tuple[str, str]] = set()
        for page in self._all(split):
            key = (page.domain, page.id)
            if page.domain in chosen and page.id not in held_out and key not in seen:
                seen.add(key)
                yield page

    def _all(self, split: str) -> Iterator[Page]:
        for domain in self.domains:
            file = text_folder(Path(self.root), domain) / f"{split}.jsonl"
            if file.is_file():
                for where, record in read_objects(file):
                    yield _page(page_text(record, "text", where), domain)
        for where, record in self._own_records():
            page = _page(
                page_text(record, self.text_field, where),
                page_text(record, self.domain_field, where),
            )
            if split_of(page.id, self.validation_share) == split:
                yield page

    def _own_records(self) -> Iterator[tuple[str, dict[str, object]]]:
        for path in matching_files(self.files, f"pool {self.name}"):
            try:
                yield from read_objects(path)
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error}). Correct the path.") from error

    def _faults(self, own: Mapping[str, set[str]]) -> dict[str, str]:
        """Return domain -> what is wrong with it and how to fix it; "" if nothing is."""
        faults: dict[str, str] = {}
        for domain in self.domains:
            folder = text_folder(Path(self.root), domain)
            faults[domain] = ""
            if not folder.is_dir():
                faults[domain] = (
                    f"{folder} is not gathered. Gather it with python -m lossline.gather"
                )
            elif not all(
                _has_a_line(folder / f"{split}.jsonl") for split in ("train", "validation")
            ):
                faults[domain] = f"{folder} has a split without pages. Delete it and gather again"
        for domain, splits in own.items():
            if domain in faults:
                raise UserError(
                    f"pool {self.name}: domain {domain!r} occurs in pool.domains and in "
                    "pool.files. Rename one of them."
                )
            faults[domain] = ""
            for absent in {"train", "validation"} - splits:
                faults[domain] = (
                    f"has no page in the {absent} split of pool.files. Give it more pages, change "
                    "pool.validation_share"
                )
        return faults

    def _own_splits(self) -> dict[str, set[str]]:
        """Return domain of ``files`` -> the splits in which it has a page."""
        found: dict[str, set[str]] = {}
        for where, record in self._own_records():
            text = page_text(record, self.text_field, where)
            split = split_of(content_hash(text), self.validation_share)
            found.setdefault(page_text(record, self.domain_field, where), set()).add(split)
        return found


def _page(text: str, domain: str) -> Page:
    return Page(id=content_hash(text), domain=domain, text=text)


def page_text(record: dict[str, object], field: str, where: str) -> str:
    """Return the text in a field of a page.

    Raises:
        UserError: it is missing, blank, not a text, or contains a lone surrogate.
    """
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        found = "missing" if field not in record else "blank"
        if field in record and not isinstance(value, str):
            found = kind_of(value)
        raise UserError(
            f"{where}: {field!r} is {found}, not text. Fix the line, pool.text_field or "
            "pool.domain_field."
        )
    utf8.require(value, f"{where}, {field!r}")
    return value


def _has_a_line(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


@functools.cache
def _print_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
