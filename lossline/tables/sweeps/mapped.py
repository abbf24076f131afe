"""Any CSV or Parquet file as a loss table, by a small TOML file that says which column is what.

    source = "my sweep"                       # optional; the file's name otherwise

    [columns]                                 # loss table column = your column
    run_id = "Name"
    step = "_step"
    tokens = "train/tokens"
    params = "model/params"
    pretraining_data = "data"

    [constants]                               # the same for every row
    tokenizer = "gpt2"

    [sets.c4]                                 # one evaluation set per section
    loss = "eval/c4/loss"                     # nats per token …
    unit = "nats"                             # … or "bits" per token, converted (optional)

    [sets.hellaswag]
    kind = "task"                             # optional; "validation" otherwise
    bits_per_byte = "eval/hellaswag/bpb"
    accuracy = "eval/hellaswag/acc"
    chance = 0.25                             # accuracy of guessing (optional)

A file that is already long (one row per checkpoint and set) has no ``[sets]``: map ``eval_set`` in
``[columns]`` and the measurements too (``loss``, ``nats``, ``target_tokens``, …), ``kind`` there or
in ``[constants]``.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.tables.frames import complete, derive, nearest_name, typed
from lossline.tables.schema import COLUMN_NAMES, EXTRA_PREFIX, SetKind, Status
from lossline.tables.sweeps.wide import (
    QUANTITIES,
    Imported,
    Measure,
    long_table,
    numbers,
    read_all,
    read_wide,
    set_aside,
    together,
)

__all__ = ["ColumnMapping", "by_mapping", "read_mapping"]

_SECTIONS = ("source", "columns", "constants", "sets")
_SET_KEYS = (*QUANTITIES, "kind", "unit", "chance")
_MEASURED = (
    "nats",
    "target_tokens",
    "target_bytes",
    "documents",
    "correct",
    "questions",
    "truncated",
)


@dataclass(frozen=True, kw_only=True)
class ColumnMapping:
    """A mapping file, checked: see the module's docstring. `bits` names the sets whose loss is in
    bits per token."""

    path: Path
    source: str | None
    columns: Mapping[str, str]
    constants: Mapping[str, Any]
    sets: tuple[Measure, ...]
    bits: frozenset[str]


def read_mapping(path: Path) -> ColumnMapping:
    """Reads a mapping file; every misspelled key is a `UserError` naming the nearest right one."""
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
            [n for n in given if not n.startswith(EXTRA_PREFIX)],
            COLUMN_NAMES,
        )
    for name, column in columns.items():
        _check_column(
            path,
            f"[columns] {name}",
            column,
            "; what is the same for every row goes into [constants]",
        )
    both = sorted(set(columns) & set(constants))
    if both:
        raise UserError(f"{path}: {both[0]!r} is in [columns] and in [constants]; keep one of them")
    sets = tree.get("sets", {})
    if not isinstance(sets, dict):
        raise UserError(f"{path}: 'sets' must be sections [sets.NAME], one for each evaluation set")
    measures = tuple(_measure(path, name, given) for name, given in sets.items())
    if not measures and "eval_set" not in columns and "eval_set" not in constants:
        raise UserError(
            f'{path}: no evaluation set; add a section [sets.NAME] with loss = "<your column>", '
            "or map eval_set in [columns] if the table is already long"
        )
    bits = frozenset(name for name, given in sets.items() if given.get("unit") == "bits")
    return ColumnMapping(
        path=path,
        source=tree.get("source"),
        columns=columns,
        constants=constants,
        sets=measures,
        bits=bits,
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


def _measure(path: Path, name: str, given: Any) -> Measure:
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
    if given.get("kind", "validation") not in kinds:
        raise UserError(
            f"{path}: [sets.{name}] kind = {given['kind']!r}: must be one of {', '.join(kinds)}"
        )
    if given.get("unit", "nats") not in ("nats", "bits"):
        raise UserError(
            f"{path}: [sets.{name}] unit = {given['unit']!r}: must be nats or bits (per token)"
        )
    chance = given.get("chance")
    if chance is not None and not (isinstance(chance, (int, float)) and 0 <= chance < 1):
        raise UserError(
            f"{path}: [sets.{name}] chance = {chance!r}: must be an accuracy from 0 to below 1"
        )
    values = {quantity: given[quantity] for quantity in QUANTITIES if quantity in given}
    kind = SetKind(given.get("kind", "validation"))
    return Measure(eval_set=name, kind=kind, chance=chance, **values)


def by_mapping(paths: Sequence[Path], mapping_path: Path) -> Imported:
    """Tables of any origin by one mapping file; several files must not share checkpoints."""
    mapping = read_mapping(mapping_path)
    return together([_mapped(*read_wide(path), mapping) for path in read_all(paths)])


def _mapped(frame: pd.DataFrame, where: str, mapping: ColumnMapping) -> Imported:
    used = [*mapping.columns.values(), *(c for m in mapping.sets for c in m.columns().values())]
    for column in used:
        if column not in frame.columns:
            found = [str(name) for name in frame.columns]
            shown = ", ".join(found[:30]) + (
                f", … ({len(found)} in all)" if len(found) > 30 else ""
            )
            raise UserError(
                f"{mapping.path}: column {column!r} is not in "
                f"{where}{nearest_name(column, found)}; found: {shown}"
            )
    facts = pd.DataFrame(
        {name: frame[column] for name, column in mapping.columns.items()}, index=frame.index
    )
    for name, value in mapping.constants.items():
        facts[name] = value
    facts["source"] = facts.get("source", mapping.source or Path(where).stem)
    _place(facts, where, mapping.path)
    if not mapping.sets:
        return _already_long(facts, where)
    frame = frame.copy()
    for measure in mapping.sets:
        if measure.eval_set in mapping.bits and measure.loss is not None:
            frame[measure.loss] = numbers(frame, measure.loss, where) * math.log(2.0)
    return long_table(frame, facts, mapping.sets, where)


def _place(facts: pd.DataFrame, where: str, path: Path) -> None:
    """Sees to run_id, step and tokens, without which a row cannot be placed."""
    for name in ("run_id", "tokens"):
        if name not in facts:
            raise UserError(
                f'{path}: [columns] lacks {name}; add {name} = "<your column>" ({where})'
            )
    if "step" not in facts:  # a table of final checkpoints has none: count them in order of tokens
        facts["step"] = facts.groupby("run_id")["tokens"].rank(method="first")


def _already_long(facts: pd.DataFrame, where: str) -> Imported:
    if "kind" not in facts:
        facts["kind"] = str(SetKind.VALIDATION)
    facts["x_source_row"] = np.arange(1, len(facts) + 1)
    facts["x_source_column"] = "loss"
    table = derive(typed(complete(facts), where=where))
    empty = table[[*QUANTITIES]].isna().all(axis=1) & (table["status"] == str(Status.OK))
    table.loc[empty, "status"] = str(Status.FAILED)
    table, notes = set_aside(table, where)
    return Imported(table=table, notes=tuple(notes))
