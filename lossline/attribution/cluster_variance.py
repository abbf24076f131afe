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


class ClusterVariances:
    """CR2 variance of one coefficient of ordinary least squares, for any y.

    Args:
        gain: (N,) weights such that the coefficient is ``gain @ y``.
        basis: (N, r) orthonormal basis of the columns of the design.
        cluster: (N,) integer label of the cluster of each row.
        side: (N,) 0 or 1 per row, for clusters of two kinds whose variances may differ. A noisy
            side of few clusters then has as few degrees of freedom as in Welch's test.
    """

    def __init__(
        self, gain: Array, basis: Array, cluster: Array, side: Array | None = None
    ) -> None:
        """Factorize the clusters."""
        order = np.argsort(cluster, kind="stable")
        starts = np.flatnonzero(np.diff(cluster[order], prepend=-1))
        self._lengths = _of_one_length(np.split(order, starts[1:]))
        parts = [_clusters(gain[rows], basis[rows]) for rows in self._lengths]
        self._adjusted = [adjusted for adjusted, _, _ in parts]
        self._squared = np.concatenate([squared for _, squared, _ in parts])
        self._through = np.concatenate([through for _, _, through in parts])
        # Inner products of the vectors (I - H)[:, c] A_c gain_c over pairs of clusters. I - H is
        # idempotent, so they need only the squared lengths and the projections on the basis.
        gram = np.diag(self._squared) - self._through @ self._through.T
        self._degrees, self._expected = _degrees(gram), np.diag(gram).copy()
        asked = float(gain @ gain)
        self._hidden = 1.0 - float(np.trace(gram)) / asked if asked > 0 else 1.0
        if side is not None:
            self._first = side.astype(int)[np.concatenate([rows[:, 0] for rows in self._lengths])]
            self._sides = _Sides.of([self._gram_of_side(basis, side, which) for which in (0, 1)])
        self._two_sided = side is not None

    def of(self, residual: Array) -> ClusterVariance:
        """Return the variance, from y minus the fit (N,)."""
        score = np.concatenate(
            [
                np.einsum("cn,cn->c", adjusted, residual[rows])
                for adjusted, rows in zip(self._adjusted, self._lengths, strict=True)
            ]
        )
        degrees = self._degrees
        if self._two_sided:
            # Two variances, as in Welch's test: those that each side's own residuals show.
            of_side = _variances(score, self._expected, self._first)
            degrees = min(degrees, self._sides.degrees(of_side))
        return ClusterVariance(variance=float(score @ score), degrees=degrees, hidden=self._hidden)

    def _gram_of_side(self, basis: Array, side: Array, which: int) -> Array:
        """Return the part of the Gram matrix by the rows of one side, at a variance of 1."""
        rows, clusters = (side == which).astype(float), (self._first == which).astype(float)
        return _gram(self._squared, self._through, basis, rows, clusters)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sides:
    """Traces of the Gram matrix v0 G0 + v1 G1 of two sides: all that its degrees depend on.

    Attributes:
        trace: traces of G0 and G1 (2,).
        product: traces of their products (2, 2).
    """

    trace: Array
    product: Array

    @classmethod
    def of(cls, grams: list[Array]) -> _Sides:
        return cls(
            trace=np.array([np.trace(one) for one in grams]),
            product=np.array([[np.vdot(one, two) for two in grams] for one in grams]),
        )

    def degrees(self, variances: Array) -> float:
        """Return Satterthwaite's degrees of freedom for a variance of each side (2,)."""
        total = float(variances @ self.product @ variances)
        return float(variances @ self.trace) ** 2 / total if total > 0 else 0.0


def cluster_variance(
    gain: Array, basis: Array, residual: Array, cluster: Array, side: Array | None = None
) -> ClusterVariance:
    """Return the CR2 variance of one coefficient: ``ClusterVariances`` for a single y."""
    return ClusterVariances(gain, basis, cluster, side).of(residual)


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


def _clusters(gain: Array, basis: Array) -> tuple[Array, Array, Array]:
    """Adjusted gains of clusters of one size, and their parts of the Gram matrix.

    Args:
        gain: (C, n) weights of the coefficient.
        basis: (C, n, r) rows of the orthonormal basis.

    Returns:
        Adjusted gains (C, n), their squared lengths (C,), and their products with the basis (C, r).
    """
    # CR2 multiplies a cluster's residuals by A = (I - H)^(-1/2), with H the cluster's block of the
    # hat matrix. H has rank r at most, so A needs only the singular vectors of the basis rows; in
    # all other directions it is the identity.
    left, singular, _ = np.linalg.svd(basis, full_matrices=False)
    free = 1.0 - np.clip(singular**2, 0.0, 1.0)
    scale = np.where(free > _FULL, 1.0 / np.sqrt(np.maximum(free, _FULL)), 0.0)
    along = np.einsum("cnk,cn->ck", left, gain)
    adjusted = gain + np.einsum("cnk,ck->cn", left, (scale - 1.0) * along)
    return (
        adjusted,
        np.einsum("cn,cn->c", adjusted, adjusted),
        np.einsum("cnr,cn->cr", basis, adjusted),
    )
