"""From a loss table to predictions: fit every method to every task, predict the targets.

    found = predict_table(tables.load("losses.parquet"))
    found.predictions[["task", "target", "predicted", "low_90", "high_90", "actual"]]

Runs that share ``PredictOptions.group_by`` are fitted together.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.lines.groups import split
from lossline.prediction.backtest import Backtest, backtest, run_target
from lossline.prediction.decisions import decide
from lossline.prediction.intervals import Spread, resampled_variance, run_weights
from lossline.prediction.methods import (
    DEFAULT,
    FittedMethod,
    Method,
    Refusal,
    fit_method,
    named,
)
from lossline.prediction.observations import Observations, observe
from lossline.prediction.options import PredictOptions
from lossline.prediction.points import Points
from lossline.prediction.predictor import VERSION, WHAT, interval_columns, verdict
from lossline.prediction.results import (
    BACKTEST_COLUMNS,
    CURVE_COLUMNS,
    INFLUENCE_COLUMNS,
    POINT_COLUMNS,
    PREDICTION_COLUMNS,
    STAGE_COLUMNS,
    Outcome,
    Predictions,
    Target,
    TargetKind,
)
from lossline.tables.continued import is_continued, left_out_of_laws
from lossline.tables.frames import nearest_names
from lossline.tables.schema import Status
from lossline.terminal import Say, silent

Array = np.ndarray

_CURVE_POINTS = 40


@dataclasses.dataclass(frozen=True)
class _Group:
    """One group of runs: what is fitted, and what is predicted."""

    name: str
    tasks: Mapping[str, Observations]
    targets: Sequence[Target]
    actual: Mapping[tuple[str, str], float]  # by task and target

    def fitted(self, task: str) -> Observations:
        """Return the observations of the runs that are not targets."""
        observations = self.tasks[task]
        aside = {target.name for target in self.targets}
        return observations.of_runs([name not in aside for name in observations.names])


def predict_table(
    table: pd.DataFrame, options: PredictOptions | None = None, *, say: Say = silent
) -> Predictions:
    """Predict scores of large models from the checkpoints of smaller ones.

    A task or method that has no number is in the results with a status and a reason.

    Args:
        table: a loss table.
        options: what to predict, and how.
        say: called with a line of progress.

    Raises:
        UserError: the table has no task or no compute, a point has shares, or an option names what
            the table does not have.
    """
    options = with_runs(options or PredictOptions(), table)
    if shared := [point for point in options.points if projection(point).shares]:
        raise UserError(
            f"predict.points: {shared[0]!r} has shares, but these runs are predicted by laws of "
            "scale alone. Leave the shares out."
        )
    methods = named(options.methods, options.metric, options.emergence)
    default = _default(methods)
    groups, notes = _groups(rows_to_use(table, options), options)
    parts = [_predict_group(group, methods, default, options, say) for group in groups]
    frames = {
        name: pd.concat([part[name] for part in parts], ignore_index=True)
        for name in ("predictions", "backtest", "influence", "points", "curves", "stages")
    }
    return Predictions(
        **frames,
        decisions=decide(frames["predictions"], frames["points"]),
        default=default,
        notes=(
            *filter(None, [left_out_of_laws(table)]),
            *notes,
            *(note for part in parts for note in part["notes"]),
        ),
        settings=dataclasses.asdict(options),
        predictor={
            "what": WHAT,
            "version": VERSION,
            "groups": [part["predictor"] for part in parts],
        },
    )


def _default(methods: Mapping[str, Method]) -> str:
    return DEFAULT if DEFAULT in methods else next(iter(methods))


def with_runs(options: PredictOptions, table: pd.DataFrame) -> PredictOptions:
    """Return the options with the runs that ``targets`` and ``exclude`` name or match, by name.

    Raises:
        UserError: no run of the table matches, or a run is a target and excluded.
    """
    runs = sorted(table["run_id"].astype(str).unique())
    targets = _matching("targets", options.targets, runs)
    exclude = _matching("exclude", options.exclude, runs)
    if both := sorted(set(targets) & set(exclude)):
        raise UserError(
            f"run {both[0]!r} is in predict.targets and in predict.exclude. Leave it out of one; "
            "a target is never fitted."
        )
    return dataclasses.replace(options, targets=targets, exclude=exclude)


def _matching(option: str, wanted: Sequence[str], runs: Sequence[str]) -> tuple[str, ...]:
    """Return the runs that have a wanted name, or match it as a pattern (``1.5M-*``)."""
    found: dict[str, None] = {}
    for name in wanted:
        matches = [name] if name in runs else fnmatch.filter(runs, name)
        if not matches:
            raise UserError(
                f"predict.{option}: the table has no run {name!r}. Near names: "
                f"{nearest_names(name, runs) or 'none'}."
            )
        found.update(dict.fromkeys(matches))
    return tuple(found)


def rows_to_use(table: pd.DataFrame, options: PredictOptions) -> pd.DataFrame:
    """Return the rows to use: those with status ok whose run is not excluded and not continued.

    Raises:
        UserError: a target or a run to exclude is not in the table, a target continued another run,
            or no row is left.
    """
    options = with_runs(options, table)
    continued = is_continued(table)
    if aside := sorted(set(options.targets) & set(table["run_id"][continued].astype(str))):
        raise UserError(
            f"predict.targets: run {aside[0]!r} started from another run's parameters, so its "
            "tokens and FLOPs are no scale to predict it from. Leave it out of predict.targets."
        )
    ok = (table["status"] == str(Status.OK)) & ~continued
    rows = table[ok & ~table["run_id"].astype(str).isin(options.exclude)]
    if rows.empty and (left_out := left_out_of_laws(table)):
        raise UserError(f"the loss table has no row to use. {left_out} Add runs that start fresh.")
    if rows.empty:
        raise UserError("the loss table has no row to use: all are excluded or failed.")
    return rows


def _groups(rows: pd.DataFrame, options: PredictOptions) -> tuple[list[_Group], list[str]]:
    """Return the groups of runs that have a target and a run to fit, and why others are left out.

    Raises:
        UserError: no group is left, or the table has no such fact.
    """
    found = split(rows, () if options.family else options.group_by)
    groups, notes = [], []
    for part in found:
        name = part.name if len(found) > 1 else ""
        try:
            tasks = observe(part.table, options)
        except UserError as error:
            if len(found) == 1:
                raise
            notes.append(f"{name} is left out: {error}")
            continue
        measured = _measured(tasks)
        targets, actual = _targets(measured, options) if measured else ([], {})
        group = _Group(name=name, tasks=tasks, targets=targets, actual=actual)
        if targets and any(len(group.fitted(task)) for task in tasks):
            groups.append(group)
        elif targets:
            notes.append(f"{name} is left out: it has no run beside the target to predict it from.")
    if not groups:
        raise UserError(
            "no group of runs has both a target and another run to predict it from. Bind "
            "predict.targets or predict.points, or fewer facts in predict.group_by."
        )
    return groups, notes


def _targets(
    tasks: Mapping[str, Observations], options: PredictOptions
) -> tuple[list[Target], dict[tuple[str, str], float]]:
    """Return the targets of a group, with the measurements of those that exist."""
    flops = {n: f for o in tasks.values() for n, f in zip(o.names, o.run_flops, strict=True)}
    if options.targets:
        names = set(options.targets) & set(flops)
    elif options.above_flops is not None:
        names = {name for name, c in flops.items() if c > options.above_flops}
    elif options.points:
        names = set()
    else:
        names = {max(flops, key=lambda name: flops[name])}
    targets: dict[str, Target] = {}
    actual = {}
    for task, observations in tasks.items():
        for run in np.flatnonzero(np.isin(observations.names, list(names))):
            target, value = run_target(observations, int(run), TargetKind.PREDICTION)
            targets.setdefault(target.name, target)
            actual[task, target.name] = value
    ordered = sorted(targets.values(), key=lambda t: (t.flops, t.name))
    return [*ordered, *(projection(point, _flops_ratio(tasks)) for point in options.points)], actual


def _measured(tasks: Mapping[str, Observations]) -> dict[str, Observations]:
    """Return the tasks that have observations."""
    return {task: observations for task, observations in tasks.items() if len(observations)}


def _flops_ratio(tasks: Mapping[str, Observations]) -> float:
    """Return C / (6 N D) of the runs of most compute: how this table counts FLOPs."""
    best = max(tasks.values(), key=lambda o: o.flops.max())
    last = int(np.argmax(best.flops))
    ratio = best.flops[last] / (6 * best.params[last] * best.tokens[last])
    return float(ratio) if np.isfinite(ratio) and ratio > 0 else 1.0


def projection(point: Sequence[Any], flops_ratio: float = 1.0) -> Target:
    """Return a model that nobody has trained as a target.

    Args:
        point: (N, D), or (N, D, {component: share}).
        flops_ratio: C / (6 N D).

    Raises:
        UserError: the point is not of this form.
    """
    try:
        params, tokens = float(point[0]), float(point[1])
        shares = dict(point[2]) if len(point) > 2 else {}
    except (TypeError, ValueError, IndexError):
        raise UserError(
            f"predict.points: {point!r} is not (parameters, tokens), as (7e9, 4e12)."
        ) from None
    flops = 6 * params * tokens * flops_ratio
    if not (params > 0 and tokens > 0 and np.isfinite(flops)):
        raise UserError(
            f"predict.points: {point!r}: parameters and tokens must be positive, finite numbers."
        )
    return Target(
        name=f"{params:.3g} parameters, {tokens:.3g} tokens",
        kind=TargetKind.PROJECTION,
        params=params,
        tokens=tokens,
        flops=flops,
        shares=shares,
    )


def _predict_group(
    group: _Group, methods: Mapping[str, Method], default: str, options: PredictOptions, say: Say
) -> dict[str, Any]:
    fitted = {task: group.fitted(task) for task in group.tasks}
    where = f" of {group.name}" if group.name else ""
    say(f"backtests of {len(fitted)} tasks{where}, {len(methods)} methods")
    tested = backtest(fitted, methods, below_chance=options.below_chance, seed=options.seed)
    say(f"predictions{where}: {len(group.targets)} targets")
    predictions: list[dict[str, Any]] = []
    curves: list[pd.DataFrame] = []
    stages: list[dict[str, Any]] = []
    influence: list[dict[str, Any]] = []
    kept: dict[str, Any] = {}
    for task, observations in fitted.items():
        weights = run_weights(len(observations.names), options.resamples, options.seed)
        for name, method in methods.items():
            found = (
                Refusal(Outcome.NO_INPUT, observations.problem)
                if observations.problem
                else fit_method(method, observations, weights, below_chance=options.below_chance)
            )
            spread = tested.spread(name, task)
            predictions += _predicted(group, task, name, found, observations, spread, tested)
            if isinstance(found, Refusal):
                continue
            curves.append(_curve(group, task, name, found, observations, spread, name == default))
            stages += [_stage_row(group.name, name, task, stage) for stage in found.stages]
            kept.setdefault(task, {})[name] = {
                "fit": found.to_dict(),
                "spread": dataclasses.asdict(spread),
                "largest_flops": float(observations.run_flops.max()),
                "runs": len(observations.names),
            }
            if name == default:
                influence += _influence(group, task, method, found, observations)
    return {
        "predictions": pd.DataFrame(predictions, columns=list(PREDICTION_COLUMNS)),
        "backtest": tested.rows.assign(group=group.name).reindex(columns=list(BACKTEST_COLUMNS)),
        "influence": pd.DataFrame(influence, columns=list(INFLUENCE_COLUMNS)),
        "points": _points(group),
        "curves": pd.concat(
            [pd.DataFrame(columns=list(CURVE_COLUMNS)), *curves], ignore_index=True
        ),
        "stages": pd.DataFrame(stages, columns=list(STAGE_COLUMNS)),
        "notes": _notes(group, fitted, methods),
        "predictor": {
            "name": group.name,
            "metric": options.metric,
            "flops_ratio": _flops_ratio(_measured(group.tasks)),
            "tasks": kept,
        },
    }


def _predicted(
    group: _Group,
    task: str,
    name: str,
    found: FittedMethod | Refusal,
    observations: Observations,
    spread: Spread,
    tested: Backtest,
) -> list[dict[str, Any]]:
    """Return the rows of one method and task."""
    coverage, count = tested.coverage(name)
    largest = float(observations.run_flops.max()) if len(observations) else float("nan")
    rows: list[dict[str, Any]] = [
        {
            "group": group.name,
            "method": name,
            "task": task,
            "metric": observations.metric,
            "target": target.name,
            "kind": str(target.kind),
            "params": target.params,
            "tokens": target.tokens,
            "flops": target.flops,
            "extrapolation": target.flops / largest,
            "actual": group.actual.get((task, target.name), np.nan),
            "coverage_90": coverage,
            "backtests": count,
        }
        for target in group.targets
    ]
    if isinstance(found, Refusal):
        return [{**row, "status": str(found.outcome), "reason": found.reason} for row in rows]
    draws = found.predict(list(group.targets))
    variance = resampled_variance(draws, observations.metric, len(observations.names))
    for i, row in enumerate(rows):
        row |= interval_columns(
            draws[0, i], variance[i], row["extrapolation"], spread, observations.metric
        )
        row |= verdict(row)
    return rows


def _curve(
    group: _Group,
    task: str,
    name: str,
    found: FittedMethod,
    observations: Observations,
    spread: Spread,
    with_band: bool,
) -> pd.DataFrame:
    """Return a method along compute, at the D / N of the target of most compute."""
    target = max(group.targets, key=lambda t: t.flops)
    start = observations.run_flops.min()
    flops = np.geomspace(start, max(target.flops, observations.run_flops.max()), _CURVE_POINTS)
    step = np.sqrt(flops / target.flops)
    models = [
        dataclasses.replace(target, params=target.params * s, tokens=target.tokens * s, flops=c)
        for s, c in zip(step, flops, strict=True)
    ]
    draws = found.predict(models)
    frame = pd.DataFrame({"flops": flops, "predicted": draws[0]}).assign(
        group=group.name, task=task, metric=observations.metric, target=target.name, method=name
    )
    if with_band:
        variance = resampled_variance(draws, observations.metric, len(observations.names))
        beyond = flops / observations.run_flops.max()
        frame["low_90"], frame["high_90"] = spread.interval(
            draws[0], variance, beyond, 0.9, observations.metric
        )
    return frame.reindex(columns=list(CURVE_COLUMNS))


def _stage_row(group: str, method: str, task: str, stage: Any) -> dict[str, Any]:
    fit = stage.fit
    values = dict(zip(fit.form.parameters, map(float, fit.theta[0]), strict=True))
    return {
        "group": group,
        "method": method,
        "task": task,
        "stage": stage.name,
        "law": fit.form.name,
        "equation": fit.form.equation,
        "source": fit.form.source,
        "parameters": json.dumps({**values, "centers": list(fit.centers)}),
        "r2": fit.r2,
        "runs": fit.n_runs,
        "points": fit.n_points,
        "flatness": fit.flatness,
        "weakest": fit.weakest,
        "outliers": ", ".join(fit.outliers),
    }


def _influence(
    group: _Group, task: str, method: Method, found: FittedMethod, observations: Observations
) -> list[dict[str, Any]]:
    """Return what leaving out each size does to each prediction."""
    base = found.predict(list(group.targets))[0]
    sizes = np.full(len(observations.names), np.nan)
    sizes[observations.run] = observations.params
    rows = []
    for size in np.unique(sizes[np.isfinite(sizes)]):
        kept = ~np.isclose(sizes, size, rtol=1e-6)
        if not kept.any():
            continue
        without = method.fit(observations.of_runs(kept), np.ones((1, int(kept.sum()))))
        numbers = np.full(len(base), np.nan)
        if not isinstance(without, Refusal):
            numbers = without.predict(list(group.targets))[0]
        rows += [
            {
                "group": group.name,
                "left_out": f"{size:.3g} parameters",
                "runs": int((~kept).sum()),
                "task": task,
                "target": target.name,
                "predicted": numbers[i],
                "change": numbers[i] - base[i],
            }
            for i, target in enumerate(group.targets)
        ]
    return rows


def _points(group: _Group) -> pd.DataFrame:
    """Return the measurements for the figures."""
    aside = {target.name for target in group.targets}
    frames = [
        pd.DataFrame(
            {
                "run_id": np.array(o.names, object)[o.run],
                "params": o.params,
                "tokens": o.tokens,
                "flops": o.flops,
                "value": o.value,
                "final": o.final,
                "emerged": o.emerged,
                "loss": o.loss,
                "gold": o.gold,
            }
        ).assign(group=group.name, task=task, metric=o.metric, chance=o.chance)
        for task, o in group.tasks.items()
    ]
    frame = pd.concat(frames, ignore_index=True)
    frame["held_out"] = frame["run_id"].isin(aside)
    return frame.reindex(columns=list(POINT_COLUMNS))


def _notes(
    group: _Group, fitted: Mapping[str, Observations], methods: Mapping[str, Method]
) -> list[str]:
    """Return what a reader should know."""
    where = f"{group.name}: " if group.name else ""
    notes = []
    progress = next((o.progress_name for o in fitted.values()), "")
    chosen = [n for n, m in methods.items() if getattr(m, "points", None) is Points.IMPROVING]
    if progress and chosen:
        notes.append(f"{where}{', '.join(chosen)}: checkpoints improve the {progress}.")
    notes += [f"{where}{o.problem}" for o in fitted.values() if o.problem]
    scores = {n: o for n, o in fitted.items() if o.metric == "accuracy" and not o.problem}
    unknown = [task for task, o in scores.items() if not np.isfinite(o.chance)]
    guessed = [task for task, o in scores.items() if not o.has_emerged]
    if unknown:
        notes.append(
            f"{where}{', '.join(unknown)}: the accuracy of guessing is unknown; methods that need "
            f"it are left out. Bind predict.chance = {{{unknown[0]!r}: 0.25}} with its value (0 "
            "if the answer is free text)."
        )
    if guessed:
        notes.append(
            f"{where}{', '.join(guessed)}: the largest runs do no better than guessing. "
            'predict.metric = "bits_per_byte" predicts the loss of gold answers, where the table '
            "has it."
        )
    sizes = {float(p) for o in fitted.values() for p in np.round(o.params, -3) if np.isfinite(p)}
    if len(sizes) == 1:
        notes.append(f"{where}all runs have one size: laws in N and D cannot be fitted.")
    return notes
