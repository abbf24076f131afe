"""Import any CSV, Parquet or JSON as a loss table, with a small TOML file that maps the columns.

    source = "my sweep"                       # optional; the file's or the folder's name otherwise

    [columns]                                 # loss table column = your column
    run_id = "Name"
    step = "_step"                            # optional; otherwise 1, 2, … in order of the tokens
    tokens = "train/tokens"                   # or batch_size_in_tokens: tokens = step × batch
    params = "model/params"
    pretraining_data = "data"

    [constants]                               # the same for every row
    tokenizer = "gpt2"

    [sets.c4]                                 # one evaluation set per section
    loss = "eval/c4/loss"                     # nats per token …
    unit = "nats"                             # … or "bits" or "perplexity", converted (optional)

    [sets.hellaswag]
    kind = "task"                             # optional; "validation" if the set has a loss
    bits_per_byte = "eval/hellaswag/bpb"
    accuracy = "eval/hellaswag/acc"
    percent = false                           # true: the accuracies are in percent (optional)
    chance = 0.25                             # accuracy of guessing (optional)

    [sets."paloma_*"]                         # one set per matching column: the star is any text,
    loss = "eval/paloma/*/loss"               # the same in the name and in the column

The name of a set is its section's, or ``name``: two patterns can both have ``name = "*"``. A
section of its own overrides a pattern.

JSON is a folder of .json files (in subfolders too, in sorted order), a .json list of objects or a
.jsonl file. It becomes a table whose columns are the nested keys joined by dots: ``config.params``.
In a list of objects, ``results.0.loss`` selects by position, ``results[set=c4].loss`` the item
whose ``set`` is c4, ``results[set~c4].loss`` the item whose ``set`` contains it;
``results[set=*].loss`` is a pattern. If several files describe one model, ``join = "name"`` (at the
top, like ``source``) makes those of equal name one row; ``join = ["model_uuid", "uuid"]`` takes the
first key that a file has. ``run_id`` is then that value, unless the mapping sets it.

A part of a file's name is a column too, for tables and JSON, also to join by:
``file[evaluation_*_heavy]`` is the text that the star stands for, ``file[*/metrics]`` the folder's
name.

A file that is already long (one row per checkpoint and set) has no ``[sets]``: map ``eval_set`` in
``[columns]`` and the measurements too (``loss``, ``nats``, ``target_tokens``, …), ``kind`` there or
in ``[constants]``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.tables.frames import nearest_name, nearest_names
from lossline.tables.schema import COLUMN_NAMES, COLUMNS, Kind, SetKind, column_of, is_known
from lossline.tables.sweeps.batch_tokens import BATCH, with_tokens
from lossline.tables.sweeps.file_names import in_file_name, is_file_name, pattern_without_star
from lossline.tables.sweeps.nested import JOINED, SUFFIXES, read_nested, starred
from lossline.tables.sweeps.sheets import (
    Sheet,
    in_one_table,
    short_names,
    source_name,
    together,
    with_steps,
)
from lossline.tables.sweeps.wide import (
    QUANTITIES,
    ColumnUnit,
    Imported,
    MeasuredColumn,
    fact,
    find_files,
    measured,
    read_wide,
    set_aside,
    text_note,
    word_note,
)

_SECTIONS = ("source", "join", "columns", "constants", "sets")
_SET_KEYS = ("name", *QUANTITIES, "kind", "unit", "percent", "chance")
_NEEDED = ("name", "params", "tokens", "data", "loss", "acc")
_VALUES = (*QUANTITIES, "nats", "correct")
_MEASURED = (
    "nats",
    "target_tokens",
    "target_bytes",
    "documents",
    "correct",
    "questions",
    "truncated",
)
_NAMES = {c.name for c in COLUMNS if c.kind is Kind.TEXT} - {"kind", "status", "message"}


@dataclass(frozen=True, kw_only=True)
class ColumnMapping:
    """A checked mapping file; the module's docstring has the format.

    Attributes:
        path: the file.
        source: name of the source, or None.
        join: columns that join files of one model.
        columns: loss table column -> column of the source.
        constants: loss table column -> value for every row.
        sets: evaluation sets; those whose name has a star are patterns.
    """

    path: Path
    source: str | None
    join: tuple[str, ...]
    columns: Mapping[str, str]
    constants: Mapping[str, Any]
    sets: tuple[MeasuredColumn, ...]

    def asked(self) -> list[str]:
        """Return the columns of the source that are used, patterns with their star."""
        return [*self.columns.values(), *(c for m in self.sets for c in m.columns().values())]


def read_mapping(path: Path, *, needs_sets: bool = True) -> ColumnMapping:
    """Read a mapping file.

    Args:
        path: the file.
        needs_sets: whether it must have an evaluation set.

    Raises:
        UserError: a key is unknown (names the nearest known one), a value is wrong, or no
            evaluation set is mapped.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such mapping file; see `python -m lossline.import_sweep --help`"
        )
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from error
    _check_names(path, "section", tree, _SECTIONS)
    columns, constants = tree.get("columns", {}), tree.get("constants", {})
    for section, given in (("columns", columns), ("constants", constants)):
        if not isinstance(given, dict):
            raise UserError(f"{path}: {section!r} must be a section of name = value lines")
        _check_names(
            path,
            f"[{section}] name",
            [n for n in given if not is_known(n)],
            (*COLUMN_NAMES, BATCH),
        )
    for name, column in columns.items():
        _check_column(
            path,
            f"[columns] {name}",
            column,
            "; write a value that is the same for every row into [constants]",
        )
    both = sorted(set(columns) & set(constants))
    if both:
        raise UserError(f"{path}: {both[0]!r} is in [columns] and in [constants]; keep one of them")
    sets = tree.get("sets", {})
    if not isinstance(sets, dict):
        raise UserError(f"{path}: 'sets' must be sections [sets.NAME], one for each evaluation set")
    measures = tuple(_measure(path, name, given) for name, given in sets.items())
    if needs_sets and not measures and "eval_set" not in columns and "eval_set" not in constants:
        raise UserError(
            f'{path}: no evaluation set; add a section [sets.NAME] with loss = "<your column>", '
            "or map eval_set in [columns] if the table is already long"
        )
    join = tree.get("join", ())
    keys = (join,) if isinstance(join, str) else tuple(join) if isinstance(join, list) else join
    if not isinstance(keys, tuple) or not all(isinstance(key, str) for key in keys):
        raise UserError(f"{path}: join = {join!r}: must be the name of a key, or a list of names")
    for key in keys:
        _check_star(path, "join", key)
    if keys and "run_id" not in columns and "run_id" not in constants:
        columns = {"run_id": JOINED, **columns}
    return ColumnMapping(
        path=path,
        source=tree.get("source"),
        join=keys,
        columns=columns,
        constants=constants,
        sets=measures,
    )


def _check_names(path: Path, what: str, given: Iterable[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise UserError(
                f"{path}: unknown {what} {name!r}{nearest_name(name, known)}; known: "
                f"{', '.join(known)}"
            )


def _check_column(path: Path, what: str, column: object, more: str = "") -> None:
    if not isinstance(column, str):
        raise UserError(
            f"{path}: {what} = {column!r}: must be the name of a column in quotes{more}"
        )
    _check_star(path, what, column)


def _check_star(path: Path, what: str, column: str) -> None:
    if pattern := pattern_without_star(column):
        raise UserError(
            f"{path}: {what} = {column!r}: {pattern!r} has no star; write * in place of the value"
        )


def _measure(path: Path, name: str, given: Any) -> MeasuredColumn:
    if not isinstance(given, dict):
        raise UserError(
            f"{path}: [sets.{name}] must be a section with loss, bits_per_byte or accuracy"
        )
    _check_names(path, f"key of [sets.{name}]", given, _SET_KEYS)
    if not any(quantity in given for quantity in QUANTITIES):
        raise UserError(f'{path}: [sets.{name}] names no column; add loss = "<your column>"')
    for quantity in QUANTITIES:
        _check_column(path, f"[sets.{name}] {quantity}", given.get(quantity, ""))
    kinds = [str(kind) for kind in SetKind]
    alone = "loss" not in given and "bits_per_byte" not in given  # only accuracies: a task
    if alone and given.get("kind") == "validation":
        raise UserError(
            f'{path}: [sets.{name}] kind = "validation": needs a loss or bits_per_byte; map one, '
            'or write kind = "task"'
        )
    if given.get("kind", "task") not in kinds:
        raise UserError(
            f"{path}: [sets.{name}] kind = {given['kind']!r}: must be one of {', '.join(kinds)}"
        )
    units = [str(unit) for unit in ColumnUnit]
    if given.get("unit", "nats") not in units:
        raise UserError(
            f"{path}: [sets.{name}] unit = {given['unit']!r}: must be one of {', '.join(units)} "
            "(of the loss, per token)"
        )
    if not isinstance(given.get("percent", False), bool):
        raise UserError(
            f"{path}: [sets.{name}] percent = {given['percent']!r}: must be true or false"
        )
    chance = given.get("chance")
    if chance is not None and not (isinstance(chance, (int, float)) and 0 <= chance < 1):
        raise UserError(
            f"{path}: [sets.{name}] chance = {chance!r}: must be an accuracy from 0 to below 1"
        )
    values = {quantity: given[quantity] for quantity in QUANTITIES if quantity in given}
    eval_set = given.get("name", name)
    if not isinstance(eval_set, str):
        raise UserError(f"{path}: [sets.{name}] name = {eval_set!r}: must be text in quotes")
    for text in (eval_set, *values.values()) if "*" in eval_set else ():
        if text.count("*") != 1:
            raise UserError(
                f"{path}: [sets.{name}] {text!r}: a set whose name has a star is a pattern, and "
                "each of its columns has one star too"
            )
    return MeasuredColumn(
        eval_set=eval_set,
        kind=SetKind(given.get("kind", "task" if alone else "validation")),
        chance=chance,
        unit=ColumnUnit(given.get("unit", "nats")),
        percent=given.get("percent", False),
        **values,
    )


def candidates(needed: Iterable[str], found: Iterable[str], most: int = 2) -> str:
    """Return which of the found columns may be the needed ones, for a message.

    Some of the other columns follow, many of one parent as one.
    """
    names = list(dict.fromkeys(found))
    words = {name: re.split(r"[^a-z0-9]+", name.casefold()) for name in names}
    said, shown = [], set()
    for need in needed:
        word = need.rpartition("_")[2]
        alike = [name for name in names if any(w.startswith(word) for w in words[name])]
        alike.sort(key=lambda name: (words[name][-1] != word, len(words[name])))
        if alike:
            said.append(f"{need} may be {' or '.join(map(repr, alike[:most]))}")
            shown |= set(alike)
    parents: dict[str, list[str]] = {}
    for name in names:
        if name not in shown:
            parents.setdefault(re.split(r"[^./]+$", name)[0], []).append(name)
    others = [
        other
        for parent, inside in parents.items()
        for other in ([f"{parent}* ({len(inside)})"] if parent and inside[3:] else inside)
    ]
    if others:
        more = ", …" if others[8:] else ""
        said.append(f"{'other columns:' if said else 'it has'} {', '.join(others[:8])}{more}")
    return "; ".join(said)


def by_mapping(paths: Sequence[Path], mapping_path: Path | None) -> Imported:
    """Import tables of any source by one mapping file; several files must not share checkpoints.

    Raises:
        UserError: there is no mapping (names columns that could be mapped), or the mapping does not
            fit.
    """
    files, notes = find_files(paths, second=SUFFIXES)
    if mapping_path is None:
        json = [file for file in files if file.suffix.lower() in SUFFIXES]
        names = read_nested(json).names() if json else map(str, read_wide(files[0]).columns)
        raise UserError(
            "the source 'csv' needs a mapping file; give one with --mapping=FILE.toml (see "
            f"--help); in {json[0] if json else files[0]} {candidates(_NEEDED, names)}"
        )
    imported = mapped_files(files, read_mapping(mapping_path))
    return replace(imported, notes=(*notes, *imported.notes))


def mapped_files(files: Sequence[Path], mapping: ColumnMapping) -> Imported:
    """Import each table of ``files`` by a mapping, and all JSON among them as one table."""
    json = [file for file in files if file.suffix.lower() in SUFFIXES]
    source = mapping.source or source_name(files)
    sheets = []
    for file, where in zip(files, short_names(files), strict=True):
        if file in json:
            continue
        if mapping.join:
            raise UserError(
                f"{mapping.path}: join works only for JSON files, and {file} is not JSON; "
                "remove join"
            )
        frame = read_wide(file)
        named = {c: in_file_name(c, file) for c in mapping.columns.values() if is_file_name(c)}
        new = {c: said for c, said in named.items() if said is not None and c not in frame}
        frame = frame.assign(**new)
        found = [str(name) for name in frame.columns]
        sheets.append(_sheet(frame, where, mapping, source, found))
    if json:
        nested = read_nested(json, asked=mapping.asked(), join=mapping.join)
        sheet = _sheet(nested.frame, nested.where, mapping, source, nested.names())
        sheets.append(replace(sheet, notes=(*nested.notes, *sheet.notes)))
    if "step" not in sheets[0].facts:
        sheets = with_steps(sheets)
    return in_one_table(sheets) if mapping.sets else together([_already_long(s) for s in sheets])


def _sheet(
    frame: pd.DataFrame, where: str, mapping: ColumnMapping, source: str, found: Sequence[str]
) -> Sheet:
    """Return one table as a sheet; ``found`` holds the columns to name in messages."""
    sets = _expanded(frame, where, mapping, found)
    for column in (c for m in sets for c in m.columns().values()):
        if column not in frame.columns:
            raise _not_there(f"column {column!r} is not in {where}", column, mapping, found)
    facts, notes = with_tokens(mapped_facts(frame, where, mapping, found), where)
    facts["source"] = facts.get("source", source)
    for name, more in (("run_id", ""), ("tokens", f", or step and {BATCH}")):
        if name not in facts:
            raise UserError(
                f'{mapping.path}: [columns] lacks {name}; add {name} = "<your column>"{more} '
                f"({where})"
            )
    notes += [note for name, column in mapping.columns.items() if name in _NAMES
              for note in word_note(frame[column], where)]  # fmt: skip
    return Sheet(frame=frame, facts=facts, measures=sets, where=where, notes=tuple(notes))


def _is_number(name: str) -> bool:
    """Return whether a column of a mapping holds numbers that are not measurements."""
    column = column_of(name)
    typed = column is not None and column.kind is not Kind.TEXT
    return name == BATCH or (typed and name not in (*QUANTITIES, *_MEASURED))


def mapped_facts(
    frame: pd.DataFrame, where: str, mapping: ColumnMapping, found: Sequence[str]
) -> pd.DataFrame:
    """Return the facts of a table's rows by [columns] and [constants] of a mapping."""
    for column in mapping.columns.values():
        if column not in frame.columns:
            place = PurePath(where).name if is_file_name(column) else where
            raise _not_there(f"column {column!r} is not in {place}", column, mapping, found)
    facts = pd.DataFrame(
        {
            name: fact(frame, column, where) if _is_number(name) else frame[column]
            for name, column in mapping.columns.items()
        },
        index=frame.index,
    )
    for name, value in mapping.constants.items():
        facts[name] = value
    return facts


def _not_there(what: str, column: str, mapping: ColumnMapping, found: Sequence[str]) -> UserError:
    """Return the error for a column that does not exist."""
    if is_file_name(column):
        return UserError(f"{mapping.path}: {what}: no file has a name that matches")
    hint = nearest_name(column, found)
    shown = nearest_names(column, found, most=30)
    return UserError(f"{mapping.path}: {what}{hint}; found: {shown}")


def _expanded(
    frame: pd.DataFrame, where: str, mapping: ColumnMapping, found: Sequence[str]
) -> list[MeasuredColumn]:
    """Return the sets of a mapping, patterns as one set per text that their star matches."""
    sets = {measure.eval_set: measure for measure in mapping.sets if "*" not in measure.eval_set}
    by_hand = set(sets)
    for pattern in mapping.sets:
        if pattern.eval_set in by_hand:
            continue
        columns: dict[str, dict[str, str]] = {}
        for quantity, asked in pattern.columns().items():
            matches = [m for name in frame.columns if (m := starred(asked).fullmatch(str(name)))]
            if not matches:
                raise _not_there(f"no column of {where} is like {asked!r}", asked, mapping, found)
            for match in matches:
                columns.setdefault(match[1], {})[quantity] = match[0]
        for text, named in columns.items():
            name = pattern.eval_set.replace("*", text)
            if name in by_hand:
                continue
            if name in sets:
                raise UserError(
                    f"{mapping.path}: two patterns make the set {name!r} of {where}; narrow one, "
                    f'or give them different names with name = "…*"'
                )
            sets[name] = replace(
                pattern,
                eval_set=name,
                loss=named.get("loss"),
                bits_per_byte=named.get("bits_per_byte"),
                accuracy=named.get("accuracy"),
            )
    return list(sets.values())


def _already_long(sheet: Sheet) -> Imported:
    """Return the loss table of a long table."""
    facts, where, notes = sheet.facts.copy(), sheet.where, [*sheet.notes]
    said = pd.Series(None, facts.index, dtype=object)
    for name in [name for name in (*QUANTITIES, *_MEASURED) if name in facts]:
        values, text = measured(facts, name, where)
        notes += text_note(facts[name], text, where)
        said = said.mask(text, facts[name].map("{!r} is not a number".format))
        facts[name] = values
    nothing = facts[[name for name in _VALUES if name in facts]].isna().all(axis=1)
    if "message" not in facts:
        facts["message"] = None
    facts["message"] = facts["message"].mask(nothing & said.notna(), said)
    if "kind" not in facts:
        facts["kind"] = str(SetKind.VALIDATION)
    facts["x_source_row"] = np.arange(len(facts))
    facts["x_source_column"] = "loss"
    table, more = set_aside(facts, where, facts.index)
    return Imported(table=table, notes=(*notes, *more))
