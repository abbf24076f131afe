"""Accuracies of runs on mixtures, from predicted losses of all domains (FLP-M, step 2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lossline.errors import UserError
from lossline.mixtures.performance import (
    NetworkFit,
    PerformanceNetwork,
    PerformanceSigmoid,
    SigmoidFit,
)
from lossline.mixtures.runs import MixtureRuns, domains_of
from lossline.prediction import PredictOptions
from lossline.prediction.predict import rows_to_use
from lossline.prediction.results import LEVELS, PREDICTION_COLUMNS, Outcome, Predictions
from lossline.tables.chance import chance_level
from lossline.tables.schema import SetKind

Array = np.ndarray

# Method -> method of the losses, and the way from losses to performance.
_WAYS: dict[str, tuple[str, PerformanceSigmoid | PerformanceNetwork]] = {
    "lossline": ("lossline", PerformanceSigmoid()),
    "flp_m": ("M4", PerformanceNetwork()),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Task:
    """The measured checkpoints of one task: losses (M, J) and accuracies (M,)."""

    name: str
    domains: Sequence[str]
    losses: Array
    accuracy: Array
    chance: float | None


def performance_predictions(
    table: pd.DataFrame, found: Predictions, options: PredictOptions
) -> pd.DataFrame:
    """Return predicted accuracies in ``PREDICTION_COLUMNS``; the task is named "NAME (accuracy)".

    "lossline" takes the losses of the default law through a sigmoid; "flp_m" those of M4 through
    the paper's network. Intervals are those of the losses, all domains at their ends together,
    joined with the residuals of the fit. No backtest has tested them.

    Args:
        table: a loss table of runs with mixtures.
        found: predicted losses of all domains.
        options: tasks, validation sets, chance, emergence, exclude.
    """
    rows = rows_to_use(table, options)
    scored = rows[(rows["kind"] == str(SetKind.TASK)) & rows["accuracy"].notna()]
    names = [t for t in sorted(scored["eval_set"].unique()) if t in (options.tasks or [t])]
    if not names:
        return pd.DataFrame(columns=list(PREDICTION_COLUMNS))
    targets = found.predictions.drop_duplicates("target")
    domains = domains_of(rows, validation_sets=options.validation_sets, tasks=options.tasks)
    runs = MixtureRuns.from_table(rows, domains=domains)
    predicted = found.predictions
    made = []
    for name in names:
        mine = scored[scored["eval_set"] == name]
        fitted = runs[~np.isin(runs.runs, targets["target"].to_numpy(str))]
        chance = options.chance.get(name, chance_level(name, mine))
        task = _Task(
            name=name,
            domains=fitted.domains,
            losses=fitted.losses,
            accuracy=accuracies(mine, fitted),
            chance=chance,
        )
        actual = mine.sort_values("tokens").groupby("run_id")["accuracy"].last().to_dict()
        for method, (law, way) in _WAYS.items():
            losses = predicted[predicted["method"] == law]
            if len(losses):
                fit = _fitted(task, way, options.emergence)
                made += _rows(task, method, fit, targets, losses, actual)
    return pd.DataFrame(made, columns=list(PREDICTION_COLUMNS))


def accuracies(rows: pd.DataFrame, runs: MixtureRuns) -> Array:
    """Return the accuracy at each checkpoint of the runs (M,), NaN where missing.

    Args:
        rows: rows of one task of a loss table.
        runs: the runs.
    """
    known = rows.set_index(["run_id", "tokens"])["accuracy"].astype(float)
    places = pd.MultiIndex.from_arrays([runs.runs, runs.tokens])
    return known[~known.index.duplicated()].reindex(places).to_numpy(float)


def _fitted(
    task: _Task, way: PerformanceSigmoid | PerformanceNetwork, emergence: float
) -> SigmoidFit | NetworkFit | tuple[Outcome, str]:
    """Return the fit, or why there is none."""
    if task.chance is None:
        return Outcome.NO_INPUT, (
            f"the accuracy of guessing on {task.name} is unknown: bind predict.chance = "
            f"{{{task.name!r}: 0.25}} with its value"
        )
    if not (task.accuracy >= task.chance + emergence).any():
        least = f"{task.chance + emergence:.3g}"
        return Outcome.NOT_EMERGED, f"no checkpoint scores {least} or more"
    losses, accuracy, domains = task.losses, task.accuracy, task.domains
    try:
        if isinstance(way, PerformanceSigmoid):
            return way.fit(losses, accuracy, domains=domains, chance=task.chance)
        return way.fit(losses, accuracy, domains=domains, chance=task.chance, margin=emergence)
    except UserError as error:
        return Outcome.TOO_FEW_RUNS, str(error)


def _rows(
    task: _Task,
    method: str,
    fit: SigmoidFit | NetworkFit | tuple[Outcome, str],
    targets: pd.DataFrame,
    losses: pd.DataFrame,
    actual: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Return the rows of one method and task."""
    made = []
    for target in targets.to_dict("records"):
        row = {
            name: target[name]
            for name in ("group", "target", "kind", "params", "tokens", "flops", "extrapolation")
        } | {
            "method": method,
            "task": f"{task.name} (accuracy)",
            "metric": "accuracy",
            "actual": actual.get(str(target["target"]), np.nan),
            "backtests": 0,
        }
        at = losses[losses["target"] == target["target"]].set_index("task").reindex(task.domains)
        if isinstance(fit, tuple):
            made.append({**row, "status": str(fit[0]), "reason": fit[1]})
        elif at["predicted"].isna().any():
            lacks = ", ".join(at.index[at["predicted"].isna()][:3])
            reason = f"no predicted loss on {lacks}"
            made.append({**row, "status": str(Outcome.NOT_IDENTIFIED), "reason": reason})
        else:
            made.append(row | _numbers(task, fit, at) | _status(row, fit, at))
    for row in made:
        value, truth = row.get("predicted", np.nan), row["actual"]
        row["relative_error"] = value / truth - 1 if truth > 0 else np.nan
    return made


def _numbers(task: _Task, fit: SigmoidFit | NetworkFit, at: pd.DataFrame) -> dict[str, float]:
    """Return the prediction with its intervals."""
    value = float(fit.predict(at["predicted"].to_numpy(float)[None])[0])
    fitted = fit.predict(task.losses)
    known = np.isfinite(fitted) & np.isfinite(task.accuracy)
    scatter = float(np.sqrt(np.mean((fitted - task.accuracy)[known] ** 2)))
    numbers = {"predicted": value}
    for level in LEVELS:
        p = round(100 * level)
        ends = at[[f"low_{p}", f"high_{p}"]].to_numpy(float).T
        away = np.abs(fit.predict(ends) - value) if np.isfinite(ends).all() else np.array([0.0])
        half = float(np.hypot(away.max(), stats.norm.ppf((1 + level) / 2) * scatter))
        numbers |= {f"low_{p}": max(value - half, 0.0), f"high_{p}": min(value + half, 1.0)}
    return numbers


def _status(
    row: Mapping[str, Any], fit: SigmoidFit | NetworkFit, at: pd.DataFrame
) -> dict[str, str]:
    inside = row["extrapolation"] <= 1
    reason = ""
    if isinstance(fit, NetworkFit):
        seeds = fit.spread(at["predicted"].to_numpy(float)[None])
        reason = f"median of {len(seeds)} seeds: {seeds.min():.3f} to {seeds.max():.3f}"
    return {
        "status": str(Outcome.INTERPOLATED if inside else Outcome.PREDICTED),
        "reason": reason,
    }
