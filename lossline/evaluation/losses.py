"""The measured losses of one run: what is there, and a writer that never leaves half a table.

A row is measured once. It is measured again when its store, its rule, or what was asked of it
changed, and the new row takes the old one's place: a loss table holds one row per checkpoint and
set.
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
from lossline.files import locked

LOSSES = "losses.parquet"
_LOCK = "losses.lock"
# Writing takes a tenth of measuring a small checkpoint; a kill loses at most so many seconds.
_SECONDS_BETWEEN_WRITES = 3.0
# Columns of this measurement that the loss table carries along without giving them a meaning.
_SUMS_BEYOND_THE_TABLE = ("correct_per_token", "correct_per_byte", "document_losses")


@dataclass(frozen=True, kw_only=True)
class MeasurementKey:
    """What one row measures.

    Attributes:
        step: the checkpoint.
        eval_set: the set's name.
        store: fingerprint of the set's tokens.
        rule: windows, stride and documents taken (``x_rule``).
        activations: dtype that the model computed in (``x_activations``).
        with_accuracy: whether wrong answers were scored too.
    """

    step: int
    eval_set: str
    store: str
    rule: str
    activations: str
    with_accuracy: bool = False


class RunLosses:
    """``losses.parquet`` of one run directory; a context manager that keeps other writers out.

    Raises:
        UserError: another process measures this run, or the table there cannot be read.
    """

    def __init__(self, run: Path) -> None:
        self._path = run / LOSSES
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(locked(run / _LOCK, partial(_being_evaluated, run)))
        self._unwritten = False
        self._written_at = -math.inf
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
        """Whether this is measured. A failed measurement is not: it is tried again."""
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
        """Brings the run's own columns up to date in every row; measurements stay as they are.

        Rows that an earlier lossline wrote lack the options of the run, and get them here.

        Args:
            run: column -> value, as `lossline.evaluation.evaluator.run_columns` gives them.
        """
        for row in self._rows.values():
            if any(row.get(name) != value for name, value in run.items()):
                row.update(run)
                self._unwritten = True

    def put(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows, each in the place of an older one for the same checkpoint and set; writes the
        table unless it has just been written.
        """
        for row in rows:
            self._rows[row["step"], row["eval_set"]] = dict(row)
            self._unwritten = True
        if time.monotonic() - self._written_at >= _SECONDS_BETWEEN_WRITES:
            self.flush()

    def flush(self) -> None:
        """Writes what has been put since the last write."""
        if self._unwritten:
            ordered = [self._rows[key] for key in sorted(self._rows)]
            tables.write(tables.from_rows(ordered), self._path)
            self._unwritten = False
            self._written_at = time.monotonic()


def measured_row(
    checkpoint: Mapping[str, Any], key: MeasurementKey, kind: tables.SetKind, sums: Sums
) -> dict[str, Any]:
    """The row of a measurement; ``checkpoint``: the run's facts and the checkpoint's columns."""
    if not math.isfinite(sums.nats):
        return failed_row(
            checkpoint,
            key,
            kind,
            f"the loss is {sums.nats}: the model's parameters or outputs are not finite",
        )
    values = asdict(sums)
    extra = {f"x_{name}": values.pop(name) for name in _SUMS_BEYOND_THE_TABLE}
    return _row(checkpoint, key, kind) | values | extra | {"status": str(tables.Status.OK)}


def failed_row(
    checkpoint: Mapping[str, Any], key: MeasurementKey, kind: tables.SetKind, message: str
) -> dict[str, Any]:
    """The row of what could not be measured: a reason, and no value."""
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
    """The rows of a table, with None where a cell is empty."""
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
