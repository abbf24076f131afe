"""Read sweeps kept as JSON as one wide table: nested keys are dotted columns, a model is a row.

    {"name": "m1", "hyperparameters": {"params": 4e8}, "results": [{"set": "c4", "loss": 3.5}]}

has the columns ``name`` and ``hyperparameters.params``. A value in a list becomes a column only if
a mapping asks for it: ``results.0.loss`` by position, ``results[set=c4].loss`` of the item whose
``set`` is c4, ``results[set~c4].loss`` of the item whose ``set`` contains the text c4 (or is a list
with such a text). In the name of a pattern a star stands for any text: ``results[set=*].loss``. A
part of a file's name is a column too: ``file[evaluation_*]`` (``file_names``).
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

SUFFIXES = (".json", ".jsonl")
JOINED = "<join>"  # column with the value that joins the files of one model

_SELECTOR = re.compile(r"(?P<list>.+?)\[(?P<field>[^]=~]+)(?P<how>[=~])(?P<value>[^]]*)\]")


@dataclass(frozen=True, kw_only=True)
class Nested:
    """A wide table from JSON files.

    Attributes:
        frame: one row per object, or per value of the join; the index names the file of each.
        where: name for messages.
        records: the objects.
        notes: a line for everything left out.
    """

    frame: pd.DataFrame
    where: str
    records: Sequence[JsonRecord]
    notes: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Return the columns that a mapping can name, for messages: lists as ``results[].loss``."""
        columns = [str(name) for name in self.frame.columns if name != JOINED]
        return list(dict.fromkeys([*columns, *_in_lists(self.records)]))


@dataclass(frozen=True)
class JsonRecord:
    """One JSON object, flattened.

    Attributes:
        label: name for messages.
        path: its file.
        leaves: dotted path -> value, for values outside lists.
        listed: dotted path -> value, for values inside lists.
        lists: dotted path -> length of the list.
    """

    label: str
    path: Path
    leaves: dict[str, Any] = field(default_factory=dict)
    listed: dict[str, Any] = field(default_factory=dict)
    lists: dict[str, int] = field(default_factory=dict)

    def value(self, path: str) -> Any:
        """Return the value at a dotted path, or None."""
        return self.leaves.get(path, self.listed.get(path))


def starred(pattern: str) -> re.Pattern[str]:
    """Return the expression for a name in which a star, its only group, stands for any text."""
    return re.compile("(.+)".join(map(re.escape, pattern.split("*", 1))), re.DOTALL)


def read_nested(
    files: Sequence[Path], *, asked: Iterable[str] = (), join: Sequence[str] = ()
) -> Nested:
    """Read the objects of .json files (one, or a list) and .jsonl files (one per line) as a table.

    Args:
        files: files in the order of the rows.
        asked: columns that will be used, patterns with a star included. Those inside lists become
            columns, and joined files must agree on them.
        join: columns whose value names the model of an object; the first that exists counts.
            Objects of one model become one row. Objects without any are left out, with a note.

    Raises:
        UserError: a file is not JSON, an object has a key twice, a list has two items where one is
            asked for, joined files differ in a value, or nothing is found.
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
    # dtype object: each cell keeps its type, whatever its neighbours are.
    frame = pd.DataFrame(rows, index=short, dtype=object)
    return Nested(frame=frame, where=where, records=records, notes=tuple(notes))


def common_name(files: Sequence[Path]) -> str:
    """Return a name of these files for messages: their common folder, or their number."""
    alike = len({file.is_absolute() for file in files}) == 1
    return (os.path.commonpath(files) if alike else "") or f"{len(files)} JSON files"


def _records(path: Path) -> Iterator[JsonRecord]:
    """Yield the objects of a file."""
    for label, tree in objects(path):
        record = JsonRecord(label, path)
        _collect(record, "", tree, within=False)
        yield record


def _collect(record: JsonRecord, path: str, tree: Any, *, within: bool) -> None:
    """Collect the leaves of a tree in a record."""
    if isinstance(tree, (dict, list)):
        if isinstance(tree, list):
            record.lists[path] = len(tree)
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        within = within or isinstance(tree, list)
        for name, value in items:
            _collect(record, f"{path}.{name}" if path else str(name), value, within=within)
        return
    if path in record.leaves or path in record.listed:
        raise UserError(
            f"{record.label}: a nested key and another key are both named {path!r}; rename one"
        )
    (record.listed if within else record.leaves)[path] = tree


def _resolve(record: JsonRecord, column: str) -> dict[str, Any]:
    """Return the values of a column in an object, by full name.

    A selector without a star gives one value, a selector with a star several. A column that does
    not exist gives none.
    """
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
                        "another; choose the item by a key in which they differ"
                    )
                values[name], places[name] = value, place
    return values


def _chosen(record: JsonRecord, path: str, how: str, wanted: str) -> list[str]:
    """Return the texts that name a chosen item in place of ``wanted``; none if not chosen."""
    cells = [record.value(path)]
    cells += [record.value(f"{path}.{n}") for n in range(record.lists.get(path, 0))]
    said = [_text(cell) for cell in cells if cell is not None]
    if how == "~":
        return [wanted] if any(wanted in text for text in said) else []
    return [text for text in dict.fromkeys(said) if starred(wanted).fullmatch(text)]


def _text(cell: Any) -> str:
    """Return a cell as text."""
    return cell if isinstance(cell, str) else json.dumps(cell)


def _joined(
    records: Sequence[JsonRecord],
    rows: Sequence[Mapping[str, Any]],
    join: Sequence[str],
    asked: Sequence[re.Pattern[str]],
) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """Return one row per model, the file that named each first, and files without a model."""
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
                    f"{origin[model, name]}; correct one of them, or map a key that only one has"
                )
    return list(models.values()), labels, left


def _in_lists(records: Sequence[JsonRecord]) -> Iterator[str]:
    """Yield paths inside lists without their positions."""
    for record in records:
        longest = sorted(record.lists, key=len, reverse=True)
        for path in record.listed:
            for name in longest:
                if path.startswith(f"{name}."):
                    rest = path.removeprefix(f"{name}.").partition(".")[2]
                    path = f"{name}[].{rest}".removesuffix(".")
            yield path
