"""Measurements of one task on the checkpoints of one group of runs, out of a loss table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.prediction.options import PredictOptions
from lossline.run_order import run_numbers
from lossline.tables.chance import chance_level
from lossline.tables.frames import nearest_names
from lossline.tables.schema import OWN_SET, SetKind, Unit

Array = np.ndarray

_CHECKPOINT = ["run_id", "step"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observations:
    """M checkpoints of R runs, measured on one task. Points of a run stand together, in order.

    Attributes:
        task: evaluation set.
        metric: "accuracy", "loss" or "bits_per_byte".
        chance: accuracy of guessing; NaN if unknown, 0 for a loss.
        names: names of the R runs.
        families: family of each run (R,); empty texts without families.
        run: number of each checkpoint's run (M,).
        params: N (M,).
        tokens: D (M,).
        flops: C (M,).
        value: the measurement (M,): a share in [0, 1], or a loss.
        loss: mean validation loss (M,); NaN where missing.
        domains: loss by validation set, each (M,).
        own: loss on the run's own validation set (M,), or ``loss`` where there is none.
        gold: loss of the gold answers (M,), bits per byte if the table has them; NaN where missing.
        final: whether it is the run's last checkpoint (M,).
        items: questions of the task; NaN if unknown.
    """

    task: str
    metric: str
    chance: float
    names: tuple[str, ...]
    families: tuple[str, ...]
    run: Array
    params: Array
    tokens: Array
    flops: Array
    value: Array
    loss: Array
    domains: Mapping[str, Array]
    own: Array
    gold: Array
    final: Array
    items: float = float("nan")

    def __len__(self) -> int:
        return len(self.value)

    @property
    def inputs(self) -> dict[str, Array]:
        """Columns by the names that forms use, each (M,)."""
        return {"params": self.params, "tokens": self.tokens, "flops": self.flops}

    def __getitem__(self, keep: Array) -> Observations:
        """Return the points where a mask (M,) is True; runs keep their numbers."""
        columns = ("run", "params", "tokens", "flops", "value", "loss", "own", "gold", "final")
        return dataclasses.replace(
            self,
            **{name: getattr(self, name)[keep] for name in columns},
            domains={name: column[keep] for name, column in self.domains.items()},
        )

    def of_runs(self, keep: Sequence[bool] | Array) -> Observations:
        """Return the points of the runs where a mask (R,) is True, with the runs renumbered."""
        keep = np.asarray(keep, bool)
        number = np.cumsum(keep) - 1
        part = self[keep[self.run]]
        return dataclasses.replace(
            part,
            run=number[part.run],
            names=tuple(n for n, k in zip(self.names, keep, strict=True) if k),
            families=tuple(f for f, k in zip(self.families, keep, strict=True) if k),
        )

    @property
    def run_flops(self) -> Array:
        """C of each run's last checkpoint (R,)."""
        largest = np.zeros(len(self.names))
        np.maximum.at(largest, self.run, self.flops)
        return largest

    @property
    def emerged(self) -> Array:
        """Whether each run's last score lies 2 standard errors above chance (M,)."""
        if self.metric != "accuracy" or not np.isfinite(self.chance):
            return np.ones(len(self), bool)
        items = self.items if np.isfinite(self.items) else 1000.0
        error = np.sqrt(max(self.chance * (1 - self.chance), 0.01) / items)
        return self.value > self.chance + 2 * error


def observe(table: pd.DataFrame, options: PredictOptions) -> dict[str, Observations]:
    """Return the observations of every task of one group of runs.

    Args:
        table: rows of a loss table with status ok, without the runs to exclude.
        options: tasks, metric, validation sets, chance and family.

    Raises:
        UserError: no task, an unknown task or set, no compute, or an accuracy in percent.
    """
    tasks = task_names(table, options)
    scale = _scale(table, options)
    scale = scale.merge(_validation(table, options), on=_CHECKPOINT, how="left")
    return {task: _one(table, task, scale, options) for task in tasks}


def task_names(table: pd.DataFrame, options: PredictOptions) -> list[str]:
    """Return the tasks to predict.

    Raises:
        UserError: the table has none, or not the ones asked for.
    """
    rows = table[table[options.metric].notna()]
    known = sorted(rows["eval_set"][rows["kind"] == str(SetKind.TASK)].unique())
    if missing := sorted(set(options.tasks) - set(rows["eval_set"].unique())):
        raise UserError(
            f"predict.tasks: no {options.metric} on {', '.join(missing)} in the table. Near names: "
            f"{nearest_names(missing[0], known) or 'none'}."
        )
    if not (options.tasks or known):
        raise UserError(
            f"the table has no task with {options.metric}: there is nothing to predict. Evaluate "
            'benchmarks, or bind predict.metric = "bits_per_byte" to predict the loss of gold '
            "answers."
        )
    return list(options.tasks) or known


def _numbers(frame: pd.DataFrame, name: str) -> pd.Series:
    if name not in frame:
        return pd.Series(np.nan, index=frame.index)
    return pd.to_numeric(frame[name], errors="coerce").astype(float)


def _scale(table: pd.DataFrame, options: PredictOptions) -> pd.DataFrame:
    """Return one row per checkpoint: N, D, C and family."""
    frame = table.drop_duplicates(_CHECKPOINT)[_CHECKPOINT].reset_index(drop=True)
    first = table.drop_duplicates(_CHECKPOINT).reset_index(drop=True)
    params = _numbers(first, "params").fillna(_numbers(first, "params_non_embedding"))
    tokens = _numbers(first, "tokens")
    flops = _numbers(first, "flops").fillna(6.0 * params * tokens)
    family = first[options.family].astype("string").fillna("") if options.family else ""
    frame = frame.assign(params=params, tokens=tokens, flops=flops, family=family)
    if not (frame["flops"] > 0).any():
        raise UserError(
            "the table has no compute: neither flops nor params and tokens are filled in. Add one "
            "of them to predict from scale."
        )
    return frame[frame["flops"] > 0]


def _validation(table: pd.DataFrame, options: PredictOptions) -> pd.DataFrame:
    """Return losses per checkpoint: one column domain.NAME per set, the mean and the own set's."""
    rows = table[table["kind"] == str(SetKind.VALIDATION)]
    if missing := sorted(set(options.validation_sets) - set(rows["eval_set"].unique())):
        raise UserError(
            f"predict.validation_sets: the table has no validation set {', '.join(missing)}. Near "
            f"names: {nearest_names(missing[0], sorted(rows['eval_set'].unique())) or 'none'}."
        )
    unit = next((u for u in Unit if u in rows and rows[u].notna().any()), None)
    empty = table.drop_duplicates(_CHECKPOINT)[_CHECKPOINT].assign(loss=np.nan, own=np.nan)
    if unit is None or rows.empty:
        return empty
    wide = rows.pivot_table(index=_CHECKPOINT, columns="eval_set", values=str(unit))
    own = wide.get(OWN_SET)
    names = list(options.validation_sets) or [name for name in wide if name != OWN_SET]
    wide = wide[names or [OWN_SET]]
    # A mean over other sets would be another quantity: keep the sets that nearly all rows have.
    wide = wide.loc[:, wide.notna().mean() > 0.9]
    frame = wide.rename(columns=lambda name: f"domain.{name}")
    mean = wide.mean(axis=1).where(wide.notna().all(axis=1))
    frame = frame.assign(loss=mean, own=mean if own is None else own.fillna(mean))
    return frame.reset_index()


def _one(
    table: pd.DataFrame, task: str, scale: pd.DataFrame, options: PredictOptions
) -> Observations:
    rows = table[table["eval_set"] == task].drop_duplicates(_CHECKPOINT)
    value = _numbers(rows, options.metric)
    if options.metric == "accuracy" and value.max() > 1:
        raise UserError(
            f"{task}: accuracy reaches {value.max():.4g}: it is in percent. Divide the column "
            "accuracy by 100."
        )
    unit = Unit.BITS if _numbers(rows, Unit.BITS).notna().any() else Unit.NATS
    columns = rows[_CHECKPOINT].assign(
        value=value, gold=_numbers(rows, unit), questions=_numbers(rows, "questions")
    )
    frame = columns[columns["value"].notna()].merge(scale, on=_CHECKPOINT, how="inner")
    runs = frame["run_id"].astype(str).to_numpy()
    number = run_numbers(runs, frame["flops"], frame["params"], frame["value"])
    order = np.lexsort((frame["tokens"].to_numpy(float), number))
    frame, number = frame.iloc[order], number[order]
    names = np.empty(int(number.max()) + 1 if len(number) else 0, object)
    families = np.empty(len(names), object)
    names[number] = frame["run_id"].astype(str)
    families[number] = frame["family"].astype(str)
    final = np.ones(len(number), bool)
    final[:-1] = number[1:] != number[:-1]
    chance = options.chance.get(task)
    if chance is None:
        chance = chance_level(task, rows)
    columns_of = {
        n: frame[n].to_numpy(float)
        for n in ("params", "tokens", "flops", "value", "loss", "own", "gold")
    }
    return Observations(
        task=task,
        metric=options.metric,
        chance=0.0 if options.metric != "accuracy" else np.nan if chance is None else chance,
        names=tuple(names),
        families=tuple(families),
        run=number,
        domains={
            name.removeprefix("domain."): frame[name].to_numpy(float)
            for name in frame
            if name.startswith("domain.")
        },
        final=final,
        items=float(frame["questions"].median()) if frame["questions"].notna().any() else np.nan,
        **columns_of,
    )
