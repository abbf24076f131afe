"""Evaluators of a study get parts of about equal work."""

import json

from lossline.studies.planned_run import PlannedRun
from lossline.studies.study import _shares


def planned(folder, name, flops, rate=None):
    run = PlannedRun(
        name=name, arguments=(), folder=folder / name, fingerprint="", tokens=100, flops=flops
    )
    run.folder.mkdir()
    if rate:
        row = {"step": 1, "tokens": 100, "tokens_per_second": rate}
        (run.folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return run


def names(shares):
    return sorted(sorted(run.name for run in share) for share in shares)


def test_measured_rates_outweigh_flops(tmp_path):
    # The Mamba has the FLOPs of a Llama and takes as long as three.
    rates = {"mamba": 10.0, "a": 30.0, "b": 30.0, "c": 30.0}
    runs = [planned(tmp_path, name, 1.0, rate) for name, rate in rates.items()]
    assert names(_shares(runs, 2)) == [["a", "b", "c"], ["mamba"]]


def test_without_a_rate_of_every_run_flops_decide(tmp_path):
    runs = [planned(tmp_path, name, flops) for name, flops in (("a", 2.0), ("b", 1.0), ("c", 1.0))]
    runs.append(planned(tmp_path, "d", 2.0, rate=1.0))
    assert names(_shares(runs, 2)) == [["a", "b"], ["c", "d"]]
    assert names(_shares(runs, 9)) == [["a"], ["b"], ["c"], ["d"]]
