"""Wide tables (one row = one checkpoint, one column = one measurement) into loss tables; shared by
all importers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.tables.chance import CHANCE
from lossline.tables.checks import exclude_bad_rows, summarize, validate
from lossline.tables.frames import complete, concat, derive, nearest_name, row_number, typed
from lossline.tables.schema import SetKind, Status
from lossline.tables.storage import read_any

__all__ = ["Imported", "Measure", "find_column", "long_table", "numbers", "read_all", "require"]

QUANTITIES = ("loss", "bits_per_byte", "accuracy")


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A loss table, and one line for everything in the source that is not in it or is set aside."""

    table: pd.DataFrame
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One evaluation set of a wide table: the columns of the source that hold its values, and the
    accuracy of guessing where it is stated."""

    eval_set: str
    kind: SetKind
    loss: str | None = None
    bits_per_byte: str | None = None
    accuracy: str | None = None
    chance: float | None = None

    def columns(self) -> dict[str, str]:
        """Quantity -> column of the source."""
        given = {name: getattr(self, name) for name in QUANTITIES}
        return {name: column for name, column in given.items() if column is not None}


def require(frame: pd.DataFrame, names: Iterable[str], where: str) -> None:
    """Raises `UserError` naming the columns that are missing and those that were found."""
    found = [str(name) for name in frame.columns]
    missing = [name for name in names if name not in found]
    if missing:
        shown = ", ".join(found[:40]) + (f", … ({len(found)} in all)" if len(found) > 40 else "")
        listed = ", ".join(repr(name) for name in missing)
        hint = nearest_name(missing[0], found)
        raise UserError(f"{where}: missing column {listed}{hint}; found: {shown or 'no columns'}")


def find_column(frame: pd.DataFrame, names: Sequence[str], where: str) -> str:
    """The first of several names that a column may have; `UserError` naming the usual one if none
    is there."""
    for name in names:
        if name in frame.columns:
            return name
    require(frame, names[:1], where)
    raise AssertionError("unreachable")


def numbers(frame: pd.DataFrame, column: str, where: str) -> pd.Series:
    """A column as float64; `UserError` naming the row whose cell is no number."""
    values = pd.to_numeric(frame[column], errors="coerce").astype("float64")
    unreadable = np.flatnonzero(values.isna().to_numpy() & frame[column].notna().to_numpy())
    if len(unreadable):
        first = int(unreadable[0])
        raise UserError(
            f"{where}: column {column!r}, {row_number(first)}: "
            f"{frame[column].iloc[first]!r} is not a number; mend the cell or empty it"
        )
    return values


def read_all(paths: Sequence[Path], suffixes: tuple[str, ...] = (".csv", ".parquet")) -> list[Path]:
    """Files that the given paths stand for: files as they are, folders as the tables in them, by
    name."""
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; give the path of the published table")
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.name.endswith(suffixes))
            if not inside:
                json = next(path.rglob("*.json"), None)
                hint = (
                    " (it holds JSON files, whose layout no importer knows: bring them into one "
                    "CSV and use the source 'csv' with a mapping)"
                    if json
                    else ""
                )
                raise UserError(f"{path}: no {' or '.join(suffixes)} file in this folder{hint}")
            files += inside
        else:
            files.append(path)
    return files


def read_wide(path: Path) -> tuple[pd.DataFrame, str]:
    """A wide table and its name for messages; a table without rows is a `UserError`."""
    frame = read_any(path)
    if frame.empty:
        raise UserError(f"{path}: the table has no rows")
    return frame, path.name


def long_table(
    frame: pd.DataFrame, facts: pd.DataFrame, measures: Sequence[Measure], where: str
) -> Imported:
    """A loss table out of a wide one.

    Args:
      frame: the source, M rows.
      facts: M rows in columns of the loss table (run_id, step, tokens and what else is known).
      measures: the evaluation sets; their columns are in `frame`.
      where: name of the source in messages.

    A cell without a value becomes a row with status ``failed``; a value that cannot be (a negative
    loss, a checkpoint measured twice, …) one with status ``excluded``; both say which row of the
    source it was. A set whose columns are empty throughout is left out.
    """
    parts, notes = [], []
    for measure in measures:
        columns = {
            name: numbers(frame, column, where) for name, column in measure.columns().items()
        }
        values = pd.DataFrame(columns, index=frame.index)
        if values.isna().all(axis=None):
            listed = ", ".join(repr(column) for column in measure.columns().values())
            notes.append(f"{where}: column {listed} is empty; {measure.eval_set!r} is left out")
            continue
        part = facts.assign(eval_set=measure.eval_set, kind=str(measure.kind), **values)
        if measure.chance is not None:
            part[CHANCE] = measure.chance
        part["status"] = np.where(values.isna().all(axis=1), str(Status.FAILED), str(Status.OK))
        # A validation loss is the point of a row; a benchmark may publish its accuracy alone.
        part["x_source_row"] = np.arange(1, len(frame) + 1)
        part["x_source_column"] = next(iter(measure.columns().values()))
        parts.append(part)
    if not parts:
        raise UserError(f"{where}: no evaluation set has a value; is this the right table?")
    table = derive(typed(complete(pd.concat(parts, ignore_index=True)), where=where))
    table, more = set_aside(table, where)
    return Imported(table=table, notes=(*notes, *more))


def set_aside(table: pd.DataFrame, where: str) -> tuple[pd.DataFrame, list[str]]:
    """Marks rows that cannot be measurements; returns the sound table and one line per kind of
    problem."""
    failed = (table["status"] == str(Status.FAILED)) & table["message"].isna()
    table["message"] = table["message"].mask(failed, "the source has no value (NaN)")
    places = list(
        zip(table["x_source_column"].map(str), table["x_source_row"].map(int), strict=True)
    )
    nothing = "no value (NaN)"
    found = [(*places[position], nothing, nothing) for position in np.flatnonzero(failed)]
    table, problems = exclude_bad_rows(table)
    seen: set[int] = set()
    for problem in problems:
        if problem.position not in seen:
            seen.add(problem.position)
            column, row = places[problem.position]
            # A fact stands once in the source, however many sets its row measures.
            name = column if problem.column in QUANTITIES else problem.column
            what = f"{problem.column}: {problem.what}"
            found.append((name, row, f"{problem.column}: {problem.mend}", what))
    validate(table, where=where)
    return table.drop(columns=["x_source_row", "x_source_column"]), _summaries(found, where)


def _summaries(found: list[tuple[str, int, str, str]], where: str, most: int = 5) -> list[str]:
    """One line per source column and kind of problem, naming its first rows; ``found`` holds
    column, row, kind and what is said of that row."""
    rows: dict[tuple[str, str], dict[int, str]] = {}
    for column, row, kind, what in found:
        rows.setdefault((column, kind), {}).setdefault(row, what)
    lines = []
    for (column, _), said in rows.items():
        numbered = sorted(said)
        listed = ", ".join(str(row) for row in numbered[:most]) + (", …" if numbered[most:] else "")
        unit = "row" if len(numbered) == 1 else f"{len(numbered)} rows:"
        lines.append(f"{where}: column {column!r}, {unit} {listed}: {said[numbered[0]]}; set aside")
    return lines


def together(parts: Sequence[Imported]) -> Imported:
    """Several imports as one table; a checkpoint that two of them hold is set aside in the
    second."""
    if len(parts) == 1:
        return parts[0]
    table, problems = exclude_bad_rows(concat([part.table for part in parts]))
    notes = [note for part in parts for note in part.notes]
    notes += [f"{line}; set aside" for line in summarize(problems, "the files together")]
    return Imported(table=table, notes=tuple(notes))
