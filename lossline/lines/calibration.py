"""Sizes of prediction intervals, learned from rolling cuts.

The error of a new run, ln(y / line), grows with the distance extrapolated. With s the scatter of a
line and g the extrapolated share of y, its scale is

    sigma^2 = s^2 (a^2 + (b d)^2),    d = g / sqrt(s).

At the edge of the points it is a times the scatter. Beyond them, the error of the form grows in
proportion to g and to the root of the scatter: noisy lines are also those whose form is known
worse. A noisier sweep therefore gets wider intervals by itself, and lines of one kind share a and
b.

a and b are the most likely values given the errors at rolling cuts (``rolling_cuts``) together with
those of published sweeps; the ends of an interval are conformal: the quantile, with its
finite-sample correction, of the errors over sigma. Errors of one cut share their fit and their
runs, so that they count as a few independent errors. Runs are not exchangeable over compute: small
budgets scatter less than later ones. The published errors, which include far cuts, remain in the
sample for this reason. experiments/published/intervals.py shows how often intervals hold with each
sweep and each pretraining set left out; calibrate_lines.py there writes published_errors.csv.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtrit

from lossline.errors import UserError
from lossline.lines.specimens import LineKind

Array = np.ndarray

# Levels at which quantiles of the errors are kept; between them they are interpolated.
LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
# Fewer own cuts than this do not show how errors grow: the published errors are used alone.
LEAST_CUTS = 2
# Independent errors that these count for: the published errors of a pool, the errors of one line at
# one cut, of all lines at one cut, and of all cuts. A compromise, set by hand from forward cuts of
# published sweeps with each set left out (the last budget was seen) and from planted sweeps:
# experiments/published/README.md.
_PUBLISHED_WORTH, _FIT_WORTH, _CUT_WORTH, _MOST_WORTH = 40.0, 3.0, 20.0, 80.0
_DEGREES = 4.0  # Student's t: errors have heavy tails
_SCATTERS, _FORMS = np.geomspace(0.2, 8.0, 20), np.geomspace(0.05, 20.0, 24)
# Losses are recorded with few digits: no line is known better.
_LEAST_SCATTER = 1e-6
_PUBLISHED = Path(__file__).with_name("published_errors.csv")


class CalibrationSource(enum.StrEnum):
    """Errors that set the sizes of intervals."""

    PUBLISHED = "published sweeps"
    OWN = "own rolling cuts"


class Pool(enum.StrEnum):
    """Kinds of line that share a calibration."""

    TRAIN = "train-to-train"
    TEXT = "text"
    TASK = "task"


_POOLS = {
    LineKind.TRAIN_TO_TRAIN: Pool.TRAIN,
    LineKind.TRAIN_TO_TASK: Pool.TASK,
    LineKind.VALIDATION_TO_TASK: Pool.TASK,
}


def pool_of(kind: LineKind) -> Pool:
    """Return the pool of a kind of line; all lines to other text are one."""
    return _POOLS.get(kind, Pool.TEXT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """Sizes of prediction intervals.

    Attributes:
        scatter: a, scale of an error at the edge of the points over the scatter of the line.
        form: b, its growth with the distance d.
        quantiles: quantiles of abs(error) / sigma at ``LEVELS``.
        source: errors that set these numbers.
        cuts: own rolling cuts used; 0 with published errors alone.
        points: own held-out points used.
    """

    scatter: float
    form: float
    quantiles: tuple[float, ...]
    source: CalibrationSource = CalibrationSource.PUBLISHED
    cuts: int = 0
    points: int = 0

    def __post_init__(self) -> None:
        if len(self.quantiles) != len(LEVELS) or min(self.scatter, self.form, *self.quantiles) < 0:
            raise UserError(
                f"Calibration: scatter, form and {len(LEVELS)} quantiles must be at least 0."
            )

    @property
    def sentence(self) -> str:
        """Say which errors set the sizes of intervals."""
        if self.source is CalibrationSource.OWN:
            return (
                f"calibrated by {self.points} held-out points at {self.cuts} rolling cuts of these "
                "runs, together with published sweeps"
            )
        return (
            "calibrated by published sweeps alone, because these runs have fewer than "
            f"{LEAST_CUTS} rolling cuts"
        )

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Calibration:
        """Return a calibration from its JSON tree; TypeError if it has other fields."""
        fields = {**tree, "quantiles": tuple(tree["quantiles"])}
        return cls(**{**fields, "source": CalibrationSource(tree["source"])})

    def half_width(self, scatter: float, beyond: Array, level: float) -> Array:
        """Return the half width (M,) of an interval of ln y.

        Args:
            scatter: relative scatter s (``effective_scatter``).
            beyond: extrapolated share g of y (M,).
            level: probability that the interval covers.
        """
        scatter = max(scatter, _LEAST_SCATTER)
        far = self.form * distance(beyond, scatter)
        return self._quantile(level) * scatter * np.sqrt(self.scatter**2 + far**2)

    def _quantile(self, level: float) -> float:
        """Return the quantile of abs(error) / sigma, linear between ``LEVELS`` in a normal's."""
        known = ndtri((1 + np.array(LEVELS)) / 2)
        at = float(ndtri((1 + level) / 2))
        if at > known[-1]:
            return self.quantiles[-1] * at / known[-1]
        return float(np.interp(at, [0.0, *known], [0.0, *self.quantiles]))


def effective_scatter(scatter: float, runs: int) -> float:
    """Return the scatter of a new run of a line fitted to R runs; infinite for one run.

    R runs determine their spread with R - 1 degrees of freedom (Student's t over normal, at 90%),
    and a line within its points with a variance of about 2 / R.
    """
    if runs < 2:
        return np.inf
    tails = stdtrit(runs - 1, 0.95) / ndtri(0.95)
    return float(scatter * tails * np.sqrt(1 + 2 / runs))


def distance(beyond: Array, scatter: Array | float) -> Array:
    """Return the distance d = g / sqrt(s) of errors from their points."""
    return np.abs(beyond) / np.sqrt(np.maximum(scatter, _LEAST_SCATTER))


def normalised(errors: pd.DataFrame) -> pd.DataFrame:
    """Return errors at cuts (``rolling_cuts``) with columns error / scatter and distance."""
    scatter = np.maximum(errors["scatter"], _LEAST_SCATTER)
    return errors.assign(
        error=errors["error"] / scatter, distance=distance(errors["beyond"], scatter)
    )


@functools.cache
def published_errors() -> pd.DataFrame:
    """Return the errors of published sweeps: columns pool, distance, error (over the scatter)."""
    return pd.read_csv(_PUBLISHED, comment="#")


def published_calibration(kind: LineKind) -> Calibration:
    """Return the calibration by the published sweeps alone."""
    return _published(pool_of(kind))


@functools.cache
def _published(pool: Pool) -> Calibration:
    return learn(pool, pd.DataFrame())


def learn(
    pool: Pool, errors: pd.DataFrame, *, published: pd.DataFrame | None = None
) -> Calibration:
    """Return the calibration of a pool by its errors at rolling cuts and the published errors.

    Args:
        pool: lines that share the calibration.
        errors: own errors: columns error, scatter, beyond, line, cut (``rolling_cuts``).
        published: errors to use in place of the shipped ones.
    """
    known = published_errors() if published is None else published
    known = known[known["pool"] == str(pool)]
    sample = known[["error", "distance"]].assign(weight=_PUBLISHED_WORTH / len(known))
    cuts = errors["cut"].nunique() if len(errors) else 0
    facts: dict[str, Any] = {}
    if cuts >= LEAST_CUTS:
        own = normalised(errors)
        fits = errors.groupby(["line", "cut"])["error"]
        worth = min(_MOST_WORTH, _CUT_WORTH * cuts, _FIT_WORTH * fits.ngroups)
        weight = worth / fits.ngroups / fits.transform("size")
        sample = pd.concat([sample, own[["error", "distance"]].assign(weight=weight)])
        facts = {"source": CalibrationSource.OWN, "cuts": cuts, "points": len(errors)}
    error, far, weight = (sample[name].to_numpy(float) for name in ("error", "distance", "weight"))
    scatter, form = _most_likely(error, far, weight)
    size = np.abs(error) / np.hypot(scatter, form * far)
    quantiles = tuple(_conformal(size, weight, level) for level in LEVELS)
    return Calibration(scatter=scatter, form=form, quantiles=quantiles, **facts)


def _most_likely(error: Array, far: Array, weight: Array) -> tuple[float, float]:
    """Return a and b of largest likelihood under Student's t."""
    best, found = -np.inf, (1.0, 1.0)
    for scatter in _SCATTERS:
        variance = scatter**2 + np.square(_FORMS[:, None] * far)
        log = -0.5 * np.log(variance)
        log -= 0.5 * (_DEGREES + 1) * np.log1p(error**2 / (_DEGREES * variance))
        likelihood = log @ weight
        top = int(np.argmax(likelihood))
        if likelihood[top] > best:
            best, found = likelihood[top], (float(scatter), float(_FORMS[top]))
    return found


def _conformal(size: Array, weight: Array, level: float) -> float:
    """Return the weighted quantile at level (1 + 1 / n), n the worth of all errors."""
    order = np.argsort(size)
    cumulative = np.cumsum(weight[order])
    share = min(level * (1 + 1 / cumulative[-1]), 1.0) * cumulative[-1]
    place = min(int(np.searchsorted(cumulative, share)), len(size) - 1)
    return float(size[order][place])
