"""Importer of the OLMo ladder: logs of small models, one table or one file per run."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lossline.errors import UserError
from lossline.tables.frames import nearest_names
from lossline.tables.schema import SetKind
from lossline.tables.sweeps.batch_tokens import BATCH, with_tokens
from lossline.tables.sweeps.file_names import without_suffix
from lossline.tables.sweeps.mapped import ColumnMapping, mapped_facts
from lossline.tables.sweeps.sheets import Sheet, in_one_table, read_sheets
from lossline.tables.sweeps.wide import (
    Imported,
    MeasuredColumn,
    fact,
    find_column,
    first_of,
    numbers,
    readable,
    require,
)

_VALIDATION = re.compile(r"^eval/(.+)-validation/CrossEntropyLoss$")
_TASK = re.compile(r"^eval/downstream_bpb/(.+)_bpb(?:_bpb)?$")


def olmo_ladder(paths: Sequence[Path], mapping: ColumnMapping | None = None) -> Imported:
    """Import allenai/OLMo-ladder, ``src/scripts/paper/data/ladder-runs`` (Apache-2.0).

    Tasks are published in bits per byte of the gold answer (no nats), with accuracies. A log
    without a column ``run`` is one run with the file's name; if two folders have a file of one
    name, the folder comes before it. Tokens are ``tokens``, or step × ``batch_size_in_tokens``. A
    mapping gives the columns of these and other facts if they have other names.

    Raises:
        UserError: a column is missing, or the mapping has sections [sets].
    """
    if mapping is not None and mapping.sets:
        raise UserError(
            f"{mapping.path}: olmo_ladder finds the evaluation sets by the names of their columns; "
            "remove [sets], or use the source 'csv'"
        )
    return in_one_table(read_sheets(paths, functools.partial(_log, mapping=mapping)))


def _log(frame: pd.DataFrame, where: str, *, mapping: ColumnMapping | None) -> Sheet:
    """Return a log as a sheet."""
    measures = _measures(frame)
    if not measures:
        require(frame, ("eval/c4_en-validation/CrossEntropyLoss",), where)
    columns = [str(name) for name in frame.columns]
    stated = mapped_facts(frame, where, mapping, columns) if mapping else pd.DataFrame()
    facts = _facts(frame, where, stated)
    facts, notes = with_tokens(facts, where)
    if "tokens" not in facts:
        raise UserError(
            f"{where}: neither 'tokens' nor {BATCH!r} is a column; map one of them in a mapping "
            f"file, --mapping=FILE.toml (see --help); found: {nearest_names('tokens', columns)}"
        )
    if "flops_per_token" in frame and "flops" not in facts:
        per_token = numbers(frame, "flops_per_token", where)
        facts["flops"] = per_token * readable(facts["tokens"])
    if "/" in where and "run" not in frame and "run_id" not in stated:
        run = without_suffix(where)
        notes.append(f"{where}: another folder has a file of this name; its run is {run!r}")
    return Sheet(frame=frame, facts=facts, measures=measures, where=where, notes=tuple(notes))


def _facts(frame: pd.DataFrame, where: str, stated: pd.DataFrame) -> pd.DataFrame:
    """Return the facts of a log's rows; a mapping overrides the columns."""
    facts = pd.DataFrame({"architecture": "olmo", "source": "olmo_ladder"}, index=frame.index)
    facts["run_id"] = frame["run"] if "run" in frame else without_suffix(where)
    if "step" not in stated:
        facts["step"] = fact(frame, find_column(frame, ("step", "_step"), where), where)
    for name, names in (
        ("tokens", ("tokens", "throughput/total_tokens")),
        (BATCH, (BATCH,)),
        ("params", ("params",)),
        ("learning_rate", ("learning_rate_peak",)),
    ):
        column = first_of(frame, names)
        if column is not None and name not in stated:
            facts[name] = fact(frame, column, where)
    if "flops_per_token" not in frame and "throughput/total_training_Gflops" in frame:
        facts["flops"] = 1e9 * numbers(frame, "throughput/total_training_Gflops", where)
    return facts.assign(**{str(name): stated[name] for name in stated.columns})


def _measures(frame: pd.DataFrame) -> list[MeasuredColumn]:
    """Return the measured columns, found by their names."""
    measures = []
    for column in frame.columns:
        if found := _VALIDATION.match(column):
            measures.append(MeasuredColumn(eval_set=found[1], kind=SetKind.VALIDATION, loss=column))
        elif found := _TASK.match(column):
            accuracy = first_of(
                frame, [f"eval/downstream/{found[1]}_{name}" for name in ("len_norm", "acc")]
            )
            measures.append(
                MeasuredColumn(
                    eval_set=found[1], kind=SetKind.TASK, bits_per_byte=column, accuracy=accuracy
                )
            )
    return measures
