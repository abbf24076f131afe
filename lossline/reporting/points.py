"""Points of a figure: losses on two evaluation sets, joined by checkpoint."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from lossline.errors import UserError
from lossline.reporting.appearance import text
from lossline.tables.schema import Unit

_CHECKPOINT = ["run_id", "step"]
_FACTS = (
    "architecture",
    "pretraining_data",
    "tokenizer",
    "params",
    "params_non_embedding",
    "tokens",
    "flops",
    "start_run",
)


def usable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that were measured and not excluded."""
    return table[table["status"] == "ok"] if "status" in table else table


def eval_sets(table: pd.DataFrame, *, kind: str, unit: Unit = Unit.NATS) -> list[str]:
    """Return the names of the sets of one kind with at least one value in ``unit``, sorted."""
    rows = usable(table)
    if unit.value not in rows:
        return []
    rows = rows[(rows["kind"] == kind) & rows[unit.value].notna()]
    return sorted(rows["eval_set"].unique())


def partners(table: pd.DataFrame, x: str, *, unit: Unit = Unit.NATS) -> frozenset[str]:
    """Return the sets, ``x`` included, that have a value at some checkpoint where ``x`` has one."""
    rows = usable(table)
    if unit.value not in rows:
        return frozenset()
    rows = rows[rows[unit.value].notna()]
    checkpoints = rows.loc[rows["eval_set"] == x, _CHECKPOINT].drop_duplicates()
    return frozenset(rows.merge(checkpoints, on=_CHECKPOINT)["eval_set"])


def wide(table: pd.DataFrame, sets: Iterable[str], *, unit: Unit) -> pd.DataFrame:
    """Return a table with one row per checkpoint, sorted by run and step.

    Columns: run_id, step, the facts of the run, one column per set (NaN where not measured), and
    ``final``, which is true for the last checkpoint of each run.
    """
    sets = list(sets)
    rows = usable(table)
    rows = rows[rows["eval_set"].isin(sets)]
    if rows.empty or unit.value not in rows:
        return pd.DataFrame(columns=[*_CHECKPOINT, *_FACTS, *sets, "final"])
    values = rows.pivot_table(
        index=_CHECKPOINT, columns="eval_set", values=unit.value, aggfunc="first", observed=True
    ).reindex(columns=sets)
    facts = [fact for fact in _FACTS if fact in rows]
    checkpoints = rows.drop_duplicates(_CHECKPOINT).set_index(_CHECKPOINT)[facts]
    frame = checkpoints.join(values.astype(float), how="inner").sort_index().reset_index()
    frame["final"] = frame["step"] == frame.groupby("run_id")["step"].transform("max")
    for fact in ("architecture", "pretraining_data", "tokenizer"):
        frame[fact] = frame[fact].astype(object).map(text) if fact in frame else text(None)
    return frame


def paired(table: pd.DataFrame, x: str, y: str, *, unit: Unit = Unit.NATS) -> pd.DataFrame:
    """Return the checkpoints at which both sets were measured: ``wide`` plus columns x and y.

    Raises:
        UserError: a set is not in the table.
    """
    known = set(table["eval_set"].unique())
    for name in (x, y):
        if name not in known:
            raise UserError(
                f"no evaluation set {name!r} in the loss table; it has {', '.join(sorted(known))}"
            )
    frame = wide(table, dict.fromkeys((x, y)), unit=unit)
    frame = frame.assign(x=frame[x].astype(float), y=frame[y].astype(float))
    return frame[frame["x"].notna() & frame["y"].notna()].reset_index(drop=True)
