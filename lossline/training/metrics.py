"""Metrics of a run: one JSON object per logged step, and the same values as TensorBoard scalars."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from lossline.files import appending, write_text

Scalars = Mapping[str, float | int | None]


class MetricsWriter:
    """Append to ``metrics.jsonl`` and ``tensorboard/`` of a run directory.

    Opening it at step k removes the rows after step k that an interrupted run wrote, so that every
    step occurs once.
    """

    def __init__(self, folder: Path, *, step: int, tensorboard: bool = True) -> None:
        self._path = folder / "metrics.jsonl"
        _keep_until(self._path, step)
        self._lines = appending(self._path)
        self._events = EventWriter(folder / "tensorboard", step=step) if tensorboard else None

    def write(self, scalars: Scalars) -> None:
        """Write one row, which must contain "step". Values that are None are left out."""
        row = {name: value for name, value in scalars.items() if value is not None}
        self._lines.write(f"{json.dumps(row)}\n".encode())
        self._lines.flush()
        if self._events is not None:
            self._events.scalars(
                int(row["step"]), {k: float(v) for k, v in row.items() if k != "step"}
            )

    def sync(self) -> None:
        """Write all rows so far; a run that resumes from a checkpoint needs the rows before it."""
        self._lines.sync()
        if self._events is not None:
            self._events.sync()

    def close(self) -> None:
        """Close both files."""
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
    """Return the rows of a ``metrics.jsonl``, without a partial last line that a kill left."""
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
    """A TensorBoard event file of scalars, written by TensorBoard's own record writer.

    The file starts with a session start at ``step``. TensorBoard then ignores later events in older
    files, which an interrupted run wrote. TensorBoard's ``EventFileWriter`` does the same, but
    imports TensorFlow if it is installed.
    """

    def __init__(self, folder: Path, *, step: int = 0) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        folder.mkdir(parents=True, exist_ok=True)
        stamp = f"{time.time():.6f}"
        name = f"events.out.tfevents.{stamp}.{socket.gethostname()}.{os.getpid()}"
        self._file = appending(folder / name)
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if step:
            self._write(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one event with all ``values`` at ``step``."""
        summary = self._summary()
        for name, value in values.items():
            summary.value.add(tag=name, simple_value=value)
        self._write(step=step, summary=summary)

    def sync(self) -> None:
        """Write all events so far."""
        self._file.sync()

    def close(self) -> None:
        """Close the file."""
        self._records.close()

    def _write(self, **fields: object) -> None:
        self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())
        self._records.flush()
