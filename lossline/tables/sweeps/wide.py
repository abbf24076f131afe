"""Wide tables (one row = one checkpoint, one column = one measurement) into loss tables; shared by
all importers."""

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

__all__ = [
    "ColumnUnit",
    "Imported",
    "MeasuredColumn",
    "fact",
    "filled_elsewhere",
    "find_column",
    "find_files",
    "first_of",
    "long_table",
    "measured",
    "numbers",
    "readable",
    "require",
    "row_name",
    "says_nothing",
    "set_aside",
    "text_note",
    "word_note",
]

QUANTITIES = ("loss", "bits_per_byte", "accuracy")
_NAMED = (".csv", ".parquet")  # for messages; .csv.gz and .tsv are read too
_WHOLE = (int, np.integer)
# Marks that people put where there is no value, beside the words that programs write.
_NOTHING = ("-", "--", "–", "—", "?")


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A loss table, and one line for everything in the source that is not in it or is set aside."""

    table: pd.DataFrame
    notes: tuple[str, ...] = ()


class ColumnUnit(enum.StrEnum):
    """What a column of losses holds, per token."""

    NATS = "nats"
    BITS = "bits"
    PERPLEXITY = "perplexity"


@dataclass(frozen=True, kw_only=True)
class MeasuredColumn:
    """One evaluation set of a wide table: the columns of the source that hold its values, the
    accuracy of guessing where it is stated, and the units of its loss (per token) and accuracy."""

    eval_set: str
    kind: SetKind
    loss: str | None = None
    bits_per_byte: str | None = None
    accuracy: str | None = None
    chance: float | None = None
    unit: ColumnUnit = ColumnUnit.NATS
    percent: bool = False

    def columns(self) -> dict[str, str]:
        """Quantity -> column of the source."""
        given = {name: getattr(self, name) for name in QUANTITIES}
        return {name: column for name, column in given.items() if column is not None}


def require(frame: pd.DataFrame, names: Iterable[str], where: str) -> None:
    """Raises `UserError` naming the columns that are missing and those that were found."""
    found = [str(name) for name in frame.columns]
    missing = [name for name in names if name not in found]
    if missing:
        listed = ", ".join(repr(name) for name in missing)
        hint = nearest_name(missing[0], found)
        shown = nearest_names(missing[0], found, most=40)
        raise UserError(f"{where}: missing column {listed}{hint}; found: {shown}")


def find_column(frame: pd.DataFrame, names: Sequence[str], where: str) -> str:
    """The first of several names that a column may have; `UserError` naming the usual one if none
    is there."""
    for name in names:
        if name in frame.columns:
            return name
    require(frame, names[:1], where)
    raise AssertionError("unreachable")


def first_of(frame: pd.DataFrame, names: Sequence[str]) -> str | None:
    """The first of several names that is a column's; None if none is."""
    return next((name for name in names if name in frame.columns), None)


def row_name(label: Hashable) -> str:
    """How a message names a row of a source, by its label in the index: a number from 0, or the
    file that holds it."""
    return row_number(int(label)) if isinstance(label, _WHOLE) else str(label)


def numbers(frame: pd.DataFrame, column: str, where: str) -> pd.Series:
    """A column as float64; `UserError` naming the row whose cell is no number."""
    values = as_numbers(frame[column])
    unreadable = np.flatnonzero(values.isna().to_numpy() & ~is_empty(frame[column]).to_numpy())
    if len(unreadable):
        first = int(unreadable[0])
        raise UserError(
            f"{where}: column {column!r}, {row_name(frame.index[first])}: "
            f"{frame[column].iloc[first]!r} is not a number; mend the cell or empty it"
        )
    return values


def fact(frame: pd.DataFrame, column: str, where: str) -> pd.Series:
    """A column of numbers for the facts of a loss table: single cells of text stay, for `set_aside`
    to name their rows; one that is text throughout is a `UserError`."""
    measured(frame, column, where)
    return frame[column].mask(says_nothing(frame[column]))


def readable(cells: pd.Series) -> pd.Series:
    """Cells as float64, to compute with: NaN where there is none or text."""
    return as_numbers(cells)


def measured(frame: pd.DataFrame, column: str, where: str) -> tuple[pd.Series, pd.Series]:
    """A column of measurements as float64, a cell of text as a missing one; and where such cells
    stand.

    Raises `UserError` where more cells hold text than numbers, words like ``n/a`` not counted: such
    a column is none of measurements.
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
            f"{cells.iloc[first]!r}), no measurements; name a column of numbers, or mend the cells"
        )
    return values, text


def says_nothing(cells: pd.Series) -> pd.Series:
    """Mask of the cells that are empty, or whose text says that there is no value."""
    return is_empty(cells) | holds_word(cells, _NOTHING)


def find_files(
    paths: Sequence[Path],
    *,
    second: tuple[str, ...] = (),
    no_table: Callable[[Path], bool] = lambda file: False,
) -> tuple[list[Path], list[str]]:
    """Files that the given paths stand for: files as they are, folders as the tables in them, by
    name; where a folder has none, its files with a suffix of `second`. A note says what was passed
    over. Files for which `no_table` holds come along and do not count as tables."""
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
                f"{path}: {len(others)} {' or '.join(second)} files beside the tables are not "
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
    """Whether a file may be one that a person keeps there: hidden ones are of programs."""
    return file.is_file() and not any(
        part.startswith(".") for part in file.relative_to(folder).parts
    )


def read_wide(path: Path, *, repeated_names: bool = False) -> pd.DataFrame:
    """A wide table; one without rows is a `UserError`."""
    frame = read_any(path, repeated_names=repeated_names)
    if frame.empty:
        raise UserError(f"{path}: the table has no rows")
    return frame


def long_table(
    frame: pd.DataFrame, facts: pd.DataFrame, measures: Sequence[MeasuredColumn], where: str
) -> Imported:
    """A loss table out of a wide one.

    Args:
      frame: the source, M rows.
      facts: M rows in columns of the loss table (run_id, step, tokens and what else is known).
      measures: the evaluation sets; their columns are in `frame`.
      where: name of the source in messages.

    A cell without a value, or with text, becomes a row with status ``failed``; a value that cannot
    be (a negative loss, a checkpoint measured twice, …) one with status ``excluded``; both say
    which row of the source it was. A set whose columns are empty throughout is left out.
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
        # A validation loss is the point of a row; a benchmark may publish its accuracy alone.
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
    if unit is ColumnUnit.BITS:
        return values * math.log(2.0)
    if (
        unit is ColumnUnit.PERPLEXITY
    ):  # one of 0 or below is no perplexity, and set aside as infinite
        return np.log(values.where(~(values <= 0), np.inf))
    return values


def text_note(cells: pd.Series, text: pd.Series, where: str) -> list[str]:
    """A line for the cells of a column of measurements that hold text; none where none does."""
    if not text.any():
        return []
    place = _places(cells.index[text])
    said = f"{cells[text].iloc[0]!r} is not a number"
    return [f"{where}: column {cells.name!r}, {place}: {said}; taken as missing"]


def word_note(cells: pd.Series, where: str) -> list[str]:
    """A line for the cells of a column of names that hold a word for nothing; none where none
    does."""
    words = is_empty(cells) & (as_text(cells).notna())
    if not words.any():
        return []
    said = f"{cells[words].iloc[0]!r} is taken as a name; empty the cell if it is unknown"
    return [f"{where}: column {cells.name!r}, {_places(cells.index[words])}: {said}"]


def set_aside(
    rows: pd.DataFrame, where: str, labels: Sequence[Hashable]
) -> tuple[pd.DataFrame, list[str]]:
    """The loss table of long rows, those that cannot be measurements marked, and one line per kind
    of problem; ``x_source_row`` is the place in `labels` of what a row comes from."""
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
    # What follows from a cell that is no number is not said again.
    seen = {int(position) for position in unreadable}
    for position, message in zip(unreadable, messages, strict=True):
        column, row = message.partition(":")[0], places[position][1]
        found.append((column, row, "no number", message))
    for problem in problems:
        if problem.position not in seen:
            seen.add(problem.position)
            column, row = places[problem.position]
            # A fact stands once in the source, however many sets its row measures.
            name = column if problem.column in QUANTITIES else problem.column
            what = f"{problem.column}: {problem.what}"
            found.append((name, row, f"{problem.column}: {problem.mend}", what))
    validate(table, where=where)
    return table.drop(columns=["x_source_row", "x_source_column"]), _summaries(found, where, labels)


def filled_elsewhere(table: pd.DataFrame) -> np.ndarray:
    """Mask of the rows that have no value where another of the same checkpoint and set has one:
    what one row of a source leaves empty another may fill."""
    nothing = (table["status"] == str(Status.FAILED)) & table[[*QUANTITIES]].isna().all(axis=1)
    keys = pd.MultiIndex.from_frame(table[[*KEY]].astype(object))
    measured_too = keys.isin(keys[(table["status"] == str(Status.OK)).to_numpy()])
    return nothing.to_numpy() & measured_too


def _summaries(
    found: list[tuple[str, int, str, str]], where: str, labels: Sequence[Hashable]
) -> list[str]:
    """One line per source column and kind of problem, naming its first rows; ``found`` holds
    column, row, kind and what is said of that row."""
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
    if len(names) == 1:
        return f"column {names[0]!r}"
    shown = ", ".join(map(repr, names[:most]))
    return f"{len(names)} columns ({shown}{', …' if names[most:] else ''})"


def _places(labels: Sequence[Hashable], most: int = 5) -> str:
    if len(labels) == 1:
        return row_name(labels[0])
    rows = all(isinstance(label, _WHOLE) for label in labels)
    shown = [row_name(label).removeprefix("row ") for label in labels[:most]]
    listed = ", ".join(shown) + (", …" if len(labels) > most else "")
    return f"{len(labels)} {'rows' if rows else 'objects'}: {listed}"
