"""``experiments/published/reproduce.py`` on the files that exist."""

import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from lossline.errors import UserError


def reproduce(repository, data, out):
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    script = repository / "experiments" / "published" / "reproduce.py"
    command = [sys.executable, str(script), "--data", str(data), "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_folder_without_published_files_is_a_user_error(repository, tmp_path):
    done = reproduce(repository, tmp_path, tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("reproduce: error:") and "kempner_sweep.csv" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_broken_file_does_not_stop_the_others(repository, published_data, tmp_path):
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


def test_second_run_removes_files_of_the_first_and_keeps_the_users(
    experiment, monkeypatch, tmp_path, capsys
):
    program, records = experiment("reproduce"), experiment("records")
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()

    def run(tables):
        sections = [
            records.Section(title="a", tables={t: pd.DataFrame({"n": [1]}) for t in tables})
        ]
        monkeypatch.setattr(program, "SOURCES", {"a.csv": lambda folder: sections})
        assert program.run(data, out) == []
        return {path.name for path in out.iterdir()}

    (data / "a.csv").write_text("")
    assert run(["one", "two", "mine"]) == {
        "one.csv", "two.csv", "mine.csv", "results.csv", "written.json"
    }  # fmt: skip
    assert "removed" not in capsys.readouterr().out
    (out / "notes.txt").write_text("the user's")
    (out / "three.csv").write_text("the user's")
    (out / "mine.csv").write_text("n\n2\n")
    assert run(["one"]) == {
        "one.csv", "mine.csv", "results.csv", "written.json", "notes.txt", "three.csv"
    }  # fmt: skip
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("removed from an earlier run: one.csv, results.csv, two.csv")
    assert said[1].endswith("kept from an earlier run, as they have changed since: mine.csv")
    assert (out / "mine.csv").read_text() == "n\n2\n"
    # Files that the user changed or made are kept; a name that the new run needs is moved aside.
    (out / "one.csv").write_text("n\n3\n")
    assert {"one.csv.earlier", "three.csv.earlier"} < run(["one", "three"])
    assert (out / "one.csv.earlier").read_text() == "n\n3\n"
    assert (out / "three.csv.earlier").read_text() == "the user's"
    assert "three.csv existed and was not an earlier run's" in capsys.readouterr().out
    (out / "one.csv").write_text("n\n4\n")
    assert "one.csv.earlier1" in run(["one"])
    assert (out / "one.csv.earlier").read_text() == "n\n3\n"
    # No file outside the folder is removed, whatever the list holds; without data none at all.
    (out / "written.json").write_text((out / "written.json").read_text().replace("one", "../one"))
    with pytest.raises(UserError, match="Choose another --out"):
        run(["one"])
    (data / "a.csv").unlink()
    with pytest.raises(UserError, match=r"none of a\.csv"):
        program.run(data, out)
    assert (out / "one.csv").is_file()


def test_file_at_the_output_path_is_a_user_error(experiment, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match=r"cannot make this folder .*\. Choose another --out"):
        experiment("outputs").Outputs(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_larger_gadre_models_are_predicted_and_never_fitted(experiment, published_data, tmp_path):
    """Models above 2B parameters are predicted.

    Added ones move the cut, so that 1.4B may be fitted; a change of their losses changes the errors
    by exactly that.
    """
    frame = pd.read_csv(published_data / "gadre_models.csv")
    large = frame[frame["params"] > 1e9].iloc[:1].assign(params=7e9, name="large")
    for folder, factor in (("one", 1.0), ("two", 1.1)):
        (tmp_path / folder).mkdir()
        loss = {"loss/c4_val": large["loss/c4_val"] * factor}
        rows = pd.concat([frame, large.assign(**loss)])
        rows.to_csv(tmp_path / folder / "gadre_models.csv", index=False)
    one, two = (
        experiment("others").gadre(tmp_path / folder)[0].tables["gadre"]
        for folder in ("one", "two")
    )
    held = one["params"] > 2e9
    assert held.sum() == 1
    ratio = (1 + one["ours_loss"][held]) / (1 + two["ours_loss"][held])
    assert ratio.iloc[0] == pytest.approx(1.1, rel=1e-4)


def test_pretraining_data_moves_the_lines_of_public_models(repository, published_data, tmp_path):
    """Of the other factors, only the tokenizer is significant, per token but not per byte."""
    (tmp_path / "data").mkdir()
    shutil.copy(published_data / "llm_line_hf.csv", tmp_path / "data")
    done = reproduce(repository, tmp_path / "data", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "moved, if all runs vary alike, by the pretraining data;" in done.stdout
    assert "2 runs in 1 matched group, run-to-run noise 3 times that of other" in done.stdout
    assert "the architecture (changes with the pretraining data and the model size)" in done.stdout
    verdicts = pd.read_csv(tmp_path / "out" / "llm_line_attribution.csv").set_index("factor")
    assert verdicts["verdict"]["pretraining_data"] == "moves if noise is alike"
    effects = pd.read_csv(tmp_path / "out" / "llm_line_p_values.csv")
    by_data = effects[effects["factor"] == "pretraining_data"]
    assert by_data.groupby("unit")["p_corrected"].min().max() < 1e-6
    other = effects[(effects["factor"] != "pretraining_data") & (effects["p_corrected"] < 0.05)]
    assert set(other["factor"]) <= {"tokenizer"}
    assert (other.loc[other["unit"] == "bits_per_byte", "value"].abs() < 0.01).all()


def test_largest_ladder_models_are_predicted_and_never_fitted(experiment, published_data, tmp_path):
    """Doubled final losses of the largest models change only the measured y, not the predictions.

    A run that is in the file twice counts once.
    """
    frame = pd.read_csv(published_data / "olmo_ladder.csv")
    frame = frame[frame["step"] == frame.groupby("run")["step"].transform("max")]
    sets = ["c4_en", "pile", "wikitext_103"]
    losses = [f"eval/{name}-validation/CrossEntropyLoss" for name in sets]
    keep = [c for c in frame.columns if not c.startswith("eval/") or c in losses]
    frame = frame[[*keep, *[c for c in frame.columns if "downstream_bpb/piqa" in c]]]
    large = frame["params"] == frame["params"].max()
    changed = frame.copy()
    changed.loc[large, losses[1]] *= 2
    for folder, rows in (("one", frame), ("two", pd.concat([changed, changed.iloc[:3]]))):
        (tmp_path / folder).mkdir()
        rows.assign(remark="x").to_csv(tmp_path / folder / "olmo_ladder.csv", index=False)
    one, two = (
        experiment("ladder").sections(tmp_path / folder)[0].tables["olmo_ladder"]
        for folder in ("one", "two")
    )
    assert len(one) == len(two) and set(one["kind"]) >= {"validation-to-validation"}
    pile = one["eval_set"] == "pile"
    assert pile.any()
    assert (two.loc[pile, "y"] / one.loc[pile, "y"]).to_numpy() == pytest.approx(2, rel=1e-4)
    assert two["predicted"].to_numpy() == pytest.approx(one["predicted"].to_numpy(), rel=1e-4)
