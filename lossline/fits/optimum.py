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
from lossline.mixtures.resampling import resample
from lossline.mixtures.runs import MixtureRuns, unknown_name
from lossline.tables.chance import chance_level
from lossline.tables.schema import Status

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
        resamples: refits for the intervals, at most 100; 0 for none.
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
    refits: list[LawFit] = []
    count = len(np.unique(runs.runs))
    if resamples and count >= _FEWEST_RUNS:
        spread = resample(
            fit.law, runs, fit=fit, resamples=max(2, min(resamples, _REFITS)), seed=seed,
            backtest=False,
        )  # fmt: skip
        refits = spread.fits()
    elif resamples:
        notes.append(f"{count} runs: too few to resample, so the optimum has no interval")
    by_accuracy = _performances(usable, checkpoints, targets, chance or {})

    def goal(found: LawFit) -> Goal:
        if by_accuracy:
            weighted = {task: (by_accuracy[task], weight) for task, weight in targets.items()}
            return task_goal(found, weighted, **at)
        return loss_goal(found, targets, **at)

    optimum = best_mixture(
        goal(fit), runs, limits=limits, pull=pull, resampled=[goal(refit) for refit in refits]
    )
    return TableOptimum(
        optimum=optimum,
        runs=runs,
        targets=dict(targets),
        measure="accuracy" if by_accuracy else "loss or bits per byte",
        law=law,
        notes=(*notes, *fit.notes),
        **at,
    )


def _performances(
    table: pd.DataFrame,
    runs: MixtureRuns,
    targets: Mapping[str, float],
    chance: Mapping[str, float],
) -> dict[str, Performance]:
    """Return a performance fit of each target that has accuracies only; none if all have losses.

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
    return {task: _performance(table, runs, task, chance.get(task)) for task in without}


def _performance(
    table: pd.DataFrame, runs: MixtureRuns, task: str, chance: float | None
) -> Performance:
    rows = table[table["eval_set"] == task]
    level = chance_level(task, rows) if chance is None else chance
    if level is None:
        raise UserError(
            f"{task}: the accuracy of guessing is unknown. Bind predict.chance = "
            f"{{{task!r}: 0.25}} with its value."
        )
    fit = PerformanceSigmoid().fit(
        runs.losses, accuracies(rows, runs), domains=runs.domains, chance=level
    )
    if not fit.emerged:
        raise UserError(
            f"{task}: no checkpoint is above chance ({level:.3g}). Evaluate the losses of its gold "
            "answers, or train larger models."
        )
    return fit
