"""Measured losses of one run, and a writer that never leaves a partial table.

Each row is measured once. If its store, its rule or its options change, it is measured again and
replaced, so the loss table has one row per checkpoint and set.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lossline import tables
from lossline.evaluation.definitions import Sums
from lossline.evaluation.restoring import not_finite
from lossline.files import locked
from lossline.tables.schema import CHECKPOINT

LOSSES = "losses.parquet"
_LOCK = "losses.lock"
# Share of the time of an evaluation for writing its table, which takes as long as a tenth of
# measuring a small checkpoint, and the longest wait for the next write. A kill loses the work
# since the last write; SIGTERM and Ctrl-C lose nothing.
_SHARE_OF_WRITING, _LONGEST_WAIT = 0.02, 15.0
# Sums without a meaning in the loss table; it keeps them as extra columns.
_SUMS_BEYOND_THE_TABLE = ("correct_per_token", "correct_per_byte", "document_losses")


@dataclass(frozen=True, kw_only=True)
class MeasurementKey:
    """Identity of one measurement.

    Attributes:
        step: the checkpoint.
        eval_set: name of the set.
        store: fingerprint of the set's tokens.
        rule: windows, stride and number of documents (``x_rule``).
        activations: type that the model computed in (``x_activations``).
        with_accuracy: whether wrong answers were scored too.
    """

    step: int
    eval_set: str
    store: str
    rule: str
    activations: str
    with_accuracy: bool = False


class RunLosses:
    """``losses.parquet`` of one run directory; a context manager that excludes other writers.

    Raises:
        UserError: another process evaluates this run, or the table cannot be read.
    """

    def __init__(self, run: Path) -> None:
        self._path = run / LOSSES
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(locked(run / _LOCK, partial(_being_evaluated, run)))
        self._unwritten = False
        self._next_write = -math.inf
        try:
            self._rows = {(row["step"], row["eval_set"]): row for row in _rows_of(self._path)}
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> RunLosses:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.flush()
        finally:
            self._lock.close()

    def holds(self, key: MeasurementKey) -> bool:
        """Return whether the table contains this measurement, not failed."""
        row = self._rows.get((key.step, key.eval_set))
        return (
            row is not None
            and row["status"] != tables.Status.FAILED
            and row.get("x_store") == key.store
            and row.get("x_rule") == key.rule
            and row.get("x_activations") == key.activations
            and not (key.with_accuracy and row.get("correct") is None)
        )

    def restate(self, run: Mapping[str, Any]) -> None:
        """Update the run's own columns in every row; measurements stay as they are.

        Rows that an earlier version of lossline wrote have no columns for the run's options; they
        get them here.

        Args:
            run: column -> value, from ``lossline.evaluation.measured_runs.run_columns``.
        """
        for row in self._rows.values():
            if any(row.get(name) != value for name, value in run.items()):
                row.update(run)
                self._unwritten = True

    def put(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows; each replaces an older row of the same checkpoint and set.

        Other rows of the checkpoint, which an earlier version of lossline may have written without
        columns that were added since, get the checkpoint's columns too.

        Writes the table unless it was written a moment ago: see ``_SHARE_OF_WRITING``.
        """
        for row in rows:
            stated = {name: row.get(name) for name in CHECKPOINT}
            for other in self._rows.values():
                if other["step"] == row["step"]:
                    other.update(stated)
            self._rows[row["step"], row["eval_set"]] = dict(row)
            self._unwritten = True
        if time.monotonic() >= self._next_write:
            self.flush()

    def flush(self) -> None:
        """Write the table if rows were added since the last write."""
        if self._unwritten:
            began = time.monotonic()
            ordered = [self._rows[key] for key in sorted(self._rows)]
            tables.write(tables.from_rows(ordered), self._path)
            self._unwritten = False
            ended = time.monotonic()
            self._next_write = ended + min((ended - began) / _SHARE_OF_WRITING, _LONGEST_WAIT)


def measured_row(
    checkpoint: Mapping[str, Any], key: MeasurementKey, kind: tables.SetKind, sums: Sums
) -> dict[str, Any]:
    """Return the row of a measurement.

    If the nats are not finite, it is a failed row.

    Args:
        checkpoint: columns of the run and of the checkpoint.
        key: identity of the measurement.
        kind: kind of the set.
        sums: measured sums.
    """
    if not math.isfinite(sums.nats):
        return failed_row(checkpoint, key, kind, not_finite(sums.nats))
    values = asdict(sums)
    # As float: an extra column with "1.0" of an earlier start and "1" of this one becomes text.
    extra = {
        f"x_{name}": None if (value := values.pop(name)) is None else float(value)
        for name in _SUMS_BEYOND_THE_TABLE
    }
    return _row(checkpoint, key, kind) | values | extra | {"status": str(tables.Status.OK)}


def failed_row(
    checkpoint: Mapping[str, Any], key: MeasurementKey, kind: tables.SetKind, message: str
) -> dict[str, Any]:
    """Return the row of a failed measurement: it has a message and no values."""
    return _row(checkpoint, key, kind) | {
        "status": str(tables.Status.FAILED),
        "message": " ".join(message.split()),
    }


def _row(
    checkpoint: Mapping[str, Any], key: MeasurementKey, kind: tables.SetKind
) -> dict[str, Any]:
    return dict(checkpoint) | {
        "step": key.step,
        "eval_set": key.eval_set,
        "kind": str(kind),
        "x_store": key.store,
        "x_rule": key.rule,
        "x_activations": key.activations,
    }


def _rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a table, with None for empty cells."""
    if not path.exists():
        return []
    frame = tables.read(path)
    filled = frame.notna().to_numpy()
    return [
        {
            str(name): value if known else None
            for (name, value), known in zip(row.items(), row_filled, strict=True)
        }
        for row, row_filled in zip(frame.astype(object).to_dict("records"), filled, strict=True)
    ]


def _being_evaluated(run: Path, owner: str) -> str:
    return (
        f"{run}: process {owner} is evaluating this run. Wait for it or stop it, then start again."
    )
