"""CR2 against Welch's variance, the paired t test, and an independent textbook computation."""

import numpy as np
import pytest
from scipy import stats

from lossline.attribution.cluster_variance import cluster_variance


def fitted(X, y, cluster):
    left, singular, right = np.linalg.svd(X, full_matrices=False)
    gain = ((right.T / singular) @ left.T)[0]
    return gain, left, y - left @ (left.T @ y), np.asarray(cluster)


def test_two_groups_have_the_variance_of_welchs_test():
    random = np.random.default_rng(0)
    first, second = random.normal(size=5), 3.0 * random.normal(size=9)
    d = np.repeat([0.0, 1.0], [5, 9])
    X = np.column_stack([d, np.ones(14)])
    found = cluster_variance(*fitted(X, np.concatenate([first, second]), np.arange(14)))
    assert found.variance == pytest.approx(first.var(ddof=1) / 5 + second.var(ddof=1) / 9)
    assert found.hidden == pytest.approx(0.0, abs=1e-12)
    even = np.array([1 / 5, 1 / 9])
    assert found.degrees == pytest.approx(even.sum() ** 2 / (even**2 / [4, 8]).sum())


def test_pairs_have_the_variance_of_the_paired_t_test():
    random = np.random.default_rng(1)
    y = random.normal(size=(6, 2))
    X = np.column_stack([np.tile([0.0, 1.0], 6), np.kron(np.eye(6), np.ones((2, 1)))])
    found = cluster_variance(*fitted(X, y.ravel(), np.arange(12)))
    difference = y[:, 1] - y[:, 0]
    assert found.variance == pytest.approx(difference.var(ddof=1) / 6)
    assert found.degrees == pytest.approx(5.0)
    t = difference.mean() / np.sqrt(found.variance)
    assert 2 * stats.t.sf(abs(t), found.degrees) == pytest.approx(
        stats.ttest_rel(y[:, 1], y[:, 0]).pvalue
    )


def test_clusters_of_several_rows_follow_the_definition():
    """A = (I - H)^(-1/2) per cluster, from eigenvalues of the full matrices.

    Pustejovsky and Tipton (2018), equations 6 and 11.
    """
    random = np.random.default_rng(2)
    cluster = np.repeat(np.arange(6), [1, 2, 2, 3, 4, 4])
    X = np.column_stack([random.normal(size=(16, 2)), np.ones(16)])
    y = random.normal(size=16)
    found = cluster_variance(*fitted(X, y, cluster))
    inverse = np.linalg.inv(X.T @ X)
    hat, residual = X @ inverse @ X.T, y - X @ inverse @ X.T @ y
    free = np.eye(16) - hat
    meat, vectors = np.zeros((3, 3)), []
    for c in range(6):
        rows = cluster == c
        values, axes = np.linalg.eigh(free[np.ix_(rows, rows)])
        A = axes @ np.diag(values**-0.5) @ axes.T
        score = X[rows].T @ A @ residual[rows]
        meat += np.outer(score, score)
        vectors.append(free[:, rows] @ A @ X[rows] @ inverse[:, 0])
    gram = np.stack(vectors) @ np.stack(vectors).T
    assert found.variance == pytest.approx((inverse @ meat @ inverse)[0, 0])
    assert found.degrees == pytest.approx(np.trace(gram) ** 2 / np.sum(gram**2))


def test_a_single_run_that_determines_the_coefficient_hides_its_noise():
    X = np.column_stack([np.repeat([0.0, 1.0], [8, 1]), np.ones(9)])
    y = np.random.default_rng(3).normal(size=9)
    assert cluster_variance(*fitted(X, y, np.arange(9))).hidden == pytest.approx(8 / 9)


def test_the_order_of_rows_does_not_matter():
    random = np.random.default_rng(4)
    cluster = np.repeat(np.arange(5), 3)
    X = np.column_stack([random.normal(size=15), np.ones(15)])
    y = random.normal(size=15)
    order = random.permutation(15)
    first = cluster_variance(*fitted(X, y, cluster))
    second = cluster_variance(*fitted(X[order], y[order], cluster[order]))
    assert second.variance == pytest.approx(first.variance)
    assert second.degrees == pytest.approx(first.degrees)


def test_two_sides_have_welchs_degrees_of_freedom_where_these_are_fewer():
    random = np.random.default_rng(5)
    first, second = 4.0 * random.normal(size=3), random.normal(size=9)
    side = np.repeat([0, 1], [3, 9])
    X = np.column_stack([side, np.ones(12)])
    given = fitted(X, np.concatenate([first, second]), np.arange(12))
    found, even = cluster_variance(*given, side), cluster_variance(*given)
    parts = np.array([first.var(ddof=1) / 3, second.var(ddof=1) / 9])
    assert found.degrees == pytest.approx(parts.sum() ** 2 / (parts**2 / [2, 8]).sum())
    assert found.degrees < even.degrees and found.variance == even.variance


def test_sides_do_not_change_the_degrees_of_freedom_of_pairs():
    random = np.random.default_rng(6)
    X = np.column_stack([np.tile([0.0, 1.0], 6), np.kron(np.eye(6), np.ones((2, 1)))])
    given = fitted(X, random.normal(size=12), np.arange(12))
    assert cluster_variance(*given, np.tile([0, 1], 6)).degrees == pytest.approx(5.0)
