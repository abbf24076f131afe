"""Points of a figure: losses on two evaluation sets, joined by checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.reporting.appearance import text
from lossline.tables.schema import Unit

MOST_POINTS = 4000  # of one panel; more draw slowly and cover one another, so that only
SHARE_POINTS = 1500  # are drawn
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
    """Return the rows that were measured and not excluded: the table itself if all were."""
    if "status" not in table:
        return table
    measured = (table["status"] == "ok").to_numpy(bool)
    return table if measured.all() else table[measured]


def eval_sets(table: pd.DataFrame, *, kind: str, unit: Unit = Unit.NATS) -> list[str]:
    """Return the names of the sets of one kind with at least one value in ``unit``, sorted."""
    return Losses(table).eval_sets(kind=kind, unit=unit)


def paired(table: pd.DataFrame, x: str, y: str, *, unit: Unit = Unit.NATS) -> pd.DataFrame:
    """Return ``Losses.paired`` of a table."""
    return Losses(table).paired(x, y, unit=unit)


class Losses:
    """Losses of a table, joined by checkpoint only once, however many panels show them.

    Args:
        table: loss table.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = usable(table)
        self._known = table["eval_set"]
        self._wide: dict[Unit, pd.DataFrame] = {}

    @cached_property
    def known(self) -> list[str]:
        """All sets of the table, those without a measured row too."""
        return sorted(self._known.unique())

    @cached_property
    def kinds(self) -> Mapping[str, frozenset[str]]:
        """Kind -> its sets with measured rows."""
        pairs = self.table[["kind", "eval_set"]].drop_duplicates()
        return {str(k): frozenset(rows["eval_set"]) for k, rows in pairs.groupby("kind")}

    def eval_sets(self, *, kind: str, unit: Unit = Unit.NATS) -> list[str]:
        """Return the names of the sets of one kind with at least one value in ``unit``, sorted."""
        frame = self.joined(unit)
        return sorted(
            name for name in self.kinds.get(kind, ()) if name in frame and frame[name].notna().any()
        )

    def partners(self, x: str, *, unit: Unit = Unit.NATS) -> frozenset[str]:
        """Return the sets, ``x`` included, with a value at some checkpoint where ``x`` has one."""
        frame = self.joined(unit)
        if x not in frame:
            return frozenset()
        there = frame[frame[x].notna()]
        return frozenset(name for name in self.sets(unit) if there[name].notna().any())

    def joined(self, unit: Unit) -> pd.DataFrame:
        """Return one row per checkpoint, sorted by run and step.

        Columns: run_id, step, the facts of the run, and one column per set that has a value in
        ``unit`` (NaN where not measured).
        """
        if unit not in self._wide:
            self._wide[unit] = _joined(self.table, unit)
        return self._wide[unit]

    def sets(self, unit: Unit) -> list[str]:
        """Return the sets with a value in ``unit``, sorted."""
        frame = self.joined(unit)
        return [name for name in self.known if name in frame]

    def wide(self, sets: Iterable[str], *, unit: Unit) -> pd.DataFrame:
        """Return the checkpoints at which any of the sets was measured.

        Columns: those of ``joined``, with these sets only, and ``final``, which is true for the
        last such checkpoint of each run.
        """
        sets = list(sets)
        frame = self.joined(unit)
        facts = [name for name in (*_CHECKPOINT, *_FACTS) if name in frame]
        frame = frame.reindex(columns=[*facts, *sets])
        frame = frame[frame[sets].notna().any(axis=1)].reset_index(drop=True)
        frame["final"] = frame["step"] == frame.groupby("run_id")["step"].transform("max")
        return frame

    def paired(self, x: str, y: str, *, unit: Unit = Unit.NATS) -> pd.DataFrame:
        """Return the checkpoints at which both sets were measured: ``wide`` plus columns x and y.

        Raises:
            UserError: a set is not in the table.
        """
        for name in (x, y):
            if name not in self.known:
                raise UserError(
                    f"no evaluation set {name!r} in the loss table; it has {', '.join(self.known)}"
                )
        frame = self.wide(dict.fromkeys((x, y)), unit=unit)
        frame = frame.assign(x=frame[x].astype(float), y=frame[y].astype(float))
        return frame[frame["x"].notna() & frame["y"].notna()].reset_index(drop=True)

    def crowded(self, x: str, ys: Iterable[str], *, unit: Unit) -> bool:
        """Return whether any panel of ``ys`` against ``x`` leaves out points (``thinned``)."""
        frame = self.joined(unit)
        if x not in frame or len(frame) <= MOST_POINTS:
            return False
        there = frame[x].notna()
        return any(int((there & frame[y].notna()).sum()) > MOST_POINTS for y in ys if y in frame)


def thinned(frame: pd.DataFrame) -> pd.DataFrame:
    """Return an even share of more than ``MOST_POINTS`` points: about ``SHARE_POINTS`` of them.

    Last checkpoints come first, up to half of the share.

    Golden-ratio steps choose the share, so that every run keeps some of its checkpoints and the
    figure is always the same.
    """
    if len(frame) <= MOST_POINTS:
        return frame
    final = frame["final"].to_numpy(bool)
    finals = int(final.sum())
    share_of_finals = min(1.0, 0.5 * SHARE_POINTS / max(finals, 1))
    share = (SHARE_POINTS - share_of_finals * finals) / max(len(frame) - finals, 1)
    spread = (np.arange(len(frame)) * 0.6180339887498949) % 1.0
    return frame[spread < np.where(final, share_of_finals, share)]


def _joined(table: pd.DataFrame, unit: Unit) -> pd.DataFrame:
    if unit.value not in table:
        return pd.DataFrame(columns=[*_CHECKPOINT, *_FACTS])
    loss = table[unit.value].to_numpy(float, na_value=np.nan)
    (kept,) = np.nonzero(~np.isnan(loss))
    run, _ = pd.factorize(table["run_id"].take(kept), sort=True)
    step, steps = pd.factorize(table["step"].take(kept), sort=True)
    column, sets = pd.factorize(table["eval_set"].take(kept), sort=True)
    checkpoints, first, row = np.unique(
        run.astype(np.int64) * max(len(steps), 1) + step, return_index=True, return_inverse=True
    )
    values = np.full((len(checkpoints), len(sets)), np.nan)
    values[row[::-1], column[::-1]] = loss[kept[::-1]]  # the first of repeated rows is the last set
    facts = [fact for fact in _FACTS if fact in table]
    frame = table[[*_CHECKPOINT, *facts]].take(kept[first]).reset_index(drop=True)
    for fact in ("architecture", "pretraining_data", "tokenizer"):
        frame[fact] = frame[fact].astype(object).map(text) if fact in frame else text(None)
    return pd.concat([frame, pd.DataFrame(values, columns=list(sets))], axis=1)
