"""The best mixture for a target, from the runs of a loss table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.fits.performance_predictions import accuracies
from lossline.fits.usable_runs import usable_runs
from lossline.mixtures.catalogue import DEFAULT, LAWS
from lossline.mixtures.goals import Goal, Performance, loss_goal, task_goal
from lossline.mixtures.laws import LawFit
from lossline.mixtures.limits import Limits
from lossline.mixtures.optimum import Optimum, Pull, best_mixture
from lossline.mixtures.performance import PerformanceSigmoid
from lossline.mixtures.resampling import refits
from lossline.mixtures.runs import MixtureRuns, unknown_name
from lossline.prediction.intervals import run_weights
from lossline.tables.chance import chance_level
from lossline.tables.schema import Status

Array = np.ndarray

_REFITS = 100  # most refits; each takes an optimization
_FEWEST_RUNS = 3  # to resample


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableOptimum:
    """The best mixture, and what it is best for.

    Attributes:
        optimum: the mixture.
        runs: the runs fitted.
        targets: weight of each target.
        measure: what is predicted at the mixture: "loss or bits per byte", or "accuracy".
        params: N of the training that the mixture is for.
        tokens: its D.
        law: name of the law of mixtures.
        notes: sentences to know.
    """

    optimum: Optimum
    runs: MixtureRuns
    targets: Mapping[str, float]
    measure: str
    params: float
    tokens: float
    law: str
    notes: tuple[str, ...]

    @property
    def sign(self) -> float:
        """Factor from the goal, which is minimized, to the measure."""
        return -1.0 if self.measure == "accuracy" else 1.0


def best_mixture_of_table(
    table: pd.DataFrame,
    targets: Mapping[str, float],
    *,
    params: float | None = None,
    tokens: float | None = None,
    law: str = DEFAULT.name,
    limits: Limits | None = None,
    pull: Pull | None = None,
    chance: Mapping[str, float] | None = None,
    resamples: int = _REFITS,
    seed: int = 0,
) -> TableOptimum:
    """Return the best mixture for one target, or for the weighted mean of several.

    A target is a validation set (its loss), a task with losses of its gold answers (bits per byte),
    or a task with accuracies only (accuracy, from the predicted losses of all domains). The law is
    fitted to the last checkpoint of each run.

    Args:
        table: a loss table of runs with mixtures.
        targets: weight of each target.
        params: N of the training that the mixture is for; None: of the largest run.
        tokens: its D; None: of the largest run.
        law: name of the law of mixtures.
        limits: bounds of the shares; its ``tokens`` are D if not given.
        pull: pull toward a mixture.
        chance: accuracy of guessing by task, where the table does not state it.
        resamples: refits of the law, and of accuracies from losses, for the intervals; at most
            100; 0 for none.
        seed: seed of the resampling.

    Raises:
        UserError: the table has no mixtures or no such target, the law is unknown, or no mixture is
            within the limits.
    """
    if law not in LAWS:
        raise unknown_name("predict.law: law", law, tuple(LAWS))
    usable, notes = usable_runs(table[table["status"] == str(Status.OK)])
    checkpoints = MixtureRuns.from_table(usable)
    runs = checkpoints.last_checkpoints
    largest = int(np.argmax(runs.params * runs.tokens))
    at = {
        "params": float(runs.params[largest]) if params is None else params,
        "tokens": float(runs.tokens[largest]) if tokens is None else tokens,
    }
    limits = limits or Limits()
    if not limits.tokens > 0:
        limits = dataclasses.replace(limits, tokens=at["tokens"])
    fit = LAWS[law]().fit(runs)
    count = len(runs)
    wanted = max(2, min(resamples, _REFITS)) if resamples and count >= _FEWEST_RUNS else 0
    weights = run_weights(count, wanted, seed)
    if resamples and not wanted:
        notes.append(f"{count} runs: too few to resample, so the optimum has no interval")
    scored = _accuracies(usable, checkpoints, targets, chance or {})

    number = dict(zip(runs.runs, runs.run_numbers, strict=True))
    of_checkpoint = [number[run] for run in checkpoints.runs]

    def goal(found: LawFit, weight: Array) -> Goal:
        if scored:
            fits = {
                task: (_performance(checkpoints, *scored[task], weight[of_checkpoint]), share)
                for task, share in targets.items()
            }
            return task_goal(found, fits, **at)
        return loss_goal(found, targets, **at)

    samples = refits(fit.law, runs, fit, weights[1:, runs.run_numbers], seed=seed) if wanted else ()
    resampled = [
        goal(dataclasses.replace(fit, theta=theta), weight)
        for theta, weight in zip(samples, weights[1:], strict=True)
    ]
    optimum = best_mixture(
        goal(fit, weights[0]), runs, limits=limits, pull=pull, resampled=resampled
    )
    return TableOptimum(
        optimum=optimum,
        runs=runs,
        targets=dict(targets),
        measure="accuracy" if scored else "loss or bits per byte",
        law=law,
        notes=(*notes, *fit.notes),
        **at,
    )


def _accuracies(
    table: pd.DataFrame,
    runs: MixtureRuns,
    targets: Mapping[str, float],
    chance: Mapping[str, float],
) -> dict[str, tuple[Array, float]]:
    """Return accuracies (M,) and chance of each target, if they have accuracies only; else nothing.

    Raises:
        UserError: a target is not in the table, or only some targets have losses.
    """
    scored = set(table.loc[table["accuracy"].notna(), "eval_set"])
    for name in targets:
        if name not in runs.domains and name not in scored:
            raise unknown_name("target", name, sorted({*runs.domains, *scored}))
    without = [name for name in targets if name not in runs.domains]
    if not without:
        return {}
    if len(without) < len(targets):
        others = ", ".join(name for name in targets if name not in without)
        raise UserError(
            f"targets: {without[0]} has accuracies only, and {others} losses; their mean has no "
            "meaning. Ask for them one by one."
        )
    return {task: _accuracy(table, runs, task, chance.get(task)) for task in without}


def _accuracy(
    table: pd.DataFrame, runs: MixtureRuns, task: str, chance: float | None
) -> tuple[Array, float]:
    """Return the accuracies (M,) of a task, and its chance.

    Raises:
        UserError: chance is unknown, or no checkpoint is above it.
    """
    rows = table[table["eval_set"] == task]
    level = chance_level(task, rows) if chance is None else chance
    if level is None:
        raise UserError(
            f"{task}: the accuracy of guessing is unknown. Bind predict.chance = "
            f"{{{task!r}: 0.25}} with its value."
        )
    accuracy = accuracies(rows, runs)
    if not (accuracy > level).any():
        raise UserError(
            f"{task}: no checkpoint is above chance ({level:.3g}). Evaluate the losses of its gold "
            "answers, or train larger models."
        )
    return accuracy, level


def _performance(runs: MixtureRuns, accuracy: Array, chance: float, weights: Array) -> Performance:
    """Return the sigmoid from the losses of all domains to a task's accuracy."""
    return PerformanceSigmoid().fit(
        runs.losses, accuracy, domains=runs.domains, chance=chance, weights=weights
    )
