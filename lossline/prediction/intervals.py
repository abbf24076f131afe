"""Intervals: resampled runs, and a part that grows with the distance extrapolated.

All is on a scale on which errors are about equal everywhere: the arcsine of the root for an
accuracy (its sampling variance is 1 / (4 n) for n questions at any accuracy), the logarithm for a
loss. The variance of a prediction is

    v_resampled + tau^2 + (s d)^2,    d = log10(C / largest C fitted), at least 0.

tau and s are the most likely values given the errors of rolling backtests: every cut of the runs by
compute is fitted, and predicts every later run. Tasks differ (one has 30 questions, another 10,000;
one has emerged, another not), so that tau and s are learned twice: from the errors of all tasks,
with a few pseudo-errors where there are few backtests; then for each task from its own errors, with
pseudo-errors of the size that all tasks together have. Errors have heavy tails, so that all
quantiles are Student's t with 4 degrees of freedom.

Numbers and sizes of the pseudo-errors, the degrees of freedom and the worth of many errors were
chosen once, by the share of measurements that the 50, 80 and 90% intervals hold at rolling cuts of
three tables together: the OLMo ladder, Gadre et al. and public models
(experiments/published/scores/README.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

Array = np.ndarray

_DEGREES = 4.0
# Pseudo-errors: their number, their tau and s. They count like so many backtests.
_PRIOR_COUNT, _PRIOR_TAU, _PRIOR_SLOPE = 6.0, 0.02, 0.15
_TASK_COUNT = 3.0  # pseudo-errors of a task, with the spread of all tasks
# Backtests of one cut share their fit: many of them say no more than so many independent errors.
_WORTH, _TASK_WORTH = 40.0, 20.0
_DISTANCES = (0.0, 0.5, 1.0)  # of the pseudo-errors
_TAUS = np.geomspace(0.002, 0.5, 20)
_SLOPES = np.concatenate([[0.0], np.geomspace(0.005, 1.0, 20)])
_MIDPOINTS = (np.arange(9) + 0.5) / 9


def to_scale(value: Any, metric: str) -> Array:
    """Return values on the scale of the errors; scores outside [0, 1] count as 0 or 1."""
    if metric == "accuracy":
        return np.arcsin(np.sqrt(np.clip(value, 0.0, 1.0)))
    with np.errstate(all="ignore"):
        return np.log(np.maximum(value, 1e-12))


def from_scale(value: Any, metric: str) -> Array:
    """Return values of the natural scale."""
    if metric == "accuracy":
        return np.square(np.sin(np.clip(value, 0.0, np.pi / 2)))
    return np.exp(value)


def run_weights(runs: int, resamples: int, seed: int) -> Array:
    """Return weights (1 + B, R): all ones, then uniformly distributed shares (Rubin 1981).

    Reweighting keeps every size in every resample; draws of few runs would lose some.
    """
    weights = np.ones((1 + resamples, runs))
    weights[1:] = runs * np.random.default_rng(seed).dirichlet(np.ones(runs), size=resamples)
    return weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """How far predictions of one method lie from the truth, beyond what resamples show.

    Attributes:
        tau: standard deviation at the edge of the runs.
        slope: increase s per factor of 10 in compute.
        count: backtests that set them.
    """

    tau: float = _PRIOR_TAU
    slope: float = _PRIOR_SLOPE
    count: int = 0

    def interval(
        self, middle: Array, variance: Array, extrapolation: Array, level: float, metric: str
    ) -> tuple[Array, Array]:
        """Return low and high ends (T,), natural scale.

        Args:
            middle: predictions (T,), natural scale.
            variance: resampled variance (T,), on the scale of the errors.
            extrapolation: C over the largest C fitted (T,).
            level: probability that the interval covers.
            metric: metric of the predictions.
        """
        width = stats.t.ppf((1 + level) / 2, _DEGREES) * self.deviation(variance, extrapolation)
        center = to_scale(middle, metric)
        return from_scale(center - width, metric), from_scale(center + width, metric)

    def deviation(self, variance: Array, extrapolation: Array) -> Array:
        """Return the scale of the error (T,)."""
        far = distance(extrapolation)
        return np.sqrt(variance + self.tau**2 + np.square(self.slope * far))


def distance(extrapolation: Any) -> Array:
    """Return the distance extrapolated: factors of 10 in compute, at least 0."""
    return np.maximum(np.log10(np.maximum(extrapolation, 1e-12)), 0.0)


def learn(
    errors: Sequence[float] | Array,
    variances: Sequence[float] | Array,
    extrapolations: Sequence[float] | Array,
    among: Spread | None = None,
) -> Spread:
    """Return the most likely spread of backtest errors, given their resampled variances.

    Args:
        errors: prediction minus measurement, on the scale of the errors (K,).
        variances: resampled variances (K,).
        extrapolations: C over the largest C fitted (K,).
        among: spread of all tasks, if the errors are of one task.
    """
    error, variance = np.asarray(errors, float), np.asarray(variances, float)
    far = distance(np.asarray(extrapolations, float))
    known = np.isfinite(error) & np.isfinite(variance)
    error, variance, far = error[known], variance[known], far[known]
    count, most = (_PRIOR_COUNT, _WORTH) if among is None else (_TASK_COUNT, _TASK_WORTH)
    score = _pseudo_score(count, among or Spread())
    if len(error):
        total = _variances(far) + variance
        score = score + min(1.0, most / len(error)) * _log_likelihood(error, total).sum(axis=-1)
    i, j = np.unravel_index(np.argmax(score), score.shape)
    return Spread(tau=float(_TAUS[i]), slope=float(_SLOPES[j]), count=len(error))


def _variances(far: Array) -> Array:
    """Return tau^2 + (s d)^2 on the grid (taus, slopes, K)."""
    return np.square(_TAUS)[:, None, None] + np.square(_SLOPES[:, None] * far)


def _pseudo_score(count: float, spread: Spread) -> Array:
    """Return the expected log-likelihood, on the grid, of pseudo-errors of a spread."""
    far = np.array(_DISTANCES)
    quantiles = stats.t.ppf(_MIDPOINTS, _DEGREES)
    errors = quantiles[:, None] * spread.deviation(np.zeros(len(far)), 10.0**far)  # (9, D)
    found = _log_likelihood(errors, _variances(far)[:, :, None, :])
    return count * found.mean(axis=(-2, -1))


def _log_likelihood(error: Array, variance: Array) -> Array:
    """Return the log density of Student's t with the variance as squared scale."""
    return -0.5 * np.log(variance) - 0.5 * (_DEGREES + 1) * np.log1p(
        np.square(error) / (_DEGREES * variance)
    )


def resampled_variance(draws: Array, metric: str, runs: int) -> Array:
    """Return the variance (T,) of resampled predictions (1 + B, T) about the fit to all runs.

    It is the squared median deviation, scaled to a normal distribution's, so that few resamples
    that ran away do not decide. (G + 1) / (G - 1) corrects for G runs.
    """
    if len(draws) < 2:
        return np.zeros(draws.shape[1])
    at = to_scale(draws, metric)
    away = np.abs(at[1:] - at[:1])
    known = ~np.isnan(away).all(axis=0)  # a law in N and D has no number for a model without N
    deviation = np.full(away.shape[1], np.nan)
    deviation[known] = np.nanmedian(away[:, known], axis=0) / 0.6745
    return np.square(deviation) * (runs + 1) / max(runs - 1, 1)
