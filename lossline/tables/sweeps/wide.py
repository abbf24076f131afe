"""Turn wide tables into loss tables; shared by all importers.

In a wide table one row is one checkpoint and one column is one measurement.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.tables.cells import as_numbers, as_text, holds_word, is_empty
from lossline.tables.chance import CHANCE
from lossline.tables.checks import exclude_bad_rows, validate
from lossline.tables.frames import (
    complete,
    derive,
    exclude_unreadable,
    nearest_name,
    nearest_names,
    row_number,
    typed,
)
from lossline.tables.reading import SUFFIXES, read_any
from lossline.tables.schema import KEY, SetKind, Status

QUANTITIES = ("loss", "bits_per_byte", "accuracy")
_NAMED = (".csv", ".parquet")  # for messages; .csv.gz and .tsv are read too
_WHOLE = (int, np.integer)
# Marks that people write for a missing value, in addition to the words of programs.
_NOTHING = ("-", "--", "–", "—", "?")


@dataclass(frozen=True, kw_only=True)
class Imported:
    """An imported table and notes.

    Attributes:
        table: the loss table, or score table.
        notes: one line for everything in the source that was left out or set aside.
        holds_scores: whether the table is a score table (``lossline.tables.scores``).
    """

    table: pd.DataFrame
    notes: tuple[str, ...] = ()
    holds_scores: bool = False


class ColumnUnit(enum.StrEnum):
    """Unit of a column of losses, per token."""

    NATS = "nats"
    BITS = "bits"
    PERPLEXITY = "perplexity"


@dataclass(frozen=True, kw_only=True)
class MeasuredColumn:
    """Columns of a wide table that hold one evaluation set.

    Attributes:
        eval_set: name of the set.
        kind: kind of the set.
        loss: column of its loss per token.
        bits_per_byte: column of its bits per byte.
        accuracy: column of its accuracy.
        chance: accuracy of guessing, if stated.
        unit: unit of the loss.
        percent: whether accuracies are in percent.
    """

    eval_set: str
    kind: SetKind
    loss: str | None = None
    bits_per_byte: str | None = None
    accuracy: str | None = None
    chance: float | None = None
    unit: ColumnUnit = ColumnUnit.NATS
    percent: bool = False

    def columns(self) -> dict[str, str]:
        """Return quantity -> column of the source."""
        given = {name: getattr(self, name) for name in QUANTITIES}
        return {name: column for name, column in given.items() if column is not None}


def require(frame: pd.DataFrame, names: Iterable[str], where: str) -> None:
    """Check that columns exist.

    Raises:
        UserError: some are missing; names them and those that were found.
    """
    found = [str(name) for name in frame.columns]
    missing = [name for name in names if name not in found]
    if missing:
        listed = ", ".join(repr(name) for name in missing)
        hint = nearest_name(missing[0], found)
        shown = nearest_names(missing[0], found, most=40)
        raise UserError(f"{where}: missing column {listed}{hint}; found: {shown}")


def find_column(frame: pd.DataFrame, names: Sequence[str], where: str) -> str:
    """Return the first of several names that is a column.

    Raises:
        UserError: none is; names the usual one.
    """
    for name in names:
        if name in frame.columns:
            return name
    require(frame, names[:1], where)
    raise AssertionError("unreachable")


def first_of(frame: pd.DataFrame, names: Sequence[str]) -> str | None:
    """Return the first of several names that is a column, or None."""
    return next((name for name in names if name in frame.columns), None)


def row_name(label: Hashable) -> str:
    """Return the name of a source's row in messages: a number from 1, or its file."""
    return row_number(int(label)) if isinstance(label, _WHOLE) else str(label)


def numbers(frame: pd.DataFrame, column: str, where: str) -> pd.Series:
    """Return a column as float64.

    Raises:
        UserError: a cell is not a number; names its row.
    """
    values = as_numbers(frame[column])
    unreadable = np.flatnonzero(values.isna().to_numpy() & ~is_empty(frame[column]).to_numpy())
    if len(unreadable):
        first = int(unreadable[0])
        raise UserError(
            f"{where}: column {column!r}, {row_name(frame.index[first])}: "
            f"{frame[column].iloc[first]!r} is not a number; correct the cell or empty it"
        )
    return values


def fact(frame: pd.DataFrame, column: str, where: str) -> pd.Series:
    """Return a column of numbers for the facts of a loss table.

    Single cells of text stay, so that ``set_aside`` can name their rows.

    Raises:
        UserError: most of the cells are text.
    """
    measured(frame, column, where)
    return frame[column].mask(says_nothing(frame[column]))


def readable(cells: pd.Series) -> pd.Series:
    """Return cells as float64 for computation; NaN where there is no number."""
    return as_numbers(cells)


def measured(frame: pd.DataFrame, column: str, where: str) -> tuple[pd.Series, pd.Series]:
    """Return a column of measurements as float64, and a mask of its cells of text (NaN there).

    Raises:
        UserError: more cells hold text than numbers, words like ``n/a`` not counted.
    """
    cells = frame[column]
    values = readable(cells)
    text = values.isna() & ~is_empty(cells)
    told = text & ~says_nothing(cells)
    if told.sum() > values.notna().sum():
        first = int(np.flatnonzero(told)[0])
        raise UserError(
            f"{where}: column {column!r} holds text in {told.sum()} of "
            f"{(~is_empty(cells)).sum()} cells ({row_name(frame.index[first])}: "
            f"{cells.iloc[first]!r}), not measurements; map a column of numbers, or correct "
            "the cells"
        )
    return values, text


def says_nothing(cells: pd.Series) -> pd.Series:
    """Return a mask of the cells that are empty or hold a word for a missing value."""
    return is_empty(cells) | holds_word(cells, _NOTHING)


def find_files(
    paths: Sequence[Path],
    *,
    second: tuple[str, ...] = (),
    no_table: Callable[[Path], bool] = lambda file: False,
) -> tuple[list[Path], list[str]]:
    """Return the files of the paths, and notes on what was skipped.

    Files are taken as they are. A folder gives the tables inside it, by name; if it has none, its
    files with a suffix of ``second``.

    Args:
        paths: files and folders.
        second: suffixes to use where a folder has no tables.
        no_table: files for which this is True are returned, but do not count as tables.

    Raises:
        UserError: a path does not exist, or a folder has no usable file.
    """
    files: list[Path] = []
    notes = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; give the path of the published table")
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(file for file in path.rglob("*") if _is_kept(file, path))
        tables = [file for file in inside if file.name.lower().endswith(SUFFIXES)]
        others = [file for file in inside if second and file.name.lower().endswith(second)]
        if all(no_table(file) for file in tables):
            tables += others
        elif others:
            notes.append(
                f"{path}: {len(others)} {' or '.join(second)} files next to the tables are not "
                "read; give them as --path to read them"
            )
        if not tables:
            json = any(file.suffix == ".json" for file in inside)
            hint = " (it holds JSON: use the source 'csv' with a mapping)" if json else ""
            raise UserError(
                f"{path}: no {' or '.join((*_NAMED, *second))} file in this folder{hint}"
            )
        files += tables
    return list(dict.fromkeys(files)), notes


def _is_kept(file: Path, folder: Path) -> bool:
    """Return whether a file inside a folder is visible; hidden files belong to programs."""
    return file.is_file() and not any(
        part.startswith(".") for part in file.relative_to(folder).parts
    )


def read_wide(path: Path, *, repeated_names: bool = False) -> pd.DataFrame:
    """Read a wide table.

    Raises:
        UserError: the file cannot be read, or has no rows.
    """
    frame = read_any(path, repeated_names=repeated_names)
    if frame.empty:
        raise UserError(f"{path}: the table has no rows")
    return frame


def long_table(
    frame: pd.DataFrame, facts: pd.DataFrame, measures: Sequence[MeasuredColumn], where: str
) -> Imported:
    """Return the loss table of a wide one.

    A cell without a value, or with text, becomes a row with status ``failed``. An impossible value
    (a negative loss, a checkpoint measured twice, …) becomes one with status ``excluded``. Both
    name their row of the source. A set with empty columns is left out.

    Args:
        frame: the source, M rows.
        facts: M rows in columns of the loss table (run_id, step, tokens and what else is known).
        measures: the evaluation sets; their columns are in ``frame``.
        where: name of the source in messages.

    Raises:
        UserError: no evaluation set has a value.
    """
    parts, notes = [], []
    for measure in measures:
        cells = {name: measured(frame, column, where) for name, column in measure.columns().items()}
        values = pd.DataFrame({name: found for name, (found, _) in cells.items()})
        if "loss" in values:
            values["loss"] = _in_nats(values["loss"], measure.unit)
        if "accuracy" in values and measure.percent:
            values["accuracy"] /= 100.0
        if values.isna().all(axis=None):
            listed = ", ".join(repr(column) for column in measure.columns().values())
            notes.append(f"{where}: column {listed} is empty; {measure.eval_set!r} is left out")
            continue
        part = facts.assign(eval_set=measure.eval_set, kind=str(measure.kind), **values)
        if measure.chance is not None:
            part[CHANCE] = measure.chance
        part["status"] = np.where(values.isna().all(axis=1), str(Status.FAILED), str(Status.OK))
        part["x_source_row"] = np.arange(len(frame))
        part["x_source_column"] = next(iter(measure.columns().values()))
        part["message"] = None
        for name, column in measure.columns().items():
            text = cells[name][1]
            notes += text_note(frame[column], text, where)
            said = frame.loc[text, column].map("{!r} is not a number".format)
            part["message"] = part["message"].mask(text & (part["status"] == "failed"), said)
        parts.append(part)
    if not parts:
        raise UserError(f"{where}: no evaluation set has a value; is this the right table?")
    table, more = set_aside(pd.concat(parts, ignore_index=True), where, frame.index)
    return Imported(table=table, notes=(*notes, *more))


def _in_nats(values: pd.Series, unit: ColumnUnit) -> pd.Series:
    """Return losses in nats per token."""
    if unit is ColumnUnit.BITS:
        return values * math.log(2.0)
    if (
        unit is ColumnUnit.PERPLEXITY
    ):  # 0 and below are not perplexities: make them infinite, to be set aside
        return np.log(values.where(~(values <= 0), np.inf))
    return values


def text_note(cells: pd.Series, text: pd.Series, where: str) -> list[str]:
    """Return a note on a column's cells of text among measurements, or no note."""
    if not text.any():
        return []
    place = _places(cells.index[text])
    said = f"{cells[text].iloc[0]!r} is not a number"
    return [f"{where}: column {cells.name!r}, {place}: {said}; taken as missing"]


def word_note(cells: pd.Series, where: str) -> list[str]:
    """Return a note on cells of names that hold a word for a missing value, or no note."""
    words = is_empty(cells) & (as_text(cells).notna())
    if not words.any():
        return []
    said = f"{cells[words].iloc[0]!r} is taken as a name; empty the cell if it is unknown"
    return [f"{where}: column {cells.name!r}, {_places(cells.index[words])}: {said}"]


def set_aside(
    rows: pd.DataFrame, where: str, labels: Sequence[Hashable]
) -> tuple[pd.DataFrame, list[str]]:
    """Return the loss table of long rows, impossible ones marked, and one line per kind of problem.

    Args:
        rows: long rows; ``x_source_row`` is the position in ``labels`` of the row each comes from.
        where: name of the source in messages.
        labels: names of the source's rows.
    """
    rows = complete(rows)
    known = (rows["status"] != str(Status.EXCLUDED)).to_numpy()
    table = derive(typed(exclude_unreadable(rows), where=where))
    nothing = table[[*QUANTITIES]].isna().all(axis=1) & (table["status"] == str(Status.OK))
    table["status"] = table["status"].mask(nothing, str(Status.FAILED))
    kept = ~filled_elsewhere(table)
    table, known = table[kept].reset_index(drop=True), known[kept]
    failed = (table["status"] == str(Status.FAILED)) & table["message"].isna()
    table["message"] = table["message"].mask(failed, "the source has no value (NaN)")
    places = list(
        zip(table["x_source_column"].map(str), table["x_source_row"].map(int), strict=True)
    )
    empty = "no value (NaN)"
    found = [(*places[position], empty, empty) for position in np.flatnonzero(failed)]
    unreadable = np.flatnonzero(known & (table["status"] == str(Status.EXCLUDED)))
    messages = table["message"].iloc[unreadable]
    table, problems = exclude_bad_rows(table)
    # Do not report again what follows from a cell that is not a number.
    seen = {int(position) for position in unreadable}
    for position, message in zip(unreadable, messages, strict=True):
        column, row = message.partition(":")[0], places[position][1]
        found.append((column, row, "no number", message))
    for problem in problems:
        if problem.position not in seen:
            seen.add(problem.position)
            column, row = places[problem.position]
            # A fact occurs once in the source, even if its row measures many sets.
            name = column if problem.column in QUANTITIES else problem.column
            what = f"{problem.column}: {problem.what}"
            found.append((name, row, f"{problem.column}: {problem.fix}", what))
    validate(table, where=where)
    return table.drop(columns=["x_source_row", "x_source_column"]), _summaries(found, where, labels)


def filled_elsewhere(table: pd.DataFrame) -> np.ndarray:
    """Return a mask of the rows without a value whose checkpoint and set have one in another row.

    What one row of a source leaves empty, another row may fill.
    """
    nothing = (table["status"] == str(Status.FAILED)) & table[[*QUANTITIES]].isna().all(axis=1)
    keys = pd.MultiIndex.from_frame(table[[*KEY]].astype(object))
    measured_too = keys.isin(keys[(table["status"] == str(Status.OK)).to_numpy()])
    return nothing.to_numpy() & measured_too


def _summaries(
    found: list[tuple[str, int, str, str]], where: str, labels: Sequence[Hashable]
) -> list[str]:
    """Return one line per source column and kind of problem, with its first rows.

    Args:
        found: column, row, kind and text of each problem.
        where: name of the source in messages.
        labels: names of the source's rows.
    """
    rows: dict[tuple[str, str], dict[int, str]] = {}
    for column, row, kind, what in found:
        rows.setdefault((column, kind), {}).setdefault(row, what)
    columns: dict[tuple[str, str], list[str]] = {}
    for (column, _), said in rows.items():
        numbered = sorted(said)
        place = _places([labels[row] for row in numbered])
        columns.setdefault((place, said[numbered[0]]), []).append(column)
    return [
        f"{where}: {_columns(names)}, {place}: {what}; set aside"
        for (place, what), names in columns.items()
    ]


def _columns(names: Sequence[str], most: int = 3) -> str:
    """Return columns as text for a message."""
    if len(names) == 1:
        return f"column {names[0]!r}"
    shown = ", ".join(map(repr, names[:most]))
    return f"{len(names)} columns ({shown}{', …' if names[most:] else ''})"


def _places(labels: Sequence[Hashable], most: int = 5) -> str:
    """Return rows as text for a message."""
    if len(labels) == 1:
        return row_name(labels[0])
    rows = all(isinstance(label, _WHOLE) for label in labels)
    shown = [row_name(label).removeprefix("row ") for label in labels[:most]]
    listed = ", ".join(shown) + (", …" if len(labels) > most else "")
    return f"{len(labels)} {'rows' if rows else 'objects'}: {listed}"
