"""Projection of coefficients to weights under caps."""

import numpy as np
import pytest
from scipy import optimize

from lossline.errors import UserError
from lossline.selection import caps, project

METHODS = ("linear", "l2")


def feasible(weights, limits):
    assert abs(weights.sum() - 1) < 1e-12
    assert (weights >= 0).all() and (weights <= limits).all()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e9])
@pytest.mark.parametrize("seed", range(20))
def test_weights_are_the_optimum(seed, scale):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(3, 30))
    gamma = scale * rng.normal(size=count)
    gamma[rng.random(count) < 0.2] = gamma[0]  # ties
    limits = rng.random(count) * 4 / count
    limits *= max(1, 1.1 / limits.sum())
    linear = project(gamma, limits, "linear", negative=True)
    feasible(linear, limits)
    best = optimize.linprog(-gamma / scale, A_eq=np.ones((1, count)), b_eq=[1.0],
                            bounds=list(zip(np.zeros(count), limits, strict=True)))  # fmt: skip
    assert linear @ gamma / scale == pytest.approx(-best.fun, abs=1e-9)
    nearest = project(gamma, limits, "l2", negative=True)
    feasible(nearest, limits)
    # Optimal: one offset moves every coefficient to its weight, but for those at a bound.
    inside = (nearest > 1e-9) & (nearest < limits - 1e-9)
    at_zero, at_cap = nearest <= 0, nearest >= limits
    move = nearest - gamma
    precision = 1e-9 + 1e-15 * scale
    if inside.any():
        assert np.ptp(move[inside]) <= precision
        assert (move[at_zero] >= move[inside].max() - precision).all()
        assert (move[at_cap] <= move[inside].min() + precision).all()


def test_the_package_agrees():
    package = pytest.importorskip("perplexity_correlations.projection")
    gamma = np.array([-0.3, 4, 1, 0.9, 0])
    limits = np.array([0.2, 0.5, 0.9, 0.4, 1])
    np.testing.assert_allclose(project(gamma, limits), package.linear(gamma, limits), atol=1e-7)
    np.testing.assert_allclose(project(gamma, limits, "l2"), package.l2(gamma, limits), atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_caps_that_sum_to_one_up_to_rounding_are_the_weights(method):
    gamma = np.arange(1.0, 11.0)
    np.testing.assert_allclose(project(gamma, np.full(10, 0.1), method), 0.1, atol=1e-15)
    below = np.full(10, 0.1 - 5e-11)
    assert abs(project(gamma, below, method).sum() - 1) < 1e-12
    with pytest.raises(UserError, match=r"caps of all ranked domains sum to 0\.9999"):
        project(gamma, np.full(10, 0.1 - 5e-6), method)


@pytest.mark.parametrize("method", METHODS)
def test_large_coefficients_end(method):
    gamma = np.linspace(1e8, 3e8, 1000)
    limits = np.full(1000, 0.004)
    weights = project(gamma, limits, method)
    feasible(weights, limits)
    np.testing.assert_array_equal(weights[-250:], 0.004)


@pytest.mark.parametrize("method", METHODS)
def test_negative_coefficients_only_on_demand(method):
    gamma, limits = np.array([2.0, -1.0, -3.0]), np.array([0.4, 0.5, 0.5])
    with pytest.raises(UserError, match=r"only 1 of 3 .* sum to 0\.4 of 1.*negative = True"):
        project(gamma, limits, method)
    np.testing.assert_allclose(project(gamma, limits, method, negative=True), [0.4, 0.5, 0.1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("negative", [False, True])
def test_a_domain_without_coefficient_is_never_selected(method, negative):
    gamma, limits = np.array([np.nan, 1.0, 2.0, np.nan]), np.full(4, 0.6)
    weights = project(gamma, limits, method, negative=negative)
    assert weights[0] == weights[3] == 0
    assert weights.sum() == pytest.approx(1, abs=1e-15)
    with pytest.raises(UserError, match="caps of all ranked domains sum to 0"):
        project(np.full(4, np.nan), limits, method, negative=negative)


def test_many_domains_sum_to_one():
    rng = np.random.default_rng(0)
    gamma, tokens = rng.normal(size=200_000), rng.pareto(1, 200_000)
    limits = caps(tokens, 0.3)
    for method in METHODS:
        feasible(project(gamma, limits, method), limits)


def test_caps_let_each_domain_be_taken_once():
    np.testing.assert_allclose(caps(np.array([1.0, 3.0]), 0.5), [0.5, 1.5])
    for ratio in (0.0, 1.5, float("nan")):
        with pytest.raises(UserError, match="ratio"):
            caps(np.array([1.0, 3.0]), ratio)
    for tokens in ([0.0, 0.0], [1.0, -1.0], [1.0, np.nan]):
        with pytest.raises(UserError, match="number of tokens"):
            caps(np.array(tokens), 0.5)


def test_bad_input_is_one_line():
    good = np.ones(3)
    with pytest.raises(UserError, match="unknown projection 'L3'"):
        project(good, good, "L3")
    with pytest.raises(UserError, match="shape"):
        project(good, np.ones(2))
    with pytest.raises(UserError, match="infinite"):
        project(np.array([1, np.inf, 1]), good)
    with pytest.raises(UserError, match="cap"):
        project(good, np.array([1, -0.1, 1]))


def test_no_positive_coefficient_is_one_line_without_a_smaller_share():
    with pytest.raises(UserError, match="none of 3 domains has a positive coefficient"):
        project(np.array([-0.1, -0.2, 0.0]), np.ones(3))


def test_the_advised_share_of_the_pool_can_be_filled():
    """Sum of the caps 0.8866: times 0.89, as rounding gives, it would still be below 1."""
    limits = np.array([0.4433, 0.4433, 0.5, 0.5, 0.0])
    estimates = np.array([0.2, 0.1, -0.1, -0.2, 0.9])  # the last domain is not in the pool
    with pytest.raises(UserError, match=r"only 2 of 4 domains .* 0\.88 times") as caught:
        project(estimates, limits)
    share = float(str(caught.value).split("most ")[1].split()[0])
    feasible(project(estimates, limits / share), limits / share)


def test_a_positive_domain_outside_the_pool_gives_no_share_to_take():
    with pytest.raises(UserError, match="none of 2 domains has a positive coefficient"):
        project(np.array([0.5, -0.1, -0.2]), np.array([0.0, 1.0, 1.0]))
