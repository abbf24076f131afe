"""Importers of published sweeps, each from the source's own file.

The importer of Gadre et al. is in ``gadre.py``, that of the OLMo ladder in ``olmo_ladder.py``. The
docstrings name source and license; none of the data is part of this project. Files may have
additional rows and columns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.tables.cells import as_numbers, as_text
from lossline.tables.reading import one_column_each
from lossline.tables.schema import OWN_SET, SetKind
from lossline.tables.sweeps.sheets import Sheet, in_one_table, own_runs, read_sheets, with_steps
from lossline.tables.sweeps.wide import (
    Imported,
    MeasuredColumn,
    fact,
    find_column,
    first_of,
    numbers,
    read_wide,
    readable,
    require,
    row_name,
    says_nothing,
)

# --- Brandfonbrener et al. (arXiv 2411.12925) --------------------------------------------------

_KEMPNER_VALIDATION = re.compile(r"^eval/(.+)_val/CrossEntropyLoss$")
_KEMPNER_TASK = re.compile(r"^eval/downstream_ce_loss/(.+)_test_ce_loss$")


def kempner(paths: Sequence[Path]) -> Imported:
    """Import KempnerInstitute/loss-to-loss-notebooks, ``data/sweep.csv`` (no license stated).

    One row is one trained model. ``params`` counts both embeddings, D = ``tokens``, C =
    ``iso_flop`` (6 N D if missing). The loss on the run's own validation set is the evaluation set
    ``own``, for train-to-train lines.

    Raises:
        UserError: columns are missing.
    """
    return in_one_table(own_runs(read_sheets(paths, _kempner)))


def _kempner(frame: pd.DataFrame, where: str) -> Sheet:
    require(frame, ("data", "params", "tokens", "val_loss"), where)
    given = {name: fact(frame, name, where) for name in ("params", "tokens")}
    params, tokens = readable(given["params"]), readable(given["tokens"])
    named = as_text(frame["data"]) + "-" + params.map("{:.0f}".format)
    names = frame["id"].where(frame["id"].notna(), named) if "id" in frame else named
    facts = pd.DataFrame(
        {
            "run_id": names,
            "architecture": "olmo",
            "pretraining_data": frame["data"],
            "tokenizer": "llama2",
            "context_length": 512,
            "optimizer": "adamw",
            "schedule": "cosine",
            "learning_rate": 1e-3,
            "weight_decay": 0.0,
            **given,
            "source": "kempner",
            "step": _steps(frame, tokens, 512 * 1024, where),
            "flops": _iso_flop(frame, where).fillna(6 * params * tokens),
        }
    )
    measures = [MeasuredColumn(eval_set=OWN_SET, kind=SetKind.VALIDATION, loss="val_loss")]
    for column in frame.columns:
        if found := _KEMPNER_VALIDATION.match(column):
            measures.append(MeasuredColumn(eval_set=found[1], kind=SetKind.VALIDATION, loss=column))
        elif found := _KEMPNER_TASK.match(column):
            accuracy = first_of(
                frame, [f"eval/downstream/{found[1]}_test_{name}" for name in ("len_norm", "acc")]
            )
            measures.append(
                MeasuredColumn(eval_set=found[1], kind=SetKind.TASK, loss=column, accuracy=accuracy)
            )
    return Sheet(frame=frame, facts=facts, measures=measures, where=where)


def _iso_flop(frame: pd.DataFrame, where: str) -> pd.Series:
    if "iso_flop" in frame:
        return numbers(frame, "iso_flop", where)
    return pd.Series(np.nan, index=frame.index)


def _steps(frame: pd.DataFrame, tokens: pd.Series, batch_tokens: int, where: str) -> pd.Series:
    counted = (tokens / batch_tokens).round()
    return numbers(frame, "steps", where).fillna(counted) if "steps" in frame else counted


# --- Mayilvahanan et al. (arXiv 2502.12120) ----------------------------------------------------

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
    """Import brendel-group/llm-line, ``data/latest_pm_hf.csv`` (MIT), which has two header lines.

    One row is one checkpoint of a public model. Losses were measured in 50-token windows. The
    published bits per byte divide them by one constant per tokenizer and set; they are kept as
    published. Models without a step count have one checkpoint, with step 1. Rows without a token
    count are left out, because their compute is unknown.

    Raises:
        UserError: columns are missing.
    """
    return in_one_table(with_steps(read_sheets(paths, _llm_line, _read_llm_line)))


def _read_llm_line(path: Path) -> pd.DataFrame:
    frame = _single_header(read_wide(path, repeated_names=True), path)
    return one_column_each(frame, str(path))


def _llm_line(frame: pd.DataFrame, where: str) -> Sheet:
    require(frame, _LINE_REQUIRED, where)
    known = ~says_nothing(frame["Tokens"]) & frame["Name"].notna()
    notes = [
        f"{where}: {row_name(label)}: {frame['Name'][label]} has no Name or no Tokens; left out"
        for label in frame.index[~known]
    ]
    frame = frame[known]
    facts = pd.DataFrame(
        {
            "run_id": as_text(frame["Name"]),
            "architecture": frame["Architecture"],
            "pretraining_data": frame["Pretraining Data"],
            "tokenizer": frame["Tokenizer"],
            "params": fact(frame, "Size", where),
            "source": "llm-line",
            "tokens": fact(frame, "Tokens", where),
        }
    )
    for column, name in _LINE_FACTS.items():
        if column in frame:
            facts[name] = frame[column]
    if "Steps" in frame:
        facts["step"] = numbers(frame, "Steps", where)
    measures = _line_measures(frame)
    return Sheet(frame=frame, facts=facts, measures=measures, where=where, notes=tuple(notes))


def _single_header(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return a table with one header line.

    A second header is dropped, used, or joined with the first, whichever names most known columns.
    """
    first = ["" if pd.isna(cell) else str(cell) for cell in frame.iloc[0]]
    if as_numbers(frame.iloc[0]).notna().any():  # not a second header: headers hold no numbers
        return frame
    upper = ["" if str(name).startswith("Unnamed") else str(name) for name in frame.columns]
    joined = [f"{a} {b}".strip() for a, b in zip(upper, first, strict=True)]
    names = max((upper, first, joined), key=_known_columns)
    body = frame.iloc[1:].reset_index(drop=True).set_axis(names, axis="columns")
    if body.empty:
        raise UserError(f"{path}: the table has headers but no rows")
    return body


def _known_columns(names: Sequence[str]) -> int:
    endings = (" Loss", " BPB", " Accuracy")
    return sum(name in _LINE_REQUIRED or name.endswith(endings) for name in names)


def _line_measures(frame: pd.DataFrame) -> list[MeasuredColumn]:
    measures = []
    for column in frame.columns:
        if column.endswith(" Validation Loss"):
            name, kind, accuracy = column.removesuffix(" Validation Loss"), SetKind.VALIDATION, None
        elif column.endswith(" Loss") and column not in ("Train Loss", "Test Loss"):
            name, kind = column.removesuffix(" Loss"), SetKind.TASK
            accuracy = first_of(frame, [f"{name} Accuracy"])
        elif (
            column.endswith(" Accuracy") and f"{column.removesuffix(' Accuracy')} Loss" not in frame
        ):
            name, kind = column.removesuffix(" Accuracy"), SetKind.TASK
            measures.append(MeasuredColumn(eval_set=name, kind=kind, accuracy=column))
            continue
        else:
            continue
        bits = first_of(frame, [column.removesuffix("Loss") + "BPB"])
        measures.append(
            MeasuredColumn(
                eval_set=name, kind=kind, loss=column, bits_per_byte=bits, accuracy=accuracy
            )
        )
    return measures


# --- Hoffmann et al. (arXiv 2203.15556) --------------------------------------------------------


def chinchilla(paths: Sequence[Path]) -> Imported:
    """Import epoch-research/analyzing-chinchilla (no license stated): 245 models, D = C / 6N.

    Besiroglu et al. (arXiv 2404.10102) read the points off figure 4 of Hoffmann et al. (arXiv
    2203.15556). Columns are ``params, flops, loss``, or ``Model Size, Training FLOP, loss`` as in
    the authors' file. Points have no names: they are numbered across all files, and a point in two
    files counts once.

    Raises:
        UserError: columns are missing.
    """
    numbers: dict[tuple[object, ...], int] = {}
    named = []
    for sheet in read_sheets(paths, _chinchilla):
        points = sheet.facts[["params", "flops"]].assign(loss=sheet.frame[sheet.measures[0].loss])
        ids = [
            f"chinchilla-{numbers.setdefault(point, len(numbers) + 1):03d}"
            for point in points.astype(str).itertuples(index=False, name=None)
        ]
        named.append(replace(sheet, facts=sheet.facts.assign(run_id=ids)))
    return in_one_table(named)


def _chinchilla(frame: pd.DataFrame, where: str) -> Sheet:
    params = fact(frame, find_column(frame, ("params", "Model Size"), where), where)
    flops = fact(
        frame, find_column(frame, ("flops", "Training FLOP", "Training FLOPs"), where), where
    )
    loss = find_column(frame, ("loss", "Loss"), where)
    facts = pd.DataFrame(
        {
            "params": params,
            "architecture": "chinchilla",
            "pretraining_data": "massivetext",
            "source": "chinchilla",
            "step": 1,
            "tokens": readable(flops) / (6 * readable(params)),
            "flops": flops,
        }
    )
    measures = [MeasuredColumn(eval_set=OWN_SET, kind=SetKind.VALIDATION, loss=loss)]
    return Sheet(frame=frame, facts=facts, measures=measures, where=where)
