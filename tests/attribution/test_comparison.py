"""Comparison of lines: level, coverage and power with few runs of correlated checkpoints."""

import dataclasses

import numpy as np
import pytest

from lossline.attribution.comparison import MatchedPoints, compare, line_scatter
from lossline.attribution.contrasts import _spread

X = 3.0 + 2.0 * np.arange(1, 13) ** -0.7


def groups(
    random: np.random.Generator,
    *,
    count: int,
    runs: int,
    move: float = 0.0,
    run_noise: float = 0.03,
    single: bool = False,
) -> list[MatchedPoints]:
    """Return ``count`` matched groups of two levels with ``runs`` runs each.

    Errors within a run are autocorrelated.
    """
    result = []
    for _ in range(count):
        height = random.normal()
        parts = []
        for level in (0, 1):
            for run in range(runs):
                x = (
                    np.array([random.uniform(3, 4.5)])
                    if single
                    else X + 0.2 * random.uniform(-1, 1)
                )
                error = 0.01 * np.convolve(
                    random.normal(size=len(x) + 4), np.full(5, 0.45), "valid"
                )
                stray = run_noise * random.normal() + 0.02 * random.normal() * (x - x.mean())
                y = 1.1 * (x - 1.5) ** 0.95 + height + move * level + stray + error
                parts.append(
                    (x, y, np.full(len(x), f"{level}-{run}"), np.full(len(x), float(level)))
                )
        x, y, run, d = (np.concatenate(column) for column in zip(*parts, strict=True))
        result.append(MatchedPoints(x=x, y=y, run=run, d=d))
    return result


def simulate(times: int, move: float, **design) -> tuple[float, float, float]:
    """Return the share of rejections, the share of intervals that hold the move, the mean error."""
    random = np.random.default_rng(1)
    rejected, held, error = 0, 0, 0.0
    for _ in range(times):
        comparison = compare(groups(random, move=move, **design))
        uncertainty = comparison.own_uncertainty()
        rejected += uncertainty.p_value(comparison.move) < 0.05
        held += abs(comparison.move - move) <= uncertainty.reach(0.05)
        error += comparison.move - move
    return rejected / times, held / times, error / times


DESIGNS = {
    "six groups of one run against one": {"count": 6, "runs": 1},
    "two groups of three against three": {"count": 2, "runs": 3},
    "one group of single checkpoints": {"count": 1, "runs": 10, "single": True},
    "almost no noise between runs": {"count": 6, "runs": 1, "run_noise": 0.001},
}


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_level_and_coverage_are_near_their_nominal_values(design):
    rejected, held, error = simulate(600, 0.0, **design)
    assert 0.03 < rejected < 0.075  # binomial: 0.05 ± 2.8 · 0.009
    assert held == pytest.approx(1 - rejected)
    assert abs(error) < 0.004


def test_a_bent_line_that_levels_share_is_not_taken_for_a_move():
    """Runs of one level start lower on the line; 40 checkpoints each.

    With a parabola as the line, most such tables would show a false move.
    """
    random = np.random.default_rng(2)
    rejected = 0
    for _ in range(60):
        parts = []
        for level in (0, 1):
            low = 2.0 + level * random.uniform(0.75, 1.5)
            for run in range(6):
                step = np.arange(1, 41) ** -0.7
                x = low + (8.0 - low) * (step - step[-1]) / (1 - step[-1])
                stray = 0.003 * random.normal() + 0.001 * random.normal(size=40)
                y = 1.05 * (x - 1.5) ** 0.5 + stray
                parts.append((x, y, np.full(40, f"{level}-{run}"), np.full(40, float(level))))
        x, y, run, d = (np.concatenate(column) for column in zip(*parts, strict=True))
        comparison = compare([MatchedPoints(x=x, y=y, run=run, d=d)])
        rejected += comparison.own_uncertainty().p_value(comparison.move) < 0.05
    assert rejected <= 8  # 3 expected at a level of 5%; 52 with a parabola


@pytest.mark.parametrize("design", list(DESIGNS.values())[:3], ids=list(DESIGNS)[:3])
def test_power_and_coverage_of_a_move(design):
    rejected, held, error = simulate(300, 0.08, **design)
    assert rejected > 0.85
    assert held > 0.91
    assert abs(error) < 0.006


def test_degrees_of_freedom_count_runs():
    random = np.random.default_rng(0)
    one_each = compare(groups(random, count=6, runs=1))
    assert one_each.degrees == pytest.approx(12 - 6 - 1, abs=0.01)
    assert one_each.own_degrees == pytest.approx(12 - 6 - 1, abs=0.01)
    many = compare(groups(random, count=2, runs=3))
    assert many.degrees == pytest.approx(12 - 2 - 1, abs=0.01)
    assert 12 - 2 - 1 - 1 < many.own_degrees < 12 - 2 - 1 + 0.01
    assert compare(groups(random, count=1, runs=1)).degrees == 0


def test_without_degrees_of_freedom_there_is_no_p_value():
    comparison = compare(groups(np.random.default_rng(0), count=1, runs=1))
    uncertainty = comparison.own_uncertainty()
    assert not uncertainty.known
    found = (uncertainty.p_value(1.0), uncertainty.reach(0.05), uncertainty.p_equivalent(0.0, 0.1))
    assert np.isnan([*found, uncertainty.detectable(0.05)]).all()


def test_lines_that_do_not_overlap_are_not_compared():
    (points,) = groups(np.random.default_rng(0), count=1, runs=2)
    apart = MatchedPoints(x=points.x + 5 * points.d, y=points.y, run=points.run, d=points.d)
    assert compare([apart]) is None


def test_a_single_model_is_compared_with_the_line_of_others():
    random = np.random.default_rng(2)
    (line,) = groups(random, count=1, runs=10, single=True, run_noise=0.01)
    on = line.d == 0
    x = np.append(line.x[on], 3.7)
    y = np.append(
        line.y[on], np.interp(3.7, np.sort(line.x[on]), line.y[on][np.argsort(line.x[on])]) + 0.3
    )
    run, d = np.append(line.run[on], "new"), np.append(np.zeros(on.sum()), 1.0)
    comparison = compare([MatchedPoints(x=x, y=y, run=run, d=d)])
    assert comparison.move == pytest.approx(0.3, abs=0.05)


def test_scatter_about_lines_recovers_the_noise():
    random = np.random.default_rng(3)
    given = [g for _ in range(60) for g in groups(random, count=1, runs=2, run_noise=0.05)]
    noise = line_scatter(given)
    assert noise.degrees == pytest.approx(60 * 3, rel=0.02)
    assert noise.deviation == pytest.approx(0.05, rel=0.15)


def test_two_noisy_runs_have_one_degree_of_freedom_however_many_quiet_ones_there_are():
    """Welch's degrees of freedom, with 2 runs far apart against 8 close ones."""
    random = np.random.default_rng(5)
    heights = [*(0.003 * random.normal(size=8)), 0.3, -0.3]
    parts = [
        MatchedPoints(x=X, y=1.1 * X + height, run=np.full(12, i), d=np.full(12, float(i >= 8)))
        for i, height in enumerate(heights)
    ]
    whole = MatchedPoints(
        **{k: np.concatenate([getattr(p, k) for p in parts]) for k in ["x", "y", "run", "d"]}
    )
    assert compare([whole]).own_degrees == pytest.approx(1.0, abs=0.02)


def test_spread_of_groups_excludes_the_noise_of_their_own_runs():
    (points,) = groups(np.random.default_rng(0), count=1, runs=2)
    one = compare([points])

    def comparisons(degrees):
        return [
            dataclasses.replace(one, move=move, variance=0.01, own_degrees=degrees)
            for move in (-0.1, 0.1)
        ]

    assert _spread(comparisons(2.0)) == pytest.approx((0.02 - 0.01) ** 0.5)
    assert _spread(comparisons(0.0)) == pytest.approx(0.02**0.5)
    assert _spread(comparisons(2.0)[:1]) == 0.0
