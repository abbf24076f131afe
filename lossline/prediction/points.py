"""Which checkpoints stage 2 is fitted to."""

from __future__ import annotations

import dataclasses
import enum

import numpy as np

from lossline.prediction.observations import Observations

_PER_RUN = 30  # checkpoints of one run: every 1/30 of the training (Chen et al.)
_SKIPPED = 0.1  # share of the training that is left out at its start (Bhagia et al.)
_WINDOW = 5  # checkpoints of the moving average (Bhagia et al.)


class Points(enum.StrEnum):
    """A choice of checkpoints."""

    FINAL = "final"  # the last checkpoint of each run
    IMPROVING = "improving"  # FLP: those that improve the loss, above chance
    SMOOTHED = "smoothed"  # OLMo ladder: 30 per run after its first tenth, moving average


def choose(observations: Observations, points: Points, *, emergence: float) -> Observations:
    """Return the chosen checkpoints.

    Args:
        observations: all checkpoints.
        points: the choice.
        emergence: score above chance from which FLP's points count.
    """
    if points is Points.FINAL:
        return observations[observations.final]
    if points is Points.IMPROVING:
        return improving(observations, emergence)
    return smoothed(observations)


def improving(observations: Observations, emergence: float) -> Observations:
    """Return the points of FLP (arXiv 2410.08527, section 3.2).

    At most every 1/30 of training, those that improve the loss rounded to two decimals and score at
    least ``emergence`` above chance. The loss is ``Observations.progress``; a run without it keeps
    all its checkpoints.
    """
    keep = np.zeros(len(observations), bool)
    for run in range(len(observations.names)):
        rows = np.flatnonzero(observations.run == run)
        if len(rows):
            rows = _spread(rows, observations.trained[rows])
            keep[rows] = _improves(np.round(observations.progress[rows], 2))
    above = observations.value >= observations.chance + emergence
    return observations[keep & above]


def _improves(loss: np.ndarray) -> np.ndarray:
    """Return whether each loss is lower than all before it; True everywhere if none is known."""
    if not np.isfinite(loss).any():
        return np.ones(len(loss), bool)
    before = np.fmin.accumulate(np.concatenate([[np.inf], loss[:-1]]))
    return loss < before


def _spread(rows: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Return the last row within each 1/30 of the run's training."""
    part = np.ceil(_PER_RUN * trained / trained[-1] - 1e-9)
    return rows[np.append(part[1:] != part[:-1], True)]


def smoothed(observations: Observations) -> Observations:
    """Return at most 30 points per run after its first tenth, averaged over 5 checkpoints.

    The ladder's authors take all points: runs with more checkpoints then count more.
    Runs with fewer than 30 checkpoints are not averaged: five of them are a large part of the run.
    """
    trained, keep = observations.trained, np.zeros(len(observations), bool)
    columns = {
        name: np.array(getattr(observations, name), float) for name in ("value", "loss", "gold")
    }
    domains = {name: np.array(column) for name, column in observations.domains.items()}
    for run in range(len(observations.names)):
        rows = np.flatnonzero(observations.run == run)
        if not len(rows):
            continue
        if len(rows) >= _PER_RUN:
            for column in (*columns.values(), *domains.values()):
                column[rows] = _moving_average(column[rows])
        late = rows[trained[rows] > _SKIPPED * trained[rows[-1]]]
        keep[_spread(late, trained[late])] = True
    averaged = dataclasses.replace(observations, domains=domains, **columns)  # type: ignore[arg-type]
    return averaged[keep]


def _moving_average(values: np.ndarray) -> np.ndarray:
    """Return the mean of each value and the up to four before it, without missing ones."""
    known = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(known)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - _WINDOW, 0)
    number = count[end] - count[start]
    return np.where(number > 0, (total[end] - total[start]) / np.maximum(number, 1), np.nan)
