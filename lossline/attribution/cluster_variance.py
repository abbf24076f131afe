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
      degrees: Satterthwaite degrees of freedom of that estimate, under the same model; with `side`,
        no more than where the sides have the variances that their residuals show.
      hidden: share of the variance that no residual shows, because single clusters determine the
        coefficient; with a share above about 0.05 the estimate is too small to be used.
    """

    variance: float
    degrees: float
    hidden: float


def cluster_variance(
    gain: Array, basis: Array, residual: Array, cluster: Array, side: Array | None = None
) -> ClusterVariance:
    """CR2 of one coefficient of an ordinary least-squares fit.

    Args:
      gain: (N,) the coefficient is ``gain @ y``.
      basis: (N, r) orthonormal basis of the design's columns.
      residual: (N,) y minus the fit.
      cluster: (N,) integer per row.
      side: (N,) which of two kinds of clusters the row belongs to, whose variances may differ: a
        noisy side of few clusters then has the few degrees that Welch's test would give it.
    """
    order = np.argsort(cluster, kind="stable")
    starts = np.flatnonzero(np.diff(cluster[order], prepend=-1))
    lengths = _of_one_length(np.split(order, starts[1:]))
    parts = [_clusters(gain[rows], basis[rows], residual[rows]) for rows in lengths]
    score, squared, through = (np.concatenate(column) for column in zip(*parts, strict=True))
    gram = np.diag(squared) - through @ through.T
    degrees = _degrees(gram)
    if side is not None:
        first = np.concatenate([rows[:, 0] for rows in lengths])
        of_side = _variances(score, np.diag(gram), side[first].astype(int))
        of_row, of_cluster = of_side[side.astype(int)], of_side[side[first].astype(int)]
        degrees = min(degrees, _degrees(_gram(squared, through, basis, of_row, of_cluster)))
    asked = float(gain @ gain)
    return ClusterVariance(
        variance=float(score @ score),
        degrees=degrees,
        hidden=1.0 - float(np.trace(gram)) / asked if asked > 0 else 1.0,
    )


def _degrees(gram: Array) -> float:
    total = float(np.sum(gram**2))
    return float(np.trace(gram)) ** 2 / total if total > 0 else 0.0


def _variances(score: Array, expected: Array, side: Array) -> Array:
    """Per side, the variance of its rows: squared scores of its clusters over what they would be
    at a variance of 1."""
    asked = np.bincount(side, weights=expected, minlength=2)
    return np.bincount(side, weights=score**2, minlength=2) / np.maximum(asked, 1e-300)


def _gram(squared: Array, through: Array, basis: Array, of_row: Array, of_cluster: Array) -> Array:
    """As the Gram matrix of equal variances, with a variance per row."""
    inner = through @ through.T
    middle = through @ (basis.T @ (of_row[:, None] * basis)) @ through.T
    return np.diag(squared * of_cluster) - inner * (of_cluster[:, None] + of_cluster) + middle


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
