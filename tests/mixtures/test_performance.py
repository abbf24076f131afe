"""Performance from domain losses: the paper's network, and the sigmoid."""

import json

import numpy as np
import pytest
from scipy.special import expit

from lossline.errors import UserError
from lossline.mixtures.performance import (
    PerformanceNetwork,
    PerformanceSigmoid,
    performance_from_dict,
)

DOMAINS = ("code", "web")
QUICK = PerformanceNetwork(seeds=3, steps=200)


def checkpoints(count=60, seed=0, noise=0.0):
    """Losses (M, 2), and performance (M,) from chance 0.25 up by a sigmoid of both."""
    rng = np.random.default_rng(seed)
    losses = rng.uniform([1.0, 2.0], [2.5, 4.0], size=(count, 2))
    return losses, truth(losses) + noise * rng.standard_normal(count)


def truth(losses):
    return 0.25 + 0.75 * expit(0.3 - (losses - [1.5, 2.8]) @ [1.5, 0.5])


def test_sigmoid_is_found_from_its_own_data():
    losses, performance = checkpoints()
    fit = PerformanceSigmoid(ridge=1e-9).fit(losses, performance, domains=DOMAINS, chance=0.25)
    np.testing.assert_allclose(fit.slopes, [1.5, 0.5], rtol=1e-3)
    better = np.array([[0.8, 1.8], [0.5, 3.0]])
    np.testing.assert_allclose(fit.predict(better), truth(better), rtol=1e-4)


def test_ridge_splits_what_collinear_losses_leave_open():
    losses, _ = checkpoints()
    same = np.column_stack([losses[:, 0], losses[:, 0]])
    performance = 0.25 + 0.75 * expit(-2.0 * (losses[:, 0] - 1.5))
    fit = PerformanceSigmoid().fit(same, performance, domains=DOMAINS, chance=0.25)
    np.testing.assert_allclose(fit.slopes, [1.0, 1.0], rtol=1e-3)


def test_weights_count_checkpoints():
    losses, performance = checkpoints()
    spoiled = performance.copy()
    spoiled[:10] = 0.9
    weights = np.r_[np.zeros(10), np.ones(50)]
    way = PerformanceSigmoid()
    fit = way.fit(losses, spoiled, domains=DOMAINS, chance=0.25, weights=weights)
    clean = way.fit(losses[10:], performance[10:], domains=DOMAINS, chance=0.25)
    np.testing.assert_allclose(fit.slopes, clean.slopes, rtol=1e-6)


def test_task_below_chance_everywhere_has_no_prediction():
    losses, _ = checkpoints()
    low = np.full(len(losses), 0.24)
    fit = PerformanceSigmoid().fit(losses, low, domains=DOMAINS, chance=0.25)
    assert not fit.emerged
    assert np.isnan(fit.predict(losses)).all()
    with pytest.raises(UserError, match="not emerged: 0 checkpoints"):
        QUICK.fit(losses, low, domains=DOMAINS, chance=0.25)


def test_network_fits_its_data_and_shows_its_spread():
    losses, performance = checkpoints(noise=0.005)
    fit = PerformanceNetwork(seeds=6).fit(losses, performance, domains=DOMAINS, chance=0.25)
    assert fit.spread(losses).shape == (6, 60)
    kept = performance >= 0.3
    assert np.abs(fit.predict(losses) - performance)[kept].mean() < 0.08


def test_network_is_determined_by_its_seed_alone():
    losses, performance = checkpoints()

    def spread(**options):
        network = PerformanceNetwork(**{"seeds": 3, "steps": 100, **options})
        return network.fit(losses, performance, domains=DOMAINS).spread(losses)

    np.testing.assert_array_equal(spread(), spread())
    # A seed's network does not depend on how many are trained beside it.
    np.testing.assert_allclose(spread(seeds=1), spread()[:1], rtol=1e-9)
    np.testing.assert_allclose(spread(seed=1)[0], spread()[1], rtol=1e-9)
    assert np.ptp(spread(), axis=0).max() > 0


def test_network_gradient_is_that_of_its_loss():
    losses, performance = checkpoints(20)
    values = QUICK._start(2)
    share = np.full(20, 1 / 20)

    def objective(values):
        W, b, v, c = values
        found = (np.maximum(losses @ W + b, 0) @ v + c)[:, :, 0]
        squares = sum((part**2).sum(axis=(1, 2)) for part in values)
        return ((found - performance) ** 2).mean(axis=1) + QUICK.decay / 2 * squares

    for i, slope in enumerate(QUICK._gradient(values, losses, performance, share)):
        step = np.zeros_like(values[i])
        step[:, 0, 0] = 1e-6
        above, below = (
            objective([v + sign * step if k == i else v for k, v in enumerate(values)])
            for sign in (1, -1)
        )
        np.testing.assert_allclose(slope[:, 0, 0], (above - below) / 2e-6, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("way", [PerformanceSigmoid(), QUICK])
def test_fits_survive_json(way):
    losses, performance = checkpoints()
    fit = way.fit(losses, performance, domains=DOMAINS, chance=0.25)
    back = performance_from_dict(json.loads(json.dumps(fit.to_dict())))
    np.testing.assert_array_equal(back.predict(losses), fit.predict(losses))
    assert back.domains == DOMAINS
    with pytest.raises(UserError, match="not a saved performance fit"):
        performance_from_dict({"way": way.name})
    with pytest.raises(UserError, match="way 'tree' is unknown"):
        performance_from_dict({"way": "tree", "domains": []})


@pytest.mark.parametrize("way", [PerformanceSigmoid(), QUICK])
def test_bad_inputs_are_one_line(way):
    losses, performance = checkpoints()
    for x, y, message in (
        (losses, 100 * performance, "accuracies must be fractions"),
        (losses[:, :1], performance, "losses have shape"),
        (np.full_like(losses, np.nan), performance, "0 checkpoints have performance and all of 2"),
    ):
        with pytest.raises(UserError, match=message):
            way.fit(x, y, domains=DOMAINS, chance=0.25)
    with pytest.raises(UserError, match="chance is 25"):
        PerformanceSigmoid().fit(losses, performance, domains=DOMAINS, chance=25)
