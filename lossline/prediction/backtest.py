"""Rolling backtests: fit all runs up to a cut in compute, predict every later run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd

from lossline.prediction.intervals import (
    Spread,
    learn,
    resampled_variance,
    run_weights,
    to_scale,
)
from lossline.prediction.methods import Method, Refusal, fit_method
from lossline.prediction.observations import Observations
from lossline.prediction.options import BelowChance
from lossline.prediction.results import BACKTEST_COLUMNS, LEVELS, Outcome, Target, TargetKind

Array = np.ndarray

_CUTS = 8  # at most so many cuts, evenly spaced in log C
_FEWEST = 5  # runs below a cut
_LATER = 1.2  # a later run has at least so many times the compute of the cut
_RESAMPLES = 30  # of the runs below a cut; their variance is known to a quarter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backtest:
    """What the backtests of one group of runs say.

    Attributes:
        rows: one row per method, task, cut and later run (``BACKTEST_COLUMNS``).
        spreads: spread of each method over all tasks.
        of_tasks: spread by method and task.
    """

    rows: pd.DataFrame
    spreads: Mapping[str, Spread]
    of_tasks: Mapping[tuple[str, str], Spread] = dataclasses.field(default_factory=dict)

    def spread(self, method: str, task: str) -> Spread:
        """Return the spread of a method on a task; that of all tasks without backtests of it."""
        return self.of_tasks.get((method, task), self.spreads.get(method, Spread()))

    def coverage(self, method: str) -> tuple[float, int]:
        """Return the share of measurements within their 90% interval, and their number."""
        return coverage_of(self.rows[self.rows["method"] == method], 0.9)


def coverage_of(rows: pd.DataFrame, level: float) -> tuple[float, int]:
    """Return the share of measurements within their interval, and their number; NaN if there are 0.

    Args:
        rows: rows of ``BACKTEST_COLUMNS``; those without an interval do not count.
        level: one of ``LEVELS``.
    """
    low, high = (rows[f"{end}_{round(100 * level)}"] for end in ("low", "high"))
    known = low.notna() & high.notna()
    inside = ((rows["actual"] >= low) & (rows["actual"] <= high))[known]
    return (float(inside.mean()), len(inside)) if len(inside) else (float("nan"), 0)


def cuts_of(run_flops: Array) -> Array:
    """Return cuts in FLOPs: each leaves at least 5 runs below and a later run above."""
    ordered = np.sort(run_flops)
    places = [
        c
        for i, c in enumerate(ordered)
        if i + 1 >= _FEWEST and ordered[-1] > _LATER * c and ordered[i + 1] > c
    ]
    if len(places) <= _CUTS:
        return np.array(places)
    wanted = np.linspace(np.log(places[0]), np.log(places[-1]), _CUTS)
    nearest = np.abs(np.log(places)[None] - wanted[:, None]).argmin(axis=1)
    return np.array(places)[np.unique(nearest)]


def backtest(
    tasks: Mapping[str, Observations],
    methods: Mapping[str, Method],
    *,
    below_chance: BelowChance = BelowChance.STATE,
    seed: int = 0,
) -> Backtest:
    """Run all backtests of one group of runs.

    Intervals at a cut use what was known there: errors of earlier cuts on runs up to the cut.

    Args:
        tasks: observations by task; all of the same metric.
        methods: methods by name.
        below_chance: what to do at a cut up to which a task has not emerged.
        seed: seed of the resampling.
    """
    flops = {run: f for o in tasks.values() for run, f in zip(o.names, o.run_flops, strict=True)}
    cuts = cuts_of(np.array(list(flops.values()))) if flops else np.array([])
    parts = [
        _one_cut(observations, cut, name, method, below_chance, seed)
        for observations in tasks.values()
        for cut in cuts
        for name, method in methods.items()
    ]
    rows = pd.DataFrame([row for part in parts for row in part])
    if rows.empty:
        return Backtest(rows=pd.DataFrame(columns=list(BACKTEST_COLUMNS)), spreads={})
    metric = next(iter(tasks.values())).metric
    rows = _with_intervals(rows, metric)
    found = {str(name): _Learned.of(part) for name, part in rows.groupby("method")}
    return Backtest(
        rows=rows.reindex(columns=list(BACKTEST_COLUMNS)),
        spreads={name: learned.all for name, learned in found.items()},
        of_tasks={
            (name, task): spread
            for name, learned in found.items()
            for task, spread in learned.tasks.items()
        },
    )


def run_target(observations: Observations, run: int, kind: TargetKind) -> tuple[Target, float]:
    """Return a run as a target, and its last measurement."""
    last = np.flatnonzero((observations.run == run) & observations.final)[0]
    target = Target(
        name=observations.names[run],
        kind=kind,
        params=float(observations.params[last]),
        tokens=float(observations.tokens[last]),
        flops=float(observations.flops[last]),
        group=observations.families[run],
    )
    return target, float(observations.value[last])


def _one_cut(
    observations: Observations,
    cut: float,
    name: str,
    method: Method,
    below_chance: BelowChance,
    seed: int,
) -> list[dict[str, object]]:
    flops = observations.run_flops
    below = flops <= cut * (1 + 1e-9)
    later = np.flatnonzero(flops > _LATER * cut)
    if below.sum() < _FEWEST or not len(later):
        return []
    fitted = observations.of_runs(below)
    weights = run_weights(len(fitted.names), _RESAMPLES, seed)
    found = fit_method(method, fitted, weights, below_chance=below_chance)
    pairs = [run_target(observations, int(run), TargetKind.PREDICTION) for run in later]
    targets, actual = [t for t, _ in pairs], np.array([a for _, a in pairs])
    common = {
        "group": "",
        "cut": cut,
        "runs": int(below.sum()),
        "method": name,
        "task": observations.task,
        "metric": observations.metric,
    }
    if isinstance(found, Refusal):
        return [{**common, "target": "", "status": str(found.outcome), "reason": found.reason}]
    draws = found.predict(targets)
    variance = resampled_variance(draws, observations.metric, len(fitted.names))
    error = to_scale(draws[0], observations.metric) - to_scale(actual, observations.metric)
    return [
        {
            **common,
            "target": target.name,
            "params": target.params,
            "tokens": target.tokens,
            "flops": target.flops,
            "extrapolation": target.flops / fitted.run_flops.max(),
            "predicted": draws[0, i],
            "actual": actual[i],
            "relative_error": draws[0, i] / actual[i] - 1 if actual[i] > 0 else np.nan,
            "status": str(Outcome.PREDICTED),
            "reason": "",
            "_variance": variance[i],
            "_error": error[i],
        }
        for i, target in enumerate(targets)
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Learned:
    """Spread of one method over all tasks, and on each."""

    all: Spread
    tasks: Mapping[str, Spread]

    @classmethod
    def of(cls, rows: pd.DataFrame) -> _Learned:
        """Learn from backtests of one method."""
        if "_error" not in rows:
            return cls(all=Spread(), tasks={})
        known = rows[rows["status"] == str(Outcome.PREDICTED)]
        columns = [known[c].to_numpy(float) for c in ("_error", "_variance", "extrapolation")]
        error, variance, far = columns
        whole = learn(error, variance, far)
        places = known.groupby("task").indices
        tasks = {
            str(task): learn(error[at], variance[at], far[at], whole) for task, at in places.items()
        }
        return cls(all=whole, tasks=tasks)


def _with_intervals(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Add intervals from what was known at each cut."""
    ends = {level: [f"{end}_{round(100 * level)}" for end in ("low", "high")] for level in LEVELS}
    rows = rows.assign(**{name: np.nan for names in ends.values() for name in names})
    if "_error" not in rows:
        return rows
    for _, mine in rows[rows["status"] == str(Outcome.PREDICTED)].groupby("method"):
        for cut, part in mine.groupby("cut"):
            known = (mine["cut"] < cut) & (mine["flops"] <= cut * (1 + 1e-9))
            learned = _Learned.of(mine[known])
            for task, of_task in part.groupby("task"):
                spread = learned.tasks.get(str(task), learned.all)
                columns = (
                    of_task[c].to_numpy(float) for c in ("predicted", "_variance", "extrapolation")
                )
                middle, variance, far = columns
                for level, names in ends.items():
                    found = spread.interval(middle, variance, far, level, metric)
                    rows.loc[of_task.index, names] = np.column_stack(found)
    return rows
