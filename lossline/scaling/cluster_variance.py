"""CR2: the variance of a regression coefficient whose unit of chance is a cluster of rows, with few
clusters of unequal noise.

Bell and McCaffrey (2002), "Bias reduction in standard errors for linear regression with multi-stage
samples"; Pustejovsky and Tipton (2018), "Small-sample methods for cluster-robust variance
estimation". For the means of two groups of independent rows this is Welch's variance; for pairs it
is that of the paired t test.
"""

from __future__ import annotations

import dataclasses

import numpy as np

__all__ = ["ClusterVariance", "cluster_variance"]

Array = np.ndarray

_FULL = 1e-6  # 1 - leverage below which a cluster's residual in a direction is zero by construction


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterVariance:
    """Variance of a coefficient.

    Attributes:
      variance: its estimate, unbiased if the rows' errors are independent and alike.
      degrees: Satterthwaite degrees of freedom of that estimate, under the same model.
      hidden: share of the variance that no residual shows, because single clusters determine the
        coefficient; with a share above about 0.05 the estimate is too small to be used.
    """

    variance: float
    degrees: float
    hidden: float


def cluster_variance(gain: Array, basis: Array, residual: Array, cluster: Array) -> ClusterVariance:
    """CR2 of one coefficient of an ordinary least-squares fit.

    Args:
      gain: (N,) the coefficient is ``gain @ y``.
      basis: (N, r) orthonormal basis of the design's columns.
      residual: (N,) y minus the fit.
      cluster: (N,) integer per row.
    """
    order = np.argsort(cluster, kind="stable")
    starts = np.flatnonzero(np.diff(cluster[order], prepend=-1))
    parts = [
        _clusters(gain[rows], basis[rows], residual[rows])
        for rows in _of_one_length(np.split(order, starts[1:]))
    ]
    score, squared, through = (np.concatenate(column) for column in zip(*parts, strict=True))
    gram = np.diag(squared) - through @ through.T
    trace = float(np.trace(gram))
    total = float(np.sum(gram**2))
    asked = float(gain @ gain)
    return ClusterVariance(
        variance=float(score @ score),
        degrees=trace**2 / total if total > 0 else 0.0,
        hidden=1.0 - trace / asked if asked > 0 else 1.0,
    )


def _of_one_length(clusters: list[Array]) -> list[Array]:
    """Clusters stacked by their number of rows: (C, n) each."""
    lengths = np.array([len(rows) for rows in clusters])
    return [
        np.stack([clusters[i] for i in np.flatnonzero(lengths == length)])
        for length in np.unique(lengths)
    ]


def _clusters(gain: Array, basis: Array, residual: Array) -> tuple[Array, Array, Array]:
    """For clusters of one length, what each adds: its score, and what makes the Gram matrix.

    Args:
      gain, residual: (C, n). basis: (C, n, r).

    Returns:
      Scores (C,), squared lengths of the adjusted gains (C,), and these through the basis (C, r).
    """
    left, singular, _ = np.linalg.svd(basis, full_matrices=False)
    free = 1.0 - np.clip(singular**2, 0.0, 1.0)
    scale = np.where(free > _FULL, 1.0 / np.sqrt(np.maximum(free, _FULL)), 0.0)
    along = np.einsum("cnk,cn->ck", left, gain)
    adjusted = gain + np.einsum("cnk,ck->cn", left, (scale - 1.0) * along)
    score = np.einsum("cn,cn->c", adjusted, residual)
    return (
        score,
        np.einsum("cn,cn->c", adjusted, adjusted),
        np.einsum("cnr,cn->cr", basis, adjusted),
    )
