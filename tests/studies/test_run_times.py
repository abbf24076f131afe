"""Runs are ordered and shared out by the times that earlier runs have told."""

import json

import pytest

from lossline.studies.planned_run import PlannedRun
from lossline.studies.run_times import equal_shares, estimated_seconds, next_run


def planned(folder, name, flops, rate=None):
    run = PlannedRun(
        name=name,
        arguments=(),
        folder=folder / name,
        fingerprint="",
        tokens=100,
        flops_per_token=flops,
    )
    run.folder.mkdir()
    if rate:
        row = {"step": 1, "tokens": 100, "tokens_per_second": rate}
        (run.folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return run


def names(shares):
    return sorted(sorted(run.name for run in share) for share in shares)


def test_measured_rates_outweigh_flops(tmp_path):
    # The Mamba has hardly more FLOPs than a Llama and takes as long as three.
    rates = {"mamba": (1.1, 10.0), "a": (1.0, 29.0), "b": (1.0, 30.0), "c": (1.0, 31.0)}
    runs = [planned(tmp_path, name, *known) for name, known in rates.items()]
    assert names(equal_shares(runs, 2)) == [["a", "b", "c"], ["mamba"]]


def test_without_a_rate_of_every_size_flops_decide(tmp_path):
    runs = [planned(tmp_path, name, flops) for name, flops in (("a", 2.0), ("b", 1.0), ("c", 1.0))]
    runs.append(planned(tmp_path, "d", 4.0, rate=1.0))
    assert names(equal_shares(runs, 2)) == [["a", "b", "c"], ["d"]]


def test_at_most_one_size_is_in_two_parts(tmp_path):
    sizes = [1.0, 2.0, 3.0, 4.0] * 5
    runs = [planned(tmp_path, str(number), flops) for number, flops in enumerate(sizes)]
    parts = equal_shares(runs, 2)
    assert sorted(run.name for part in parts for run in part) == sorted(run.name for run in runs)
    first, second = ({run.flops_per_token for run in part} for part in parts)
    assert len(first & second) <= 1
    work = [sum(run.flops_per_token for run in part) for part in parts]
    assert abs(work[0] - work[1]) <= 4.0


def test_no_part_is_empty(tmp_path):
    runs = [planned(tmp_path, name, 1.0) for name in "abc"]
    assert names(equal_shares(runs, 9)) == [["a"], ["b"], ["c"]]


def test_order_changes_as_runs_tell_their_rates(tmp_path):
    sizes = {"mamba": 1.0, "llama": 1.5, "large": 3.0}
    runs = [planned(tmp_path, name, flops) for name, flops in sizes.items()]
    before = estimated_seconds(runs)
    assert max(before, key=before.get) == "large"
    assert before["llama"] > before["mamba"]
    twin = planned(tmp_path, "mamba-twin", 1.0, rate=10.0)
    other = planned(tmp_path, "llama-twin", 1.5, rate=40.0)
    after = estimated_seconds([*runs, twin, other])
    assert after["mamba"] == 10.0  # seconds for 100 tokens
    assert after["llama"] == 2.5
    assert after["large"] == pytest.approx(30)  # not seen yet: as slow per FLOP as the slowest


def test_each_size_trains_once_before_the_longest_go_on(tmp_path):
    sizes = {"small-1": 1.0, "small-2": 1.0, "large-1": 3.0, "large-2": 3.0, "large-3": 3.0}
    runs = [planned(tmp_path, name, flops) for name, flops in sizes.items()]
    waiting, order = list(sizes), []
    while waiting:
        order.append(next_run(runs, waiting))
        waiting.remove(order[-1])
    assert order == ["large-1", "small-1", "large-2", "large-3", "small-2"]
