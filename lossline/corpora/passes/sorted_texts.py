"""Documents on disk in the order of their content hashes, in files of a bounded size.

``<n>.jsonl`` has one record per line, ``<n>.npy`` a row per record: content hash, position and
size. Because each file is sorted, the records of a range of hashes are one piece of each file.
"""

from __future__ import annotations

import bisect
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lossline.files import replacing, write_bytes

FILE_BYTES = 1 << 24  # records that one worker sorts in memory
_PREFIXES = 1 << 32  # ranges are ranges of the first 32 bits of the hash
_OVERHEAD = 200  # bytes of memory per record besides its text

# content: the hash; offset and length: place of the line in its file; bytes: UTF-8 bytes of the
# text; file: number of the file.
ROW = np.dtype(
    [("content", "S32"), ("offset", "<u8"), ("length", "<u8"), ("bytes", "<u8"), ("file", "<u4")]
)


@dataclass(frozen=True)
class HashRange:
    """The hashes whose first 32 bits are at least ``low`` and below ``high``."""

    low: int
    high: int


def hash_ranges(size: int, *edges: int, piece: int = FILE_BYTES) -> list[HashRange]:
    """Cut all hashes into ranges that each have about ``piece`` of ``size`` bytes.

    Args:
        size: bytes of all records.
        edges: first 32 bits at which a range must end.
        piece: bytes of the records of a range.
    """
    count = min(max(1, -(-size // piece)), _PREFIXES)
    cuts = {number * _PREFIXES // count for number in range(count + 1)} | set(edges)
    ordered = sorted(cuts)
    return [HashRange(low, high) for low, high in itertools.pairwise(ordered)]


class TextSorter:
    """Writes records into sorted files of one folder.

    Args:
        folder: the folder; made if missing.
        size: bytes of memory to use before a file is written.
    """

    def __init__(self, folder: Path, *, size: int = FILE_BYTES) -> None:
        self._folder, self._size = folder, size
        self._held: list[tuple[bytes, bytes, int]] = []
        self._room = size
        self.files = self.bytes = 0  # files and bytes written

    def add(self, content: str, line: bytes, text_bytes: int) -> None:
        """Add a record.

        Args:
            content: content hash, hex.
            line: the record, with its line end.
            text_bytes: UTF-8 bytes of its text.
        """
        self._held.append((bytes.fromhex(content), line, text_bytes))
        self._room -= len(line) + _OVERHEAD
        if self._room <= 0:
            self._flush()

    def close(self) -> None:
        """Write what is held."""
        if self._held:
            self._flush()

    def _flush(self) -> None:
        # A stable sort: of equal hashes, the record that was added first comes first.
        self._held.sort(key=lambda record: record[0])
        rows = np.zeros(len(self._held), ROW)
        rows["content"] = [content for content, _, _ in self._held]
        rows["length"] = [len(line) for _, line, _ in self._held]
        rows["bytes"] = [size for _, _, size in self._held]
        rows["offset"][1:] = np.cumsum(rows["length"])[:-1]
        self._folder.mkdir(parents=True, exist_ok=True)
        with (
            replacing(self._folder / f"{self.files}.jsonl") as partial,
            partial.open("wb") as file,
        ):
            file.writelines(line for _, line, _ in self._held)
        write_array(self._folder / f"{self.files}.npy", rows)
        self.files += 1
        self.bytes += int(rows["length"].sum())
        self._held, self._room = [], self._size


@dataclass(frozen=True, kw_only=True)
class SortedTexts:
    """Sorted files of several writers.

    Attributes:
        folder: folder with one folder per writer, named by its number.
        files: number of files of each writer.
    """

    folder: str
    files: tuple[int, ...]

    def rows(self, some: HashRange) -> np.ndarray:
        """Return the rows of a range of hashes; of equal ones, only the first record's.

        The first is that of the first writer; of one writer, the record that was added first.
        """
        parts = [np.zeros(0, ROW)]
        for number, stem in enumerate(self._stems()):
            index = read_array(stem.with_suffix(".npy"))
            content = index["content"]
            start = bisect.bisect_left(content, _key(some.low))
            stop = len(index)
            if some.high < _PREFIXES:
                stop = bisect.bisect_left(content, _key(some.high))
            own = np.array(index[start:stop])
            own["file"] = number
            parts.append(own)
        rows = np.concatenate(parts)
        rows = rows[np.argsort(rows["content"], kind="stable")]
        return rows[np.append(True, rows["content"][1:] != rows["content"][:-1])[: len(rows)]]

    def lines(self, rows: np.ndarray) -> Iterator[bytes]:
        """Yield the records of rows of one range, in the order of the rows."""
        pieces: dict[int, tuple[int, memoryview]] = {}
        stems = self._stems()
        for number in np.unique(rows["file"]).tolist():
            own = rows[rows["file"] == number]
            start, stop = int(own["offset"].min()), int((own["offset"] + own["length"]).max())
            with stems[number].with_suffix(".jsonl").open("rb") as file:
                file.seek(start)
                pieces[number] = start, memoryview(file.read(stop - start))
        places = (rows[name].tolist() for name in ("file", "offset", "length"))
        for number, offset, length in zip(*places, strict=True):
            start, piece = pieces[number]
            yield bytes(piece[offset - start : offset - start + length])

    def _stems(self) -> Sequence[Path]:
        return [
            Path(self.folder) / str(writer) / str(number)
            for writer, files in enumerate(self.files)
            for number in range(files)
        ]


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as ``.npy``, atomically; make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    write_bytes(path, content.getvalue())


def read_array(path: Path) -> np.ndarray:
    """Return an array that ``write_array`` wrote; its pages are read from disk when used."""
    if isinstance(path, Path):
        return np.load(path, mmap_mode="r", allow_pickle=False)
    return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)


def _key(prefix: int) -> bytes:
    return prefix.to_bytes(4, "big").rstrip(b"\0")
