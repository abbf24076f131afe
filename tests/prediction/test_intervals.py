"""Intervals: level, growth with the distance, and what backtests teach."""

import numpy as np
import pandas as pd
import planted_runs
import pytest

from lossline.prediction import PredictOptions, predict_table
from lossline.prediction.backtest import backtest, cuts_of, run_target
from lossline.prediction.intervals import (
    Spread,
    from_scale,
    learn,
    resampled_variance,
    run_weights,
    to_scale,
)
from lossline.prediction.methods import LOSS_METHODS
from lossline.prediction.observations import Observations
from lossline.prediction.results import TargetKind

SIZES = np.geomspace(1e8, 5e9, 11)
FITTED = 8  # runs; the larger ones are predicted


def study(number: int, noise: float = 0.01) -> Observations:
    """Return final checkpoints of a power law of compute with relative noise on the loss."""
    random = np.random.default_rng(number)
    n, d = SIZES, 20 * SIZES
    flops = 6 * n * d
    loss = (flops / 1e28) ** -0.06 * np.exp(noise * random.normal(size=len(n)))
    blank = np.full(len(n), np.nan)
    return Observations(
        task="arc_easy",
        metric="loss",
        chance=0.0,
        names=tuple(f"{number} {i}" for i in range(len(n))),
        families=("",) * len(n),
        run=np.arange(len(n)),
        params=n,
        tokens=d,
        flops=flops,
        value=loss,
        loss=blank,
        domains={},
        progress=blank,
        gold=blank,
        final=np.ones(len(n), bool),
    )


@pytest.mark.parametrize("noise", [0.05, 0.1])
def test_an_interval_of_90_percent_covers_about_90_percent(noise):
    """240 predictions: 8 studies of 10 tasks, three runs predicted from the eight smaller ones.

    The noise is above the pseudo-errors' scale; below it, intervals are wider than 90%.
    """
    law, inside, widths = LOSS_METHODS["fp"], [], []
    for number in range(8):
        whole = {f"task {i}": study(10 * number + i, noise) for i in range(10)}
        fitted = {name: o.of_runs(o.run < FITTED) for name, o in whole.items()}
        spread = backtest(fitted, {"fp": law}).spreads["fp"]
        for name, observations in fitted.items():
            later = range(FITTED, len(SIZES))
            pairs = [run_target(whole[name], run, TargetKind.PREDICTION) for run in later]
            draws = law.fit(observations, run_weights(FITTED, 40, 0)).predict([t for t, _ in pairs])
            variance = resampled_variance(draws, "loss", FITTED)
            far = np.array([t.flops for t, _ in pairs]) / observations.run_flops.max()
            low, high = spread.interval(draws[0], variance, far, 0.9, "loss")
            inside += [
                low_ <= a <= high_ for low_, (_, a), high_ in zip(low, pairs, high, strict=True)
            ]
            widths += list(np.log(high / low))
    assert 0.80 <= np.mean(inside) <= 0.97, np.mean(inside)
    assert np.median(widths) < 8 * noise


def test_the_width_grows_with_the_distance_and_the_level():
    spread = Spread(tau=0.02, slope=0.05)
    one = np.ones(4)
    far = np.array([1.0, 3.0, 10.0, 100.0])
    for metric, middle in (("accuracy", 0.6), ("loss", 2.5)):
        ends = {
            level: spread.interval(middle * one, 1e-4 * one, far, level, metric)
            for level in (0.5, 0.8, 0.9)
        }
        width = {level: high - low for level, (low, high) in ends.items()}
        assert (np.diff(width[0.9]) > 0).all()
        assert (width[0.5] < width[0.8]).all() and (width[0.8] < width[0.9]).all()
        low, high = ends[0.9]
        assert (low < middle).all() and (middle < high).all()
    # At the edge of the runs the scale is the resampled variance and tau alone.
    assert spread.deviation(np.array([0.0]), np.array([0.2]))[0] == 0.02
    assert spread.deviation(np.array([0.0]), np.array([10.0]))[0] == pytest.approx(
        np.hypot(0.02, 0.05)
    )


def test_predictions_farther_away_have_wider_intervals():
    points = ((6.4e9, 1.28e11), (6.4e10, 1.28e12), (6.4e11, 1.28e13))
    table = planted_runs.table(planted_runs.runs(target=False), checkpoints=3, noise=0.01)
    options = PredictOptions(metric="bits_per_byte", points=points, resamples=50)
    found = predict_table(table, options).predictions
    for _, rows in found.groupby("method"):
        width = np.log(rows["high_90"] / rows["low_90"])
        assert (np.diff(rows["extrapolation"]) > 0).all() and (np.diff(width) > 0).all()


def test_an_accuracy_keeps_within_0_and_1():
    low, high = Spread(tau=0.3).interval(
        np.array([0.02, 0.98]), np.zeros(2), np.ones(2), 0.9, "accuracy"
    )
    assert low[0] == 0.0 and high[1] == 1.0
    np.testing.assert_allclose(from_scale(to_scale([0.1, 0.9], "accuracy"), "accuracy"), [0.1, 0.9])
    np.testing.assert_allclose(from_scale(to_scale([0.1, 9.0], "loss"), "loss"), [0.1, 9.0])


@pytest.mark.parametrize(("tau", "slope"), [(0.01, 0.0), (0.05, 0.0), (0.01, 0.3)])
def test_the_spread_of_many_backtests_is_learned(tau, slope):
    random = np.random.default_rng(0)
    far = np.tile([1.0, 3.0, 10.0, 30.0], 500)
    scale = np.hypot(tau, slope * np.log10(far))
    found = learn(scale * random.standard_t(4, size=2000), np.zeros(2000), far)
    assert found.count == 2000
    assert found.tau == pytest.approx(tau, rel=0.5)
    at_10 = found.deviation(np.zeros(1), np.array([10.0]))[0]
    assert at_10 == pytest.approx(np.hypot(tau, slope), rel=0.3)


def test_resampled_variance_explains_part_of_the_errors():
    random = np.random.default_rng(0)
    errors = 0.05 * random.standard_t(4, size=500)
    unexplained = learn(errors, np.zeros(500), np.ones(500))
    explained = learn(errors, np.full(500, 0.05**2), np.ones(500))
    assert explained.tau < 0.5 * unexplained.tau


def test_no_backtest_leaves_the_pseudo_errors():
    empty = learn([], [], [])
    assert empty.count == 0 and empty.tau == pytest.approx(Spread().tau, rel=0.5)
    assert learn([np.nan], [0.0], [1.0]) == empty


def test_without_resamples_the_rest_of_the_interval_stays():
    table = planted_runs.table(checkpoints=2, noise=0.01)
    with_, without = (
        predict_table(table, PredictOptions(methods=("fp",), resamples=resamples)).predictions
        for resamples in (60, 0)
    )
    assert without["predicted"].iloc[0] == pytest.approx(with_["predicted"].iloc[0])
    assert (without["low_90"] > with_["low_90"]).all() and (without["low_90"] < 1).all()
    assert (without["high_90"] > without["predicted"]).all()


def test_weights_are_shares_of_the_runs():
    weights = run_weights(6, 100, 0)
    assert weights.shape == (101, 6) and (weights[0] == 1).all() and (weights > 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 6)
    np.testing.assert_array_equal(weights, run_weights(6, 100, 0))
    assert (weights[1] != run_weights(6, 100, 1)[1]).all()


def test_cuts_leave_five_runs_below_and_a_later_one():
    flops = np.array([1, 2, 4, 8, 16, 32, 64, 70]) * 1e18
    assert cuts_of(flops).tolist() == [16e18, 32e18]  # 70 is not later than 64: 1.2 times as much
    assert len(cuts_of(np.geomspace(1e18, 1e24, 60))) == 8
    assert len(cuts_of(flops[:5])) == 0
    assert cuts_of(np.array([1, 1, 1, 1, 1, 1, 9.0])).tolist() == [1.0]


def test_a_backtest_sees_only_the_runs_below_its_cut():
    whole = study(0)
    changed = study(0)
    changed.value[-1] *= 3
    frames = [backtest({"arc_easy": o}, {"fp": LOSS_METHODS["fp"]}).rows for o in (whole, changed)]
    one, other = (frame.sort_values(["cut", "flops"]).reset_index(drop=True) for frame in frames)
    assert (one["flops"] > 1.2 * one["cut"]).all() and (one["runs"] >= 5).all()
    last = one["flops"] == one["flops"].max()
    np.testing.assert_allclose(one["predicted"], other["predicted"])
    np.testing.assert_allclose(other.loc[last, "actual"], 3 * one.loc[last, "actual"])
    # Nor do intervals at a cut know later errors.
    pd.testing.assert_frame_equal(one[["low_90", "high_90"]], other[["low_90", "high_90"]])
