"""Held-out extrapolation: fitted and predicted points, errors against baselines, intervals."""

import dataclasses

import numpy as np
import pytest

from lossline.errors import UserError
from lossline.laws.compute_laws import Kaplan
from lossline.laws.solver import fit
from lossline.lines.calibration import Pool
from lossline.lines.extrapolation import LINE, extrapolate, score, split_at
from lossline.lines.fitting import LineOptions
from lossline.lines.published_line import published_line
from lossline.lines.rolling_cuts import calibrations
from lossline.lines.specimens import LineKind, Specimen, between_groups, within_groups
from lossline.tables.pairing import Pairing, Pairs, one_set
from lossline.tables.sweeps import import_sweep

CUT, TARGET = 2.1e18, 4.84e19


def sweep(noise=0.002, seed=0) -> Pairs:
    """Return iso-FLOP budgets of two planted laws; D/N moves y off the line."""
    random = np.random.default_rng(seed)
    flops = np.repeat(np.geomspace(2e17, 5e19, 8), 9)
    ratio = np.tile(np.geomspace(3, 120, 9), 8)
    params = np.sqrt(flops / 6 / ratio)
    tokens = params * ratio
    x = 1.7 + 400 * params**-0.34 + 1200 * tokens**-0.36
    y = 1.2 + 300 * params**-0.36 + 1400 * tokens**-0.38
    x, y = (v * np.exp(random.normal(0, noise, len(v))) for v in (x, y))
    runs = np.array([f"run{i}" for i in range(len(x))])
    return Pairs(
        x=x, y=y, runs=runs, params=params, tokens=tokens, flops=flops, how=Pairing.CHECKPOINT
    )


def specimen(pairs: Pairs | None, **facts) -> Specimen:
    kind = LineKind.TRAIN_TO_TRAIN
    return Specimen(x_set="x", y_set="y", group={}, kind=kind, unit="loss", pairs=pairs, **facts)


def test_points_above_the_cut_do_not_change_the_fit():
    pairs = sweep()
    above = pairs.flops > CUT * 1.01
    spoiled = dataclasses.replace(pairs, y=np.where(above, 9.0, pairs.y))
    one, other = extrapolate(specimen(pairs), cut=CUT), extrapolate(specimen(spoiled), cut=CUT)
    assert one.line is not None and other.line is not None
    assert one.line.parameters == other.line.parameters
    np.testing.assert_array_equal(one.predictions.predicted, other.predictions.predicted)


def test_line_predicts_planted_runs_better_than_the_baselines():
    scores = score([extrapolate(specimen(sweep(seed=s)), cut=CUT) for s in range(3)])
    by_method = scores.set_index("method")
    assert by_method.loc[LINE, "median"] < 0.006
    for method in ("constant ratio", "straight line", "nearest run"):
        assert by_method.loc[LINE, "median"] < 0.7 * by_method.loc[method, "median"]


def test_intervals_cover_planted_runs_beyond_the_cut_at_their_level():
    """Points of one line share errors, so the test needs many lines.

    The sweeps are calibrated by their own cuts, four at a time: five budgets are fitted.
    """
    cut = np.geomspace(2e17, 5e19, 8)[4]
    found = []
    for first in range(0, 40, 4):
        whole = [specimen(sweep(seed=first + s)) for s in range(4)]
        fitted = [dataclasses.replace(s, pairs=split_at(s.pairs, cut)[0]) for s in whole if s.pairs]
        own = calibrations(fitted)[Pool.TRAIN]
        found += [extrapolate(s, cut=cut, baselines={}, calibration=own) for s in whole]
    assert 0.86 <= score(found)["coverage"].item() <= 0.96


def test_intervals_from_few_runs_cover_at_their_level():
    """18 runs of two budgets, predicted up to 100 times their compute."""
    cut = np.geomspace(2e17, 5e19, 8)[1]
    found = [extrapolate(specimen(sweep(seed=s)), cut=cut, baselines={}) for s in range(20)]
    assert score(found)["coverage"].item() >= 0.85


def test_target_predicts_one_budget_only():
    fitted, held = split_at(sweep(), CUT, target=5e19)
    assert fitted.flops.max() <= CUT * 1.01
    assert len(held) == 9
    assert np.allclose(held.flops, 5e19)


def trained(offset=0.02, seed=0) -> Pairs:
    """Return eight runs of four sizes with six checkpoints each.

    Each run has its own offset from the line, which its early and late checkpoints share.
    """
    random = np.random.default_rng(seed)
    params = np.repeat([1e7, 2e7, 4e7, 8e7], 2)[:, None]
    tokens = np.geomspace(2e8, 2e9, 6) * np.ones_like(params)
    x = 1.7 + 400 * params**-0.34 + 1200 * tokens**-0.36
    y = (1.2 + 0.9 * (x - 1.5) ** 0.9) * np.exp(offset * random.normal(size=(8, 1)))
    runs = np.repeat([f"run{i}" for i in range(8)], 6)
    x, y, params, tokens = (np.broadcast_to(v, x.shape).ravel() for v in (x, y, params, tokens))
    return Pairs(
        x=x, y=y, runs=runs, params=params, tokens=tokens, flops=6 * params * tokens,
        how=Pairing.CHECKPOINT,
    )  # fmt: skip


FEW = LineOptions(resamples=20)


def test_run_that_trains_beyond_the_cut_is_held_out_whole():
    pairs = trained()
    cut = 6 * 2e7 * 2e9  # where the runs of 2e7 parameters end
    fitted, held = split_at(pairs, cut)
    assert set(fitted.runs) == {"run0", "run1", "run2", "run3"}
    assert set(held.runs) == {"run4", "run5", "run6", "run7"}
    assert held.flops.min() > cut
    large = pairs.params > 2e7
    spoiled = dataclasses.replace(pairs, y=np.where(large, 9.0, pairs.y))
    one, other = (extrapolate(specimen(p), cut=cut, options=FEW) for p in (pairs, spoiled))
    assert one.line is not None and other.line is not None
    assert one.line.parameters == other.line.parameters
    np.testing.assert_array_equal(one.predictions.predicted, other.predictions.predicted)


def test_held_out_run_does_not_leak_into_its_prediction():
    """An unseen run's error includes its offset; fitting its early checkpoints would halve it."""
    cut = 6 * 2e7 * 2e9
    error, offset = [], []
    for seed in range(12):
        pairs, line = trained(seed=seed), trained(0.0)
        found = extrapolate(specimen(pairs), cut=cut, options=FEW, baselines={})
        error.append(found.predictions.relative_error.abs().mean())
        away = pairs.flops > 1.01 * cut
        offset.append(np.abs(pairs.y[away] / line.y[away] - 1).mean())
    assert np.mean(error) > 1.2 * np.mean(offset)


def test_message_names_a_cut_that_works_if_every_run_trains_beyond():
    pairs = trained()
    found = extrapolate(specimen(pairs), cut=2e16)
    assert "no run ends at 2e+16 FLOPs or before" in found.message
    assert "Raise the cut to 1.2e+17" in found.message
    assert split_at(pairs, 1.2e17)[0].n_runs == 2
    alike = pairs[pairs.params == 1e7]
    assert "train smaller ones" in extrapolate(specimen(alike), cut=2e16).message


def test_pairs_know_the_runs_they_were_measured_on():
    """A run of the second group can be in several pairs.

    An interpolated point belongs to two runs of the second group.
    """
    rows = np.array(["a", "b", "c", "d"])
    flops = np.array([1e17, 2e17, 1e18, 1e18])
    pairs = Pairs(
        x=flops, y=flops, params=flops, tokens=flops, flops=flops, how=Pairing.INTERPOLATED,
        runs=rows, sources=(rows, np.array(["p", "q", "q", "r"]), np.array(["p", "r", "s", "t"])),
    )  # fmt: skip
    fitted, held = split_at(pairs, 5e17)
    assert (list(fitted.runs), list(held.runs)) == (["a"], ["c", "d"])


def test_specimen_that_cannot_be_extrapolated_has_a_message():
    assert "no run above" in extrapolate(specimen(sweep()), cut=1e21).message
    none = extrapolate(specimen(sweep()), cut=1e17).message
    assert "no run ends at 1e+17 FLOPs or before" in none
    assert "Raise the cut to 2e+17" in none
    assert extrapolate(specimen(sweep()), cut=2e17).line is not None  # as the message says
    unknown = dataclasses.replace(sweep(), flops=np.full(72, np.nan))
    assert "have no compute" in extrapolate(specimen(unknown), cut=CUT).message
    assert extrapolate(specimen(None, message="torn"), cut=CUT).message == "torn"
    with pytest.raises(UserError, match="must be positive"):
        split_at(sweep(), 0.0)


def test_published_procedure_recovers_a_line_with_given_E():
    x = np.linspace(2.2, 4.0, 30)
    pairs = dataclasses.replace(sweep(), x=x, y=0.9 * (x - 1.6) ** 0.85 + 1.9)
    line = published_line(pairs, 1.6, 1.9)
    assert (line.K, line.kappa) == pytest.approx((0.9, 0.85))
    assert line.predict(np.array([1.5]))[0] == pytest.approx(1.9)
    with pytest.raises(UserError, match="0 points above"):
        published_line(pairs, 9.0, 1.9)


@pytest.fixture(scope="module")
def kempner(published_data):
    path = published_data / "kempner_sweep.csv"
    if not path.exists():
        pytest.skip(f"published measurements absent: {path}")
    return import_sweep("kempner", path).table


def published_errors(table, specimens) -> np.ndarray:
    """Return |relative error| of the published procedure on the held-out budget."""
    E, errors = {}, []
    for s in specimens:
        for facts, name in ((s.group, s.x_set), (s.y_group or s.group, s.y_set)):
            key = (facts["pretraining_data"], name)
            if key not in E:
                rows = one_set(table[table.pretraining_data == key[0]], name, "loss")
                rows = rows[rows.flops <= CUT * 1.01]
                scale = {"N": rows.params.to_numpy(), "D": rows.tokens.to_numpy()}
                E[key] = fit(Kaplan(), scale, rows.value.to_numpy()).parameters["E"]
        fitted, held = split_at(s.pairs, CUT, TARGET)
        keys = [(f["pretraining_data"], n) for f, n in
                ((s.group, s.x_set), (s.y_group or s.group, s.y_set))]  # fmt: skip
        line = published_line(fitted, E[keys[0]], E[keys[1]])
        errors.append(np.abs(line.predict(held.x) / held.y - 1))
    return np.concatenate(errors)


def test_held_out_budget_of_the_published_sweep_is_predicted(kempner):
    vary = ["pretraining_data"]
    across = between_groups(kempner, vary=vary)
    within = within_groups(
        kempner, x_sets=["own"], y_sets=["c4", "slimpajama", "smollm", "hellaswag", "piqa"]
    )
    for specimens, limit in ((across, 0.3), (within, 0.5)):
        found = [extrapolate(s, cut=CUT, target=TARGET, baselines={}) for s in specimens]
        ours = score(found)
        rows = np.concatenate([one.predictions.relative_error.abs() for one in found])
        published = published_errors(kempner, specimens)
        assert np.median(rows) <= limit * np.median(published)
        assert rows.max() <= published.max()
        weighted = np.average(ours.coverage, weights=ours.points)
        assert 0.85 <= weighted <= 1.0


def test_every_train_to_train_pair_of_the_published_sweep_fits_a_line(kempner):
    from lossline.lines.fitting import fit_lines_between

    options = LineOptions(resamples=0)
    lines = fit_lines_between(kempner, vary=["pretraining_data"], options=options)
    assert len(lines) == 12
    assert min(line.r2 for line in lines) >= 0.997
    assert {line.pairing for line in lines} == {Pairing.EQUAL_SCALE}
    assert all(line.r2 > line.r2_linear for line in lines)
