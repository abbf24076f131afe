"""Join the files of one import: run ids, steps and file names that are consistent across all files.

Each file is read into a ``Sheet``; ``in_one_table`` makes the loss table. A run may continue in
another file: steps and runs of one name are counted across all files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from lossline.tables.cells import as_text
from lossline.tables.checks import exclude_bad_rows, summarize
from lossline.tables.frames import concat
from lossline.tables.sweeps.wide import (
    Imported,
    MeasuredColumn,
    filled_elsewhere,
    find_files,
    long_table,
    read_wide,
    readable,
)


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One file on its way into the loss table.

    Attributes:
        frame: its M rows; the index names them in messages.
        facts: M rows in columns of the loss table (run_id, tokens and what else is known).
        measures: what its columns measure.
        where: its name in messages.
        notes: lines about it.
    """

    frame: pd.DataFrame
    facts: pd.DataFrame
    measures: Sequence[MeasuredColumn]
    where: str
    notes: tuple[str, ...] = ()


def read_sheets(
    paths: Sequence[Path],
    importer: Callable[[pd.DataFrame, str], Sheet],
    read: Callable[[Path], pd.DataFrame] = read_wide,
) -> list[Sheet]:
    """Read all tables of the paths as sheets.

    Rows that repeat another row of their file in every column are left out: a copied row is not a
    second run.
    """
    files = find_files(paths)[0]
    sheets = []
    for file, where in zip(files, short_names(files), strict=True):
        frame = read(file)
        repeated = frame.duplicated()
        sheet = importer(frame[~repeated], where)
        if repeated.any():
            note = f"{where}: {repeated.sum()} rows repeat another in every column; left out"
            sheet = replace(sheet, notes=(note, *sheet.notes))
        sheets.append(sheet)
    return sheets


def short_names(files: Sequence[Path]) -> list[str]:
    """Return the files' names for messages; equal names get their folders in front."""
    names = [file.name for file in files]
    if len(set(names)) == len(names):
        return names
    common = _common_folder(files)
    return [file.absolute().relative_to(common).as_posix() for file in files]


def source_name(files: Sequence[Path]) -> str:
    """Return the source of these files: the file's name, or their common folder's.

    One import has one source, so that a run may continue in another file.
    """
    return files[0].stem if len(files) == 1 else _common_folder(files).name or "several files"


def _common_folder(files: Sequence[Path]) -> Path:
    """Return the folder that contains all files."""
    return Path(os.path.commonpath([file.absolute().parent for file in files]))


def own_runs(sheets: Sequence[Sheet]) -> list[Sheet]:
    """Return sheets in which each row is a run: a repeated name gets a number.

    A row in another file with the same name and tokens is the same run.
    """
    numbers: dict[object, dict[tuple[object, int], int]] = {}
    named = []
    for sheet in sheets:
        names, tokens = as_text(sheet.facts["run_id"]), readable(sheet.facts["tokens"])
        again = names.groupby([names, tokens], dropna=False).cumcount()
        ids: list[object] = []
        for name, key in zip(names, zip(tokens.map(repr), again, strict=True), strict=True):
            known = numbers.setdefault(name, {})
            number = known.setdefault(key, len(known) + 1)
            ids.append(name if number == 1 or pd.isna(name) else f"{name}#{number}")
        named.append(replace(sheet, facts=sheet.facts.assign(run_id=ids)))
    return named


def with_steps(sheets: Sequence[Sheet]) -> list[Sheet]:
    """Return sheets in which all runs have steps.

    A run without steps gets 1, 2, … in the order of its tokens: one step per checkpoint, in however
    many rows and files that occurs.
    """
    runs = pd.concat([as_text(sheet.facts["run_id"]) for sheet in sheets], ignore_index=True)
    tokens = pd.concat([readable(sheet.facts["tokens"]) for sheet in sheets], ignore_index=True)
    empty = pd.Series(dtype=object)
    given = pd.concat(
        [sheet.facts.get("step", empty).reindex(sheet.facts.index) for sheet in sheets],
        ignore_index=True,
    )
    counted = tokens.groupby(runs).rank(method="dense").fillna(1)
    whole = given.notna().groupby(runs).transform("all")
    steps = given.astype(object).where(whole.eq(True), counted)
    done, start = [], 0
    for sheet in sheets:
        own = steps.iloc[start : start + len(sheet.facts)]
        start += len(own)
        done.append(replace(sheet, facts=sheet.facts.assign(step=own.to_numpy())))
    return done


def in_one_table(sheets: Sequence[Sheet]) -> Imported:
    """Return the loss table of all sheets, with their notes."""
    return together(
        [
            replace(part, notes=(*sheet.notes, *part.notes))
            for sheet in sheets
            for part in [long_table(sheet.frame, sheet.facts, sheet.measures, sheet.where)]
        ]
    )


def together(parts: Sequence[Imported]) -> Imported:
    """Join several imports; a checkpoint that exists in two of them is set aside in the second."""
    if len(parts) == 1:
        return parts[0]
    table = concat([part.table for part in parts])
    table, problems = exclude_bad_rows(table[~filled_elsewhere(table)])
    notes = [note for part in parts for note in part.notes]
    notes += [f"{line}; set aside" for line in summarize(problems, "the files together")]
    return Imported(table=table, notes=tuple(notes))
