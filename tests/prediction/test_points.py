"""Which checkpoints the second stage is fitted to."""

import dataclasses

import numpy as np
import pandas as pd
import planted_runs
import pytest

from lossline.prediction import PredictOptions, predict_table
from lossline.prediction.observations import Observations, observe
from lossline.prediction.points import Points, choose


def log(count: int, **columns: np.ndarray) -> Observations:
    """Return the log of one run with evenly spaced checkpoints; by default all improve."""
    steps = np.arange(1.0, count + 1)
    falling = 5 - steps / count
    base = {
        "params": np.full(count, 1e9),
        "tokens": 1e8 * steps,
        "flops": 6e17 * steps,
        "value": np.full(count, 0.9),
        "loss": falling,
        "progress": falling,
        "gold": falling,
    }
    return Observations(
        task="arc_easy",
        metric="accuracy",
        chance=0.25,
        names=("run",),
        families=("",),
        run=np.zeros(count, int),
        final=steps == count,
        domains={"c4": falling},
        **(base | columns),
    )


def kept(observations: Observations, points: Points) -> list[int]:
    """Return the checkpoints chosen, 1 to M."""
    chosen = choose(observations, points, emergence=0.05)
    return [round(tokens / 1e8) for tokens in chosen.tokens]


def test_flp_takes_every_thirtieth_of_the_training():
    assert kept(log(300), Points.IMPROVING) == list(range(10, 301, 10))
    assert kept(log(12), Points.IMPROVING) == list(range(1, 13))


def test_flp_takes_improvements_of_the_rounded_loss_only():
    loss = np.array([3.20, 3.204, 3.10, 3.15, 3.099, 3.06, np.nan, 3.00])
    # 3.204 and 3.099 are no improvements at two decimals; the missing loss is none.
    assert kept(log(8, progress=loss), Points.IMPROVING) == [1, 3, 6, 8]


def test_a_run_without_a_known_loss_keeps_its_checkpoints():
    assert kept(log(5, progress=np.full(5, np.nan)), Points.IMPROVING) == [1, 2, 3, 4, 5]


def test_flp_takes_scores_above_the_threshold_only():
    value = np.array([0.20, 0.25, 0.2999, 0.30, 0.31, 0.29])
    assert kept(log(6, value=value), Points.IMPROVING) == [4, 5]
    chosen = choose(log(6, value=value), Points.IMPROVING, emergence=0.0)
    assert len(chosen) == 5


def test_an_improvement_below_the_threshold_still_sets_the_best_loss():
    value = np.array([0.2, 0.9, 0.9])
    loss = np.array([3.0, 3.1, 2.9])
    assert kept(log(3, value=value, progress=loss), Points.IMPROVING) == [3]


def test_smoothing_is_a_rolling_mean_and_skips_the_first_tenth():
    random = np.random.default_rng(0)
    columns = {name: random.uniform(size=60) for name in ("value", "loss", "gold")}
    columns["gold"][17] = np.nan
    observations = dataclasses.replace(log(60), **columns, domains={"c4": columns["loss"] + 1})
    chosen = choose(observations, Points.SMOOTHED, emergence=0.05)
    assert kept(observations, Points.SMOOTHED) == [*range(8, 61, 2)]  # 6 of 60 are skipped
    at = [round(tokens / 1e8) - 1 for tokens in chosen.tokens]
    for name, column in columns.items():
        plain = pd.Series(column).rolling(5, min_periods=1).mean().to_numpy()
        np.testing.assert_allclose(getattr(chosen, name), plain[at], rtol=1e-12)
    np.testing.assert_allclose(chosen.domains["c4"], chosen.loss + 1, rtol=1e-12)


def test_short_runs_are_not_smoothed():
    random = np.random.default_rng(0)
    value = random.uniform(size=29)
    chosen = choose(log(29, value=value), Points.SMOOTHED, emergence=0.05)
    np.testing.assert_array_equal(chosen.value, value[2:])  # 2 of 29 lie in the first tenth


def test_final_points_are_the_last_of_each_run():
    assert kept(log(7), Points.FINAL) == [7]


@pytest.mark.parametrize(
    ("add", "name"),
    [
        ("x_training_loss", "training loss (x_training_loss)"),
        ("own", "loss on the run's own validation set"),
        ("", "mean validation loss"),
    ],
)
def test_the_loss_that_selects_is_the_best_recorded_and_said(add, name):
    table = planted_runs.table()
    if add == "own":
        own = table[table["eval_set"] == "c4"].assign(eval_set="own")
        own["loss"] += 1
        table = pd.concat([table, own], ignore_index=True)
    elif add:
        table[add] = 9.0
    options = PredictOptions(methods=("flp",), resamples=0)
    observations = observe(table, options)["arc_easy"]
    shift = {"own": 0.8, "": 0.0}.get(add)  # c4 lies 0.2 below the mean of the two sets
    wanted = np.full(len(observations), 9.0) if shift is None else observations.loss + shift
    np.testing.assert_allclose(observations.progress, wanted)
    found = predict_table(table, options)
    assert f"flp: checkpoints improve the {name}." in found.notes


def test_validation_set_that_some_checkpoints_lack_is_used_on_request():
    table = planted_runs.table(checkpoints=4)
    small = table["params"] < 2e8
    lacking = table[~(small & (table["eval_set"] == "c4"))]
    named = observe(lacking, PredictOptions(validation_sets=("c4",)))
    found = next(iter(named.values()))
    assert np.isfinite(found.loss[found.params > 2e8]).all()
    assert np.isnan(found.loss[found.params < 2e8]).all()
