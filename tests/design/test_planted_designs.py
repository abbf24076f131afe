"""Planted truth where the best design is known, and picks that do what the plan expects."""

import itertools

import numpy as np
import pytest

from lossline.design.beliefs import Belief, Moments, form_correlation
from lossline.design.picking import (
    Limits,
    choose,
    known,
    largest_first,
    left_by_all,
    until_halved,
)

GRID = np.linspace(-1, 1, 21)


def polynomial(x, degree):
    return np.asarray(x, float)[..., None] ** np.arange(degree + 1)


def vague(degree, asked, *, noise=1.0):
    """A polynomial that nothing is known about, asked about at one x; candidates on the grid."""
    places = polynomial(np.append(asked, GRID), degree)
    return Belief(covariance=1e4 * places @ places.T, noise=np.full(len(GRID), noise))


def lagrange(nodes, at):
    """Size of each node's Lagrange polynomial at a place: Hoel and Levine's weights."""
    return np.array([abs(np.prod([(at - o) / (n - o) for o in nodes if o != n])) for n in nodes])


@pytest.mark.parametrize(("degree", "nodes"), [(1, (-1, 1)), (2, (-1, 0, 1))])
@pytest.mark.parametrize("asked", [1.6, 2.5])
def test_extrapolation_of_a_polynomial_takes_the_ends_with_hoel_and_levines_weights(
    degree, nodes, asked
):
    runs = 24
    limits = Limits(cost=np.ones(len(GRID)), budget=runs, repeats=runs, most_runs=runs)
    belief = vague(degree, asked)
    chosen = choose(belief, limits)
    sizes = lagrange(nodes, asked)
    best = sizes.sum() ** 2 / runs  # variance of the best design with fractions of runs
    for pick in chosen:
        belief = belief.after(pick)
    assert belief.covariance[0, 0] == pytest.approx(best, rel=0.03)
    counts = [np.isclose(GRID[chosen], node, atol=0.11).sum() for node in nodes]
    assert sum(counts) == runs
    np.testing.assert_allclose(np.array(counts) / runs, sizes / sizes.sum(), atol=1.01 / runs)


def test_no_set_of_three_runs_is_better_than_the_one_chosen():
    random = np.random.default_rng(0)
    cost = random.uniform(0.5, 3, 12)
    root = random.normal(size=(13, 5))
    belief = Belief(covariance=root @ root.T, noise=random.uniform(0.2, 1.0, 12))
    limits = Limits(cost=cost, budget=4.0, most_runs=3)

    def left(picks):
        found = belief
        for pick in picks:
            found = found.after(pick)
        return found.covariance[0, 0]

    sets = [s for k in (1, 2, 3) for s in itertools.combinations(range(12), k)]
    best = min(left(s) for s in sets if cost[list(s)].sum() <= 4.0)
    chosen = choose(belief, limits)
    assert cost[chosen].sum() <= 4.0
    assert left(chosen) <= best * 1.02
    assert left(largest_first(belief, limits)) >= left(chosen)


def test_expected_shrinkage_is_the_realised_one_within_monte_carlo_error():
    random = np.random.default_rng(1)
    noise, asked = 0.05, 2.0
    x = np.linspace(-1, -0.4, 8)
    places = polynomial(np.append(asked, GRID), 1)
    known = polynomial(x, 1)
    inverse = np.linalg.inv(known.T @ known)
    drawn = random.multivariate_normal(np.zeros(2), noise**2 * inverse, size=4000)
    deviation = np.sqrt(noise**2 * np.einsum("ij,jk,ik->i", places, inverse, places) + noise**2)
    law = Moments(
        center=np.ones(len(places)),
        draws=drawn @ places.T,
        deviation=deviation,
        noise=np.full(len(places), noise),
        distance=np.zeros(len(places)),
    )
    belief = Belief.of(law, roughness=0.2)
    chosen = choose(belief, Limits(cost=np.ones(len(GRID)), budget=5, most_runs=5, repeats=5))
    after = belief
    for pick in chosen:
        after = after.after(pick)

    def realised(rows):
        truth = rows @ np.array([1.0, -0.3])
        values = truth + noise * random.normal(size=(20_000, len(rows)))
        found = values @ np.linalg.pinv(rows).T @ places[0]
        return np.std(found + noise * random.normal(size=len(found)))

    before = realised(known)
    then = realised(np.vstack([known, polynomial(GRID[chosen], 1)]))
    assert before == pytest.approx(belief.width, rel=0.05)
    assert then == pytest.approx(after.width, rel=0.05)
    assert then < 0.6 * before


def straight(distance, *, roughness, noise=0.01, slope=0.1):
    """A law known exactly, but for an error that grows by a slope beyond the fitted runs."""
    distance = np.asarray(distance, float)
    law = Moments(
        center=np.ones(len(distance)),
        draws=np.zeros((50, len(distance))),
        deviation=np.hypot(slope * distance, noise),
        noise=np.full(len(distance), noise),
        distance=distance,
    )
    return Belief.of(law, roughness=roughness)


def test_far_candidates_reduce_the_error_of_the_form_and_near_ones_hardly():
    belief = straight([2.0, 0.0, 0.2, 1.0, 1.9, -1.9], roughness=0.2)
    gains = belief.gains() / belief.covariance[0, 0]
    assert gains[0] == 0.0
    assert gains[1] < 0.4 < gains[2] < gains[3] < 1.0
    assert gains[4] == 0.0  # beyond the other end


def test_smooth_form_is_known_from_any_run_far_above_its_noise():
    gains = straight([2.0, 1.0], roughness=0.0, noise=1e-4).gains()
    assert gains[0] == pytest.approx(0.2**2, rel=1e-3)


def test_correlation_of_the_form_is_a_covariance():
    distance = np.random.default_rng(0).normal(size=40)
    assert np.linalg.eigvalsh(form_correlation(distance, 0.3)).min() > -1e-12


def test_noise_of_the_run_asked_about_limits_what_runs_can_do():
    noisy = straight([0.5, 0.5, 0.4], roughness=0.2, noise=0.06)
    assert until_halved(noisy, np.ones(2), choose(noisy, Limits(cost=np.ones(2), budget=2))) is None
    assert left_by_all(noisy) > 0.5
    quiet = straight([0.5, 0.5, 0.4], roughness=0.2, noise=0.005)
    assert until_halved(quiet, np.ones(2), [0]) == [0]


def test_more_runs_than_the_picks_may_be_needed_to_halve_it():
    belief = vague(1, 1.5, noise=1e6)
    chosen = choose(belief, Limits(cost=np.ones(len(GRID)), budget=3, repeats=3))
    halved = until_halved(belief, np.ones(len(GRID)), chosen)
    assert halved is not None
    assert len(halved) > len(chosen)
    after = belief
    for pick in halved:
        after = after.after(pick)
    assert after.width <= belief.width / 2


def test_budget_is_spent_on_runs_that_are_expected_to_bring_little():
    belief = straight([2.0, 1.9, 1.9, 1.9], roughness=0.4, noise=1e-3)
    chosen = choose(belief, Limits(cost=np.ones(3), budget=3.0, most_runs=3))
    assert belief.after(0).width < 1.01 * known(belief, chosen).width
    assert sorted(chosen) == [0, 1, 2]
