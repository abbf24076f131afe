"""Checks that every table of measurements shares, and one line for each violation.

The loss table (``lossline.tables.checks``) and the score table (``lossline.tables.scores``) use
them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.tables.frames import nearest_name, row_number
from lossline.tables.schema import EXTRA_PREFIX, Column


@dataclass(frozen=True, kw_only=True)
class Defect:
    """A problem in one cell.

    Attributes:
        column: its column.
        position: its row, from 0.
        what: what is wrong.
        fix: how to fix it.
        unplaceable: whether run, step, set, kind or status are unknown; the row is then dropped.
    """

    column: str
    position: int
    what: str
    fix: str
    unplaceable: bool = False

    def line(self, where: str) -> str:
        """Return the problem as one line for a message."""
        place = f"column {self.column!r}, {row_number(self.position)}"
        return f"{where}: {place}: {self.what}; {self.fix}"


def refuse(found: Iterable[Defect], where: str) -> None:
    """Raise the first problem, with the number of others.

    Raises:
        UserError: there is a problem.
    """
    problems = list(found)
    if problems:
        others = f" [and {len(problems) - 1} more problems]" if len(problems) > 1 else ""
        raise UserError(problems[0].line(where) + others)


def check_names(
    frame: pd.DataFrame,
    *,
    required: Sequence[str],
    known: Sequence[str],
    is_known: Callable[[str], bool],
    table: str,
    advice: str,
    where: str,
) -> None:
    """Check the names of the columns of a table.

    Args:
        frame: the table.
        required: columns that must exist.
        known: all columns with a fixed name.
        is_known: whether a column of this name is allowed.
        table: what the table is, for messages ("a loss table").
        advice: how to make such a table, for messages.
        where: name of the table in messages.

    Raises:
        UserError: a required column is missing, or a column is unknown or exists twice.
    """
    names = [str(name) for name in frame.columns]
    missing = [name for name in required if name not in names]
    unknown = [name for name in names if not is_known(name)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{where}: column {twice[0]!r} exists twice; keep one of them")
    if missing:
        hint = nearest_name(missing[0], unknown)
        found = ", ".join(names[:32])
        found += f", … ({len(names)} in all)" if names[32:] else ""
        more = ", ".join(missing[1:7]) + (", …" if missing[7:] else "")
        others = f" (and {len(missing) - 1} more: {more})" if len(missing) > 1 else ""
        raise UserError(
            f"{where}: column {missing[0]!r} is missing{others}{hint}; found: "
            f"{found or 'no columns'}; {advice}"
        )
    if unknown:
        hint = nearest_name(unknown[0], known)
        raise UserError(
            f"{where}: column {unknown[0]!r} is not part of {table}{hint}; "
            f"rename it to {EXTRA_PREFIX + unknown[0]!r} to keep it"
        )


def at(mask: np.ndarray | pd.Series) -> list[int]:
    """Return the positions at which a mask is True."""
    return [int(position) for position in np.flatnonzero(np.asarray(mask, dtype=bool))]


def empty_cells(frame: pd.DataFrame, columns: Iterable[Column]) -> Iterator[Defect]:
    """Yield the empty cells of required columns."""
    for column in columns:
        if column.required:
            for position in at(frame[column.name].isna()):
                said = str(frame["message"].iloc[position])
                of_this = f"{column.name}: "  # as `frames.exclude_unreadable` writes it
                yield Defect(
                    column=column.name,
                    position=position,
                    what=said.removeprefix(of_this)
                    if said.startswith(of_this)
                    else "the cell is empty",
                    fix=f"every row needs its {column.name} ({column.meaning})",
                    unplaceable=True,
                )


def unknown_words(frame: pd.DataFrame, words: Mapping[str, type[enum.StrEnum]]) -> Iterator[Defect]:
    """Yield cells whose word is none of the column's: ``words`` is column -> allowed words."""
    for name, allowed in words.items():
        known = [str(word) for word in allowed]
        for position in at(frame[name].notna() & ~frame[name].isin(known)):
            yield Defect(
                column=name,
                position=position,
                what=f"{frame[name].iloc[position]!r} is not one of {', '.join(known)}",
                fix="write one of these",
                unplaceable=True,
            )


def below_zero_or_infinite(frame: pd.DataFrame, name: str, used: np.ndarray) -> Iterator[Defect]:
    """Yield infinite and negative numbers of a column, in the rows of the mask ``used`` (M,)."""
    values = frame[name].to_numpy(dtype="float64", na_value=np.nan)
    for position in at(used & np.isinf(values)):
        yield Defect(
            column=name,
            position=position,
            what="the value is infinite",
            fix="for a failed measurement write status 'failed' and no value",
        )
    for position in at(used & (values < 0)):
        yield Defect(
            column=name,
            position=position,
            what=f"{values[position]:g} is negative",
            fix=f"{name} is never below 0",
        )


def zeros(frame: pd.DataFrame, name: str, used: np.ndarray) -> Iterator[Defect]:
    """Yield zeros of a column that is positive if it is known, in the rows of ``used`` (M,)."""
    values = frame[name].to_numpy(dtype="float64", na_value=np.nan)
    for position in at(used & (values == 0)):
        yield Defect(
            column=name,
            position=position,
            what="the value is 0",
            fix="leave the cell empty if the value is unknown",
        )


def changing(
    rows: pd.DataFrame, by: list[str], names: list[str], unit: str, *, apart: str
) -> Iterator[Defect]:
    """Yield cells that differ from the other rows of the same run, checkpoint, ….

    Args:
        rows: rows to check.
        by: columns that together name the unit.
        names: columns that have one value in each unit.
        unit: name of the unit for messages.
        apart: how to keep different units apart, for messages.
    """
    rows = rows.dropna(subset=by)
    if rows.empty:
        return
    group = rows.groupby(by, sort=False)
    for name in names:
        counts = group[name].nunique(dropna=False)
        for key in counts.index[counts > 1]:
            members = group.get_group(key if isinstance(key, tuple) else (key,))[name]
            # The value of most rows counts as right; of equally frequent ones, the first.
            texts = members.astype(object).where(members.notna(), None).map(repr)
            usual = texts.value_counts(sort=False).idxmax()
            reference = texts.index[texts == usual][0]
            shown = " at step ".join(str(part) for part in key) if isinstance(key, tuple) else key
            for position in texts.index[texts != usual]:
                yield Defect(
                    column=name,
                    position=int(position),
                    what=f"{unit} {shown} has {rows[name].loc[position]} here and "
                    f"{rows[name].loc[reference]} in " + row_number(int(reference)),
                    fix=f"a {unit} has one {name}; {apart}",
                )
