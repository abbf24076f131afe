"""Importers of published sweeps. Each takes the source's own file; extra rows and columns do no
harm.

Where each comes from, and under which licence, stands in the docstrings: nothing of them is part of
  this project.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.tables.chance import CHANCE
from lossline.tables.frames import row_number
from lossline.tables.schema import OWN_SET, SetKind
from lossline.tables.sweeps.mapped import ColumnMapping, candidates, mapped_files, read_mapping
from lossline.tables.sweeps.nested import SUFFIXES, read_nested
from lossline.tables.sweeps.wide import (
    Imported,
    Measure,
    find_column,
    find_files,
    long_table,
    numbers,
    read_all,
    read_wide,
    require,
    together,
)

__all__ = ["chinchilla", "gadre", "kempner", "llm_line", "olmo_ladder"]


def _each(paths: Sequence[Path], importer) -> Imported:
    return together([_distinct(path, importer) for path in read_all(paths)])


def _distinct(path: Path, importer) -> Imported:
    """One file's import, without the rows that repeat another in every column: a row copied twice
    is not two runs."""
    frame, where = read_wide(path)
    repeated = int(frame.duplicated().sum())
    imported = importer(frame.drop_duplicates(), where)
    if not repeated:
        return imported
    note = f"{where}: {repeated} rows repeat another in every column; left out"
    return dataclasses.replace(imported, notes=(note, *imported.notes))


def _unique_ids(names: pd.Series) -> pd.Series:
    """Names as run ids; a name that comes again gets a number, because each row is a run of its
    own."""
    texts = names.map(str)
    again = texts.groupby(texts).cumcount()
    return texts.where(again == 0, texts + "#" + (again + 1).astype(str))


# --- Brandfonbrener et al. (arXiv 2411.12925)
# -----------------------------------------------------------------

_KEMPNER_VALIDATION = re.compile(r"^eval/(.+)_val/CrossEntropyLoss$")
_KEMPNER_TASK = re.compile(r"^eval/downstream_ce_loss/(.+)_test_ce_loss$")


def kempner(paths: Sequence[Path]) -> Imported:
    """KempnerInstitute/loss-to-loss-notebooks, ``data/sweep.csv`` (no licence stated).

    One row is one trained model. `params` counts both embeddings, D = `tokens`, C = `iso_flop` (6 N
    D where that is missing). The loss on the run's own validation set is also the evaluation
    set ``own``, for lines from training set to training set.
    """
    return _each(paths, _kempner)


def _kempner(frame: pd.DataFrame, where: str) -> Imported:
    require(frame, ("data", "params", "tokens", "val_loss"), where)
    params, tokens = numbers(frame, "params", where), numbers(frame, "tokens", where)
    named = frame["data"].map(str) + "-" + params.map("{:.0f}".format)
    names = frame["id"].where(frame["id"].notna(), named) if "id" in frame else named
    facts = pd.DataFrame(
        {
            "run_id": _unique_ids(names),
            "architecture": "olmo",
            "pretraining_data": frame["data"],
            "tokenizer": "llama2",
            "context_length": 512,
            "optimizer": "adamw",
            "schedule": "cosine",
            "learning_rate": 1e-3,
            "weight_decay": 0.0,
            "params": params,
            "source": "kempner",
            "step": _steps(frame, tokens, 512 * 1024, where),
            "tokens": tokens,
            "flops": _iso_flop(frame, where).fillna(6 * params * tokens),
        }
    )
    measures = [Measure(eval_set=OWN_SET, kind=SetKind.VALIDATION, loss="val_loss")]
    for column in frame.columns:
        if found := _KEMPNER_VALIDATION.match(column):
            measures.append(Measure(eval_set=found[1], kind=SetKind.VALIDATION, loss=column))
        elif found := _KEMPNER_TASK.match(column):
            accuracy = _first(
                frame, [f"eval/downstream/{found[1]}_test_{name}" for name in ("len_norm", "acc")]
            )
            measures.append(
                Measure(eval_set=found[1], kind=SetKind.TASK, loss=column, accuracy=accuracy)
            )
    return long_table(frame, facts, measures, where)


def _iso_flop(frame: pd.DataFrame, where: str) -> pd.Series:
    if "iso_flop" in frame:
        return numbers(frame, "iso_flop", where)
    return pd.Series(np.nan, index=frame.index)


def _steps(frame: pd.DataFrame, tokens: pd.Series, batch_tokens: int, where: str) -> pd.Series:
    counted = (tokens / batch_tokens).round()
    return numbers(frame, "steps", where).fillna(counted) if "steps" in frame else counted


def _first(frame: pd.DataFrame, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in frame.columns), None)


# --- Mayilvahanan et al. (arXiv 2502.12120)
# -------------------------------------------------------------------

_LINE_REQUIRED = ("Name", "Architecture", "Pretraining Data", "Tokenizer", "Size", "Tokens")
_LINE_FACTS = {
    "Context Length": "context_length",
    "Optimizer": "optimizer",
    "Scheduler": "schedule",
    "Learning Rate": "learning_rate",
    "Weight Decay": "weight_decay",
    "FLOPs": "flops",
}


def llm_line(paths: Sequence[Path]) -> Imported:
    """brendel-group/llm-line, ``data/latest_pm_hf.csv`` (MIT), whose second line is a second
    header.

    One row is one checkpoint of a public model. The losses were measured in 50-token windows and
    the published bits
    per byte divide them by one constant per tokenizer and set: they are carried along as published.
      Models without a
    step count have one checkpoint and get step 1. Rows without a token count cannot be placed and
    are left out.
    """
    return together([_llm_line(path) for path in read_all(paths)])


def _llm_line(path: Path) -> Imported:
    frame, where = read_wide(path)
    frame = _single_header(frame, path)
    require(frame, _LINE_REQUIRED, where)
    known = frame["Tokens"].notna() & frame["Name"].notna()
    notes = [
        f"{where}: row {position + 1}: {frame['Name'].iloc[position]} has no Name or no Tokens; "
        f"left out"
        for position in np.flatnonzero(~known)
    ]
    frame = frame[known].reset_index(drop=True)
    facts = pd.DataFrame(
        {
            "run_id": frame["Name"].map(str),
            "architecture": frame["Architecture"],
            "pretraining_data": frame["Pretraining Data"],
            "tokenizer": frame["Tokenizer"],
            "params": numbers(frame, "Size", where),
            "source": "llm-line",
            "tokens": numbers(frame, "Tokens", where),
        }
    )
    for column, fact in _LINE_FACTS.items():
        if column in frame:
            facts[fact] = frame[column]
    steps = (
        numbers(frame, "Steps", where) if "Steps" in frame else pd.Series(np.nan, index=frame.index)
    )
    in_order = facts.groupby("run_id")["tokens"].rank(method="first")
    whole = steps.notna().groupby(facts["run_id"]).transform("all")
    facts["step"] = steps.where(whole, in_order)
    imported = long_table(frame, facts, _line_measures(frame), where)
    return Imported(table=imported.table, notes=(*notes, *imported.notes))


def _single_header(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Undoes a second header line: drops it, takes it, or joins it with the first, whichever names
    most columns."""
    first = ["" if pd.isna(cell) else str(cell) for cell in frame.iloc[0]]
    if pd.to_numeric(pd.Series(first), errors="coerce").notna().any():  # a header holds no numbers
        return frame
    upper = ["" if str(name).startswith("Unnamed") else str(name) for name in frame.columns]
    joined = [f"{a} {b}".strip() for a, b in zip(upper, first, strict=True)]
    names = max((upper, first, joined), key=_known_columns)
    body = frame.iloc[1:].reset_index(drop=True).set_axis(names, axis="columns")
    if body.empty:
        raise UserError(f"{path}: the table has headers but no rows")
    return body.apply(_plain)


def _known_columns(names: Sequence[str]) -> int:
    endings = (" Loss", " BPB", " Accuracy")
    return sum(name in _LINE_REQUIRED or name.endswith(endings) for name in names)


def _plain(column: pd.Series) -> pd.Series:
    """A column that a text header had turned to text, as numbers again where all its cells are."""
    converted = pd.to_numeric(column, errors="coerce")
    return converted if (converted.notna() == column.notna()).all() else column


def _line_measures(frame: pd.DataFrame) -> list[Measure]:
    measures = []
    for column in frame.columns:
        if column.endswith(" Validation Loss"):
            name, kind, accuracy = column.removesuffix(" Validation Loss"), SetKind.VALIDATION, None
        elif column.endswith(" Loss") and column not in ("Train Loss", "Test Loss"):
            name, kind = column.removesuffix(" Loss"), SetKind.TASK
            accuracy = _first(frame, [f"{name} Accuracy"])
        elif (
            column.endswith(" Accuracy") and f"{column.removesuffix(' Accuracy')} Loss" not in frame
        ):
            name, kind = column.removesuffix(" Accuracy"), SetKind.TASK
            measures.append(Measure(eval_set=name, kind=kind, accuracy=column))
            continue
        else:
            continue
        bits = _first(frame, [column.removesuffix("Loss") + "BPB"])
        measures.append(
            Measure(eval_set=name, kind=kind, loss=column, bits_per_byte=bits, accuracy=accuracy)
        )
    return measures


# --- Gadre et al. (arXiv 2403.08540)
# --------------------------------------------------------------------------


_GADRE_CONSTANTS = {
    "architecture": "openlm",
    "tokenizer": "gpt-neox",
    "context_length": 2048,
    "optimizer": "adamw",
}
_GADRE_NEEDS = ("name", "pretraining_data", "params", "tokens")
_GADRE_FACTS = (*_GADRE_NEEDS, "params_non_embedding", "lr", "weight_decay", "batch_sequences")
_GADRE_MEASURE = re.compile(r"(?:.+\.)?(loss|accuracy)[./](.+)")


def gadre(paths: Sequence[Path], mapping: Path | None = None) -> Imported:
    """mlfoundations/scaling (MIT): its models in one table (columns ``loss/<set>`` and
    ``accuracy/<task>``), or ``exp_data/``, a folder of JSON files.

    C = 6 N D as in the paper. JSON with the table's names as its keys (``loss.c4_val``) needs no
    mapping; any other, such as the folder's own, is read by one, and what all models share
    (architecture, tokenizer, context, optimizer) need not be in it. The source's table of tasks
    (columns ``Eval Task``, ``Random baseline`` in percent), given beside the models, says what
    guessing achieves on each.
    """

    def only_tasks(path: Path) -> bool:
        return path.suffix.lower() not in SUFFIXES and _random_baselines(path) is not None

    files, notes = find_files(paths, second=SUFFIXES, no_table=only_tasks)
    chances = {path: _random_baselines(path) or {} for path in files if only_tasks(path)}
    files = [path for path in files if path not in chances]
    if not files:
        first = next(iter(chances))
        raise UserError(f"{first}: only tasks and their random baselines; give the models too")
    chance = {task: value for found in chances.values() for task, value in found.items()}
    if mapping is not None:
        imported = _gadre_by_mapping(files, read_mapping(mapping), chance)
    else:
        json = [path for path in files if path.suffix.lower() in SUFFIXES]
        parts = [
            _distinct(path, functools.partial(_gadre, chance=chance))
            for path in files
            if path not in json
        ]
        parts += [_gadre_json(json, chance)] if json else []
        imported = together(parts)
    return dataclasses.replace(imported, notes=(*notes, *imported.notes))


def _gadre_by_mapping(
    files: Sequence[Path], mapping: ColumnMapping, chance: Mapping[str, float]
) -> Imported:
    shared = {name: v for name, v in _GADRE_CONSTANTS.items() if name not in mapping.columns}
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


def _gadre_json(files: Sequence[Path], chance: Mapping[str, float]) -> Imported:
    """JSON whose keys are the published table's names, at whatever depth, one of each."""
    nested = read_nested(files)
    names: dict[str, list[str]] = {}
    for column in map(str, nested.frame.columns):
        last = column.rpartition(".")[2]
        if found := _GADRE_MEASURE.fullmatch(column):
            names.setdefault(f"{found[1]}/{found[2]}", []).append(column)
        elif last in _GADRE_FACTS:
            names.setdefault(last, []).append(column)
    once = {column: name for name, (column, *more) in names.items() if not more}
    missing = [name for name in _GADRE_NEEDS if name not in once.values()]
    if missing or all(name in _GADRE_FACTS for name in names) or len(once) < len(names):
        twice = next((found for found in names.values() if found[1:]), None)
        lacking = " and ".join(missing) or "loss/<set>"
        what = f"{twice[0]!r} and {twice[1]!r} are both there" if twice else f"no {lacking}"
        near = candidates((*_GADRE_NEEDS, "loss", "acc"), nested.names())
        raise UserError(
            f"{nested.where}: keys other than the published table's ({what}); say in a mapping "
            "file which is which, --mapping=FILE.toml, and with join which files belong together "
            f"(see --help); {near}"
        )
    imported = _gadre(nested.frame.rename(columns=once), nested.where, chance=chance)
    taken = [f"{name} = {column!r}" for column, name in once.items() if name in _GADRE_NEEDS]
    note = f"{nested.where}: read by the published table's names: {', '.join(taken)}"
    return dataclasses.replace(imported, notes=(note, *imported.notes))


def _random_baselines(path: Path) -> dict[str, float] | None:
    """Accuracy of guessing by task; None of a file that is not about tasks."""
    frame, where = read_wide(path)
    if "Eval Task" not in frame:
        return None
    require(frame, ("Random baseline",), where)
    percent = numbers(frame, "Random baseline", where)
    wrong = np.flatnonzero((percent < 0) | (percent >= 100))
    if len(wrong):
        raise UserError(
            f"{where}: column 'Random baseline', {row_number(int(wrong[0]))}: "
            f"{percent.iloc[wrong[0]]:g} is no percentage of guessing"
        )
    known = percent.notna()
    return dict(zip(frame["Eval Task"][known].map(str), percent[known] / 100, strict=True))


def _gadre(frame: pd.DataFrame, where: str, *, chance: Mapping[str, float]) -> Imported:
    require(frame, _GADRE_NEEDS, where)
    params, tokens = numbers(frame, "params", where), numbers(frame, "tokens", where)
    facts = pd.DataFrame(
        {
            "run_id": _unique_ids(frame["name"]),
            "pretraining_data": frame["pretraining_data"],
            **_GADRE_CONSTANTS,
            "params": params,
            "source": "gadre",
            "tokens": tokens,
            "flops": 6 * params * tokens,
            "step": _gadre_steps(frame, tokens, where),
        }
    )
    for column, fact in (
        ("params_non_embedding",) * 2,
        ("lr", "learning_rate"),
        ("weight_decay",) * 2,
    ):
        if column in frame:
            facts[fact] = numbers(frame, column, where)
    measures = [
        Measure(eval_set=column.removeprefix("loss/"), kind=SetKind.VALIDATION, loss=column)
        for column in frame.columns
        if column.startswith("loss/")
    ]
    tasks = [c.removeprefix("accuracy/") for c in frame.columns if c.startswith("accuracy/")]
    measures += [
        Measure(
            eval_set=task,
            kind=SetKind.TASK,
            accuracy=f"accuracy/{task}",
            chance=chance.get(task),
        )
        for task in tasks
    ]
    if not measures:
        require(frame, ("loss/c4_val",), where)
    return long_table(frame, facts, measures, where)


def _gadre_steps(frame: pd.DataFrame, tokens: pd.Series, where: str) -> pd.Series:
    if "batch_sequences" not in frame:
        return pd.Series(1, index=frame.index)
    return (tokens / (numbers(frame, "batch_sequences", where) * 2048)).round()


# --- Hoffmann et al. (arXiv 2203.15556), as read off figure 4 by Besiroglu et al. (2404.10102)
# ------------------


def chinchilla(paths: Sequence[Path]) -> Imported:
    """epoch-research/analyzing-chinchilla (no licence stated): 245 models of figure 4, D = C / 6N.

    Columns ``params, flops, loss``, or ``Model Size, Training FLOP, loss`` as in the authors' file.
    """
    return _each(paths, _chinchilla)


def _chinchilla(frame: pd.DataFrame, where: str) -> Imported:
    params = numbers(frame, find_column(frame, ("params", "Model Size"), where), where)
    flops = numbers(
        frame, find_column(frame, ("flops", "Training FLOP", "Training FLOPs"), where), where
    )
    loss = find_column(frame, ("loss", "Loss"), where)
    facts = pd.DataFrame(
        {
            "run_id": [f"chinchilla-{position + 1:03d}" for position in range(len(frame))],
            "architecture": "chinchilla",
            "pretraining_data": "massivetext",
            "params": params,
            "source": "chinchilla",
            "step": 1,
            "tokens": flops / (6 * params),
            "flops": flops,
        }
    )
    return long_table(
        frame, facts, [Measure(eval_set=OWN_SET, kind=SetKind.VALIDATION, loss=loss)], where
    )


# --- OLMo ladder
# ----------------------------------------------------------------------------------------------

_OLMO_VALIDATION = re.compile(r"^eval/(.+)-validation/CrossEntropyLoss$")
_OLMO_TASK = re.compile(r"^eval/downstream_bpb/(.+)_bpb(?:_bpb)?$")


def olmo_ladder(paths: Sequence[Path]) -> Imported:
    """allenai/OLMo-ladder, ``src/scripts/paper/data/ladder-runs`` (Apache-2.0): one file, or a
    folder of one per run.

    Tasks are published in bits per byte of the gold answer (no nats), with accuracies beside them.
    """
    return _each(paths, _olmo_ladder)


def _olmo_ladder(frame: pd.DataFrame, where: str) -> Imported:
    step = numbers(frame, find_column(frame, ("step", "_step"), where), where)
    tokens = numbers(frame, find_column(frame, ("tokens", "throughput/total_tokens"), where), where)
    runs = (
        frame["run"].map(str) if "run" in frame else pd.Series(Path(where).stem, index=frame.index)
    )
    facts = pd.DataFrame(
        {
            "run_id": runs,
            "architecture": "olmo",
            "source": "olmo_ladder",
            "step": step,
            "tokens": tokens,
        }
    )
    if "params" in frame:
        facts["params"] = numbers(frame, "params", where)
    if "flops_per_token" in frame:
        facts["flops"] = numbers(frame, "flops_per_token", where) * tokens
    elif "throughput/total_training_Gflops" in frame:
        facts["flops"] = 1e9 * numbers(frame, "throughput/total_training_Gflops", where)
    measures = _olmo_measures(frame)
    if not measures:
        require(frame, ("eval/c4_en-validation/CrossEntropyLoss",), where)
    return long_table(frame, facts, measures, where)


def _olmo_measures(frame: pd.DataFrame) -> list[Measure]:
    measures = []
    for column in frame.columns:
        if found := _OLMO_VALIDATION.match(column):
            measures.append(Measure(eval_set=found[1], kind=SetKind.VALIDATION, loss=column))
        elif found := _OLMO_TASK.match(column):
            accuracy = _first(
                frame, [f"eval/downstream/{found[1]}_{name}" for name in ("len_norm", "acc")]
            )
            measures.append(
                Measure(
                    eval_set=found[1], kind=SetKind.TASK, bits_per_byte=column, accuracy=accuracy
                )
            )
    return measures
