"""Read texts from files and from parts of files: lines, row groups, whole files.

A range names its part of a file by path and numbers, so it is small, and any process that sees the
file can read it. The ranges of a file give the same texts as the file, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossline.corpora import utf8
from lossline.corpora.json_lines import COMPRESSED, kind_of, lines_before, read_objects
from lossline.errors import UserError

_MOST_FILES = 1000  # per range of whole files


@dataclass(frozen=True, kw_only=True)
class LineRange:
    """The JSON lines that start in a range of bytes of a file.

    Attributes:
        path: file.
        field: key of the text.
        start: first byte.
        stop: end of the range; None: end of the file. A compressed file has only one range.
    """

    path: Path
    field: str
    start: int = 0
    stop: int | None = None

    def identity(self, hashes: Mapping[Path, str]) -> list[Any]:
        """Return what determines the texts, given the hashes of the files."""
        return ["lines", hashes[self.path], self.field, self.start, self.stop]

    def texts(self) -> Iterator[str]:
        """Yield the texts.

        Raises:
            UserError: a line is not a JSON object with a text, or is not UTF-8.
        """
        try:
            yield from self._texts(1)
        except UserError:
            if self.start:  # read again; the lines before it are counted only for the message
                for _ in self._texts(1 + lines_before(self.path, self.start)):
                    pass
            raise

    def _texts(self, first: int) -> Iterator[str]:
        for where, record in read_objects(self.path, start=self.start, stop=self.stop, first=first):
            text = record.get(self.field)
            if not isinstance(text, str):
                present = self.field in record
                found = f"it is {kind_of(text)}" if present else f"keys: {_listed(record)}"
                raise UserError(
                    f"{where}: no text under {self.field!r} ({found}). Fix the line or jsonl.field."
                )
            utf8.require(text, f"{where}, {self.field!r}")
            yield text


@dataclass(frozen=True, kw_only=True)
class RowGroups:
    """Consecutive row groups of a Parquet file.

    Attributes:
        path: file.
        column: name of the column with the text.
        start: first row group.
        stop: end of the row groups; None: the last one.
    """

    path: Path
    column: str
    start: int = 0
    stop: int | None = None

    def identity(self, hashes: Mapping[Path, str]) -> list[Any]:
        """Return what determines the texts, given the hashes of the files."""
        return ["row groups", hashes[self.path], self.column, self.start, self.stop]

    def texts(self) -> Iterator[str]:
        """Yield the texts.

        Raises:
            UserError: the file or a row is damaged, or the column has no text.
        """
        import pyarrow
        import pyarrow.parquet

        row = 0
        try:
            file = pyarrow.parquet.ParquetFile(self.path)
            if self.column not in file.schema_arrow.names:
                raise UserError(
                    f"{self.path}: no column {self.column!r}. Set parquet.column to one of "
                    f"{_listed(file.schema_arrow.names)}."
                )
            groups = range(file.num_row_groups)
            row = sum(file.metadata.row_group(group).num_rows for group in groups[: self.start])
            for batch in file.iter_batches(
                columns=[self.column], row_groups=list(groups[self.start : self.stop])
            ):
                for data in _undecoded(batch.column(0), f"{self.path}: {self.column!r}"):
                    yield _decoded(data, f"{self.path}, row {row} (from 0): {self.column!r}")
                    row += 1
        except FileNotFoundError:
            raise
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(
                f"{self.path}: not a Parquet file, or damaged after row {row} ({error}). Download "
                "or write the file again."
            ) from error


@dataclass(frozen=True, kw_only=True)
class WholeFiles:
    """Text files; each is one document.

    Attributes:
        paths: files in order.
    """

    paths: tuple[Path, ...]

    def identity(self, hashes: Mapping[Path, str]) -> list[Any]:
        """Return what determines the texts, given the hashes of the files."""
        return ["files", *(hashes[path] for path in self.paths)]

    def texts(self) -> Iterator[str]:
        """Yield the texts.

        Raises:
            UserError: a file is not UTF-8.
        """
        yield from map(_plain, self.paths)


TextRange = LineRange | RowGroups | WholeFiles


def line_ranges(path: Path, field: str, size: int) -> Iterator[LineRange]:
    """Yield the ranges of a file of JSON lines; they depend only on its length and ``size``.

    Args:
        path: file.
        field: key of the text.
        size: bytes per range.
    """
    if path.suffix in COMPRESSED:
        yield LineRange(path=path, field=field)
        return
    length = path.stat().st_size
    for start in range(0, length, size):
        yield LineRange(path=path, field=field, start=start, stop=min(start + size, length))


def row_group_ranges(path: Path, column: str, size: int) -> Iterator[RowGroups]:
    """Yield the ranges of a Parquet file: consecutive row groups with at least ``size`` bytes.

    A file that cannot be read has one range, which raises the error.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        metadata = pyarrow.parquet.read_metadata(path)
    except (pyarrow.ArrowException, OSError):
        yield RowGroups(path=path, column=column)
        return
    start = held = 0
    for group in range(metadata.num_row_groups):
        held += metadata.row_group(group).total_byte_size
        if held >= size or group == metadata.num_row_groups - 1:
            yield RowGroups(path=path, column=column, start=start, stop=group + 1)
            start, held = group + 1, 0
    if not metadata.num_row_groups:
        yield RowGroups(path=path, column=column)


def whole_file_ranges(paths: Iterable[Path], size: int) -> Iterator[WholeFiles]:
    """Yield ranges of consecutive files with at least ``size`` bytes, or 1000 files."""
    taken: list[Path] = []
    held = 0
    for path in paths:
        taken.append(path)
        held += path.stat().st_size
        if held >= size or len(taken) == _MOST_FILES:
            yield WholeFiles(paths=tuple(taken))
            taken, held = [], 0
    if taken:
        yield WholeFiles(paths=tuple(taken))


def _listed(names: Iterable[str]) -> str:
    shown = [repr(name) for name in names][:8]
    return ", ".join(shown) or "none"


def _undecoded(column: Any, where: str) -> list[bytes | None]:
    """Return the raw bytes of a column's texts; None for null.

    pyarrow's own decoding does not report the row of invalid UTF-8.
    """
    from pyarrow import large_binary, types

    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if str(column.type) not in ("string", "large_string", "string_view"):
        raise UserError(f"{where} contains {column.type}, not text. Correct parquet.column.")
    return column.cast(large_binary()).to_pylist()


def _decoded(data: bytes | None, where: str) -> str:
    if data is None:
        raise UserError(f"{where} is null, not text. Remove the row.")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 ({error}). Fix or remove the row.") from error


def _plain(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = len((data[: error.start] + b".").splitlines())
        raise UserError(
            f"{path}, line {line}: not UTF-8 ({error}). Convert the file to UTF-8 or remove it."
        ) from error
