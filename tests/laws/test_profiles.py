"""Profile likelihood and partial pooling on planted laws."""

import dataclasses

import numpy as np
import pytest

from lossline.errors import UserError
from lossline.laws.compute_laws import Chinchilla
from lossline.laws.forms import OffsetPowerLaw, ShiftedPowerLaw, StraightLine
from lossline.laws.objective import LEAST_SQUARES, Loss, Objective
from lossline.laws.pooling import _spread, pool
from lossline.laws.problems import Problem
from lossline.laws.profiles import noise_level, profile
from lossline.laws.solver import FitOptions
from tests.laws.planted_laws import EXAMPLES

LEAST = FitOptions(objective=LEAST_SQUARES)


def sweep(seed, count=30, noise=4e-3, E=1.8, largest=2e9):
    """A problem of `count` runs of a planted Chinchilla law."""
    rng = np.random.default_rng(seed)
    inputs = {
        "N": np.exp(rng.uniform(np.log(2e7), np.log(largest), count)),
        "D": np.exp(rng.uniform(np.log(1e9), np.log(50 * largest), count)),
    }
    loss = Chinchilla().predict({**EXAMPLES[Chinchilla()], "E": E}, inputs)
    return Problem(inputs=inputs, target=loss * np.exp(noise * rng.standard_normal(count)))


def test_a_straight_line_profile_is_the_t_interval():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 10, 25)
    y = 1.5 + 0.3 * x + 0.2 * rng.standard_normal(25)
    found = profile(
        StraightLine(),
        Problem(inputs={"x": x}, target=y),
        "slope",
        np.linspace(0, 0.6, 61),
        options=LEAST,
    )
    slope, covariance = np.polyfit(x, y, 1, cov="unscaled")
    residual = y - np.polyval(slope, x)
    error = np.sqrt(covariance[0, 0] * np.sum(residual**2) / 23)
    half = 2.0687 * error  # Student's t, 97.5%, 23 degrees of freedom
    assert found.interval(0.95) == pytest.approx((slope[0] - half, slope[0] + half), rel=1e-4)


@pytest.mark.parametrize("loss", [Loss.LEAST_SQUARES, Loss.HUBER])
def test_the_interval_of_E_holds_the_planted_value(loss):
    options = FitOptions(objective=Objective(loss=loss))
    values = np.linspace(1.5, 2.1, 13)
    held = []
    for seed in range(24):
        found = profile(Chinchilla(), sweep(seed), "E", values, refine=False, options=options)
        low, high = found.interval(0.9)
        held.append(low <= 1.8 <= high)
    assert np.sum(held) >= 19  # 21.6 expected; 18 or fewer once in forty


def test_a_side_without_limit_is_infinite():
    # Small models only: the loss at infinite scale could be almost anything from 0 up.
    size = np.geomspace(1e6, 4e6, 12)
    y = OffsetPowerLaw().predict({"E": 0.8, "A": 30.0, "alpha": 0.15}, {"x": size})
    y *= np.exp(2e-3 * np.random.default_rng(0).standard_normal(12))
    found = profile(OffsetPowerLaw(), Problem(inputs={"x": size}, target=y), "E", options=LEAST)
    low, high = found.interval(0.9)
    assert low == -np.inf
    assert high < y.min()


def test_noise_level_of_least_squares_is_the_residual_variance():
    r = np.random.default_rng(0).standard_normal(5000)
    assert noise_level(LEAST_SQUARES, r, np.ones(5000), 5000) == pytest.approx(np.mean(r**2))
    # Huber with a wide delta is least squares.
    wide = Objective(loss=Loss.HUBER, delta=50.0)
    assert noise_level(wide, r, np.ones(5000), 5000) == pytest.approx(1.0, abs=0.05)
    # In the limit of the median, of either robust loss: delta^2 over 2 delta times the density at
    # 0.
    for loss in (Loss.HUBER, Loss.SOFT_L1):
        narrow = Objective(loss=loss, delta=1e-2)
        ratio = noise_level(narrow, r, np.ones(5000), 5000) / (1e-2**2 / (2 * 1e-2 * 0.3989))
        assert ratio == pytest.approx(1.0, abs=0.06)


def test_profiles_refuse_what_they_cannot_do():
    with pytest.raises(UserError, match="kappa of the law 'shifted_power' is not bounded"):
        x = np.linspace(2, 4, 20)
        profile(ShiftedPowerLaw(), Problem(inputs={"x": x}, target=x), "kappa")
    with pytest.raises(UserError, match="nothing to profile: 3 usable points"):
        profile(Chinchilla(), sweep(0, count=3), "E")


def test_spread_is_recovered_and_none_is_none():
    rng = np.random.default_rng(0)
    errors = rng.uniform(0.02, 0.1, 400)
    truth = 1.8 + 0.05 * rng.standard_normal(400)
    assert _spread(truth + errors * rng.standard_normal(400), errors) == pytest.approx(
        0.05, abs=0.01
    )
    assert _spread(1.8 + 0.5 * errors * rng.standard_normal(400), errors) == 0


def test_pooling_helps_the_sets_that_know_little():
    rng = np.random.default_rng(0)
    alone, pooled = [], []
    for study in range(3):
        truth = 1.8 + 0.03 * rng.standard_normal(8)
        counts = [6, 7, 8, 25, 25, 25, 25, 4]  # the last one has fewer runs than parameters
        problems = [
            sweep(100 * study + i, count=n, noise=3e-3, E=E, largest=1e9)
            for i, (n, E) in enumerate(zip(counts, truth, strict=True))
        ]
        found = pool(Chinchilla(), problems, "E")
        assert not found.alone[-1].parameters
        assert found.fits[-1].parameters
        alone += [abs(r.parameters["E"] - E) for r, E in zip(found.alone[:3], truth, strict=False)]
        pooled += [abs(r.parameters["E"] - E) for r, E in zip(found.fits[:3], truth, strict=False)]
    assert np.median(pooled) < 0.5 * np.median(alone)


def test_complete_pooling_gives_one_value_and_one_set_is_refused():
    problems = [sweep(seed) for seed in range(3)]
    found = pool(Chinchilla(), problems, "E", spread=0.0)
    values = [r.parameters["E"] for r in found.fits]
    assert np.ptp(values) < 2e-3
    assert found.center == pytest.approx(np.mean(values), abs=1e-3)
    few = dataclasses.replace(
        problems[0],
        target=problems[0].target[:4],
        inputs={k: v[:4] for k, v in problems[0].inputs.items()},
    )
    with pytest.raises(UserError, match="pooling E: 1 of 2 sets determine it"):
        pool(Chinchilla(), [problems[0], few], "E")
