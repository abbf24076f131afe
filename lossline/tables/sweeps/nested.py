"""Sweeps kept as JSON as one wide table: nested keys are dotted columns, files of one model a row.

    {"name": "m1", "hyperparameters": {"params": 4e8}, "results": [{"set": "c4", "loss": 3.5}]}

has the columns ``name`` and ``hyperparameters.params``; what lies in a list is a column where a
mapping asks for it: ``results.0.loss`` by place, ``results[set=c4].loss`` of the item whose ``set``
is c4, ``results[set~c4].loss`` of the item whose ``set`` holds the text c4 (or a list with such a
text). In the name of a pattern a star stands for any text: ``results[set=*].loss``. What stands in
a file's name alone is a column as well: ``file[evaluation_*]`` (see `file_names`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from lossline.errors import UserError
from lossline.tables.frames import nearest_names
from lossline.tables.json_text import objects
from lossline.tables.sweeps.file_names import in_file_name, is_file_name

__all__ = ["JOINED", "SUFFIXES", "JsonRecord", "Nested", "common_name", "read_nested", "starred"]

SUFFIXES = (".json", ".jsonl")
JOINED = "<join>"  # column of the value that joins the files of one model

_SELECTOR = re.compile(r"(?P<list>.+?)\[(?P<field>[^]=~]+)(?P<how>[=~])(?P<value>[^]]*)\]")


@dataclass(frozen=True, kw_only=True)
class Nested:
    """A wide table out of JSON files.

    Attributes:
      frame: one row per object, or per value of the join; the index names the file of each.
      where: name for messages.
      records: the objects themselves.
      notes: a line for what was left out.
    """

    frame: pd.DataFrame
    where: str
    records: Sequence[JsonRecord]
    notes: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """What a mapping can name, for messages: lists of objects as ``results[].loss``."""
        columns = [str(name) for name in self.frame.columns if name != JOINED]
        return list(dict.fromkeys([*columns, *_in_lists(self.records)]))


@dataclass(frozen=True)
class JsonRecord:
    """One object: its leaves by dotted path, those within lists apart, and the lists' lengths."""

    label: str
    path: Path
    leaves: dict[str, Any] = field(default_factory=dict)
    listed: dict[str, Any] = field(default_factory=dict)
    lists: dict[str, int] = field(default_factory=dict)

    def value(self, path: str) -> Any:
        return self.leaves.get(path, self.listed.get(path))


def starred(pattern: str) -> re.Pattern[str]:
    """The expression for a name in which a star, its only group, stands for any text."""
    return re.compile("(.+)".join(map(re.escape, pattern.split("*", 1))), re.DOTALL)


def read_nested(
    files: Sequence[Path], *, asked: Iterable[str] = (), join: Sequence[str] = ()
) -> Nested:
    """The objects of .json files (one, or a list of them) and .jsonl files (one a line) as a table.

    Args:
      files: in the order of the rows.
      asked: columns that will be used, patterns with a star included: those within lists are made
        into columns, and files that are joined must agree on them.
      join: columns whose value names the model that an object is about, the first that it has:
        objects of one model become one row. Objects without any are left out, with a note.

    Raises `UserError` for what is not JSON, a key that an object has twice, two items of a list
    where one is asked for, joined files that contradict each other, and where nothing is found.
    """
    records = [record for path in files for record in _records(path)]
    where = common_name(files)
    if not records:
        raise UserError(f"{where}: the table has no rows")
    asked = list(asked)
    selected = [
        column
        for column in asked
        if _SELECTOR.match(column) or is_file_name(column) or "*" not in column
    ]
    rows = [
        record.leaves
        | {name: value for column in selected for name, value in _resolve(record, column).items()}
        for record in records
    ]
    labels, notes = [record.label for record in records], []
    if join:
        rows, labels, left = _joined(records, rows, join, [starred(column) for column in asked])
        in_all = [name for record in records for name in record.leaves]
        if not rows:
            raise UserError(
                f"{where}: join: no object has {' or '.join(map(repr, join))}; "
                f"found: {nearest_names(join[0], in_all)}"
            )
        if left:
            others = f" and {len(left) - 1} more" if left[1:] else ""
            keys = " or ".join(map(repr, join))
            notes.append(f"{left[0]}{others}: no {keys} to join by; left out")
    short = [label.removeprefix(where).lstrip(f"{os.sep}, ") or label for label in labels]
    # Objects, so that each cell stays what it is whatever its neighbours are.
    frame = pd.DataFrame(rows, index=short, dtype=object)
    return Nested(frame=frame, where=where, records=records, notes=tuple(notes))


def common_name(files: Sequence[Path]) -> str:
    """What a message calls these files: the folder that holds all, or how many they are."""
    alike = len({file.is_absolute() for file in files}) == 1
    return (os.path.commonpath(files) if alike else "") or f"{len(files)} JSON files"


def _records(path: Path) -> Iterator[JsonRecord]:
    for label, tree in objects(path):
        record = JsonRecord(label, path)
        _collect(record, "", tree, within=False)
        yield record


def _collect(record: JsonRecord, path: str, tree: Any, *, within: bool) -> None:
    if isinstance(tree, (dict, list)):
        if isinstance(tree, list):
            record.lists[path] = len(tree)
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        within = within or isinstance(tree, list)
        for name, value in items:
            _collect(record, f"{path}.{name}" if path else str(name), value, within=within)
        return
    if path in record.leaves or path in record.listed:
        raise UserError(f"{record.label}: two keys read {path!r}, one of them nested; rename one")
    (record.listed if within else record.leaves)[path] = tree


def _resolve(record: JsonRecord, column: str) -> dict[str, Any]:
    """What a column stands for in an object: its value by name, several with a star in a selector,
    none where it is not there."""
    if is_file_name(column) and column not in record.leaves:
        named = in_file_name(column, record.path)
        return {} if named is None else {column: named}
    found = _SELECTOR.match(column)
    if found is None or column in record.leaves:
        known = column in record.leaves or column in record.listed
        return {column: record.value(column)} if known else {}
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for number in range(record.lists.get(found["list"], 0)):
        place = f"{found['list']}.{number}"
        for chosen in _chosen(record, f"{place}.{found['field']}", found["how"], found["value"]):
            for inner, value in _resolve(record, place + column[found.end() :]).items():
                selector = f"[{found['field']}{found['how']}{chosen}]"
                name = found["list"] + selector + inner.removeprefix(place)
                if name in values and places[name] != place and values[name] != value:
                    raise UserError(
                        f"{record.label}: {name!r} is {values[name]} in one item and {value} in "
                        "another; choose the item by a key that sets them apart"
                    )
                values[name], places[name] = value, place
    return values


def _chosen(record: JsonRecord, path: str, how: str, wanted: str) -> list[str]:
    """With which texts in place of `wanted` an item is chosen by what its field, or a list there,
    says."""
    cells = [record.value(path)]
    cells += [record.value(f"{path}.{n}") for n in range(record.lists.get(path, 0))]
    said = [_text(cell) for cell in cells if cell is not None]
    if how == "~":
        return [wanted] if any(wanted in text for text in said) else []
    return [text for text in dict.fromkeys(said) if starred(wanted).fullmatch(text)]


def _text(cell: Any) -> str:
    return cell if isinstance(cell, str) else json.dumps(cell)


def _joined(
    records: Sequence[JsonRecord],
    rows: Sequence[Mapping[str, Any]],
    join: Sequence[str],
    asked: Sequence[re.Pattern[str]],
) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """Rows of one model as one, the file that named each first, and the files without a model."""
    models: dict[Any, dict[str, Any]] = {}
    origin: dict[tuple[Any, str], str] = {}
    labels, left = [], []
    for record, row in zip(records, rows, strict=True):
        found = [v for column in join for v in _resolve(record, column).values() if v is not None]
        if not found:
            left.append(record.label)
            continue
        model = _text(found[0])
        if model not in models:
            models[model] = {JOINED: model}
            labels.append(record.label)
        merged = models[model]
        for name, value in row.items():
            before = merged.get(name)
            if before is None or before != before:
                merged[name], origin[model, name] = value, record.label
            elif value is None or value != value or value == before:
                continue
            elif any(pattern.fullmatch(name) for pattern in asked):
                raise UserError(
                    f"{record.label}: {name!r} of {model!r} is {value!r}, but {before!r} in "
                    f"{origin[model, name]}; mend one of them, or map a key that only one has"
                )
    return list(models.values()), labels, left


def _in_lists(records: Sequence[JsonRecord]) -> Iterator[str]:
    """Paths within lists, their numbers left out."""
    for record in records:
        longest = sorted(record.lists, key=len, reverse=True)
        for path in record.listed:
            for name in longest:
                if path.startswith(f"{name}."):
                    rest = path.removeprefix(f"{name}.").partition(".")[2]
                    path = f"{name}[].{rest}".removesuffix(".")
            yield path
