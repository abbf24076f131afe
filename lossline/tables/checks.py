"""Requirements of a loss table, and how violations are reported: one line per problem.

``find_problems`` lists everything wrong; ``validate`` raises the first problem;
``exclude_bad_rows`` keeps bad rows in the table but takes them out of every fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from lossline.tables.defects import (
    Defect,
    at,
    below_zero_or_infinite,
    changing,
    check_names,
    empty_cells,
    refuse,
    unknown_words,
    zeros,
)
from lossline.tables.frames import complete, row_number
from lossline.tables.schema import (
    COLUMN_NAMES,
    COLUMNS,
    EXTRA_PREFIX,
    KEY,
    Kind,
    SetKind,
    Status,
    column_of,
    is_known,
    of_checkpoint,
    of_run,
)
from lossline.tables.units import in_bits

# Sums are float64 sums of float32 losses; a stored mean may be rounded to 6 digits.
_RELATIVE_TOLERANCE = 1e-4
# Largest relative distance from ln 2 at which a ratio counts as mixed nats and bits.
_BITS_TOLERANCE = 0.02
_APART = "give different runs different run_ids"


def check_columns(frame: pd.DataFrame, *, where: str = "the table") -> None:
    """Check the names of the columns.

    Raises:
        UserError: a column of the schema is missing that every version of lossline wrote, or a
            column is unknown or exists twice.
    """
    check_names(
        frame,
        required=[column.name for column in COLUMNS if not column.added],
        known=COLUMN_NAMES,
        is_known=is_known,
        table="a loss table",
        advice="a table with other columns becomes a loss table with "
        "`python -m lossline.import_sweep csv`",
        where=where,
    )


def validate(frame: pd.DataFrame, *, where: str = "the table") -> None:
    """Check that a table is a valid loss table.

    Checked are: the columns; cells that must not be empty; known kinds and statuses; finite,
    non-negative numbers; facts that are constant within a run; one row per checkpoint × evaluation
    set; means that agree with their sums; nats not mixed with bits. In rows with status
    ``excluded`` only the cells that must not be empty are checked.

    Raises:
        UserError: a check fails; names the column and the row.
    """
    check_columns(frame, where=where)
    refuse(find_problems(complete(frame)), where)


def find_problems(frame: pd.DataFrame) -> Iterator[Defect]:
    """Yield everything wrong in a table with valid columns, the most serious kind first."""
    frame = frame.reset_index(drop=True)
    yield from empty_cells(frame, COLUMNS)
    yield from unknown_words(frame, {"kind": SetKind, "status": Status})
    used = (frame["status"] != str(Status.EXCLUDED)).to_numpy()
    yield from _bad_numbers(frame, used)
    yield from _bad_units(frame, used)
    yield from _missing_measurements(frame, used)
    yield from _duplicates(frame, used)
    yield from _changing_facts(frame, used)
    yield from _checkpoint_mismatch(frame, used)


def exclude_bad_rows(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[Defect]]:
    """Return the table with bad rows marked ``excluded``, and the problems.

    The message of a marked row is its problem. A row is dropped instead if its run, step or set is
    unknown, or its kind or status is not a known word.
    """
    problems = list(find_problems(frame))
    frame = frame.reset_index(drop=True)
    drop = {problem.position for problem in problems if problem.unplaceable}
    for problem in reversed(
        problems
    ):  # the most serious problem of a row is written last and stays
        frame.loc[problem.position, "status"] = str(Status.EXCLUDED)
        frame.loc[problem.position, "message"] = f"{problem.column}: {problem.what}"
    kept = frame.drop(index=sorted(drop)).reset_index(drop=True)
    return kept, problems


def summarize(problems: Iterable[Defect], where: str, most: int = 5) -> list[str]:
    """Return one line per kind of problem: its first row in full, then the other rows."""
    kinds: dict[tuple[str, str], list[Defect]] = {}
    for problem in problems:
        kinds.setdefault((problem.column, problem.fix), []).append(problem)
    lines = []
    for found in kinds.values():
        rows = sorted({problem.position for problem in found} - {found[0].position})
        listed = ", ".join(str(row + 1) for row in rows[:most]) + (", …" if rows[most:] else "")
        more = f" [so {len(rows)} more: row {listed}]" if rows else ""
        lines.append(found[0].line(where) + more)
    return lines


_POSITIVE = (
    "context_length",
    "params",
    "params_non_embedding",
    "target_tokens",
    "target_bytes",
    "questions",
)
_NUMBERS = tuple(c.name for c in COLUMNS if c.kind is not Kind.TEXT and c.name != "seed")


def _open_numbers(frame: pd.DataFrame) -> list[str]:
    """Return the open columns of numbers: shares and tokens of a mixture's components."""
    columns = [column_of(str(name)) for name in frame.columns if name not in COLUMN_NAMES]
    return [column.name for column in columns if column and column.kind is Kind.NUMBER]


def _bad_numbers(frame: pd.DataFrame, used: np.ndarray) -> Iterator[Defect]:
    for name in (*_NUMBERS, *_open_numbers(frame)):
        yield from below_zero_or_infinite(frame, name, used)
    for name in _POSITIVE:
        yield from zeros(frame, name, used)
    yield from _percentages(frame, used)


def _percentages(frame: pd.DataFrame, used: np.ndarray) -> Iterator[Defect]:
    """Yield accuracies above 1, and the others of a set in which most are above 1."""
    accuracy = frame["accuracy"].to_numpy(dtype="float64")
    above = used & (accuracy > 1)
    if not above.any():
        return
    known = pd.Series(above)[used & np.isfinite(accuracy)]
    names = [frame[name].fillna("").loc[known.index] for name in ("source", "eval_set")]
    share = known.groupby(names, sort=False).transform("mean")
    percent = np.zeros(len(frame), bool)
    percent[share.index[share >= 0.5]] = True
    for position in at(above | percent):
        reason = "is above 1" if above[position] else "is in percent, like others of its set"
        yield Defect(
            column="accuracy",
            position=position,
            what=f"{accuracy[position]:g} {reason}",
            fix="write a fraction, or convert percent with percent = true in a mapping",
        )


def _bad_units(frame: pd.DataFrame, used: np.ndarray) -> Iterator[Defect]:
    yield from _means_against_sums(frame, used)
    yield from _bytes_per_token(frame, used)
    yield from _bits_among_nats(frame, used)


def _means_against_sums(frame: pd.DataFrame, used: np.ndarray) -> Iterator[Defect]:
    number = {name: frame[name].to_numpy(dtype="float64", na_value=np.nan) for name in _NUMBERS}
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = {
            "loss": number["nats"] / number["target_tokens"],
            "bits_per_byte": number["nats"] / number["target_bytes"] / math.log(2.0),
            "accuracy": number["correct"] / number["questions"],
        }
    for name, right in expected.items():
        given = number[name]
        comparable = used & np.isfinite(right) & np.isfinite(given)
        off = comparable & (
            np.abs(given - right) > _RELATIVE_TOLERANCE * np.maximum(np.abs(right), 1e-12)
        )
        for position in at(off):
            yield Defect(
                column=name,
                position=position,
                what=f"{given[position]:.6g} does not agree with its sums, "
                f"which give {right[position]:.6g}"
                + _unit_guess(given[position], right[position], name),
                fix="leave the cell empty to compute it from the sums",
            )


def _unit_guess(given: float, right: float, name: str) -> str:
    if right <= 0 or name == "accuracy":
        return ""
    ratio = given / right
    if name == "loss" and abs(ratio * math.log(2.0) - 1) < _BITS_TOLERANCE:
        return " (bits instead of nats)"
    if name == "bits_per_byte" and abs(ratio / math.log(2.0) - 1) < _BITS_TOLERANCE:
        return " (nats instead of bits)"
    return ""


def _bytes_per_token(frame: pd.DataFrame, used: np.ndarray) -> Iterator[Defect]:
    """Yield rows in which loss and bits per byte mix nats with bits.

    Both together give the bytes per token, which belong to a text and a tokenizer (if that is not
    recorded, to the run). A row that differs by ln 2 from most rows of its set and tokenizer mixes
    the units. If equally many rows have either value, all of them are reported.
    """
    loss = frame["loss"].to_numpy(dtype="float64")
    bits = frame["bits_per_byte"].to_numpy(dtype="float64")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = loss / (bits * math.log(2.0))
    usable = pd.Series(np.where(used & np.isfinite(ratio) & (ratio > 0), ratio, np.nan)).dropna()
    tokenizer = frame["tokenizer"].fillna("of the run " + frame["run_id"].fillna(""))
    keys = [
        names.fillna("").loc[usable.index]
        for names in (frame["source"], tokenizer, frame["eval_set"])
    ]
    for _, values in usable.groupby(keys, sort=False):
        usual, support = _usual(values.to_numpy())
        off = np.abs(np.log(values / usual))
        mixed = np.abs(off - math.log(1 / math.log(2.0))) < _BITS_TOLERANCE
        if not mixed.any():
            continue
        split = mixed.sum() >= support
        for position in values.index[mixed | (off < _BITS_TOLERANCE) if split else mixed]:
            others = "as many rows" if split else "other rows"
            others = f"{others} of this set and tokenizer have"
            other = values[mixed].median() if split and not mixed[position] else usual
            yield Defect(
                column="loss",
                position=int(position),
                what=f"loss and bits per byte imply {values[position]:.3g} bytes per token where "
                f"{others} {other:.3g}: nats are mixed with bits",
                fix="write loss in nats per token, bits_per_byte in bits",
            )


def _usual(values: np.ndarray) -> tuple[float, int]:
    """Return the value that most others agree with, and how many do."""
    logs = np.sort(np.log(values))
    support = np.searchsorted(logs, logs + _BITS_TOLERANCE, "right")
    support -= np.searchsorted(logs, logs - _BITS_TOLERANCE, "left")
    return float(np.exp(logs[support.argmax()])), int(support.max())


def _bits_among_nats(frame: pd.DataFrame, used: np.ndarray) -> Iterator[Defect]:
    """Yield losses without sums or bits per byte that are in bits where similar runs have nats."""
    number = {name: frame[name].to_numpy(dtype="float64", na_value=np.nan) for name in _NUMBERS}
    alone = used & np.isnan(number["nats"]) & np.isnan(number["bits_per_byte"])
    for name in ("loss", "params", "tokens"):
        alone &= np.isfinite(number[name]) & (number[name] > 0)
    names = ("source", "architecture", "pretraining_data", "tokenizer", "eval_set")
    keys = [frame[name].fillna("")[alone] for name in names]
    facts = [name for name in of_run(frame.columns) if name not in (*names, *_SIZES)]
    facts += [n for n in frame.columns if n.startswith(EXTRA_PREFIX) and n not in _PLACES]
    runs, described = frame["run_id"].fillna("").to_numpy(), frame[facts]
    for _, positions in pd.Series(np.flatnonzero(alone), keys[0].index).groupby(keys, sort=False):
        place = positions.to_numpy()
        loss, params, tokens = (number[name][place] for name in ("loss", "params", "tokens"))
        for position in place[in_bits(loss, params, tokens, runs[place], described.iloc[place])]:
            yield Defect(
                column="loss",
                position=int(position),
                what=f"{number['loss'][position]:.6g} is 1/ln 2 times the value that other rows "
                "of this set predict: nats are mixed with bits",
                fix="write loss in nats per token, bits times ln 2; if these runs differ in kind, "
                "add the column that shows it (such as optimizer)",
            )


# Columns that differ between runs of one kind, and columns that importers add.
_SIZES = ("run_id", "params", "params_non_embedding", "seed")
_PLACES = ("x_source_row", "x_source_column")


def _missing_measurements(frame: pd.DataFrame, used: np.ndarray) -> Iterator[Defect]:
    ok = used & (frame["status"] == str(Status.OK)).to_numpy()
    loss_like = frame["loss"].notna() | frame["bits_per_byte"].notna()
    task = (frame["kind"] == str(SetKind.TASK)).to_numpy()
    nothing = ok & ~loss_like.to_numpy() & ~(task & frame["accuracy"].notna().to_numpy())
    for position in at(nothing):
        yield Defect(
            column="loss",
            position=position,
            what="the value is missing (NaN) although the status is ok",
            fix="add the loss or the sums, or set status to 'failed' with a message",
        )
    failed = used & (frame["status"] == str(Status.FAILED)).to_numpy()
    for name in ("loss", "bits_per_byte", "accuracy"):
        for position in at(failed & frame[name].notna().to_numpy()):
            yield Defect(
                column=name,
                position=position,
                what="a row with status failed has a value",
                fix="empty the cell, or set status to 'ok'",
            )


def _duplicates(frame: pd.DataFrame, used: np.ndarray) -> Iterator[Defect]:
    rows = frame.loc[used, list(KEY)].dropna()
    again = rows.duplicated(keep="first")
    if not again.any():
        return
    first_seen = {
        tuple(row): position
        for position, row in reversed(list(zip(rows.index, rows.to_numpy(), strict=True)))
    }
    loss = frame["loss"]
    for position in rows.index[again]:
        run_id, step, eval_set = rows.loc[position]
        before = first_seen[(run_id, step, eval_set)]
        differs = abs(loss[position] - loss[before]) > _RELATIVE_TOLERANCE * abs(loss[before])
        values = f" (loss {loss[before]:.6g} there, {loss[position]:.6g} here)" if differs else ""
        yield Defect(
            column="eval_set",
            position=int(position),
            what=f"run {run_id!r} at step {step} on {eval_set!r} is already in "
            + row_number(int(before))
            + values,
            fix="keep one row per checkpoint and evaluation set",
        )


def _changing_facts(frame: pd.DataFrame, used: np.ndarray) -> Iterator[Defect]:
    facts = [name for name in of_run(map(str, frame.columns)) if name != "run_id"]
    yield from changing(frame.loc[used], ["run_id"], facts, "run", apart=_APART)


def _checkpoint_mismatch(frame: pd.DataFrame, used: np.ndarray) -> Iterator[Defect]:
    facts = [name for name in of_checkpoint(map(str, frame.columns)) if name != "step"]
    yield from changing(frame.loc[used], ["run_id", "step"], facts, "checkpoint", apart=_APART)
