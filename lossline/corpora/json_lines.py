"""Read JSON lines, plain or compressed; errors name the line number that an editor shows."""

from __future__ import annotations

import glob
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from lossline.errors import UserError

COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}

_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def matching_files(patterns: Iterable[str], where: str) -> list[Path]:
    """Return the files of paths or globs; the matches of each pattern are sorted.

    Args:
        patterns: paths or globs.
        where: what they belong to; the error message starts with it.

    Raises:
        UserError: a pattern matches no file.
    """
    found: list[Path] = []
    for pattern in patterns:
        matches = sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise UserError(f"{where}: no file {pattern}. Correct the path.")
        found += map(Path, matches)
    return found


def read_objects(
    path: Path, *, start: int = 0, stop: int | None = None, first: int = 1
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the position and the object of each line.

    The position is the text ``<path>, line <number>``.

    Args:
        path: file, plain or compressed.
        start: byte of a plain file; lines that start before it are left out.
        stop: byte of a plain file; lines that start there or later are left out. None: the end.
        first: number of the first line.

    Raises:
        UserError: a line is not a JSON object in UTF-8, or the file cannot be read to its end.
    """
    number = first - 1
    with _text_file(path) if stop is None else _lines(path, start, stop) as file:
        try:
            for number, line in enumerate(file, first):
                where = f"{path}, line {number}"
                yield where, parse_object(line, where)
        except (OSError, ValueError) as error:  # raised for damaged compressed files
            raise UserError(
                f"{path}, after line {number}: not JSON lines in UTF-8 ({error}). Download or "
                "write the file again."
            ) from error


def parse_object(line: str, where: str) -> dict[str, Any]:
    """Return the object of one line.

    Args:
        line: the line, decoded with ``surrogateescape``.
        where: position of the line; error messages start with it.

    Raises:
        UserError: the line is not a JSON object in UTF-8.
    """
    line = line.rstrip("\r\n")
    _require_bytes_in_utf8(line, where)
    if not line.strip():
        raise UserError(f"{where}: blank line. Delete it.")
    try:
        tree = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}, column {error.colno}: not JSON ({error.msg}). Fix the line."
        ) from error
    except (ValueError, RecursionError) as error:  # number too long, or nesting too deep
        raise UserError(f"{where}: not JSON ({error}). Fix the line.") from error
    if not isinstance(tree, dict):
        raise UserError(f"{where}: is {kind_of(tree)}. Write one JSON object per line.")
    return tree


def kind_of(value: Any) -> str:
    """Return the kind of a JSON value in words, such as "a list"."""
    return _KINDS.get(type(value), type(value).__name__)


def _text_file(path: Path) -> TextIO:
    # "utf-8-sig" skips a byte order mark. "surrogateescape" keeps invalid bytes, so that the error
    # can name the byte and its column.
    if path.suffix not in COMPRESSED:
        return path.open(encoding="utf-8-sig", errors="surrogateescape")
    import pyarrow

    stream = pyarrow.input_stream(str(path), compression=COMPRESSED[path.suffix])
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape")


def _lines(path: Path, start: int, stop: int) -> TextIO:
    """Return the lines that start in a range of bytes of a plain file."""
    with path.open("rb") as file:
        begin = _first_line(file, start)
        data = file.read(max(0, stop - begin))
        if data and not data.endswith(b"\n"):
            data += file.readline()
    encoding = "utf-8" if start else "utf-8-sig"
    return io.TextIOWrapper(io.BytesIO(data), encoding=encoding, errors="surrogateescape")


def _first_line(file: BinaryIO, start: int) -> int:
    """Move to the first line that starts at ``start`` or later; return its position.

    Here a line ends with a line feed: a lone carriage return, which ends a line too, stays inside.
    """
    if start:
        file.seek(start - 1)
        file.readline()
    return file.tell()


def lines_before(path: Path, start: int) -> int:
    """Return the number of lines of a plain file before those of a range that begins at ``start``.

    Lines are counted as an editor does: they end with a line feed, a carriage return or both.
    """
    count = 0
    with path.open("rb") as file:
        left = _first_line(file, start)
        file.seek(0)
        while left > 0 and (line := file.readline()):
            body = line.removesuffix(b"\n").removesuffix(b"\r")
            count += 1 + body.count(b"\r")
            left -= len(line)
    return count


def _require_bytes_in_utf8(line: str, where: str) -> None:
    try:
        line.encode()
    except UnicodeEncodeError as error:
        byte = ord(line[error.start]) - 0xDC00
        raise UserError(
            f"{where}, column {error.start + 1}: byte 0x{byte:02x} is not UTF-8. Convert the file "
            "to UTF-8 or delete the line."
        ) from error
