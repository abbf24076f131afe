"""Errors that the checkpoints of one run share: how large they are, how a fit takes them out, and
what a few runs cannot tell about them.

A run lies off the line as a whole (its seed, its data, its schedule), and its checkpoints scatter
about that by less. The relative error of checkpoint i of run r is b_r + e_i, and the correlation
rho = var b / (var b + var e) says which part is shared. Points along one run then say little about
where the line lies, and much about how it bends.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from scipy import special

__all__ = ["RunErrors", "few_runs", "shared_part", "worth"]

Array = np.ndarray

# Never all: some of what differs between two checkpoints of a run is not noise of the checkpoint.
_LARGEST = 0.99


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunErrors:
    """Errors of M points; `run` (M,) is 0..R-1, `shared` the correlation rho within a run."""

    run: Array
    shared: float

    def taken_out(self, rows: Array) -> Array:
        """Rows (..., M) whose errors are as large as each other's, but independent.

        The part theta = 1 - sqrt((1 - rho) / (1 - rho + m rho)) of the mean over a run's m points
        is subtracted (Fuller & Battese 1973).
        """
        if not self.shared > 0:
            return rows
        count = np.bincount(self.run)
        own = 1 - self.shared
        part = 1 - np.sqrt(own / (own + count * self.shared))
        member = np.eye(len(count))[self.run]
        return rows - ((rows @ member) * (part / count))[..., self.run]


def shared_part(residual: Array, run: Array) -> float:
    """rho of residuals (M,): their intraclass correlation within runs, by analysis of variance; 0
    where no run has two points or there is one run."""
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
    """Independent points that say as much about a mean as points of these weights (M,) (Kish
    1965)."""
    noise = (1 - shared) * np.sum(weight**2) + shared * np.sum(np.bincount(run, weight) ** 2)
    return float(np.sum(weight) ** 2 / noise)


def few_runs(runs: int, count: int, random: np.random.Generator) -> Array:
    """Factors (S,) that turn the moves of reweighed fits into draws of the error of the fit.

    Weights uniform on the simplex vary by (R - 1) / (R + 1) of what drawing runs gives, a fit
    follows its own R runs, and R runs show their spread with R - 1 degrees of freedom only, which
    makes Student's t of a normal error: sqrt((R + 1) / (R - 1)) sqrt(nu / chi2_nu).
    """
    return np.sqrt((runs + 1) / (runs - 1)) * random.permutation(_heavy(runs - 1, count))


@functools.lru_cache(maxsize=64)
def _heavy(degrees: int, count: int) -> Array:
    """sqrt(nu / chi2_nu) at evenly spaced quantiles (S,): factors without luck."""
    chi2 = special.chdtri(degrees, (np.arange(count) + 0.5) / count)
    return np.sqrt(degrees / chi2)
