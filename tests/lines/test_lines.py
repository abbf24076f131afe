"""Lines recover planted truth, do not depend on order, and report undetermined data."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from lossline import tables
from lossline.errors import UserError
from lossline.laws.results import FitStatus
from lossline.lines.estimators import TASK_PRIOR, Prior
from lossline.lines.fans import fan_of
from lossline.lines.fitting import Irreducible, LineOptions, fit_line, fit_lines
from lossline.lines.specimens import LineKind
from lossline.tables.pairing import Pairing, Pairs

TRUTH = {"K": 0.9, "kappa": 0.85, "E_x": 1.6, "E_y": 1.9}


def planted(runs=8, per_run=6, noise=0.002, seed=0, x=None) -> Pairs:
    random = np.random.default_rng(seed)
    x = np.sort(random.uniform(2.4, 4.4, runs * per_run))[::-1] if x is None else np.asarray(x)
    y = TRUTH["K"] * (x - TRUTH["E_x"]) ** TRUTH["kappa"] + TRUTH["E_y"]
    y = y * np.exp(random.normal(0, noise, len(x)))
    names = np.array([f"run{i % runs}" for i in range(len(x))])
    tokens = np.geomspace(1e8, 1e10, len(x))
    params = np.full(len(x), 1e8)
    return Pairs(
        x=x,
        y=y,
        runs=names,
        params=params,
        tokens=tokens,
        flops=6 * params * tokens,
        how=Pairing.CHECKPOINT,
    )


def truth(x):
    return TRUTH["K"] * (np.asarray(x) - TRUTH["E_x"]) ** TRUTH["kappa"] + TRUTH["E_y"]


def test_planted_line_is_recovered_beyond_its_points():
    line = fit_line(planted())
    assert line.status is FitStatus.CONVERGED
    np.testing.assert_allclose(line.predict([2.4, 3.0, 4.4]), truth([2.4, 3.0, 4.4]), rtol=2e-3)
    np.testing.assert_allclose(line.predict([2.1, 2.2]), truth([2.1, 2.2]), rtol=1e-2)
    assert line.r2 > 0.999
    assert line.n_runs == 8


def test_given_irreducible_losses_give_the_planted_exponent():
    options = LineOptions(irreducible=Irreducible.GIVEN)
    line = fit_line(planted(noise=1e-4), E_x=TRUTH["E_x"], E_y=TRUTH["E_y"], options=options)
    assert line.parameters["kappa"] == pytest.approx(TRUTH["kappa"], abs=0.02)
    assert line.parameters["K"] == pytest.approx(TRUTH["K"], rel=0.02)


def test_order_of_points_has_no_effect():
    pairs = planted()
    order = np.random.default_rng(3).permutation(len(pairs))
    one, other = fit_line(pairs), fit_line(pairs[order])
    for name, value in one.parameters.items():
        assert other.parameters[name] == pytest.approx(value, rel=1e-9)


def runs_of_a_study(seed, sizes=3, checkpoints=10, run_noise=0.004, noise=0.001) -> Pairs:
    """Checkpoints along runs of a few sizes; each run lies a little off the line as a whole."""
    random = np.random.default_rng(seed)
    params = np.repeat(2e5 * 2.2 ** np.arange(sizes), checkpoints)
    tokens = np.tile(np.geomspace(2e6, 4e7, checkpoints), sizes)
    x = TRUTH["E_x"] + 1.2 * ((3e4 / params) ** 0.35 + (3e6 / tokens) ** 0.45)
    off = np.repeat(random.normal(0, run_noise, sizes), checkpoints)
    y = truth(x) * np.exp(off + random.normal(0, noise, len(x)))
    runs = np.repeat([f"run{i}" for i in range(sizes)], checkpoints)
    flops = 6 * params * tokens
    return Pairs(
        x=x, y=y, runs=runs, params=params, tokens=tokens, flops=flops, how=Pairing.CHECKPOINT
    )


@pytest.mark.parametrize("sizes", [2, 3, 6])
def test_bands_cover_the_truth_when_checkpoints_share_errors(sizes):
    """Two runs determine run-to-run noise badly: their bands are wide, and cover the truth."""
    inside, held = [], []
    for seed in range(60):
        line = fit_line(runs_of_a_study(seed, sizes=sizes))
        at = np.array([0.95 * line.x_range[0], 3.2, line.x_range[1]])
        for found, interval in ((inside, line.band), (held, line.interval)):
            low, high = interval(at, 0.9)
            found.append((low <= truth(at)) & (truth(at) <= high))
    assert np.mean(inside, axis=0).min() >= 0.8
    assert np.mean(inside) >= 0.85
    assert np.mean(held) >= np.mean(inside)


@pytest.mark.parametrize("runs", [2, 4])
def test_intervals_from_few_runs_cover_a_new_run(experiment, runs):
    bands = experiment("bands")
    shape, noise, held = bands.SHAPES["straight"], bands.NOISES["high"], []
    at = np.array([shape.x[0], np.mean(shape.x), shape.x[1]])
    for seed in range(60):
        low, high = fit_line(bands.sweep(shape, noise, runs, 6, seed)).interval(at)
        error = np.random.default_rng(1000 + seed).standard_normal(3)
        new = shape.y(at) * np.exp(np.hypot(noise.run, noise.checkpoint) * error)
        held.append((low <= new) & (new <= high))
    assert np.mean(held) >= 0.87  # of 180, standard error 2.5 points


@pytest.mark.parametrize(("runs", "checkpoints"), [(4, 6), (8, 6), (12, 1)])
def test_bands_cover_a_line_that_bends_just_below_its_points(experiment, runs, checkpoints):
    """E_x = 2, kappa = 0.5, lowest x 2.1; experiments/lines has the whole table."""
    bands = experiment("bands")
    for noise in bands.NOISES:
        found = bands.cell(("bend 2.1", noise, runs, checkpoints), 60)
        held = [found[f"held {place}"] for place in bands.PLACES]
        assert min(held) >= 78, (noise, held)  # of 60, standard error 4 points
        assert np.mean(held) >= 85, (noise, held)


def test_bend_is_estimated_within_runs(experiment):
    """The line's error is far below the offsets of its runs."""
    bands = experiment("bands")
    found = bands.cell(("bend 2.1", "high", 12, 6), 30)
    assert max(abs(found[f"bias {place}"]) for place in bands.PLACES) < 1.5
    assert found["width high"] < 5


def test_names_of_runs_have_no_effect():
    pairs = planted()
    other = np.array([f"run{(5 * int(name[3:]) + 3) % 8}" for name in pairs.runs])
    tables_of_both = [table_of({"d": p}) for p in (pairs, dataclasses.replace(pairs, runs=other))]
    one, two = (fit_lines(t, x_sets=["x"], y_sets=["y"])[0] for t in tables_of_both)
    np.testing.assert_array_equal(one.draws, two.draws)
    assert one.parameters == two.parameters


def test_line_of_few_runs_warns_about_its_band():
    wide = fit_line(runs_of_a_study(3, sizes=2, run_noise=0.05))
    assert wide.drawable
    assert "2 runs: the width of the 90% band is" in wide.message and "train more" in wide.message
    assert not fit_line(runs_of_a_study(0, sizes=2, run_noise=1e-4, noise=1e-4)).message
    alone = fit_line(runs_of_a_study(0, sizes=1), options=LineOptions(min_runs=1))
    assert alone.message.startswith("1 run: no band")
    assert np.isnan(alone.band(3.0)).all()


def test_bands_widen_with_distance_and_level():
    line = fit_line(planted(noise=0.004))
    low, high = line.band([1.9, 2.4, 3.2], 0.9)
    width = high - low
    assert width[0] > width[1] > 0
    narrow = line.band([2.2], 0.5)
    assert line.band([2.2], 0.9)[1] - line.band([2.2], 0.9)[0] > narrow[1] - narrow[0]


def test_interval_ends_are_equally_far_from_the_line_in_ratio():
    """Even if all reweighted lines lie on one side; the lower end is never negative."""
    line = fit_line(planted(runs=3, noise=0.05), options=LineOptions(seed=2))
    at = np.array([0.5, 2.2, 3.0, 40.0])
    for interval in (line.band, line.interval):
        low, high = interval(at, 0.99)
        np.testing.assert_allclose(high / line.predict(at), line.predict(at) / low)
        assert np.all(low > 0) and np.all(low < high)
    off = line.draws.copy()
    off[:, 3] += 1.0
    aside = dataclasses.replace(line, draws=off)
    assert aside.band(2.2)[0] < line.predict(2.2) < aside.band(2.2)[1]


def test_same_seed_gives_the_same_band():
    one, other = fit_line(planted()), fit_line(planted())
    np.testing.assert_array_equal(one.draws, other.draws)
    third = fit_line(planted(), options=LineOptions(seed=1))
    assert not np.array_equal(one.draws, third.draws)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (planted(runs=1), "1 run"),
        (planted(x=[3.0] * 12), "same x"),
        (planted()[np.zeros(48, bool)], "no checkpoint"),
        (planted(runs=3, per_run=1), "3 points"),
    ],
)
def test_pairs_that_cannot_be_fitted_give_a_message(pairs, words):
    line = fit_line(pairs)
    assert line.status is FitStatus.UNDERDETERMINED
    assert not line.drawable
    assert words in line.message
    assert "\n" not in line.message
    with pytest.raises(UserError, match="cannot predict, the line has no parameters"):
        line.predict(3.0)


def test_noise_without_a_line_is_underdetermined():
    random = np.random.default_rng(0)
    pairs = planted()
    shuffled = Pairs(**{**pairs.__dict__, "y": random.permutation(pairs.y)})
    assert not fit_line(shuffled).drawable


def table_of(pairs_of: dict[str, Pairs]) -> pd.DataFrame:
    rows = []
    for data, pairs in pairs_of.items():
        for i in range(len(pairs)):
            facts = dict(run_id=f"{data}-{pairs.runs[i]}", architecture="llama", tokenizer="bpe",
                         pretraining_data=data, params=1e8, step=i, tokens=float(pairs.tokens[i]),
                         flops=float(pairs.flops[i]))  # fmt: skip
            rows.append({**facts, "eval_set": "x", "kind": "validation", "loss": pairs.x[i]})
            rows.append({**facts, "eval_set": "y", "kind": "task", "loss": pairs.y[i]})
    return tables.from_rows(rows)


def test_bad_group_does_not_stop_the_others():
    table = table_of({"good": planted(), "lonely": planted(runs=1), "flat": planted(x=[3.0] * 12)})
    torn = table[(table.pretraining_data == "good")].assign(pretraining_data="torn")
    torn["run_id"] = torn["run_id"].str.replace("good", "torn")
    twice = torn.iloc[:1].assign(loss=99.0)
    lines = fit_lines(pd.concat([table, torn, twice]), x_sets=["x"], y_sets=["y"])
    by_data = {line.group["pretraining_data"]: line for line in lines}
    assert by_data["good"].drawable
    assert "1 run" in by_data["lonely"].message
    assert "same x" in by_data["flat"].message
    assert "twice" in by_data["torn"].message
    alone = fit_lines(table_of({"good": planted()}), x_sets=["x"], y_sets=["y"])[0]
    assert by_data["good"].parameters == alone.parameters
    assert json.loads(json.dumps(by_data["lonely"].to_dict()))["r2"] is None


def test_unknown_set_and_column_raise_a_user_error():
    table = table_of({"good": planted()})
    with pytest.raises(UserError, match="'z' is not in the table; it has x, y"):
        fit_lines(table, x_sets=["z"])
    with pytest.raises(UserError, match="cannot group by 'dataset'"):
        fit_lines(table, group_by=["dataset"])


def test_line_without_points_below_max_x_has_a_message():
    line = fit_line(planted(), options=LineOptions(max_x=0.01))
    assert not line.parameters and line.message == "no point has x up to lines.max_x = 0.01"
    with pytest.raises(UserError, match=r"lines\.max_x = -3.*: must be a positive number"):
        LineOptions(max_x=-3)


@pytest.mark.parametrize("seed", range(5))
def test_a_task_line_does_not_drop_below_its_lowest_points(seed):
    """A parabola, as lines of ARC and MMLU look: no power law, so E_x goes where it is allowed."""

    def parabola(x):
        return 5.6 - 0.9 * (3.8 - np.asarray(x)) ** 2

    random = np.random.default_rng(seed)
    x = np.append(2.45, random.uniform(2.45, 3.8, 79))
    pairs = planted(runs=80, per_run=1, x=x)
    y = parabola(x) * np.exp(random.normal(0, 0.02, 80))
    pairs = dataclasses.replace(pairs, y=y)
    line = fit_line(pairs, kind=LineKind.TRAIN_TO_TASK)
    assert line.parameters["E_x"] < 0.8 * 2.45
    np.testing.assert_allclose(line.predict([2.2]), parabola([2.2]), rtol=0.08)
    unlimited = LineOptions(task_prior=dataclasses.replace(TASK_PRIOR, highest=0.998))
    wild = fit_line(pairs, kind=LineKind.TRAIN_TO_TASK, options=unlimited)
    assert wild.parameters["E_x"] > line.parameters["E_x"]


@pytest.mark.parametrize("highest", [0.0, 1.0, float("nan")])
def test_a_prior_needs_e_x_below_the_smallest_loss(highest):
    with pytest.raises(UserError, match="highest must be between 0 and 1"):
        Prior(highest=highest)


def test_fan_of_a_band_is_that_of_few_runs_up_to_eight_and_of_its_kind_from_24_on():
    kind = LineKind.TRAIN_TO_TRAIN
    assert fan_of(kind, 2) == fan_of(kind, 8) == 0.7
    assert fan_of(kind, 24) == pytest.approx(0.1) == fan_of(kind, 500)
    assert 0.1 < fan_of(kind, 16) < 0.7
