"""Intervals calibrated by rolling cuts: coverage of planted sweeps, noise, too few cuts."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from lossline.lines import rolling_cuts
from lossline.lines.calibration import (
    LEVELS,
    Calibration,
    CalibrationSource,
    Pool,
    effective_scatter,
    learn,
    published_calibration,
)
from lossline.lines.extrapolation import split_at
from lossline.lines.fitting import Line, LineOptions, fit_line
from lossline.lines.rolling_cuts import calibrated, cut_errors
from lossline.lines.specimens import LineKind, Specimen
from lossline.tables.pairing import Pairing, Pairs

BUDGETS = np.geomspace(2e17, 5e19, 8)
FAST = LineOptions(resamples=0)


def sweep(noise: float, seed: int, kind: LineKind = LineKind.TRAIN_TO_TRAIN) -> Specimen:
    """Return eight budgets of nine runs of two planted laws; losses of one run share no noise."""
    random = np.random.default_rng(seed)
    flops, ratio = np.repeat(BUDGETS, 9), np.tile(np.geomspace(5, 80, 9), 8)
    params = np.sqrt(flops / 6 / ratio)
    tokens = params * ratio
    a, b = random.uniform(0.32, 0.36, 2)
    x = 1.7 + 400 * params**-0.34 + 1200 * tokens**-0.36
    y = random.uniform(0.8, 1.4) + 300 * params**-a + 1400 * tokens ** -(b + 0.02)
    x, y = (v * np.exp(random.normal(0, noise, len(v))) for v in (x, y))
    runs = np.array([f"run{i}" for i in range(len(x))])
    pairs = Pairs(
        x=x, y=y, runs=runs, params=params, tokens=tokens, flops=flops, how=Pairing.CHECKPOINT
    )
    return Specimen(x_set="x", y_set="y", group={}, kind=kind, unit="loss", pairs=pairs)


def up_to(specimen: Specimen, budget: int) -> Specimen:
    """Return the specimen with its first budgets only."""
    assert specimen.pairs is not None
    return dataclasses.replace(specimen, pairs=split_at(specimen.pairs, BUDGETS[budget - 1])[0])


def fitted(specimens: list[Specimen]) -> list[Line]:
    """Return the lines with their own calibration."""
    lines = [fit_line(s.pairs, kind=s.kind, options=FAST) for s in specimens if s.pairs is not None]
    return calibrated(lines, specimens, FAST)


@pytest.mark.parametrize("last", [5, 6])
def test_intervals_hold_planted_runs_at_every_distance(last):
    """Eight tables of six lines; lines of one table share their calibration."""
    held: dict[int, list[np.ndarray]] = {budget: [] for budget in range(last + 1, 9)}
    for table in range(8):
        whole = [sweep(0.004, 100 * table + line) for line in range(6)]
        for line, specimen in zip(fitted([up_to(s, last) for s in whole]), whole, strict=True):
            assert line.calibration.source is CalibrationSource.OWN
            pairs = specimen.pairs
            assert pairs is not None
            low, high = line.interval(pairs.x, tokens_per_param=pairs.tokens / pairs.params)
            for budget, found in held.items():
                at = np.isclose(pairs.flops, BUDGETS[budget - 1])
                found.append(((low <= pairs.y) & (pairs.y <= high))[at])
    for budget, found in held.items():
        assert 0.86 <= np.mean(found) <= 0.96, budget


def test_twice_the_noise_widens_intervals_by_itself():
    width = []
    for noise in (0.002, 0.004):
        line = fitted([sweep(noise, seed) for seed in range(4)])[0]
        low, high = line.interval(line.x_range[0])
        width.append(float(high / low - 1))
    assert width[1] / width[0] == pytest.approx(2, rel=0.35)


def test_intervals_widen_beyond_the_points_at_every_step():
    line = fitted([sweep(0.002, seed) for seed in range(4)])[0]
    x = line.x_range[0] * np.linspace(1, 0.8, 6)
    low, high = line.interval(x)
    assert np.all(np.diff(high / low) > 0)


def test_lines_whose_form_fails_widen_the_intervals_of_their_table():
    """The bend of y after the fourth budget is in no cut's form."""
    clean = [sweep(0.002, seed) for seed in range(4)]
    bent = []
    for specimen in clean:
        pairs = specimen.pairs
        assert pairs is not None
        late = np.maximum(np.log(pairs.flops / BUDGETS[3]), 0)
        bent.append(
            dataclasses.replace(
                specimen, pairs=dataclasses.replace(pairs, y=pairs.y * np.exp(0.02 * late))
            )
        )
    plain, wide = fitted(clean)[0].calibration, fitted(bent)[0].calibration
    far = np.array([0.1])
    assert wide.half_width(0.003, far, 0.9) > 1.3 * plain.half_width(0.003, far, 0.9)


def test_too_few_cuts_use_the_published_calibration_and_say_so():
    specimen = up_to(sweep(0.002, 0), 1)
    (line,) = fitted([specimen])
    assert line.calibration == published_calibration(LineKind.TRAIN_TO_TRAIN)
    assert line.calibration.source is CalibrationSource.PUBLISHED
    assert "published sweeps alone" in line.calibration.sentence
    (own,) = fitted([sweep(0.002, 0)])
    assert f"{own.calibration.cuts} rolling cuts" in own.calibration.sentence
    assert own.calibration.points > 0


def test_cuts_leave_no_later_run_in_the_fit():
    specimen = sweep(0.002, 0)
    errors = cut_errors([specimen], FAST)
    pairs = specimen.pairs
    assert pairs is not None
    late = np.isclose(pairs.flops, BUDGETS[-1])
    spoiled = dataclasses.replace(pairs, y=np.where(late, 9.0, pairs.y))
    other = cut_errors([dataclasses.replace(specimen, pairs=spoiled)], FAST)
    assert set(errors["scatter"]) == set(other["scatter"])
    assert not np.allclose(errors["error"], other["error"])


def test_width_does_not_depend_on_copies_of_the_errors():
    """Lines of one table share their runs: many of them count as few independent errors."""
    errors = cut_errors([sweep(0.002, seed) for seed in range(6)], FAST)
    copies = [errors.assign(line=errors["line"] + 10 * k) for k in range(8)]
    one, many = (learn(Pool.TRAIN, rows) for rows in (errors, pd.concat(copies)))
    far = np.array([0.0, 0.1])
    np.testing.assert_allclose(
        one.half_width(0.002, far, 0.9), many.half_width(0.002, far, 0.9), rtol=0.35
    )


def test_quantiles_rise_with_the_level_and_are_exact_where_they_are_kept():
    calibration = Calibration(scatter=1.0, form=1.0, quantiles=(0.7, 1.3, 1.7, 2.0, 3.0))
    at = [calibration.half_width(0.01, np.zeros(1), level)[0] for level in LEVELS]
    np.testing.assert_allclose(at, 0.01 * np.array(calibration.quantiles))
    levels = np.linspace(0.05, 0.999, 40)
    widths = [calibration.half_width(0.01, np.zeros(1), level)[0] for level in levels]
    assert np.all(np.diff(widths) > 0)


def test_few_runs_widen_the_scatter_and_one_run_has_none():
    found = [effective_scatter(0.01, runs) for runs in (2, 3, 8, 100)]
    assert np.all(np.diff(found) < 0)
    assert found[-1] == pytest.approx(0.01, rel=0.05)
    assert np.isinf(effective_scatter(0.01, 1))


def test_many_errors_of_a_cut_are_thinned_evenly_over_distance():
    rng = np.random.default_rng(0)
    errors = pd.DataFrame({"error": rng.normal(size=5000), "beyond": rng.exponential(size=5000)})
    some = rolling_cuts._some(errors)
    assert len(some) == 500
    assert {some["beyond"].min(), some["beyond"].max()} == {
        errors["beyond"].min(), errors["beyond"].max(),
    }  # fmt: skip
    assert some["beyond"].median() == pytest.approx(errors["beyond"].median(), rel=0.01)
    shuffled = rolling_cuts._some(errors.sample(frac=1, random_state=1))
    assert some.sort_index().equals(shuffled.sort_index())
