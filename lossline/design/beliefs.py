"""Joint uncertainty of the quantity asked about and of what each candidate's run would measure.

Position 0 is the quantity q, positions 1 to M the candidates. Three parts make it, all on one scale
(``prediction.intervals.to_scale``: the logarithm for a loss, the arcsine of the root for a score):

* draws of the fitted law: their covariance. A candidate whose draws go with those of q tells much.
* the noise of one run, ``noise``. It is no part of the covariance, and never shrinks at q: it is
  ``floor``.
* the error of the law's form: what the interval in use at a point holds beyond the other two. It is
  a process that grows with the distance d beyond the fitted runs, with the correlation

      (min(d, e) / max(d, e))^roughness

  between distances d and e. At roughness 0 the error grows along one unknown slope, so that a run a
  little way out tells all of it; the larger, the farther out a run must be. So far candidates
  reduce it, near ones hardly, and those within the fitted runs not at all.

A run of candidate c then leaves var(q) - cov(q, c)^2 / (var(c) + noise(c)^2): exact for a linear
law and normal errors, whatever the run measures.
"""

from __future__ import annotations

import dataclasses

import numpy as np

Array = np.ndarray

_FAR = 3.0  # draws beyond so many deviations count as that: a few that ran away must not decide


@dataclasses.dataclass(frozen=True, kw_only=True)
class Belief:
    """What is known of q and of M candidates.

    Attributes:
        covariance: of the expected values (1 + M, 1 + M), q first.
        noise: variance of one run of each candidate about its expected value (M,).
        floor: variance of q's interval that no run reduces.
        draws: number of draws that the covariance was estimated from; infinity if it is exact.
    """

    covariance: Array
    noise: Array
    floor: float = 0.0
    draws: float = float("inf")

    @classmethod
    def of(cls, law: Moments, roughness: float) -> Belief:
        """Return the belief of one law at q and the candidates."""
        return cls(
            covariance=law.covariance(roughness),
            noise=law.noise[1:] ** 2,
            floor=float(law.noise[0] ** 2),
            draws=float(len(law.draws)),
        )

    def __len__(self) -> int:
        return len(self.noise)

    @property
    def width(self) -> float:
        """Standard deviation behind the interval of q."""
        return float(np.sqrt(max(self.covariance[0, 0], 0.0) + self.floor))

    def gains(self) -> Array:
        """Return by how much one run of each candidate reduces the variance of q (M,)."""
        with_q = self.covariance[0, 1:]
        return with_q**2 / np.maximum(np.diag(self.covariance)[1:] + self.noise, 1e-300)

    def widths(self) -> Array:
        """Return ``width`` after one run of each candidate (M,)."""
        left = np.maximum(self.covariance[0, 0] - self.gains(), 0.0)
        return np.sqrt(left + self.floor)

    def after(self, candidate: int, runs: float = 1.0) -> Belief:
        """Return what is known after ``runs`` runs of a candidate (0 to M - 1)."""
        column = self.covariance[:, candidate + 1]
        whole = max(column[candidate + 1] + self.noise[candidate] / runs, 1e-300)
        return dataclasses.replace(
            self, covariance=self.covariance - np.outer(column, column) / whole
        )

    def gain_error(self) -> Array:
        """Return the standard error of ``gains``, relative (M,): few draws show few digits."""
        if not np.isfinite(self.draws):
            return np.zeros(len(self))
        whole = self.covariance[0, 0] * (np.diag(self.covariance)[1:] + self.noise)
        share = np.clip(self.covariance[0, 1:] ** 2 / np.maximum(whole, 1e-300), 1e-6, 1.0)
        return 2 * (1 - share) / np.sqrt(share * self.draws)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moments:
    """A fitted law at T places: what it says there, and how far off it may be.

    Attributes:
        center: the law (T,), natural units.
        draws: deviations of the drawn laws from it (S, T), on the scale of the errors.
        deviation: standard deviation of one new run by the interval in use (T,).
        noise: standard deviation of one run about its expected value (T,).
        distance: signed distance beyond the fitted runs, 0 within them (T,).
    """

    center: Array
    draws: Array
    deviation: Array
    noise: Array
    distance: Array

    def covariance(self, roughness: float) -> Array:
        """Return the covariance of the expected values (T, T), the form's error included."""
        total = np.maximum(self.deviation**2 - self.noise**2, 0.0)
        moved = tame(self.draws)
        spread = np.mean(moved**2, axis=0)
        # Where the interval in use trusts the law more than its draws do, they are scaled to it.
        scale = np.sqrt(np.minimum(1.0, total / np.maximum(spread, 1e-300)))
        moved = moved * scale
        form = np.sqrt(np.maximum(total - spread * scale**2, 0.0))
        correlation = form_correlation(self.distance, roughness)
        return moved.T @ moved / len(moved) + np.outer(form, form) * correlation


def form_correlation(distance: Array, roughness: float) -> Array:
    """Return the correlation (T, T) of the form's error between signed distances (T,).

    Runs beyond one end of the fitted ones tell nothing about the form beyond the other.
    """
    size = np.abs(distance)
    near, far = np.minimum.outer(size, size), np.maximum.outer(size, size)
    beyond = np.multiply.outer(distance, distance) > 0
    ratio = np.where(beyond, near, 1.0) / np.where(beyond, far, 1.0)
    found = np.where(beyond, ratio**roughness, 0.0)
    np.fill_diagonal(found, 1.0)
    return found


def tame(draws: Array) -> Array:
    """Return deviations (S, T) with those of runaway draws limited.

    Their spread is that of the median deviation, as in ``prediction.intervals``.
    """
    kept = np.where(np.isfinite(draws), draws, 0.0)
    middle = np.median(np.abs(kept), axis=0) / 0.6745
    most = _FAR * middle
    # One factor for a whole draw, so that candidates keep their correlation.
    over = np.max(np.abs(kept) / np.maximum(most, 1e-300), axis=1, where=most > 0, initial=1.0)
    limited = kept / np.maximum(over, 1.0)[:, None]
    spread = np.sqrt(np.mean(limited**2, axis=0))
    return limited * (middle / np.maximum(spread, 1e-300))
