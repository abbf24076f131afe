"""The published comparison and the speed benchmark, on small planted files."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from planted_scores import with_families
from scipy import stats


@pytest.fixture
def published(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "experiments" / "published"))
    import correlate

    monkeypatch.setattr(correlate, "SPLITS", 1)
    monkeypatch.setattr(correlate, "FOLDS", ("models",))
    return correlate


def write_matrices(folder, models=24, documents=30):
    losses, errors, _ = with_families([1] * models, documents, shared=0.0, signal=0.8, seed=0)
    names = [f"('lab {n}', 'lab {n}/model')" for n in range(models)]
    errors = stats.rankdata(errors) / (models + 1)
    bits = pd.DataFrame(np.exp(losses.T / 10), columns=names)
    bits.insert(0, "id", [f"document {n}" for n in range(documents)])
    bits.to_csv(folder / "perplexity_correlations_bpb.csv", index=False)
    order = np.random.default_rng(0).permutation(models)  # the files are not in one order
    scores = pd.DataFrame([errors[order], 100 * errors[order] + 1], columns=np.array(names)[order])
    scores.insert(0, "benchmark", ["arc_easy", "lambada_openai"])
    scores.to_csv(folder / "perplexity_correlations_error.csv", index=False)
    return losses, errors


def test_the_published_comparison_aligns_models_by_name(published, tmp_path, capsys):
    losses, errors = write_matrices(tmp_path)
    out = tmp_path / "out"
    assert published.run(tmp_path, out) == []
    printed = capsys.readouterr().out
    found = pd.read_csv(out / "perplexity_correlations_coefficients.csv")
    expected = [stats.spearmanr(column, errors).statistic for column in losses.T]
    np.testing.assert_allclose(found["arc_easy"], expected, atol=1e-6)  # six digits are written
    np.testing.assert_allclose(found["lambada_openai"], expected, atol=1e-6)
    results = pd.read_csv(out / published.RESULTS)
    ours = results[results["section"].str.contains("left-out models")]["ours"].astype(float)
    assert (ours > 0.8).all()
    assert "24 families of models resampled" in printed
    # Without ties, the procedure re-run is ours.
    first = results[results["section"].str.contains("Spearman coefficients")]
    assert (first["rerun"] == first["ours"]).all()


def test_a_missing_file_is_named(published, tmp_path, capsys):
    write_matrices(tmp_path)
    (tmp_path / "perplexity_correlations_error.csv").unlink()
    assert published.run(tmp_path, tmp_path / "out") == []
    assert "perplexity_correlations_error.csv: not there." in capsys.readouterr().out


@pytest.mark.slow
def test_the_speed_benchmark_writes_every_row(repository, tmp_path):
    script = repository / "experiments" / "benchmarks" / "selection_speed.py"
    command = [sys.executable, str(script), "--small", "--rounds=1", f"--out={tmp_path}/out.json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(repository), *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out.json").read_text())
    assert len(record["estimators"]) == 10 and len(record["bootstraps"]) == 2
    for row in record["estimators"]:
        assert min(row[name] for name in ("ours", "eight_benchmarks", "ties")) > 0
        assert row.get("largest_difference", 0.0) < 1e-12
    assert all(row["peak_gib"] < 1 for row in record["bootstraps"])
