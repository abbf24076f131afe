"""JSON lines, plain or compressed, with the line numbers that an editor shows."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

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


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the object of each line, and where it stands: ``<path>, line <number from 1>``.

    Raises:
        UserError: a line is not a JSON object in UTF-8, or the file cannot be read to its end.
    """
    number = 0
    with _text_file(path) as file:
        try:
            for number, line in enumerate(file, 1):
                where = f"{path}, line {number}"
                yield where, parse_object(line, where)
        except (OSError, ValueError) as error:  # as compressed files raise them
            raise UserError(
                f"{path}, after line {number}: not JSON lines in UTF-8 ({error}); fetch or write "
                "the file again"
            ) from error


def parse_object(line: str, where: str) -> dict[str, Any]:
    """The object of one line, decoded with ``surrogateescape``.

    Raises:
        UserError: the line is not a JSON object in UTF-8; begins with ``where``.
    """
    line = line.rstrip("\r\n")
    _require_bytes_in_utf8(line, where)
    if not line.strip():
        raise UserError(f"{where}: blank; delete the line")
    try:
        tree = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}, column {error.colno}: not JSON ({error.msg}); correct the line"
        ) from error
    except (ValueError, RecursionError) as error:  # numbers too long, brackets too deep
        raise UserError(f"{where}: not JSON ({error}); correct the line") from error
    if not isinstance(tree, dict):
        raise UserError(f"{where}: holds {kind_of(tree)}; write one JSON object per line")
    return tree


def kind_of(value: Any) -> str:
    """A JSON value's kind in words."""
    return _KINDS.get(type(value), type(value).__name__)


def _text_file(path: Path) -> TextIO:
    if path.suffix not in COMPRESSED:
        return path.open(encoding="utf-8-sig", errors="surrogateescape")
    import pyarrow

    stream = pyarrow.input_stream(str(path), compression=COMPRESSED[path.suffix])
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape")


def _require_bytes_in_utf8(line: str, where: str) -> None:
    try:
        line.encode()
    except UnicodeEncodeError as error:
        byte = ord(line[error.start]) - 0xDC00
        raise UserError(
            f"{where}, column {error.start + 1}: byte 0x{byte:02x} is not UTF-8; convert the file "
            "to UTF-8 or leave out the line"
        ) from error
