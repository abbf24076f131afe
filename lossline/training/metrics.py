"""Metrics of a run: one JSON object per logged step, and the same as TensorBoard scalars.

The TensorBoard file is written by hand (a TFRecord of four protobuf fields): TensorFlow stays out
of training.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from lossline.files import write_text

Scalars = Mapping[str, float | int | None]


class MetricsWriter:
    """Appends to ``metrics.jsonl`` and ``tensorboard/`` of a run directory.

    Opening it at step k drops what an interrupted run had written beyond k: no step stands there
        twice.
    """

    def __init__(self, folder: Path, *, step: int, tensorboard: bool = True) -> None:
        self._path = folder / "metrics.jsonl"
        _keep_until(self._path, step)
        self._lines = self._path.open("a", encoding="utf-8")
        self._events = EventWriter(folder / "tensorboard", step=step) if tensorboard else None

    def write(self, scalars: Scalars) -> None:
        """Writes one row; it must have "step". Values that are None are left out."""
        row = {name: value for name, value in scalars.items() if value is not None}
        self._lines.write(json.dumps(row) + "\n")
        self._lines.flush()
        if self._events is not None:
            self._events.scalars(
                int(row["step"]), {k: float(v) for k, v in row.items() if k != "step"}
            )

    def close(self) -> None:
        """Closes both files."""
        self._lines.close()
        if self._events is not None:
            self._events.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Rows of a ``metrics.jsonl``; a last line torn by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _keep_until(path: Path, step: int) -> None:
    if not path.is_file():
        return
    rows = [row for row in read_metrics(path) if row["step"] <= step]
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


class EventWriter:
    """A TensorBoard event file of scalars.

    The file opens with a session start at ``step``, at which TensorBoard forgets the later events
    of older files.
    """

    def __init__(self, folder: Path, *, step: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        stamp = f"{time.time():.6f}"
        name = f"events.out.tfevents.{stamp}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("wb")
        self._event(_bytes(3, b"brain.Event:2"))
        if step:
            self._event(_varint_field(2, step + 1) + _bytes(7, _varint_field(1, 1)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one event with all ``values`` at ``step``."""
        summary = b"".join(
            _bytes(1, _bytes(1, name.encode()) + _key(2, 5) + struct.pack("<f", value))
            for name, value in values.items()
        )
        self._event(_varint_field(2, step) + _bytes(5, summary))
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _event(self, fields: bytes) -> None:
        data = _key(1, 1) + struct.pack("<d", time.time()) + fields
        length = struct.pack("<Q", len(data))
        self._file.write(length + _masked_crc(length) + data + _masked_crc(data))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _key(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _varint_field(field: int, value: int) -> bytes:
    return _key(field, 0) + _varint(value)


def _bytes(field: int, data: bytes) -> bytes:
    return _key(field, 2) + _varint(len(data)) + data


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_CRC32C = _crc_table()


def _masked_crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
