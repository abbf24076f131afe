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
from lossline.tables.schema import OWN_SET, SetKind, Unit, of_run

Array = np.ndarray

_CHECKPOINT = ["run_id", "step"]
TRAINING_LOSS = "x_training_loss"
"""Column of a loss table: the training loss at the row's checkpoint, if recorded."""
_PREDICTED = {"accuracy": "accuracies", "bits_per_byte": "the loss of gold answers"}


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
        progress: loss whose improvements FLP selects checkpoints by (M,); NaN where missing.
        problem: why the task cannot be used, for people; it then has no checkpoints.
        progress_name: what ``progress`` is, for people; empty if nothing is known.
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
    progress: Array
    gold: Array
    final: Array
    items: float = float("nan")
    progress_name: str = ""
    problem: str = ""

    def __len__(self) -> int:
        return len(self.value)

    @property
    def inputs(self) -> dict[str, Array]:
        """Columns by the names that forms use, each (M,)."""
        return {"params": self.params, "tokens": self.tokens, "flops": self.flops}

    def __getitem__(self, keep: Array) -> Observations:
        """Return the points where a mask (M,) is True; runs keep their numbers."""
        columns = ("run", "params", "tokens", "flops", "value", "loss", "progress", "gold", "final")
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
    def trained(self) -> Array:
        """How far each run has come at each checkpoint (M,): tokens; FLOPs if it lacks them."""
        unknown = np.zeros(len(self.names), bool)
        unknown[self.run[~np.isfinite(self.tokens)]] = True
        return np.where(unknown[self.run], self.flops, self.tokens)

    @property
    def emerged(self) -> Array:
        """Whether each checkpoint's score lies 2 standard errors above chance (M,)."""
        if self.metric != "accuracy" or not np.isfinite(self.chance):
            return np.ones(len(self), bool)
        return self.value > self.chance + 2 * self._guessing_error

    @property
    def has_emerged(self) -> bool:
        """Whether the last scores of the three runs of most compute are above chance.

        Their mean must lie 2 of its standard errors above. One score that does is no evidence: of
        thirty runs that guess, one does by luck.
        """
        if self.metric != "accuracy" or not np.isfinite(self.chance):
            return True
        final = self[self.final]
        most = final.value[np.argsort(final.flops, kind="stable")[-3:]]
        return len(most) > 0 and bool(
            most.mean() > self.chance + 2 * self._guessing_error / np.sqrt(len(most))
        )

    @property
    def _guessing_error(self) -> float:
        """Standard error of the score of guessing, of 1,000 questions if none are recorded."""
        items = self.items if np.isfinite(self.items) else 1000.0
        return float(np.sqrt(max(self.chance * (1 - self.chance), 0.01) / items))


def observe(table: pd.DataFrame, options: PredictOptions) -> dict[str, Observations]:
    """Return the observations of every task of one group of runs.

    Args:
        table: rows of a loss table with status ok, without the runs to exclude.
        options: tasks, metric, validation sets, chance and family.

    Raises:
        UserError: no task, an unknown task, set or family, no compute, or no usable task.
    """
    tasks = task_names(table, options)
    losses, progress = _losses(table, options)
    checkpoints = _scale(table, options).merge(losses, on=_CHECKPOINT, how="left")
    found = {
        task: dataclasses.replace(_one(table, task, checkpoints, options), progress_name=progress)
        for task in tasks
    }
    if all(observations.problem for observations in found.values()):
        raise UserError(next(iter(found.values())).problem)
    return found


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
        other = "accuracy" if options.metric != "accuracy" else "bits_per_byte"
        raise UserError(
            f"the table has no task with {options.metric}: there is nothing to predict. Evaluate "
            f'benchmarks, or bind predict.metric = "{other}" to predict {_PREDICTED[other]}.'
        )
    return list(options.tasks) or known


def _numbers(frame: pd.DataFrame, name: str) -> pd.Series:
    if name not in frame:
        return pd.Series(np.nan, index=frame.index)
    return pd.to_numeric(frame[name], errors="coerce").astype(float)


def _positive(frame: pd.DataFrame, name: str) -> pd.Series:
    """Return a column of scale; NaN where it is no positive finite number: it has no logarithm."""
    column = _numbers(frame, name)
    return column.where((column > 0) & (column < np.inf))


def _scale(table: pd.DataFrame, options: PredictOptions) -> pd.DataFrame:
    """Return one row per checkpoint: N, D, C and family."""
    frame = table.drop_duplicates(_CHECKPOINT)[_CHECKPOINT].reset_index(drop=True)
    first = table.drop_duplicates(_CHECKPOINT).reset_index(drop=True)
    params = _positive(first, "params").fillna(_positive(first, "params_non_embedding"))
    tokens = _positive(first, "tokens")
    flops = _positive(first, "flops").fillna(6.0 * params * tokens)
    if options.family and options.family not in first:
        known = [name for name in of_run(map(str, first.columns)) if first[name].notna().any()]
        raise UserError(
            f"predict.family: the table has no column {options.family!r}. Near names: "
            f"{nearest_names(options.family, known) or 'none'}."
        )
    family = first[options.family].astype("string").fillna("") if options.family else ""
    frame = frame.assign(params=params, tokens=tokens, flops=flops, family=family)
    if not (frame["flops"] > 0).any():
        raise UserError(
            "the table has no compute: neither flops nor params and tokens are filled in. Add one "
            "of them to predict from scale."
        )
    return frame[frame["flops"] > 0]


def _losses(table: pd.DataFrame, options: PredictOptions) -> tuple[pd.DataFrame, str]:
    """Return losses per checkpoint, and what the progress is.

    Columns: domain.NAME per validation set, their mean as loss, and progress.
    """
    checkpoints = table.drop_duplicates(_CHECKPOINT)[_CHECKPOINT].reset_index(drop=True)
    wide = _by_set(table, options)
    names = list(options.validation_sets) or [name for name in wide if name != OWN_SET]
    used = wide[names or [name for name in wide if name == OWN_SET]]
    if not options.validation_sets:
        # A mean over other sets would be another quantity: keep those that nearly all rows have.
        used = used.loc[:, used.notna().mean() > 0.9]
    losses = used.rename(columns=lambda name: f"domain.{name}")
    losses["loss"] = used.mean(axis=1).where(used.notna().all(axis=1))
    frame = checkpoints.merge(losses.reset_index(), on=_CHECKPOINT, how="left")
    index = pd.MultiIndex.from_frame(checkpoints)
    training = _numbers(table, TRAINING_LOSS).groupby([table[c] for c in _CHECKPOINT]).first()
    sources = {
        f"training loss ({TRAINING_LOSS})": training.reindex(index),
        "loss on the run's own validation set": wide.get(OWN_SET, training * np.nan).reindex(index),
        "mean validation loss": frame["loss"],
    }
    for name, column in sources.items():
        if column.notna().any():
            return frame.assign(progress=column.to_numpy(float)), name
    return frame.assign(progress=np.nan), ""


def _by_set(table: pd.DataFrame, options: PredictOptions) -> pd.DataFrame:
    """Return losses by checkpoint and validation set, all in one unit; no column if none is known.

    Raises:
        UserError: the table has no such validation set.
    """
    rows = table[table["kind"] == str(SetKind.VALIDATION)]
    known = sorted(rows["eval_set"].unique())
    if missing := sorted(set(options.validation_sets) - set(known)):
        raise UserError(
            f"predict.validation_sets: the table has no validation set {', '.join(missing)}. Near "
            f"names: {nearest_names(missing[0], known) or 'none'}."
        )
    unit = next((u for u in Unit if u in rows and rows[u].notna().any()), None)
    if unit is None:
        return pd.DataFrame(index=pd.MultiIndex.from_frame(table[_CHECKPOINT].drop_duplicates()))
    return rows.pivot_table(index=_CHECKPOINT, columns="eval_set", values=str(unit))


def _one(
    table: pd.DataFrame, task: str, checkpoints: pd.DataFrame, options: PredictOptions
) -> Observations:
    """Return the observations of one task."""
    rows = table[table["eval_set"] == task].drop_duplicates(_CHECKPOINT)
    value = _numbers(rows, options.metric)
    problem = ""
    if options.metric == "accuracy" and value.max() > 1:
        problem = (
            f"{task}: accuracy reaches {value.max():.4g}: it is in percent. Divide the column "
            "accuracy by 100."
        )
        value *= np.nan
    unit = Unit.BITS if _numbers(rows, Unit.BITS).notna().any() else Unit.NATS
    columns = rows[_CHECKPOINT].assign(
        value=value, gold=_numbers(rows, unit), questions=_numbers(rows, "questions")
    )
    frame = columns[columns["value"].notna()].merge(checkpoints, on=_CHECKPOINT, how="inner")
    runs = frame["run_id"].astype(str).to_numpy()
    number = run_numbers(runs, frame["flops"], frame["params"], frame["value"])
    order = np.lexsort((frame["flops"].to_numpy(float), frame["tokens"].to_numpy(float), number))
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
        for n in ("params", "tokens", "flops", "value", "loss", "progress", "gold")
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
        problem=problem,
        **columns_of,
    )
