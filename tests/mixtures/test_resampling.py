"""Intervals of mixture laws."""

import dataclasses

import numpy as np
import pytest
from planted_mixture_runs import at, design, mixtures, planted

from lossline.errors import UserError
from lossline.mixtures.resampling import Reach, refits, resample
from lossline.mixtures.scale_laws import Separable
from lossline.prediction.intervals import run_weights

TRUTH = [-0.4, -1.5, np.log(0.35), -1.5, np.log(0.4), 0.05, np.log(0.2), 0.02, -0.01, -0.01,
         1.5, 0.0, -1.5]  # fmt: skip
LAW = Separable()


def noisy(count=16, seed=0, **options):
    return planted(LAW, TRUTH, design(mixtures(count, seed=seed), **options), noise=5e-3, seed=seed)


def test_refits_agree_with_new_fits():
    runs = noisy(12, sizes=(1e8, 3e8))
    fit = LAW.fit(runs)
    number = runs.run_numbers
    weights = run_weights(int(number.max()) + 1, 3, 0)[1:, number]
    # Without its doubt about centers a refit is the fit with these weights.
    law = _certain()
    ahead = {"params": 1e9, "tokens": 2e10}
    shares = mixtures(4, seed=3)
    for theta, weight in zip(refits(law, runs, fit, weights), weights, strict=True):
        fresh = law.fit(runs, weights=weight).predict(shares, **ahead)
        warm = _at(fit, theta).predict(shares, **ahead)
        np.testing.assert_allclose(warm, fresh, rtol=1e-3)


def _certain():
    class Certain(Separable):
        def parameters(self, components):
            return dataclasses.replace(
                super().parameters(components), doubt=np.zeros(7 + 2 * len(components))
            )

    return Certain()


def _at(fit, theta):
    return dataclasses.replace(fit, theta=theta)


def test_intervals_hold_unseen_mixtures_and_grow_with_distance():
    found = resample(LAW, noisy(14), resamples=40)
    unseen = noisy(12, seed=7)
    low, high = found.interval(unseen.shares, **at(unseen), level=0.9)
    assert 0.8 <= np.mean((low <= unseen.losses) & (unseen.losses <= high)) <= 1.0
    near, far = (
        found.interval([0.3, 0.3, 0.4], params=n, tokens=2e10, level=0.9) for n in (1e9, 1e11)
    )
    assert far[1] / far[0] > 1.05 * near[1] / near[0]
    inner = found.interval([0.3, 0.3, 0.4], params=1e9, tokens=2e10, level=0.5)
    assert near[0] < inner[0] < found.fit.predict([0.3, 0.3, 0.4], params=1e9, tokens=2e10)


def test_two_sizes_leave_the_exponent_of_n_in_doubt():
    runs = noisy(12, sizes=(1e8, 3e8))
    found = resample(LAW, runs, resamples=40, backtest=False)
    assert found.samples[:, 0, 2].std() > 0.1


def test_results_do_not_depend_on_names_and_repeat():
    runs = noisy(8)
    renamed = dataclasses.replace(runs, runs=[f"x{name}"[::-1] for name in runs.runs])
    first, second, third = (
        resample(LAW, r, resamples=4, seed=s, backtest=False).samples
        for r, s in ((runs, 0), (renamed, 0), (runs, 1))
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, third)


def test_distance_counts_size_and_tokens_apart():
    reach = Reach(1e9, 1e10)
    assert reach.extrapolation([2e9, 1e8, 4e9], [1e9, 3e10, 2e10]).tolist() == pytest.approx(
        [2, 3, 8]
    )


def test_bad_requests_are_one_line():
    runs = noisy(6)
    with pytest.raises(UserError, match="resamples must be at least 2"):
        resample(LAW, runs, resamples=1)
    with pytest.raises(UserError, match="needs at least 3 runs"):
        resample(LAW, runs[:6])
    with pytest.raises(UserError, match="level must lie between"):
        found = resample(LAW, runs, resamples=2, backtest=False)
        found.interval([0.3, 0.3, 0.4], params=1e9, tokens=1e10, level=90)
