"""CR2: cluster-robust variance of a regression coefficient, for few clusters of unequal noise.

Rows of one cluster (here: checkpoints of one run) may be correlated; clusters are independent.

For the means of two groups of independent rows, CR2 is Welch's variance. For pairs, it is the
variance of the paired t test.

Sources: Bell and McCaffrey (2002), "Bias reduction in standard errors for linear regression with
multi-stage samples"; Pustejovsky and Tipton (2018), "Small-sample methods for cluster-robust
variance estimation".
"""

from __future__ import annotations

import dataclasses

import numpy as np

Array = np.ndarray

# A direction of a cluster with 1 - leverage below this is fitted exactly: its residual is rounding,
# and dividing by it would blow up.
_FULL = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterVariance:
    """Variance of a coefficient.

    Attributes:
        variance: the estimate. It is unbiased if the errors of rows are independent and have one
            variance.
        degrees: Satterthwaite degrees of freedom of ``variance`` under the same model. With
            ``side``, the smaller of this value and the one for two sides of unequal variance.
        hidden: share of the variance that no residual shows, because single clusters determine the
            coefficient. Above about 0.05 the estimate is too small to be used.
    """

    variance: float
    degrees: float
    hidden: float


def cluster_variance(
    gain: Array, basis: Array, residual: Array, cluster: Array, side: Array | None = None
) -> ClusterVariance:
    """Return the CR2 variance of one coefficient of an ordinary least-squares fit.

    Args:
        gain: (N,) weights such that the coefficient is ``gain @ y``.
        basis: (N, r) orthonormal basis of the columns of the design.
        residual: (N,) y minus the fit.
        cluster: (N,) integer label of the cluster of each row.
        side: (N,) 0 or 1 per row, for clusters of two kinds whose variances may differ. A noisy
            side of few clusters then has as few degrees of freedom as in Welch's test.
    """
    order = np.argsort(cluster, kind="stable")
    starts = np.flatnonzero(np.diff(cluster[order], prepend=-1))
    lengths = _of_one_length(np.split(order, starts[1:]))
    parts = [_clusters(gain[rows], basis[rows], residual[rows]) for rows in lengths]
    score, squared, through = (np.concatenate(column) for column in zip(*parts, strict=True))
    # Inner products of the vectors (I - H)[:, c] A_c gain_c over pairs of clusters. I - H is
    # idempotent, so they need only the squared lengths and the projections on the basis.
    gram = np.diag(squared) - through @ through.T
    degrees = _degrees(gram)
    if side is not None:
        # Degrees for two variances, as in Welch's test: reweight the Gram matrix with the variance
        # that each side's own residuals show.
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
    """Satterthwaite's trace(G)² / trace(G²) (Pustejovsky and Tipton 2018, equation 11)."""
    total = float(np.sum(gram**2))
    return float(np.trace(gram)) ** 2 / total if total > 0 else 0.0


def _variances(score: Array, expected: Array, side: Array) -> Array:
    """Variance of the rows of each side, (2,).

    It is the sum of squared cluster scores, divided by the sum expected at a variance of 1.
    """
    asked = np.bincount(side, weights=expected, minlength=2)
    return np.bincount(side, weights=score**2, minlength=2) / np.maximum(asked, 1e-300)


def _gram(squared: Array, through: Array, basis: Array, of_row: Array, of_cluster: Array) -> Array:
    """Gram matrix for one variance per row, instead of equal variances."""
    inner = through @ through.T
    middle = through @ (basis.T @ (of_row[:, None] * basis)) @ through.T
    return np.diag(squared * of_cluster) - inner * (of_cluster[:, None] + of_cluster) + middle


def _of_one_length(clusters: list[Array]) -> list[Array]:
    """Stack clusters of equal size, so that each size is one batched SVD: arrays of (C, n)."""
    lengths = np.array([len(rows) for rows in clusters])
    return [
        np.stack([clusters[i] for i in np.flatnonzero(lengths == length)])
        for length in np.unique(lengths)
    ]


def _clusters(gain: Array, basis: Array, residual: Array) -> tuple[Array, Array, Array]:
    """Score of each cluster and its part of the Gram matrix, for clusters of one size.

    Args:
        gain: (C, n) weights of the coefficient.
        basis: (C, n, r) rows of the orthonormal basis.
        residual: (C, n) y minus the fit.

    Returns:
        Scores (C,), squared lengths of the adjusted gains (C,), and the adjusted gains times the
        basis (C, r).
    """
    # CR2 multiplies a cluster's residuals by A = (I - H)^(-1/2), with H the cluster's block of the
    # hat matrix. H has rank r at most, so A needs only the singular vectors of the basis rows; in
    # all other directions it is the identity.
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
