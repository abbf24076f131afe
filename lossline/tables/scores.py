"""The score table: one row = one model × one domain of a pool, or one model × one benchmark.

``python -m lossline.score`` writes it, ``python -m lossline.import_sweep perplexity_correlations``
makes it out of published matrices, and ``python -m lossline.select`` reads it:

    from lossline.tables import scores

    table = scores.read("runs/scores.parquet")

Rows of own models carry sums (nats, tokens, bytes, pages); ``value`` is derived from them. Imported
matrices carry values only. Columns that start with ``x_`` are kept untouched; any other unknown
column is refused. A missing optional column is empty; an empty ``family`` is the model itself.
"""

from __future__ import annotations

import enum
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.places import to_path
from lossline.tables import schema
from lossline.tables.defects import (
    Defect,
    at,
    below_zero_or_infinite,
    changing,
    check_names,
    empty_cells,
    refuse,
    unknown_words,
    zeros,
)
from lossline.tables.frames import row_number, typed
from lossline.tables.reading import read_any
from lossline.tables.schema import EXTRA_PREFIX, Column, Kind
from lossline.tables.storage import write_frame


class ScoreKind(enum.StrEnum):
    """What was scored: the pages of one domain of a pool, or the questions of one benchmark."""

    DOMAIN = "domain"
    BENCHMARK = "benchmark"


class Measure(enum.StrEnum):
    """Unit and direction of a value. Higher is worse, except for the accuracy.

    BITS_PER_BYTE: bits per UTF-8 byte. LOSS: nats per token. ERROR: share of wrong answers, 0 to 1.
    ACCURACY: share of correct answers, 0 to 1. PERPLEXITY: exp of nats per token or word, at least
    1. Values of different measures are never averaged.
    """

    BITS_PER_BYTE = "bits_per_byte"
    LOSS = "loss"
    ERROR = "error"
    ACCURACY = "accuracy"
    PERPLEXITY = "perplexity"


class ScoreStatus(enum.StrEnum):
    """Whether a row is a measurement. A failed row has a message and no value."""

    OK = "ok"
    FAILED = "failed"


def _column(name: str, kind: Kind, meaning: str, *, required: bool = False) -> Column:
    return Column(name=name, kind=kind, meaning=meaning, required=required)


COLUMNS: tuple[Column, ...] = (
    _column("model", Kind.TEXT, "run_id, or name of a public model", required=True),
    _column("family", Kind.TEXT, "models that are resampled together", required=True),
    _column("step", Kind.COUNT, "optimizer steps at the checkpoint"),
    _column("params", Kind.NUMBER, "N, everything counted"),
    _column("tokens", Kind.NUMBER, "D, training tokens seen; without start_tokens"),
    *(column for column in schema.COLUMNS if column.name in schema.START),
    _column("kind", Kind.TEXT, "domain or benchmark", required=True),
    _column("name", Kind.TEXT, "name of the domain or benchmark", required=True),
    _column("measure", Kind.TEXT, "unit and direction of the value", required=True),
    _column("value", Kind.NUMBER, "the score, in the unit of measure"),
    _column("nats", Kind.NUMBER, "sum of the negative log-likelihood over the scored tokens, nats"),
    _column("target_tokens", Kind.COUNT, "scored tokens"),
    _column("target_bytes", Kind.COUNT, "UTF-8 bytes of text that the scored tokens cover"),
    _column("pages", Kind.COUNT, "pages scored"),
    _column("truncated", Kind.COUNT, "pages truncated by the rule for long documents"),
    _column("pool", Kind.TEXT, "fingerprint of the pool"),
    _column("rule", Kind.TEXT, "windows and stride, as in x_rule of a loss table"),
    _column("activations", Kind.TEXT, "type that the model computed in"),
    _column("status", Kind.TEXT, "ok or failed", required=True),
    _column("message", Kind.TEXT, "why a row failed"),
)
COLUMN_NAMES: tuple[str, ...] = tuple(column.name for column in COLUMNS)
KEY: tuple[str, ...] = ("model", "kind", "name", "step")
SUMS: tuple[str, ...] = ("nats", "target_tokens", "target_bytes", "pages", "truncated")
_NEEDED = ("model", "kind", "name", "measure", "value")  # columns that a file must have
_WORDS: dict[str, type[enum.StrEnum]] = {
    "kind": ScoreKind,
    "measure": Measure,
    "status": ScoreStatus,
}
_NUMBERS = tuple(column.name for column in COLUMNS if column.kind is not Kind.TEXT)
_POSITIVE = ("params", "target_tokens", "target_bytes", "pages")
_OF_DOMAINS = (Measure.BITS_PER_BYTE, Measure.LOSS, Measure.PERPLEXITY)
_SHARES = (Measure.ERROR, Measure.ACCURACY)
# A stored value may be rounded to 6 digits.
_RELATIVE_TOLERANCE = 1e-4
_BY_NAME = {column.name: column for column in COLUMNS}


def read(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> pd.DataFrame:
    """Read one score table from Parquet, CSV or JSONL files, typed, derived and checked.

    Raises:
        UserError: anything is wrong; names file, column and row. Two files together are checked as
            one table.
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not given:
        raise UserError("no score table given. Give a file such as scores.parquet.")
    tables = []
    for path in given:
        frame = read_any(path)
        _check_columns(frame, where=str(path))
        tables.append(from_frame(frame, where=str(path)))
        validate(tables[-1], where=str(path))
    if len(tables) == 1:
        return tables[0]
    extras = sorted({name for table in tables for name in table.columns} - set(COLUMN_NAMES))
    # As objects: pandas would guess a type for a column that is empty in one of the tables.
    parts = [t.reindex(columns=[*COLUMN_NAMES, *extras]).astype(object) for t in tables]
    joined = _typed(pd.concat(parts, ignore_index=True), where="the joined tables")
    validate(joined, where=f"{', '.join(map(str, given))}, joined")
    return joined


def from_rows(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a typed score table from dictionaries.

    Missing columns are empty, a missing status is ``ok``, a missing family is the model, and an
    empty ``value`` is derived from the sums. ``write`` and ``validate`` check it.
    """
    filled = [{"status": str(ScoreStatus.OK), **row} for row in rows]
    # As objects: whole numbers next to None stay whole.
    return from_frame(pd.DataFrame(filled, dtype=object))


def from_frame(frame: pd.DataFrame, *, where: str = "the score table") -> pd.DataFrame:
    """Return a typed score table with all columns; empty columns and values as in ``from_rows``.

    Raises:
        UserError: a cell cannot be converted; names the column and the row.
    """
    return _derived(_typed(_completed(frame), where=where))


def write(frame: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Check a score table and write it to ``path`` (.parquet or .csv) atomically.

    An existing file is replaced; the caller decides whether that is allowed.

    Raises:
        UserError: the table is not valid, or the suffix is not known.
    """
    path = to_path(path)
    _check_columns(frame, where=str(path))
    frame = from_frame(frame, where=str(path))
    validate(frame, where=str(path))
    return write_frame(frame, path, "a score table")


def validate(frame: pd.DataFrame, *, where: str = "the score table") -> None:
    """Check that a table is a valid score table.

    Checked are: the columns; cells that must not be empty; known kinds, measures and statuses;
    measures that fit the kind and values in the measure's range; a finite value in every row with
    status ok, none in a failed row; values that agree with their sums; one family, size and number
    of tokens per model and checkpoint; one measure and pool per name; one row per model,
    checkpoint, kind and name.

    Raises:
        UserError: a check fails; names the column and the row.
    """
    _check_columns(frame, where=where)
    refuse(find_problems(frame), where)


def summary(frame: pd.DataFrame) -> str:
    """Return the numbers of models, domains and benchmarks of a table, in words."""
    counts = [f"{frame['model'].nunique()} models"]
    for kind in ScoreKind:
        if number := frame.loc[frame["kind"] == str(kind), "name"].nunique():
            counts.append(f"{number} {kind}{'s' if number > 1 else ''}")
    failed = int((frame["status"] == str(ScoreStatus.FAILED)).sum())
    return ", ".join(counts) + (f"; {failed} of {len(frame)} rows failed" if failed else "")


def _check_columns(frame: pd.DataFrame, *, where: str) -> None:
    check_names(
        frame,
        required=_NEEDED,
        known=COLUMN_NAMES,
        is_known=lambda name: name in _BY_NAME or name.startswith(EXTRA_PREFIX),
        table="a score table",
        advice="a matrix of models becomes a score table with `python -m lossline.import_sweep "
        "perplexity_correlations`",
        where=where,
    )


def _completed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with all columns in the schema's order; see the module's docstring."""
    frame = frame.copy()
    for name in COLUMN_NAMES:
        if name not in frame.columns:
            frame[name] = str(ScoreStatus.OK) if name == "status" else None
    nothing = frame["family"].isna() | (frame["family"] == "")
    frame["family"] = frame["family"].astype(object).where(~nothing, frame["model"])
    extras = sorted(name for name in frame.columns if name not in COLUMN_NAMES)
    return frame[[*COLUMN_NAMES, *extras]]


def _typed(frame: pd.DataFrame, *, where: str) -> pd.DataFrame:
    return typed(frame, where=where, columns=_BY_NAME.get)


def _derived(frame: pd.DataFrame) -> pd.DataFrame:
    """Fill empty values of measured rows from their sums."""
    ok = (frame["status"] == str(ScoreStatus.OK)).to_numpy()
    given = frame["value"].to_numpy()
    filled = np.where(np.isnan(given) & ok, _from_sums(frame), given)
    return frame.assign(value=filled)


def _from_sums(frame: pd.DataFrame) -> np.ndarray:
    """Return the value of each row (M,) that its sums give; NaN where they give none."""
    nats, tokens, size = (
        frame[name].to_numpy(dtype="float64", na_value=np.nan)
        for name in ("nats", "target_tokens", "target_bytes")
    )
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        found = {
            Measure.BITS_PER_BYTE: nats / math.log(2.0) / size,
            Measure.LOSS: nats / tokens,
            Measure.PERPLEXITY: np.exp(nats / tokens),
        }
    values = np.full(len(frame), np.nan)
    for measure, ratio in found.items():
        values = np.where(frame["measure"] == str(measure), ratio, values)
    return values


def find_problems(frame: pd.DataFrame) -> Iterator[Defect]:
    """Yield everything wrong in a typed table, the most serious kind first."""
    frame = frame.reset_index(drop=True)
    yield from empty_cells(frame, COLUMNS)
    yield from unknown_words(frame, _WORDS)
    yield from _values(frame)
    everything = np.ones(len(frame), bool)
    for name in _NUMBERS:
        yield from below_zero_or_infinite(frame, name, everything)
    for name in _POSITIVE:
        yield from zeros(frame, name, everything)
    yield from _measures(frame)
    yield from _against_sums(frame)
    yield from _changing(frame)
    yield from _repeated(frame)


def _values(frame: pd.DataFrame) -> Iterator[Defect]:
    """Yield rows with status ok and no value, and failed rows with one."""
    ok = (frame["status"] == str(ScoreStatus.OK)).to_numpy()
    known = frame["value"].notna().to_numpy()
    for position in at(ok & ~known):
        yield Defect(
            column="value",
            position=position,
            what="the value is missing (NaN) although the status is ok",
            fix="add the value or its sums, or set status to 'failed' with a message",
        )
    failed = (frame["status"] == str(ScoreStatus.FAILED)).to_numpy()
    for position in at(failed & known):
        yield Defect(
            column="value",
            position=position,
            what="a row with status failed has a value",
            fix="empty the cell, or set status to 'ok'",
        )


def _measures(frame: pd.DataFrame) -> Iterator[Defect]:
    """Yield measures that do not fit the kind, and values outside the range of their measure."""
    domain = frame["kind"] == str(ScoreKind.DOMAIN)
    for position in at(domain & ~frame["measure"].isin(list(map(str, _OF_DOMAINS)))):
        yield Defect(
            column="measure",
            position=position,
            what=f"a domain has no {frame['measure'].iloc[position]}",
            fix=f"write {', '.join(_OF_DOMAINS)}, or kind 'benchmark'",
        )
    share = frame["measure"].isin(list(map(str, _SHARES)))
    for position in at(share & (frame["value"] > 1)):
        yield Defect(
            column="value",
            position=position,
            what=f"{frame['value'].iloc[position]:g} is above 1, but the measure is "
            f"{frame['measure'].iloc[position]}",
            fix="write a fraction from 0 to 1, or measure 'perplexity' for a perplexity",
        )
    perplexity = frame["measure"] == str(Measure.PERPLEXITY)
    for position in at(perplexity & (frame["value"] < 1)):
        yield Defect(
            column="value",
            position=position,
            what=f"{frame['value'].iloc[position]:g} is below 1, which no perplexity is",
            fix="write the measure of this value, such as 'error' or 'loss'",
        )


def _against_sums(frame: pd.DataFrame) -> Iterator[Defect]:
    given, right = frame["value"].to_numpy(), _from_sums(frame)
    with np.errstate(invalid="ignore"):
        off = np.abs(given - right) > _RELATIVE_TOLERANCE * np.maximum(np.abs(right), 1e-12)
    for position in at(off):
        yield Defect(
            column="value",
            position=position,
            what=f"{given[position]:.6g} does not agree with its sums, which give "
            f"{right[position]:.6g} as {frame['measure'].iloc[position]}",
            fix="leave the cell empty to compute it from the sums",
        )


def _changing(frame: pd.DataFrame) -> Iterator[Defect]:
    models = "give different models different names"
    yield from changing(frame, ["model"], ["family", "params"], "model", apart=models)
    yield from changing(frame, ["model", "step"], ["tokens"], "checkpoint", apart=models)
    for kind in ScoreKind:
        rows = frame[frame["kind"] == str(kind)]
        apart = "give scores that cannot be compared different names, or keep them in two tables"
        yield from changing(rows, ["name"], ["measure", "pool"], str(kind), apart=apart)


def _repeated(frame: pd.DataFrame) -> Iterator[Defect]:
    """Yield rows whose model, kind, name and step are those of an earlier row."""
    keys = frame[list(KEY)].astype(object)
    keys = keys.where(keys.notna(), None)  # two empty steps are equal
    seen: dict[tuple[Any, ...], int] = {}
    for position, key in enumerate(keys.itertuples(index=False, name=None)):
        first = seen.setdefault(key, position)
        if first != position:
            model, kind, name, step = key
            at_step = "" if step is None else f" at step {step}"
            yield Defect(
                column="name",
                position=position,
                what=f"model {model!r}{at_step} on {kind} {name!r} is already in "
                f"{row_number(first)}",
                fix="keep one row per model, step, kind and name",
            )
