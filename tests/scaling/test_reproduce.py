"""`experiments/published/reproduce.py` on whichever files are there."""

import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest


def reproduce(repository, data, out):
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    script = repository / "experiments" / "published" / "reproduce.py"
    command = [sys.executable, str(script), "--data", str(data), "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_a_folder_without_the_files_is_named(repository, tmp_path):
    done = reproduce(repository, tmp_path, tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("reproduce: error:") and "kempner_sweep.csv" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_broken_file_does_not_stop_the_others(repository, published_data, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "kempner_sweep.csv").write_text("data,params\nstarcoder,1\n")
    shutil.copy(published_data / "chinchilla_points.csv", data)
    done = reproduce(repository, data, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "kempner_sweep.csv: left out:" in done.stdout
    results = pd.read_csv(tmp_path / "out" / "results.csv").set_index("what")
    assert float(results.loc["objective", "ours"]) == pytest.approx(1.018274e-3, abs=5e-10)
    assert float(results.loc["objective", "rerun"]) == pytest.approx(1.018274e-3, abs=5e-10)


def test_larger_models_are_predicted_and_never_fitted(repository, published_data, tmp_path):
    """Adding models above 2B parameters moves the cut, so that 1.4B may be fitted; changing the
    added ones' losses changes errors by exactly that."""
    frame = pd.read_csv(published_data / "gadre_models.csv")
    large = frame[frame["params"] > 1e9].iloc[:1].assign(params=7e9, name="large")
    for folder, factor in (("one", 1.0), ("two", 1.1)):
        (tmp_path / folder).mkdir()
        loss = {"loss/c4_val": large["loss/c4_val"] * factor}
        rows = pd.concat([frame, large.assign(**loss)])
        rows.to_csv(tmp_path / folder / "gadre_models.csv", index=False)
        done = reproduce(repository, tmp_path / folder, tmp_path / folder / "out")
        assert done.returncode == 0, done.stderr
    one, two = (pd.read_csv(tmp_path / f / "out" / "gadre.csv") for f in ("one", "two"))
    held = one["params"] > 2e9
    assert held.sum() == 1
    ratio = (1 + one["ours_loss"][held]) / (1 + two["ours_loss"][held])
    assert ratio.iloc[0] == pytest.approx(1.1, rel=1e-4)
