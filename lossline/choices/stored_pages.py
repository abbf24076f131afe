"""Pages of a pool whose texts stay in the pool's files; an engine works on them piece by piece."""

from __future__ import annotations

import functools
import pickle
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

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
from lossline.files import write_bytes
from lossline.pages.page_set import TOKENIZED, PageSet
from lossline.stores.tokenization import Tokenizer, chunked
from lossline.terminal import Say, silent
from lossline.vocabularies import Vocabulary, VocabularySpec

Value = TypeVar("Value")
Found = TypeVar("Found")
PIECE = 1 << 23  # bytes of text that one unit holds
_SHINGLES = 1 << 21  # 8-grams that one unit counts


@dataclass(frozen=True)
class _Source:
    """What all sets of one pool share; ``work`` is the folder for files of the work."""

    files: tuple[PageFile, ...]
    engine: Engine
    work: Path
    say: Say


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
        return self._run(partial(_apply, function), pieces, what)

    def share(self, value: Value) -> Callable[[], Value]:
        """See ``PageSet.share``: the value is pickled into a file of the work."""
        path = self._source.work / f"{uuid.uuid4().hex}.pickle"
        self._source.work.mkdir(parents=True, exist_ok=True)
        write_bytes(path, pickle.dumps(value))
        return partial(_shared, str(path))

    def subset(self, keep: np.ndarray) -> StoredPages:
        """See ``PageSet.subset``."""
        return StoredPages(self._source, self._all_names, self._rows[keep])

    def repeated(self, threshold: float, among: np.ndarray) -> np.ndarray:
        """See ``PageSet.repeated``."""
        positions = np.flatnonzero(among)
        places = np.empty(len(positions), np.uint32)
        places[np.argsort(self.places[positions])] = np.arange(len(positions), dtype=np.uint32)
        folder = self._source.work / uuid.uuid4().hex
        folder.mkdir(parents=True)
        own = StoredPages(self._source, self._all_names, self._rows[positions])
        cuts = chunks_of(own.sizes, PIECE)
        units = [
            _Shingles(own._piece(slice(*ends)), places[slice(*ends)], str(folder / f"{n}.npy"))
            for n, ends in enumerate(cuts)
        ]
        totals = np.concatenate(
            [np.zeros(0, np.int64), *self._run(_write_shingles, units, "pieces of 8-grams")]
        )
        pieces = max(1, -(-int(totals.sum()) // _SHINGLES))
        counts = [
            _Count(tuple(unit.out for unit in units), n, pieces, str(folder / f"count{n}.npy"))
            for n in range(pieces)
        ]
        self._run(_count, counts, "ranges of 8-grams")
        repeated = repeats.sum_repeats([Path(unit.out) for unit in counts], len(positions))
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        found = np.zeros(len(self), bool)
        found[positions] = repeated[places] >= threshold * totals
        return found

    def lengths(
        self,
        order: np.ndarray,
        budget: int,
        vocabulary: Vocabulary | VocabularySpec,
        processes: int,
    ) -> np.ndarray:
        """See ``PageSet.lengths``; the engine tokenizes a little beyond the budget."""
        cuts = chunks_of(self.sizes[order], TOKENIZED)
        running = self._source.engine.run(
            partial(_lengths, vocabulary),
            (self._piece(order[slice(*ends)]) for ends in cuts),
            say=self._source.say,
            what="pieces tokenized",
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

    def _run(self, function: Callable[[Any], Any], units: Sequence[Any], what: str) -> list[Any]:
        found: list[Any] = [None] * len(units)
        for number, result in self._source.engine.run(
            function, units, say=self._source.say, what=what
        ):
            found[number] = result
        return found


@dataclass(frozen=True)
class OpenPool:
    """A pool that was read: its index, and its pages to select from."""

    index: PoolIndex
    pages: StoredPages


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


def _apply(function: Callable[[Sequence[str]], Found], piece: _Piece) -> Found:
    return function(piece.texts())


@functools.lru_cache(maxsize=2)
def _shared(path: str) -> Any:
    return pickle.loads(Path(path).read_bytes())


@dataclass(frozen=True)
class _Shingles:
    """Pages whose 8-grams are written to a file, and their places among all pages."""

    piece: _Piece
    places: np.ndarray
    out: str


def _write_shingles(unit: _Shingles) -> np.ndarray:
    texts = read_texts(unit.piece.files, unit.piece.rows)
    return repeats.write_shingles(Path(unit.out), texts, unit.places)


@dataclass(frozen=True)
class _Count:
    """Files of 8-grams, and the number of the range of hashes to count."""

    files: tuple[str, ...]
    piece: int
    pieces: int
    out: str


def _count(unit: _Count) -> None:
    files = [Path(file) for file in unit.files]
    repeats.count_repeats(Path(unit.out), files, unit.piece, unit.pieces)


def _lengths(vocabulary: Vocabulary | VocabularySpec, piece: _Piece) -> np.ndarray | str:
    """Return the tokens of each page; the message if the vocabulary changes a text.

    Only the pages up to the budget matter, and these are not known yet.
    """
    try:
        chunks = enumerate(chunked(piece.texts(), TOKENIZED))
        parts = [tokens.lengths for _, _, tokens in _tokenizer(vocabulary).map(chunks)]
    except UserError as error:
        return str(error)
    return np.concatenate([np.zeros(0, np.int64), *parts])


@functools.lru_cache(maxsize=1)
def _tokenizer(vocabulary: Vocabulary | VocabularySpec) -> Tokenizer:
    return Tokenizer(vocabulary)
