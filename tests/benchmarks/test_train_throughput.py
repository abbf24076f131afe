"""The throughput script at a size of seconds, without peers: checks its output, not times."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from quick_compilation import QUICK_COMPILATION


def run(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = repository / "experiments/benchmarks/train_throughput.py"
    command = [sys.executable, str(script), "--small", "--rounds=2", "--seconds=0.05", *arguments]
    environment = {**os.environ, "XLA_FLAGS": QUICK_COMPILATION}
    return subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)


@pytest.mark.slow
def test_a_small_run_without_peers_writes_every_case(repository: Path, tmp_path: Path):
    done = run(repository, f"--output={tmp_path}/out.json")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out.json").read_text())
    cases = {case["case"]: case for case in record["cases"]}
    assert list(cases) == ["llama", "train", "mamba 32", "mamba2 128", "compile"]
    assert all(not case["failed"] for case in cases.values())

    llama = cases["llama"]
    assert [row["name"] for row in llama["rows"]] == ["ours bf16", "ours f32"]
    assert "transformers bf16 compile" in llama["left_out"]
    for row in llama["rows"]:
        assert len(row["seconds_per_step"]) == 2 and min(row["seconds_per_step"]) > 0
        assert row["tokens_per_second"]["min"] <= row["tokens_per_second"]["max"]
        assert row["memory_mb"] > 0 and row["facts"]["versions"]["jax"]
        assert row["losses"] == sorted(row["losses"], reverse=True)  # the same batch every step
    losses = [row["losses"] for row in llama["rows"]]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)  # both start from the same weights
    judged = {(t["faster"], t["of"]) for t in llama["targets"]}
    assert judged == {("ours bf16", "peak"), ("ours f32", "peak")}  # no ratio without its peer

    (rates,) = cases["train"]["values"]["ours"]
    assert rates["tokens_per_second min"] > 0
    assert cases["mamba 32"]["rows"][0]["losses"] == [None] * 3
    (seconds,) = cases["compile"]["values"]["ours"]
    assert {name.split()[0] for name in seconds} == {"scanned", "unrolled"}
    assert "left out (no environment, or in --without): torch f32" in done.stdout
    assert record["command"].endswith("out.json") and record["machine"]["cores"]


@pytest.mark.slow
def test_a_failing_peer_is_named_and_the_others_are_measured(repository: Path, tmp_path: Path):
    done = run(
        repository,
        "--cases=mamba2",
        f"--peers_python={sys.executable}",  # has no torch
        f"--output={tmp_path}/out.json",
    )
    assert done.returncode == 0, done.stderr
    (case,) = json.loads((tmp_path / "out.json").read_text())["cases"]
    assert [row["name"] for row in case["rows"]] == ["ours"]
    assert "torch" in case["failed"]["transformers"]
    assert "failed: transformers: " in done.stdout


def test_an_unknown_case_is_refused(repository: Path):
    done = run(repository, "--cases=lama")
    assert done.returncode == 1
    assert done.stderr.strip().startswith("no case lama: choose one of llama, train")
