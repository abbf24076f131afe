"""Gaussian process of shares: planted truth, intervals, zeros, order, missing losses."""

import dataclasses
import functools
import json

import numpy as np
import pytest
from planted_swarm import mixtures, power_losses, swarm

from lossline.errors import UserError
from lossline.mixtures import kernel
from lossline.mixtures.catalogue import fit_from_dict
from lossline.mixtures.process_law import ProcessLaw
from lossline.mixtures.share_laws import ExponentialLaw

LAW = ProcessLaw()
NOISE = 0.01  # of a log loss


def drawn(shares, domains, noise=0.1, seed=3):
    """Return losses drawn from the process itself."""
    theta = np.r_[0.0, -1.0, np.log(noise), np.log(0.3), np.log(1e-3), np.full(shares.shape[1], -2)]
    points = kernel.features(theta, shares)[0]
    root = np.linalg.cholesky(kernel.noisy_covariance(theta, points, np.ones(len(points))))
    values = root @ np.random.default_rng(seed).standard_normal((len(points), domains))
    return np.exp(1 + 0.1 * values)


@functools.cache
def split():
    """Return the fit of 120 planted runs, and 80 runs that it has not seen."""
    shares = mixtures(200, 10)
    runs = swarm(shares, drawn(shares, 6))
    return LAW.fit(runs[:120]), runs[120:]


def test_gradient_of_the_marginal_likelihood():
    shares = mixtures(30, 4)
    values = np.random.default_rng(0).standard_normal((30, 2))
    weights = np.r_[np.ones(20), np.full(10, 2.0)]
    theta = np.r_[0.2, -1.0, -1.0, -0.8, -5.0, -1.0, -0.5, -1.5, -2.0]
    gradient = kernel.misfit(theta, shares, values, weights)[1]
    for k, step in enumerate(np.eye(9) * 1e-5):
        ends = [kernel.misfit(theta + s * step, shares, values, weights)[0] for s in (1, -1)]
        assert gradient[k] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-6)


def test_recovers_its_own_data():
    shares = mixtures(200, 10)
    losses = drawn(shares, 6, noise=0.05)
    fit = LAW.fit(swarm(shares, losses)[:150])
    error = np.log(fit.predict(shares[150:]) / losses[150:])
    spread = np.log(losses[150:]).std()
    assert error.std() < 0.5 * spread
    # The planted noise is 0.05 of the unit of the draws, 0.1 of a log loss.
    found = np.exp(fit.theta[:, kernel.NOISE]) * np.log(losses[:150]).std(axis=0)
    assert 0.6 * 0.005 < np.median(found) < 1.7 * 0.005


def test_learns_a_law_that_is_not_its_own():
    shares = mixtures(180, 12)
    losses = power_losses(shares, 4)
    fit, peer = (law.fit(swarm(shares, losses)[:120]) for law in (LAW, ExponentialLaw()))
    errors = [np.abs(f.predict(shares[120:]) / losses[120:] - 1).mean() for f in (fit, peer)]
    assert errors[0] < 0.005
    assert errors[0] < errors[1] / 2


@pytest.mark.parametrize("level", (0.5, 0.8, 0.9))
def test_intervals_hold_their_level(level):
    fit, held = split()
    low, high = fit.intervals(held.shares, level)
    assert ((low < fit.predict(held.shares)) & (fit.predict(held.shares) < high)).all()
    inside = ((low <= held.losses) & (held.losses <= high)).mean()  # of 480
    assert inside == pytest.approx(level, abs=0.07 if level < 0.9 else 0.05)


def test_intervals_widen_away_from_the_runs():
    fit, held = split()
    alone = np.eye(10)
    assert fit.standard_errors(alone).mean() > 1.2 * fit.standard_errors(held.shares).mean()


def test_level_out_of_range():
    fit, held = split()
    with pytest.raises(UserError, match="level of an interval: 90"):
        fit.intervals(held.shares, 90)


def test_wild_runs_of_one_domain_change_little():
    shares = mixtures(150, 4)
    losses = power_losses(shares, 5, noise=NOISE)
    wild = losses.copy()
    wild[:6, 0] *= 1.3
    fits = [LAW.fit(swarm(shares, values)[:100]) for values in (losses, wild)]
    clean, dirty = (
        np.abs(fit.predict(shares[100:])[:, 0] / losses[100:, 0] - 1).mean() for fit in fits
    )
    assert dirty < 1.3 * clean


def test_smooth_at_a_share_of_zero():
    fit, _ = split()
    start, way = np.full(10, 0.125), np.full(10, -0.125)
    start[:2], way[:2] = 0, 0.5  # from two absent components to two alone
    steps = np.array([0, 1e-7, 2e-7, 3e-7])
    along = fit.predict(start + steps[:, None] * way)
    slopes = np.diff(along, axis=0) / 1e-7
    assert np.isfinite(slopes).all()
    np.testing.assert_allclose(slopes[1:], slopes[:-1], rtol=0.05, atol=0.05)


def test_json_and_back():
    fit, held = split()
    again = fit_from_dict(json.loads(json.dumps(fit.to_dict(), allow_nan=False)))
    np.testing.assert_array_equal(again.predict(held.shares), fit.predict(held.shares))
    np.testing.assert_array_equal(
        again.intervals(held.shares, 0.9), fit.intervals(held.shares, 0.9)
    )


def test_order_of_rows_and_components_changes_nothing():
    shares = mixtures(60, 5)
    runs = swarm(shares, power_losses(shares, 2, noise=NOISE))
    rng = np.random.default_rng(4)
    rows, columns = rng.permutation(60), rng.permutation(5)
    other = dataclasses.replace(
        runs[rows],
        components=tuple(runs.components[k] for k in columns),
        shares=runs.shares[rows][:, columns],
    )
    unseen = mixtures(20, 5, seed=7)
    np.testing.assert_allclose(
        LAW.fit(other).predict(unseen[:, columns]), LAW.fit(runs).predict(unseen), rtol=1e-5
    )


def test_weight_zero_leaves_a_run_out():
    shares = mixtures(60, 5)
    runs = swarm(shares, power_losses(shares, 2, noise=NOISE))
    weights = np.r_[np.ones(50), np.zeros(10)]
    np.testing.assert_allclose(
        LAW.fit(runs, weights=weights).predict(shares),
        LAW.fit(runs[:50]).predict(shares),
        rtol=1e-5,
    )


def test_resampling_keeps_the_hyperparameters():
    fit, held = split()
    weights = np.random.default_rng(5).multinomial(120, np.full(120, 1 / 120)).astype(float)
    again = dataclasses.replace(fit, weights=weights)
    np.testing.assert_array_equal(again.theta, fit.theta)
    moved = np.abs(np.log(again.predict(held.shares) / fit.predict(held.shares)))
    assert moved.max() > 0 and moved.mean() < fit.standard_errors(held.shares).mean()


def test_missing_losses():
    shares = mixtures(80, 5)
    losses = power_losses(shares, 3, noise=NOISE)
    full = LAW.fit(swarm(shares, losses)).predict(shares)
    losses[:10, 0] = np.nan
    losses[2:, 2] = np.nan
    found = LAW.fit(swarm(shares, losses)).predict(shares)
    assert np.isnan(found[:, 2]).all()
    np.testing.assert_allclose(found[:, :2], full[:, :2], rtol=0.03)
    losses[:] = np.nan
    with pytest.raises(UserError, match="no domain has 3 losses"):
        LAW.fit(swarm(shares, losses))


def test_more_runs_than_the_search_uses():
    shares = mixtures(330, 4)
    losses = power_losses(shares, 1, noise=NOISE)
    fit = LAW.fit(swarm(shares, losses)[:300])
    assert len(fit.shares) == 300
    assert np.abs(fit.predict(shares[300:]) / losses[300:] - 1).mean() < 1.2 * NOISE
