"""Errors that the checkpoints of one run share: their size, their removal, and limits of few runs.

A run lies off the line as a whole, because of its seed, its data, its schedule. Its checkpoints
scatter less about that offset. Model: the relative error of checkpoint i of run r is b_r + e_i, and
the correlation rho = var b / (var b + var e) is the shared part. Points along one run then
determine the bend of the line well, but its height badly.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from scipy import special

Array = np.ndarray

# Largest rho. At 1 a run would have only one independent point, and the bend would be exact.
_LARGEST = 0.99


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunErrors:
    """Errors of M points.

    Attributes:
        run: run of each point (M,), 0 to R - 1, ascending.
        shared: correlation rho within a run.
    """

    run: Array
    shared: float

    @functools.cached_property
    def count(self) -> Array:
        """Points of each run (R,)."""
        return np.bincount(self.run)

    @property
    def n_runs(self) -> int:
        """Number of runs R."""
        return len(self.count)

    def sums(self, rows: Array) -> Array:
        """Return the sums (..., R) of rows (..., M) over the points of each run."""
        if self.n_runs == len(self.run):
            return rows
        return np.add.reduceat(rows, np.cumsum(self.count) - self.count, axis=-1)

    def taken_out(self, rows: Array) -> Array:
        """Return rows (..., M) transformed so that their errors are independent and of equal size.

        The share theta = 1 - sqrt((1 - rho) / (1 - rho + m rho)) of the mean over a run's m points
        is subtracted (Fuller & Battese 1973).
        """
        if not self.shared > 0:
            return rows
        own = 1 - self.shared
        part = 1 - np.sqrt(own / (own + self.count * self.shared))
        offset = np.take(self.sums(rows) * (part / self.count), self.run, axis=-1)
        return np.subtract(rows, offset, out=offset)


def shared_part(residual: Array, run: Array) -> float:
    """Return rho of residuals (M,): their intraclass correlation, by analysis of variance.

    It is 0 with a single run, and if no run has two points.
    """
    n, count = len(residual), np.bincount(run)
    if len(count) < 2 or n == len(count):
        return 0.0
    mean = np.bincount(run, residual) / count
    within = np.sum((residual - mean[run]) ** 2) / (n - len(count))
    size = (n - np.sum(count**2) / n) / (len(count) - 1)
    between = np.sum(count * (mean - residual.mean()) ** 2) / (len(count) - 1)
    above = max(between - within, 0.0)
    total = above + size * within
    return float(min(above / total, _LARGEST)) if total > 0 else 0.0


def worth(weight: Array, run: Array, shared: float = 0.0) -> float:
    """Return the number of independent points that determine a mean as well as these (Kish 1965).

    Args:
        weight: weights of the points (M,).
        run: run of each point (M,).
        shared: correlation within a run.
    """
    noise = (1 - shared) * np.sum(weight**2) + shared * np.sum(np.bincount(run, weight) ** 2)
    return float(np.sum(weight) ** 2 / noise)


def few_runs(runs: int, count: int, random: np.random.Generator) -> Array:
    """Return factors (S,) that turn moves of reweighted fits into draws of the error of the fit.

    They are sqrt((R + 1) / (R - 1)) sqrt(nu / chi2_nu), nu = R - 1, for three reasons: weights
    uniform on the simplex have (R - 1) / (R + 1) of the variance of drawing runs; a fit follows its
    own R runs; R runs determine their spread with R - 1 degrees of freedom only, which turns a
    normal error into Student's t.
    """
    return np.sqrt((runs + 1) / (runs - 1)) * random.permutation(_heavy(runs - 1, count))


@functools.lru_cache(maxsize=64)
def _heavy(degrees: int, count: int) -> Array:
    """Return sqrt(nu / chi2_nu) at evenly spaced quantiles (S,), the same for every call."""
    chi2 = special.chdtri(degrees, (np.arange(count) + 0.5) / count)
    return np.sqrt(degrees / chi2)
