"""Bootstrap: published intervals, coverage on planted runs, width of bands, undetermined laws."""

import numpy as np
import pandas as pd
import pytest

from lossline.errors import UserError
from lossline.laws.bootstrap import Band, Resampling, bootstrap
from lossline.laws.compute_laws import Chinchilla
from lossline.laws.forms import ErrorLaw, ShiftedPowerLaw
from lossline.laws.objective import LEAST_SQUARES, FitObjective
from lossline.laws.solver import FitOptions
from lossline.run_order import run_numbers
from tests.laws.planted_laws import EXAMPLES

LINE = {"K": 0.9, "kappa": 1.1, "E_x": 1.6, "E_y": 1.3}
LEAST = FitOptions(objective=LEAST_SQUARES)


def planted_line(seed, runs=6, checkpoints=6, run_noise=4e-3, noise=2e-3):
    """Return inputs, target and runs of a planted line; checkpoints of a run share an error."""
    rng = np.random.default_rng(seed)
    first, last = rng.uniform(3.6, 4.6, runs), rng.uniform(2.6, 3.2, runs)
    x = np.concatenate([np.linspace(a, b, checkpoints) for a, b in zip(first, last, strict=True)])
    run = np.repeat(np.arange(runs), checkpoints)
    error = run_noise * rng.standard_normal(runs)[run] + noise * rng.standard_normal(len(x))
    return {"x": x}, ShiftedPowerLaw().predict(LINE, {"x": x}) * np.exp(error), run


def test_intervals_equal_the_published_ones(published_data):
    # Besiroglu et al.: 4,000 resamples, 95% percentiles. With 1,500 resamples each end has an
    # error of about 5% of the width.
    points = pd.read_csv(published_data / "chinchilla_points.csv").sort_values("loss").iloc[:-5]
    size = points["params"].to_numpy()
    inputs = {"N": size, "D": points["flops"].to_numpy() / (6 * size)}
    result = bootstrap(Chinchilla(), inputs, points["loss"].to_numpy(), resamples=1500, seed=42)
    assert result.determined
    assert sum(result.failures.values()) <= 8
    published = {
        "A": (285, 744),
        "B": (1042, 5810),
        "E": (1.769, 1.871),
        "alpha": (0.317, 0.373),
        "beta": (0.331, 0.415),
    }
    for name, (low, high) in published.items():
        assert result.percentiles(name, 0.95) == pytest.approx(
            (low, high), abs=0.1 * (high - low)
        ), name
        wider = result.interval(name, 0.95)
        assert wider == pytest.approx((low, high), abs=0.2 * (high - low)), name
    spread = result.samples.std(axis=0)
    np.testing.assert_allclose(spread[[0, 3, 4]], [0.0254, 0.0152, 0.0205], rtol=0.12)


def test_order_of_points_and_names_of_runs_have_no_effect():
    inputs, target, run = planted_line(0)
    first = bootstrap(ShiftedPowerLaw(), inputs, target, runs=run, resamples=40, seed=3)
    order = np.random.default_rng(1).permutation(len(target))
    again = bootstrap(
        ShiftedPowerLaw(),
        {"x": inputs["x"][order]},
        target[order],
        runs=[f"run {(5 * r + 1) % 6}" for r in run[order]],
        resamples=40,
        seed=3,
    )
    np.testing.assert_array_equal(first.samples, again.samples)
    other = bootstrap(ShiftedPowerLaw(), inputs, target, runs=run, resamples=40, seed=4)
    assert not np.array_equal(first.samples, other.samples)


def test_each_resample_is_a_fit_of_its_runs():
    from lossline.laws.bootstrap import _resample
    from lossline.laws.solver import fit

    inputs, target, run = planted_line(1, runs=9)
    # With seed 0, one resample has two optima whose objectives differ by 0.1%; the last digits of
    # the machine decide which of them a search finds.
    result = bootstrap(
        ShiftedPowerLaw(), inputs, target, runs=run, resamples=6, seed=1, options=LEAST
    )
    assert len(result.samples) == 6
    order = np.lexsort([target, inputs["x"]])
    number = run_numbers(run[order], inputs["x"][order], target[order])
    weights = _resample(number, 9, 6, Resampling.DRAW, 1)
    for sample, weight in zip(result.samples, weights, strict=True):
        # A resample keeps the bounds of all the data: a point of weight about 0 restores them.
        alone = fit(
            ShiftedPowerLaw(),
            {"x": np.append(inputs["x"][order], inputs["x"].min())},
            np.append(target[order], target.min()),
            weights=np.append(weight, 0.0) + 1e-12,
            options=LEAST,
        )
        grid = {"x": np.linspace(2.6, 4.5, 9)}
        ours = ShiftedPowerLaw().predict(dict(zip(LINE, sample, strict=True)), grid)
        np.testing.assert_allclose(ours, alone.predict(**grid), rtol=1e-5)


@pytest.mark.parametrize("objective", [LEAST_SQUARES, FitObjective()], ids=["squares", "huber_log"])
def test_90_percent_bands_cover_the_planted_line_and_new_runs(objective):
    at = np.array([2.4, 3.0, 3.6, 4.8])  # beyond the data on both sides, and within
    truth = ShiftedPowerLaw().predict(LINE, {"x": at})
    holds, holds_new = [], []
    for seed in range(30):
        inputs, target, run = planted_line(seed)
        result = bootstrap(
            ShiftedPowerLaw(),
            inputs,
            target,
            runs=run,
            resamples=80,
            seed=seed,
            options=FitOptions(objective=objective),
        )
        rng = np.random.default_rng(1000 + seed)
        new = truth * np.exp(np.hypot(4e-3, 2e-3) * rng.standard_normal(len(at)))
        low, high = result.band(0.9, x=at)
        holds.append((low <= truth) & (truth <= high))
        low, high = result.band(0.9, Band.PREDICTION, x=at)
        holds_new.append((low <= new) & (new <= high))
    # 120 outcomes, correlated within a data set: two standard errors are about 8 points.
    assert 0.82 <= np.mean(holds) <= 0.98
    assert 0.82 <= np.mean(holds_new) <= 0.98


def test_bands_widen_with_distance_level_and_noise():
    size = np.geomspace(2e7, 1e9, 15)
    inputs = {"N": np.tile(size, 2), "D": np.concatenate([20 * size, 80 * size])}
    rng = np.random.default_rng(0)
    loss = Chinchilla().predict(EXAMPLES[Chinchilla()], inputs) * np.exp(
        3e-3 * rng.standard_normal(30)
    )
    result = bootstrap(Chinchilla(), inputs, loss, resamples=150)
    far = {"N": np.array([3e8, 3e9, 3e10, 3e11]), "D": np.array([1e10, 1e11, 1e12, 1e13])}
    widths = {}
    for level in (0.5, 0.8, 0.9):
        for kind in Band:
            low, high = result.band(level, kind, **far)
            assert np.all(low < high)
            widths[level, kind] = high - low
    assert np.all(np.diff(widths[0.9, Band.CONFIDENCE] / result.fit.predict(**far)) > 0)
    assert np.all(widths[0.5, Band.CONFIDENCE] < widths[0.8, Band.CONFIDENCE])
    assert np.all(widths[0.8, Band.CONFIDENCE] < widths[0.9, Band.CONFIDENCE])
    assert np.all(widths[0.9, Band.CONFIDENCE] < widths[0.9, Band.PREDICTION])


def test_few_runs_give_heavier_tails_than_many():
    few = bootstrap(
        ShiftedPowerLaw(), *planted_line(0, runs=3)[:2], runs=planted_line(0, runs=3)[2]
    )
    many = bootstrap(
        ShiftedPowerLaw(), *planted_line(0, runs=25)[:2], runs=planted_line(0, runs=25)[2]
    )

    def tail(result):
        low, high = result.band(0.95, Band.PREDICTION, x=3.2)
        inner_low, inner_high = result.band(0.5, Band.PREDICTION, x=3.2)
        return float((high - low) / (inner_high - inner_low))

    assert few.degrees == 2
    assert tail(few) > 1.3 * tail(many)  # a normal has 2.9, Student's t with 2 degrees 5.3


def test_undetermined_law_has_no_intervals():
    inputs, target, run = planted_line(0, runs=1)
    single = bootstrap(ShiftedPowerLaw(), inputs, target, runs=run, resamples=20)
    assert not single.determined
    assert "only one run" in single.message
    assert np.isnan(single.band(0.9, x=np.array([2.0, 3.0]))).all()
    assert np.isnan(single.interval("kappa")).all()
    points = {"x": np.array([2.4, 2.8, 3.2, 4.0])}
    four = bootstrap(
        ErrorLaw(),
        points,
        ErrorLaw().predict(EXAMPLES[ErrorLaw()], points),
        resamples=50,
        resampling=Resampling.DRAW,
    )
    assert not four.determined
    assert "resamples of the runs could be fitted" in four.message
    assert four.failures["the runs drawn do not determine the law"] > 10
    same = bootstrap(ShiftedPowerLaw(), {"x": np.full(9, 3.0)}, np.linspace(2, 3, 9))
    assert "same inputs" in same.message


def test_few_runs_are_reweighted_if_draws_leave_the_law_undetermined():
    # The law has three parameters and needs three of the four values of x: a third of the draws has
    # two or one.
    inputs = {"x": np.repeat([2.4, 2.8, 3.2, 4.0], 5)}
    rng = np.random.default_rng(0)
    run = np.repeat(np.arange(4), 5)
    y = ErrorLaw().predict({"epsilon": 0.86, "k": 2.2, "gamma": 0.71}, inputs)
    y *= np.exp(2e-3 * rng.standard_normal(4)[run] + 1e-3 * rng.standard_normal(20))
    result = bootstrap(ErrorLaw(), inputs, y, runs=run, resamples=100)
    assert result.determined
    assert result.resampling is Resampling.REWEIGHT
    low, high = result.interval("epsilon")
    assert low < result.fit.parameters["epsilon"] < high
    enough, target, runs = planted_line(0)
    drawn = bootstrap(ShiftedPowerLaw(), enough, target, runs=runs, resamples=20)
    assert drawn.resampling is Resampling.DRAW


def test_bad_arguments_raise_a_user_error():
    inputs, target, run = planted_line(0)
    with pytest.raises(UserError, match="runs: must hold one name for each of the 36 points"):
        bootstrap(ShiftedPowerLaw(), inputs, target, runs=run[:-1])
    with pytest.raises(UserError, match="resamples must be at least 2"):
        bootstrap(ShiftedPowerLaw(), inputs, target, resamples=1)
    result = bootstrap(ShiftedPowerLaw(), inputs, target, runs=run, resamples=10)
    with pytest.raises(UserError, match="level must lie between 0 and 1, not 90"):
        result.band(90, x=3.0)
    with pytest.raises(UserError, match="no parameter 'kapa'"):
        result.interval("kapa")
