"""The pages of a pool as an index: content hash, domain and place of each page in its file.

Workers read ranges of bytes of the pool's files. The texts stay there and are read again when they
are needed; compressed files are unpacked first, because their lines have no place to read from.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from lossline.cluster import Engine
from lossline.corpora.deduplication import content_hash
from lossline.corpora.gathering import text_folder
from lossline.corpora.json_lines import COMPRESSED, lines_before, matching_files, parse_object
from lossline.corpora.pools import Pool, page_text
from lossline.errors import UserError
from lossline.files import replacing
from lossline.terminal import Say, silent

PIECE = 1 << 23  # bytes of a file that one unit reads
_MOST_OPEN = 64  # files
_MARK = b"\xef\xbb\xbf"  # a byte order mark at the start of a file

# content: the page's id; domain: number of its domain; file: number of its file; offset and length:
# place of its line; bytes: UTF-8 bytes of its text.
ROW = np.dtype(
    [
        ("content", "S32"), ("domain", "<u4"), ("file", "<u4"), ("offset", "<u8"),
        ("length", "<u4"), ("bytes", "<u4"),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class PageFile:
    """A file of pages.

    Attributes:
        path: JSON lines, not compressed.
        field: key of the text.
        shown: path in messages.
    """

    path: str
    field: str
    shown: str


@dataclass(frozen=True, kw_only=True)
class PoolIndex:
    """The pages of a pool.

    Attributes:
        names: domains, as in ``Pool.names``.
        left_out: domains that have no pages in one of the splits.
        files: files of the pages.
        train: the pages of ``pool.pages("train")``: rows of ``ROW``.
        scored: those of ``pool.scored()``.
    """

    names: tuple[str, ...]
    left_out: tuple[str, ...]
    files: tuple[PageFile, ...]
    train: np.ndarray
    scored: np.ndarray

    def fingerprint(self) -> str:
        """Return the fingerprint of the pool; see ``Pool.fingerprint``."""
        digest = hashlib.sha256()
        for rows in (self.scored, self.train):
            own = hashlib.sha256()
            texts = read_texts(self.files, rows)
            for domain, text in zip(rows["domain"].tolist(), texts, strict=True):
                for part in (self.names[domain], text):
                    data = part.encode()
                    own.update(len(data).to_bytes(8, "big") + data)
            digest.update(own.hexdigest().encode())
        return digest.hexdigest()


def index_pool(pool: Pool, engine: Engine, work: Path, *, say: Say = silent) -> PoolIndex:
    """Read the pages of a pool.

    Args:
        pool: the pool.
        engine: what reads.
        work: folder for unpacked files, which every worker sees; made if needed.
        say: receives a line of progress now and then.

    Raises:
        UserError: see ``Pool.names``; or a file cannot be read.
    """
    own_paths = matching_files(pool.files, f"pool {pool.name}")
    own_files = _unpacked(own_paths, pool, engine, work, say)
    numbers: dict[str, int] = {}
    own = _rows(own_files, range(len(own_files)), pool.domain_field, numbers, engine, say)
    own_names = list(numbers)
    in_validation = _prefixes(own) < pool.validation_share * 2**32
    splits = {
        name: {s for s, some in (("validation", True), ("train", False)) if some in found}
        for name, found in zip(own_names, _values(own["domain"], in_validation), strict=True)
    }
    names, left_out = pool.present(splits)
    gathered = [name for name in names if name in pool.domains]
    folder = Path(pool.root).absolute()
    files = [*own_files]
    places: dict[str, list[int]] = {"train": [], "validation": []}
    for split, found in places.items():
        for name in gathered:
            path = str(text_folder(folder, name) / f"{split}.jsonl")
            shown = str(text_folder(Path(pool.root), name) / f"{split}.jsonl")
            found.append(len(files))
            files.append(PageFile(path, "text", shown))
    codes = {name: number for number, name in enumerate(names)}
    own_codes = np.array([codes.get(name, len(names)) for name in own_names] + [0], np.uint32)
    own["domain"] = own_codes[own["domain"]]
    chosen = own["domain"] < len(names)
    pages = {}
    for split, mask in (("validation", in_validation), ("train", ~in_validation)):
        rows = _rows(files, places[split], "", {}, engine, say)
        rows["domain"] = np.array([codes[name] for name in gathered] + [0], np.uint32)[
            rows["file"] - (places[split] or [0])[0]
        ]
        pages[split] = _first(np.concatenate([rows, own[mask & chosen]]))
    train = pages["train"]
    train = train[~np.isin(train["content"], pages["validation"]["content"])]
    scored = _scored(pages["validation"], pool.scored_pages)
    return PoolIndex(names=names, left_out=left_out, files=tuple(files), train=train, scored=scored)


def read_texts(files: Sequence[PageFile], rows: np.ndarray) -> Iterator[str]:
    """Yield the texts of rows, in their order.

    Raises:
        UserError: a file was changed since it was indexed.
    """
    with contextlib.ExitStack() as stack:
        opened: dict[int, IO[bytes]] = {}
        places = (rows[name].tolist() for name in ("file", "offset", "length", "bytes"))
        for number, offset, length, size in zip(*places, strict=True):
            if number not in opened:
                if len(opened) >= _MOST_OPEN:
                    stack.close()
                    opened.clear()
                opened[number] = stack.enter_context(Path(files[number].path).open("rb"))
            file = opened[number]
            file.seek(offset)
            yield _text_again(files[number], file.read(length), size)


def _text_again(file: PageFile, line: bytes, size: int) -> str:
    try:
        text = json.loads(line)[file.field]
        if len(text.encode()) == size:
            return str(text)
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    raise UserError(f"{file.shown}: was changed while it was read. Run the command again.")


@dataclass(frozen=True)
class _Piece:
    """Lines of a file that start at ``start`` or behind it, and before ``stop``.

    Attributes:
        file: the file.
        start: first byte.
        stop: byte after the last.
        domain_field: key of the domain; "": the pages have none of their own.
    """

    file: PageFile
    start: int
    stop: int
    domain_field: str


@dataclass(frozen=True)
class _Found:
    """Rows of a piece, whose ``domain`` are positions in ``domains``."""

    rows: np.ndarray
    domains: list[str]


def _rows(
    files: Sequence[PageFile],
    chosen: Iterable[int],
    domain_field: str,
    numbers: dict[str, int],
    engine: Engine,
    say: Say,
) -> np.ndarray:
    """Return the rows of some files in order; ``numbers`` gets the number of each new domain."""
    owners, pieces = [], []
    for number in chosen:
        path = Path(files[number].path)
        if path.is_file():
            for start in range(0, path.stat().st_size, PIECE):
                owners.append(number)
                pieces.append(_Piece(files[number], start, start + PIECE, domain_field))
    found: list[_Found | None] = [None] * len(pieces)
    if pieces:
        for index, result in engine.run(_index, pieces, say=say, what="pieces of the pool read"):
            found[index] = result
    parts = [np.zeros(0, ROW)]
    for number, own in zip(owners, found, strict=True):
        assert own is not None
        own.rows["file"] = number
        codes = [numbers.setdefault(name, len(numbers)) for name in own.domains]
        own.rows["domain"] = np.array([*codes, 0], np.uint32)[own.rows["domain"]]
        parts.append(own.rows)
    return np.concatenate(parts)


def _index(piece: _Piece) -> _Found:
    """Read the pages of a piece."""
    rows: list[tuple[bytes, int, int, int, int, int]] = []
    domains: dict[str, int] = {}
    try:
        lines = _lines(Path(piece.file.path), piece.start, piece.stop)
        for place, (offset, data) in enumerate(lines, 1):
            line = data.decode(errors="surrogateescape")
            try:
                text, domain = _parsed(line, "line", piece)
            except UserError:
                # The number of the line is counted only now that it is needed.
                number = lines_before(Path(piece.file.path), piece.start) + place
                text, domain = _parsed(line, f"{piece.file.shown}, line {number}", piece)
            content = bytes.fromhex(content_hash(text))
            code = domains.setdefault(domain, len(domains))
            rows.append((content, code, 0, offset, len(data), len(text.encode())))
    except OSError as error:
        shown = piece.file.shown
        raise UserError(f"{shown}: cannot be read ({error}). Correct the path.") from error
    return _Found(np.array(rows, ROW), list(domains))


def _parsed(line: str, where: str, piece: _Piece) -> tuple[str, str]:
    record = parse_object(line, where)
    text = page_text(record, piece.file.field, where)
    return text, page_text(record, piece.domain_field, where) if piece.domain_field else ""


def _lines(path: Path, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """Yield offset and contents of the lines that begin in a range of bytes."""
    with path.open("rb") as file:
        offset = 0
        if start:
            file.seek(start - 1)
            offset = start - 1 + len(file.readline())
        elif file.read(len(_MARK)) == _MARK:
            offset = len(_MARK)
        file.seek(offset)
        while offset < stop:
            data = file.readline()
            if not data:
                return
            for line in data.splitlines(keepends=True):  # a lone \r ends a line too
                yield offset, line
                offset += len(line)


@dataclass(frozen=True, kw_only=True)
class _Packed:
    """A compressed file, and the file to unpack it to."""

    path: str
    out: str


def _unpacked(
    paths: Sequence[Path], pool: Pool, engine: Engine, work: Path, say: Say
) -> list[PageFile]:
    """Return the files of ``pool.files``; compressed ones are unpacked into ``work``."""
    files, packed = [], []
    for number, path in enumerate(paths):
        place = path.absolute()
        if path.suffix in COMPRESSED:
            place = work.absolute() / f"{number}.jsonl"
            packed.append(_Packed(path=str(path.absolute()), out=str(place)))
        files.append(PageFile(str(place), pool.text_field, str(path)))
    if packed:
        work.mkdir(parents=True, exist_ok=True)
        for _ in engine.run(_unpack, packed, say=say, what="files of the pool unpacked"):
            pass
    return files


def _unpack(unit: _Packed) -> None:
    import pyarrow

    path, number = Path(unit.path), 0
    stream = pyarrow.input_stream(str(path), compression=COMPRESSED[path.suffix])
    with replacing(Path(unit.out)) as partial, partial.open("wb") as file:
        try:
            for number, line in enumerate(io.BufferedReader(stream), 1):  # noqa: B007
                file.write(line)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}, after line {number}: not JSON lines in UTF-8 ({error}). Download or "
                "write the file again."
            ) from error


def _prefixes(rows: np.ndarray) -> np.ndarray:
    """Return the first 32 bits of the content hashes: float64 [rows]."""
    return rows["content"].astype("S4").view(">u4").astype(np.float64)


def _values(codes: np.ndarray, values: np.ndarray) -> list[set[bool]]:
    """Return the values that occur with each code."""
    count = int(codes.max()) + 1 if len(codes) else 0
    pairs = np.unique(codes.astype(np.int64) * 2 + values)
    found: list[set[bool]] = [set() for _ in range(count)]
    for pair in pairs.tolist():
        found[pair // 2].add(bool(pair % 2))
    return found


def _first(rows: np.ndarray) -> np.ndarray:
    """Drop the second copies of a page in a domain; keep the order."""
    order = np.lexsort((rows["content"], rows["domain"]))  # stable: the first copy comes first
    content, domain = rows["content"][order], rows["domain"][order]
    new = np.append(True, (content[1:] != content[:-1]) | (domain[1:] != domain[:-1]))
    return rows[np.sort(order[new[: len(order)]])]


def _scored(rows: np.ndarray, count: int) -> np.ndarray:
    """Return the ``count`` rows with the smallest hashes of each domain, domain by domain."""
    rows = rows[np.lexsort((rows["content"], rows["domain"]))]
    starts = np.searchsorted(rows["domain"], rows["domain"], side="left")
    return rows[np.arange(len(rows)) - starts < count]


def chunks_of(sizes: np.ndarray, limit: int) -> list[tuple[int, int]]:
    """Cut consecutive pages into pieces of about ``limit`` bytes: start and stop of each."""
    if not len(sizes):
        return []
    piece = (np.cumsum(sizes) - sizes) // limit
    cuts = [0, *(np.flatnonzero(np.diff(piece)) + 1).tolist(), len(sizes)]
    return list(itertools.pairwise(cuts))
