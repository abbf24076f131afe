"""Importer of Gadre et al. (arXiv 2403.08540): one table of models, or the folder of JSON files."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.options.roles import OPTION_PREFIX
from lossline.tables.chance import CHANCE
from lossline.tables.frames import row_number
from lossline.tables.schema import SetKind
from lossline.tables.sweeps.gadre_folder import read_folder
from lossline.tables.sweeps.mapped import ColumnMapping, candidates, mapped_files, read_mapping
from lossline.tables.sweeps.nested import SUFFIXES, common_name, read_nested
from lossline.tables.sweeps.sheets import Sheet, in_one_table, own_runs, read_sheets
from lossline.tables.sweeps.wide import (
    Imported,
    MeasuredColumn,
    fact,
    find_files,
    numbers,
    read_wide,
    readable,
    require,
)

_CONSTANTS = {
    "architecture": "openlm",
    "tokenizer": "gpt-neox",
    "context_length": 2048,
    "optimizer": "adamw",
}
_NEEDS = ("name", "pretraining_data", "params", "tokens")
_FACTS = (*_NEEDS, "params_non_embedding", "lr", "weight_decay", "batch_sequences")
_MEASURE = re.compile(r"(?:.+\.)?(loss|accuracy)[./](.+)")


def gadre(paths: Sequence[Path], mapping: Path | None = None) -> Imported:
    """Import mlfoundations/scaling (MIT).

    It reads the models in one table (columns ``loss/<set>`` and ``accuracy/<task>``), or the
    source's own folder of JSON, ``exp_data/`` (``gadre_folder``). C = 6 N D as in the paper. JSON
    with the table's names as keys (``loss.c4_val``) needs no mapping; other JSON needs one, which
    may leave out what all models share (architecture, tokenizer, context, optimizer). The source's
    table of tasks (columns ``Eval Task``, ``Random baseline`` in percent), given together with the
    models, states the accuracy of guessing on each task.

    Raises:
        UserError: columns are missing, or no models are given.
    """

    def only_tasks(path: Path) -> bool:
        return path.suffix.lower() not in SUFFIXES and _random_baselines(path) is not None

    files, notes = find_files(paths, second=SUFFIXES, no_table=only_tasks)
    chances = {path: _random_baselines(path) or {} for path in files if only_tasks(path)}
    files = [path for path in files if path not in chances]
    if not files:
        first = next(iter(chances))
        raise UserError(
            f"{first}: holds only tasks and their random baselines; give the models too"
        )
    chance = {task: value for found in chances.values() for task, value in found.items()}
    if mapping is not None:
        imported = _by_mapping(files, read_mapping(mapping), chance)
    else:
        json = [path for path in files if path.suffix.lower() in SUFFIXES]
        tables = [path for path in files if path not in json]
        sheets = read_sheets(tables, functools.partial(_models, chance=chance)) if tables else []
        sheets += [_of_json(json, chance)] if json else []
        imported = in_one_table(own_runs(sheets))
    return dataclasses.replace(imported, notes=(*notes, *imported.notes))


def _by_mapping(
    files: Sequence[Path], mapping: ColumnMapping, chance: Mapping[str, float]
) -> Imported:
    shared = {name: v for name, v in _CONSTANTS.items() if name not in mapping.columns}
    mapping = dataclasses.replace(
        mapping, source=mapping.source or "gadre", constants={**shared, **mapping.constants}
    )
    imported = mapped_files(files, mapping)
    table = imported.table
    flops = table["flops"].fillna(6 * table["params"] * table["tokens"])
    table = table.assign(flops=flops)
    if chance:
        known = table["eval_set"].map(chance).where(table["kind"] == str(SetKind.TASK))
        table[CHANCE] = table[CHANCE].fillna(known) if CHANCE in table else known
    return dataclasses.replace(imported, table=table)


def _of_json(files: Sequence[Path], chance: Mapping[str, float]) -> Sheet:
    found = read_folder(files)
    if found is None:
        return _by_names(files, chance)
    frame, notes = found
    where = common_name(files)
    sheet = _models(frame, where, chance=chance)
    return dataclasses.replace(sheet, notes=(*(f"{where}: {note}" for note in notes), *sheet.notes))


def _by_names(files: Sequence[Path], chance: Mapping[str, float]) -> Sheet:
    """Read JSON whose keys are the published table's names, at any depth, each once."""
    nested = read_nested(files)
    names: dict[str, list[str]] = {}
    for column in map(str, nested.frame.columns):
        last = column.rpartition(".")[2]
        if found := _MEASURE.fullmatch(column):
            names.setdefault(f"{found[1]}/{found[2]}", []).append(column)
        elif last in _FACTS:
            names.setdefault(last, []).append(column)
    once = {column: name for name, (column, *more) in names.items() if not more}
    missing = [name for name in _NEEDS if name not in once.values()]
    if missing or all(name in _FACTS for name in names) or len(once) < len(names):
        twice = next((found for found in names.values() if found[1:]), None)
        lacking = " and ".join(missing) or "loss/<set>"
        what = f"both {twice[0]!r} and {twice[1]!r} exist" if twice else f"no {lacking}"
        near = candidates((*_NEEDS, "loss", "acc"), nested.names())
        raise UserError(
            f"{nested.where}: the keys are not those of the published table ({what}); give a "
            "mapping file, --mapping=FILE.toml, that maps them, and with join the files that "
            f"belong together (see --help); {near}"
        )
    sheet = _models(nested.frame.rename(columns=once), nested.where, chance=chance)
    taken = [f"{name} = {column!r}" for column, name in once.items() if name in _NEEDS]
    note = f"{nested.where}: read by the published table's names: {', '.join(taken)}"
    return dataclasses.replace(sheet, notes=(note, *sheet.notes))


def _random_baselines(path: Path) -> dict[str, float] | None:
    """Return the accuracy of guessing by task; None for a file that is not about tasks."""
    frame, where = read_wide(path), path.name
    if "Eval Task" not in frame:
        return None
    require(frame, ("Random baseline",), where)
    percent = numbers(frame, "Random baseline", where)
    wrong = np.flatnonzero((percent < 0) | (percent >= 100))
    if len(wrong):
        raise UserError(
            f"{where}: column 'Random baseline', {row_number(int(wrong[0]))}: "
            f"{percent.iloc[wrong[0]]:g} is not a percentage from 0 to below 100"
        )
    known = percent.notna()
    return dict(zip(frame["Eval Task"][known].map(str), percent[known] / 100, strict=True))


def _models(frame: pd.DataFrame, where: str, *, chance: Mapping[str, float]) -> Sheet:
    """Return a table of models as a sheet."""
    require(frame, _NEEDS, where)
    given = {name: fact(frame, name, where) for name in ("params", "tokens")}
    params, tokens = readable(given["params"]), readable(given["tokens"])
    facts = pd.DataFrame(
        {
            "run_id": frame["name"],
            "pretraining_data": frame["pretraining_data"],
            **_CONSTANTS,
            **given,
            "source": "gadre",
            "flops": 6 * params * tokens,
            "step": _steps(frame, tokens, where),
        }
    )
    for column, name in (
        ("params_non_embedding",) * 2,
        ("lr", "learning_rate"),
        ("weight_decay",) * 2,
    ):
        if column in frame:
            facts[name] = fact(frame, column, where)
    if "batch_sequences" in frame:
        batch = numbers(frame, "batch_sequences", where)
        facts[OPTION_PREFIX + "batch_size"] = batch.map("{:.10g}".format, na_action="ignore")
    measures = [
        MeasuredColumn(eval_set=column.removeprefix("loss/"), kind=SetKind.VALIDATION, loss=column)
        for column in frame.columns
        if column.startswith("loss/")
    ]
    tasks = [c.removeprefix("accuracy/") for c in frame.columns if c.startswith("accuracy/")]
    measures += [
        MeasuredColumn(
            eval_set=task,
            kind=SetKind.TASK,
            accuracy=f"accuracy/{task}",
            chance=chance.get(task),
        )
        for task in tasks
    ]
    if not measures:
        require(frame, ("loss/c4_val",), where)
    return Sheet(frame=frame, facts=facts, measures=measures, where=where)


def _steps(frame: pd.DataFrame, tokens: pd.Series, where: str) -> pd.Series:
    if "batch_sequences" not in frame:
        return pd.Series(1, index=frame.index)
    return (tokens / (numbers(frame, "batch_sequences", where) * 2048)).round()
