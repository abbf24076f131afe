"""The check by hidden runs: budgets, what is hidden, and one published sweep."""

import importlib

import numpy as np
import pytest

from lossline.design.candidates import runs_of


@pytest.fixture
def check(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "experiments" / "published"))
    return importlib.import_module("next_runs")


def test_no_way_spends_more_than_the_budget_and_random_runs_fill_it(check):
    flops = np.array([1.0, 2.0, 4.0, 8.0, 8.0])
    found = check.orders(flops, 9.0)
    for sets in found.values():
        assert all(flops[list(one)].sum() <= 9.0 for one in sets)
    assert all(flops[list(one)].max() == 8.0 for one in found["largest first"])
    assert len(set(found["largest first"])) == 2  # which of two equal runs is left to chance
    for one in found["random"]:
        left = 9.0 - flops[list(one)].sum()
        assert all(flops[run] > left for run in range(len(flops)) if run not in one)


def test_largest_first_does_not_exist_where_all_runs_cost_the_same(check):
    assert list(check.orders(np.ones(5), 2.0)) == ["random"]


def test_runs_predicted_are_never_candidates_and_picks_beat_random_ones(check, published_data):
    cases = [c for c in check.olmo(published_data) if c.name.startswith(("dolma_pes2o", "pile"))]
    assert len(cases) >= 3
    ratios = []
    for case in cases:
        runs = runs_of(case.hidden)
        assert runs["params"].max() < case.target.params
        assert not set(case.start["run_id"]) & set(case.hidden["run_id"])
        budget = runs["flops"].max()
        found = check.ours(case, budget, check.ONCE)
        assert found["spent"] <= 1 + 1e-9
        ratios.append(np.log(found["ours"][1] / check.others(case, budget)["random"][1]))
    assert np.mean(ratios) < 0
