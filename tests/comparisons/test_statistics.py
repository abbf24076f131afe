"""Intervals hold at their level; ranks are right; what is missing is said."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from planted_comparison import EFFECTS, planted

from lossline.comparisons.compare import compare_levels
from lossline.comparisons.intervals import level_statistics, midranks, spreads
from lossline.comparisons.options import CompareOptions
from lossline.comparisons.ranks import average_ranks
from lossline.errors import UserError

OPTIONS = CompareOptions(
    by="factor.target", targets={"code": ("code",), "bio": ("bio",)}, resamples=200
)


def drawn(
    random: np.random.Generator, *, seeds: int, noise: float, seed_noise: float, drop: int = 0
) -> pd.DataFrame:
    """Runs of four methods on one target; ``drop`` of them are missing."""
    of_seed = seed_noise * random.normal(size=seeds)
    rows = [
        {"method": method, "seed": str(number), "value": effect + of_seed[number]}
        for method, effect in {**EFFECTS, "dclm": -0.1}.items()
        for number in range(seeds)
    ]
    frame = pd.DataFrame(rows)
    frame["value"] += noise * random.normal(size=len(frame))
    return frame.drop(random.choice(np.arange(seeds, len(frame)), drop, replace=False))


@pytest.mark.parametrize(
    ("seeds", "noise", "seed_noise"),
    [(2, 0.05, 0.1), (3, 0.1, 0.0), (3, 0.02, 0.3), (5, 0.05, 0.1)],
)
def test_intervals_hold_at_their_level(seeds: int, noise: float, seed_noise: float) -> None:
    """Within four standard errors of 90% over 800 studies (4.2 points).

    Means may hold a little more often: two variances enter their degrees of freedom.
    """
    random = np.random.default_rng(seeds)
    means, differences = [], []
    for _ in range(800):
        rows = drawn(random, seeds=seeds, noise=noise, seed_noise=seed_noise)
        found = level_statistics(rows, baseline="uniform", confidence=0.9).set_index("method")
        dsir = found.loc["dsir"]
        means.append(dsir["low"] <= EFFECTS["dsir"] <= dsir["high"])
        differences.append(dsir["difference_low"] <= EFFECTS["dsir"] <= dsir["difference_high"])
    assert np.mean(differences) == pytest.approx(0.9, abs=0.042)
    assert 0.858 <= np.mean(means) <= 0.955


def test_intervals_hold_where_runs_are_missing() -> None:
    random = np.random.default_rng(5)
    held = []
    for _ in range(800):
        rows = drawn(random, seeds=3, noise=0.05, seed_noise=0.1, drop=2)
        found = level_statistics(rows, baseline="uniform", confidence=0.9).set_index("method")
        if "oracle" in found.index and pd.notna(found.loc["oracle", "difference"]):
            row = found.loc["oracle"]
            held.append(row["difference_low"] <= EFFECTS["oracle"] <= row["difference_high"])
    assert len(held) > 600 and np.mean(held) == pytest.approx(0.9, abs=0.045)


def test_degrees_of_freedom_follow_from_what_seeds_explain() -> None:
    random = np.random.default_rng(0)
    alone = np.median(
        [spreads(drawn(random, seeds=4, noise=1, seed_noise=0))[0].freedom for _ in range(99)]
    )
    together = spreads(drawn(random, seeds=4, noise=1e-6, seed_noise=1.0))[0].freedom
    assert 8 < alone <= 12 and together == pytest.approx(3, abs=1e-3)  # 4·(4−1) and 4−1
    _, pairs = spreads(drawn(random, seeds=4, noise=1, seed_noise=0))
    assert pairs.freedom == 9


def test_difference_is_paired_by_seed() -> None:
    """Seeds that move all runs of a seed together do not widen a difference."""
    rows = drawn(np.random.default_rng(1), seeds=3, noise=1e-3, seed_noise=10.0)
    found = level_statistics(rows, baseline="uniform", confidence=0.95).set_index("method")
    oracle = found.loc["oracle"]
    assert oracle["high"] - oracle["low"] > 5
    assert oracle["difference_high"] - oracle["difference_low"] < 0.02
    assert oracle["difference"] == pytest.approx(-0.3, abs=0.01)
    assert np.isnan(found.loc["uniform", "difference"])


def test_two_by_two_by_hand() -> None:
    """Values 1, 3 and 2, 6: within-variance (2 + 8)/2 = 5, remainder (1/2)/1 per pair."""
    rows = pd.DataFrame(
        {"method": ["a", "a", "b", "b"], "seed": ["0", "1"] * 2, "value": [1.0, 3.0, 2.0, 6.0]}
    )
    of_runs, of_pairs = spreads(rows)
    assert of_runs.variance == pytest.approx(5) and of_pairs.variance == pytest.approx(1)
    assert of_runs.freedom == pytest.approx(10**2 / (9**2 + 1))
    b = level_statistics(rows, baseline="a", confidence=0.9).set_index("method").loc["b"]
    assert b["difference"] == 2 and b["difference_se"] == pytest.approx(1)
    assert b["difference_high"] == pytest.approx(2 + 6.3137515, abs=1e-6)  # t of one degree


def test_midranks() -> None:
    assert midranks(np.array([2.0, 1.0, 2.0, 3.0])).tolist() == [2.5, 1.0, 2.5, 4.0]


def test_ranks_of_planted_methods() -> None:
    found = compare_levels(planted(), OPTIONS)
    assert found.ranks["method"].tolist() == ["oracle", "dsir", "uniform"]
    assert found.ranks["average_rank"].tolist() == [1.0, 2.0, 3.0]
    assert (found.ranks["low"] == found.ranks["average_rank"]).all()
    assert found.ranks["best_share"].tolist() == [1.0, 0.0, 0.0]
    for _, part in found.methods.groupby("target"):
        assert part["method"].tolist() == ["oracle", "dsir", "uniform"]
        assert part["rank"].tolist() == [1.0, 2.0, 3.0]


def test_ties_share_a_rank_and_uncertain_ranks_have_wide_intervals() -> None:
    equal = planted(effects={"uniform": 0.0, "dsir": 0.0}, noise=0.0, seed_noise=0.1)
    assert compare_levels(equal, OPTIONS).ranks["average_rank"].tolist() == [1.5, 1.5]
    noisy = planted(effects={"uniform": 0.0, "dsir": 0.0}, noise=1.0, seeds=5)
    ranks = compare_levels(noisy, OPTIONS).ranks
    assert (ranks["low"] < 1.5).all() and (ranks["high"] > 1.5).all()
    assert ranks["best_share"].sum() == pytest.approx(1)


def test_average_ranks_keep_only_methods_that_every_target_has() -> None:
    table = planted()
    table = table[~((table["factor.method"] == "oracle") & (table["factor.target"] == "bio"))]
    found = compare_levels(table, OPTIONS)
    assert found.ranks["method"].tolist() == ["dsir", "uniform"]
    assert any("Average ranks leave out oracle" in note for note in found.notes)
    nothing = average_ranks(
        pd.DataFrame(
            {"target": ["a", "b"], "method": ["x", "y"], "seed": ["0", "0"], "value": [1.0, 2.0]}
        ),
        confidence=0.9,
        resamples=9,
        seed=0,
    )
    assert nothing.empty


def test_one_seed_gives_no_interval_and_says_so() -> None:
    found = compare_levels(planted(seeds=1), OPTIONS)
    intervals = found.methods[["se", "low", "high", "difference_low", "difference_high"]]
    assert intervals.isna().all(axis=None) and found.ranks[["low", "high"]].isna().all(axis=None)
    assert found.methods["difference"].notna().sum() == 4
    assert "One seed (0): no intervals." in found.notes


def test_a_method_without_all_seeds_is_noted() -> None:
    table = planted()
    found = compare_levels(table[table["run_id"] != "dsir-code-1"], OPTIONS)
    assert "dsir on code has no run with seed 1." in found.notes
    row = found.methods.set_index(["target", "method"]).loc[("code", "dsir")]
    assert row["runs"] == 2 and np.isfinite(row["difference_low"])
    assert found.ranks["seeds"].tolist() == [2, 2, 2]


def test_a_missing_baseline_is_refused_with_the_levels() -> None:
    table = planted()
    with pytest.raises(UserError, match=r"factor.method = 'uniform'. Levels: dsir, oracle"):
        compare_levels(table[table["factor.method"] != "uniform"], OPTIONS)


def test_a_baseline_missing_on_one_target_is_noted() -> None:
    table = planted()
    table.loc[table["factor.method"] == "uniform", "factor.target"] = "code"
    found = compare_levels(table, OPTIONS)
    assert "bio has no run at the baseline: no differences." in found.notes
    assert found.methods.loc[found.methods["target"] == "bio", "difference"].isna().all()


def test_no_measured_run_is_refused() -> None:
    table = planted()
    table["status"], table["bits_per_byte"] = "failed", np.nan
    with pytest.raises(UserError, match=r"no run is left to compare .*dsir-"):
        compare_levels(table, OPTIONS)
