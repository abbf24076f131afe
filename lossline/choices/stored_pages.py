"""Pages of a pool whose texts stay in the pool's files; an engine works on them piece by piece."""

from __future__ import annotations

import functools
import hashlib
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lossline.choices.kept_units import KeptUnit, kept, key, unit_folder
from lossline.cluster import Engine
from lossline.corpora.passes import repeats
from lossline.corpora.passes.pool_index import (
    PageFile,
    PoolIndex,
    chunks_of,
    index_pool,
    read_texts,
)
from lossline.corpora.pools import Pool
from lossline.errors import UserError
from lossline.files import remove_folder, write_bytes
from lossline.pages.page_set import TOKENIZED, PageSet
from lossline.places import to_path
from lossline.stores.parts import checked_vocabulary
from lossline.stores.store_writer import for_workers
from lossline.stores.tokenization import chunked, loaded, tokenize
from lossline.terminal import Say, silent
from lossline.vocabularies import Vocabulary, VocabularySpec

Value = TypeVar("Value")
Found = TypeVar("Found")
PIECE = 1 << 23  # bytes of text that one unit holds
_SHINGLES = 1 << 21  # 8-grams that one unit counts


@dataclass(frozen=True)
class _Source:
    """What all sets of one pool share.

    Attributes:
        files: files of the pages.
        engine: what works on the texts.
        work: folder for files of the work.
        say: receives a line of progress now and then.
        keeps: whether results of units are kept in ``work``.
    """

    files: tuple[PageFile, ...]
    engine: Engine
    work: Path
    say: Say
    keeps: bool = False

    def run(
        self, function: Callable[[Any], Any], units: Iterable[tuple[Any, bytes]], what: str
    ) -> Iterator[tuple[int, Any]]:
        """Run units, each with the bytes that say what it works on; see ``Engine.run``."""
        plain: Iterable[Any] = (unit for unit, _ in units)
        if self.keeps:
            start = key(function)
            plain = (
                KeptUnit(unit, str(self.work / f"{key(start, identity)}.result"))
                for unit, identity in units
            )
            function = partial(kept, function)
        if isinstance(units, Sized):  # then progress tells how many there are
            plain = list(plain)
        return self.engine.run(function, plain, say=self.say, what=what)


class StoredPages(PageSet):
    """Pages of a pool; memory holds about 70 bytes of each, never all texts.

    Args:
        source: what all sets of the pool share.
        names: domains of the pool.
        rows: rows of the index.
    """

    def __init__(self, source: _Source, names: Sequence[str], rows: np.ndarray) -> None:
        self._source, self._all_names, self._rows = source, names, rows
        present = sorted(np.unique(rows["domain"]).tolist(), key=lambda code: names[code])
        self.names = [names[code] for code in present]
        codes = np.zeros(len(names) + 1, np.int64)
        codes[present] = np.arange(len(present))
        self.domain_of = codes[rows["domain"]]

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def sizes(self) -> np.ndarray:  # type: ignore[override]
        """See ``PageSet``."""
        return self._rows["bytes"].astype(np.int64)

    @cached_property
    def places(self) -> np.ndarray:  # type: ignore[override]
        """See ``PageSet``; a domain has a page once, so its text decides nothing."""
        places = np.empty(len(self), np.int64)
        places[np.lexsort((self.domain_of, self._rows["content"]))] = np.arange(len(self))
        return places

    def ids(self, positions: Iterable[int] | None = None) -> Sequence[str]:
        """See ``PageSet.ids``."""
        content = self._rows["content"]
        if positions is not None:
            content = content[np.fromiter(positions, np.int64)]
        return _Ids(content)

    def texts(self, positions: Iterable[int]) -> Iterator[str]:
        """See ``PageSet.texts``."""
        return read_texts(self._source.files, self._rows[np.fromiter(positions, np.int64)])

    def map(self, function: Callable[[Sequence[str]], Found], *, what: str) -> list[Found]:
        """See ``PageSet.map``."""
        pieces = [self._piece(slice(*ends)) for ends in chunks_of(self.sizes, PIECE)]
        units = [(piece, piece.identity()) for piece in pieces]
        return self._run(partial(_apply, function), units, what)

    def share(self, value: Value) -> Callable[[], Value]:
        """See ``PageSet.share``: the value is pickled into a file of the work."""
        content = pickle.dumps(value)
        path = self._source.work / f"{hashlib.sha256(content).hexdigest()}.pickle"
        self._source.work.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
        return partial(_shared, str(path))

    def keeping(self, fingerprint: str, say: Say) -> StoredPages:
        """Return the same pages; see ``OpenPool.keeping``."""
        folder = unit_folder(self._source.work, fingerprint)
        if found := sum(1 for _ in folder.glob("*.result")):
            say(f"uses {found} pieces of work of an earlier start")
        source = replace(self._source, work=folder, keeps=True)
        return StoredPages(source, self._all_names, self._rows)

    def subset(self, keep: np.ndarray) -> StoredPages:
        """See ``PageSet.subset``."""
        return StoredPages(self._source, self._all_names, self._rows[keep])

    def repeated(self, threshold: float, among: np.ndarray) -> np.ndarray:
        """See ``PageSet.repeated``."""
        positions = np.flatnonzero(among)
        places = np.empty(len(positions), np.uint32)
        places[np.argsort(self.places[positions])] = np.arange(len(positions), dtype=np.uint32)
        own = StoredPages(self._source, self._all_names, self._rows[positions])
        name = key(_rows_identity(own._rows), places.tobytes())
        folder = self._source.work / name
        if self._source.keeps:
            unit = KeptUnit(places, str(folder.with_suffix(".repeats")))
            repeated, totals = kept(partial(own._repeats, folder), unit)
        else:
            repeated, totals = own._repeats(folder, places)
        if folder.exists():
            remove_folder(folder)
        found = np.zeros(len(self), bool)
        found[positions] = repeated[places] >= threshold * totals
        return found

    def _repeats(self, folder: Path, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the repeated 8-grams of the page at each place, and all of each page.

        Args:
            folder: folder for the 8-grams, named after the pages and places.
            places: place of each page.
        """
        folder.mkdir(parents=True, exist_ok=True)
        units = []
        for n, ends in enumerate(chunks_of(self.sizes, PIECE)):
            which = slice(*ends)
            unit = _Shingles(self._piece(which), places[which], str(folder / f"{n}.npy"))
            units.append((unit, unit.out.encode()))
        totals = np.concatenate(
            [np.zeros(0, np.int64), *self._run(_write_shingles, units, "pieces of 8-grams")]
        )
        pieces = max(1, -(-int(totals.sum()) // _SHINGLES))
        files = tuple(unit.out for unit, _ in units)
        counts = [_Count(files, n, pieces, str(folder / f"count{n}.npy")) for n in range(pieces)]
        named = [(unit, f"{unit.out} of {pieces}".encode()) for unit in counts]
        self._run(_count, named, "ranges of 8-grams")
        repeated = repeats.sum_repeats([to_path(unit.out) for unit in counts], len(places))
        return repeated, totals

    def lengths(
        self,
        order: np.ndarray,
        budget: int,
        vocabulary: Vocabulary | VocabularySpec,
        processes: int,
    ) -> np.ndarray:
        """See ``PageSet.lengths``; the engine tokenizes a little beyond the budget."""
        cuts = chunks_of(self.sizes[order], TOKENIZED)
        known = vocabulary if isinstance(vocabulary, Vocabulary) else loaded(vocabulary)
        pieces = (self._piece(order[slice(*ends)]) for ends in cuts)
        running = self._source.run(
            partial(_lengths, for_workers(vocabulary), known.hash),
            ((piece, piece.identity()) for piece in pieces),
            "pieces tokenized",
        )
        early: dict[int, np.ndarray | str] = {}
        found, total, due = [np.zeros(0, np.int64)], 0, 0
        if total < budget:
            for number, result in running:
                early[number] = result
                while due in early and total < budget:
                    part = early.pop(due)
                    if isinstance(part, str):
                        raise UserError(part)
                    found.append(part)
                    total, due = total + int(part.sum()), due + 1
                if total >= budget:
                    break
        running.close()  # type: ignore[attr-defined]
        lengths = np.concatenate(found)
        return lengths[: int(np.searchsorted(np.cumsum(lengths), budget)) + 1]

    def _piece(self, which: slice | np.ndarray) -> _Piece:
        rows = self._rows[which].copy()
        used, rows["file"] = np.unique(rows["file"], return_inverse=True)
        return _Piece(tuple(self._source.files[number] for number in used.tolist()), rows)

    def _run(
        self, function: Callable[[Any], Any], units: Sequence[tuple[Any, bytes]], what: str
    ) -> list[Any]:
        found: list[Any] = [None] * len(units)
        for number, result in self._source.run(function, units, what):
            found[number] = result
        return found


@dataclass(frozen=True)
class OpenPool:
    """A pool that was read: its index, and its pages to select from."""

    index: PoolIndex
    pages: StoredPages

    def keeping(self, fingerprint: str, *, say: Say = silent) -> OpenPool:
        """Return the pool with results of units kept in the folder of the work.

        Args:
            fingerprint: ``index.fingerprint()``, which the results depend on.
            say: is told how many are there from an earlier start.
        """
        return OpenPool(self.index, self.pages.keeping(fingerprint, say))


def open_pool(pool: Pool, engine: Engine, work: Path, *, say: Say = silent) -> OpenPool:
    """Read the index of a pool.

    Args:
        pool: the pool.
        engine: what works on the texts.
        work: folder for files of the work, which every worker sees; made if needed.
        say: receives a line of progress now and then.

    Raises:
        UserError: see ``Pool.names``.
    """
    work = work.absolute()
    index = index_pool(pool, engine, work, say=say)
    source = _Source(index.files, engine, work, say)
    return OpenPool(index, StoredPages(source, index.names, index.train))


class _Ids(Sequence[str]):
    """Hex ids of content hashes, each made when it is used."""

    def __init__(self, content: np.ndarray) -> None:
        self._content = content

    def __len__(self) -> int:
        return len(self._content)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Ids(self._content[index])
        return bytes(self._content[index]).ljust(32, b"\0").hex()


@dataclass(frozen=True)
class _Piece:
    """Pages: their files, and their rows of the index."""

    files: tuple[PageFile, ...]
    rows: np.ndarray

    def texts(self) -> list[str]:
        return list(read_texts(self.files, self.rows))

    def identity(self) -> bytes:
        """Return what tells these pages from others of the pool."""
        return _rows_identity(self.rows)


def _rows_identity(rows: np.ndarray) -> bytes:
    """Return what tells some pages from others of the same pool."""
    return bytes(rows["domain"].tobytes() + rows["content"].tobytes())


def _apply(function: Callable[[Sequence[str]], Found], piece: _Piece) -> Found:
    return function(piece.texts())


@functools.lru_cache(maxsize=2)
def _shared(path: str) -> Any:
    return pickle.loads(to_path(path).read_bytes())


@dataclass(frozen=True)
class _Shingles:
    """Pages whose 8-grams are written to a file, and their places among all pages."""

    piece: _Piece
    places: np.ndarray
    out: str


def _write_shingles(unit: _Shingles) -> np.ndarray:
    texts = read_texts(unit.piece.files, unit.piece.rows)
    return repeats.write_shingles(to_path(unit.out), texts, unit.places)


@dataclass(frozen=True)
class _Count:
    """Files of 8-grams, and the number of the range of hashes to count."""

    files: tuple[str, ...]
    piece: int
    pieces: int
    out: str


def _count(unit: _Count) -> None:
    files = [to_path(file) for file in unit.files]
    repeats.count_repeats(to_path(unit.out), files, unit.piece, unit.pieces)


def _lengths(
    vocabulary: Vocabulary | VocabularySpec, expected: str, piece: _Piece
) -> np.ndarray | str:
    """Return the tokens of each page; the message if the vocabulary changes a text.

    Only the pages up to the budget matter, and these are not known yet.
    """
    known = checked_vocabulary(vocabulary, expected)
    try:
        parts = [tokenize(chunk, known).lengths for chunk in chunked(piece.texts(), TOKENIZED)]
    except UserError as error:
        return str(error)
    return np.concatenate([np.zeros(0, np.int64), *parts])
