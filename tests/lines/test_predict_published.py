"""``experiments/published/predict.py`` on small parts of the files that exist."""

import numpy as np
import pandas as pd
import pytest

from lossline.errors import UserError

SETS = ["c4_en", "pile"]
TASKS = ["hellaswag_val_rc_5shot", "piqa_val_rc_5shot"]


@pytest.fixture
def ladder(experiment, published_data, monkeypatch):
    """The ladder with two tasks and a tenth of the checkpoints, and its section's module."""
    module = experiment("predict_ladder")
    monkeypatch.setattr(module, "METHODS", ("fp", "lossline"))
    monkeypatch.setattr(module, "RESAMPLES", 20)
    frame = pd.read_csv(published_data / "olmo_ladder.csv", low_memory=False)
    columns = ["run", "size", "params", "flops_per_token", "step", "tokens"]
    columns += [f"eval/{name}-validation/CrossEntropyLoss" for name in SETS]
    columns += [f"eval/downstream_bpb/{task}_bpb" for task in TASKS]
    columns += [f"eval/downstream/{task}_len_norm" for task in TASKS]
    frame = frame[columns]
    last = frame["step"] == frame.groupby("run")["step"].transform("max")
    return module, frame[last | (np.arange(len(frame)) % 10 == 0)]


def larger(frame: pd.DataFrame, run: str, size: str, accuracy: float) -> pd.DataFrame:
    """Return eight rows of a larger model without scale; all but the last score 0.01 less."""
    rows = frame[frame["run"] == "1B-10xC"].tail(8).assign(run=run, size=size)
    rows = rows.assign(params=np.nan, flops_per_token=np.nan, step=np.arange(8) * 100.0 + 100)
    scores = [c for c in rows if c.startswith("eval/downstream/")]
    rows[scores] = accuracy - 0.01
    rows.loc[rows.index[-1], scores] = accuracy
    return rows


def predictions(module, folder, frame, table="larger"):
    folder.mkdir()
    frame.to_csv(folder / "olmo_ladder.csv", index=False)
    sections = module.sections(folder)
    (found,) = [s.tables[f"predict_ladder_{table}"] for s in sections if table in str(s.tables)]
    return found, sections


def test_larger_ladder_models_are_predicted_and_never_fitted(ladder, tmp_path):
    module, frame = ladder
    found = []
    for folder, up in (("one", 0.0), ("two", 0.05)):
        more = [
            larger(frame, "3B-1xC", "3B", 0.7 + up),
            larger(frame, "peteish7", "7B", 0.1),
            larger(frame, "peteish7-anneal", "7B", 0.8 + up),
            larger(frame, "peteish13-final", "", 0.85 + up),
        ]
        rows, sections = predictions(module, tmp_path / folder, pd.concat([frame, *more]))
        found.append(rows)
        notes = " ".join(sections[1].notes)
        assert "peteish7: not a target; neither fitted nor predicted" in notes
        assert "peteish13-final: params as in the paper" in notes
        published = {row.what: row.published for row in sections[1].rows}
        assert published["7B: mean of eight tasks"] == "5.85"
    one, two = found
    assert set(one["target"]) == {"3B-1xC", "peteish7-anneal", "peteish13-final"}
    assert one["predicted"].notna().all()
    np.testing.assert_array_equal(one["predicted"], two["predicted"])
    np.testing.assert_allclose(two["actual"] - one["actual"], 0.05, atol=1e-9)
    actual = one.groupby("target")["actual"].first()
    assert actual["peteish7-anneal"] == pytest.approx(0.8)  # its last row
    assert actual["peteish13-final"] == pytest.approx(0.85 - 0.01 * 4 / 5)  # mean of five rows
    flops = one.groupby("target")["flops"].first()
    assert flops["peteish7-anneal"] == pytest.approx(49412071424 * 3.95e12)


def test_without_larger_models_the_published_ones_are_projected(ladder, tmp_path):
    module, frame = ladder
    rows, sections = predictions(module, tmp_path / "data", frame)
    assert set(rows["kind"]) == {"projection"}
    assert "none is in the file" in sections[1].title
    held = sections[0].tables["predict_ladder_1b"]
    assert set(held["target"]) == {"1B-1xC", "1B-2xC", "1B-5xC", "1B-10xC"}
    half = sections[0].tables["predict_ladder_1b_backtest"]["target"]
    assert not half.str.contains("0.5x").any()


def test_mmlu_is_a_weighted_mean_of_four_parts(experiment):
    module = experiment("predict_ladder")
    values = dict(zip(module.MMLU_PARTS, (0.2, 0.4, 0.6, 0.8), strict=True))
    rows = [
        {
            "run_id": run, "step": 1, "kind": "task", "eval_set": name,
            "accuracy": value, "bits_per_byte": 1.0,
        }
        for run, count in (("whole", 4), ("part", 3))
        for name, value in list(values.items())[:count]
    ]  # fmt: skip
    found = module.eight_tasks(pd.DataFrame(rows)).set_index("run_id")
    mean = 0.215 * 0.2 + 0.335 * 0.4 + 0.219 * 0.6 + 0.231 * 0.8
    assert found.loc["whole", "accuracy"] == pytest.approx(mean)
    assert np.isnan(found.loc["part", "accuracy"])


def test_larger_gadre_models_are_predicted_and_never_fitted(
    experiment, published_data, tmp_path, monkeypatch
):
    module = experiment("predict_gadre")
    monkeypatch.setattr(module, "RESAMPLES", 0)
    frame = pd.read_csv(published_data / "gadre_models.csv")
    tasks = [f"accuracy/{task}" for task in module.TASKS]
    frame = frame[[c for c in frame if not c.startswith("accuracy/") or c in tasks]]
    frame = frame[frame["pretraining_data"] == "rpj"]
    monkeypatch.setattr(module, "METHODS", ("fp", "lossline"))
    large = frame[frame["params"] > 1e9].iloc[:1].assign(params=7e9, name="large")
    alone = large.assign(pretraining_data="other", name="alone")
    found = []
    for folder, up in (("one", 0.0), ("two", 0.01)):
        (tmp_path / folder).mkdir()
        rows = pd.concat([frame, large.assign(**{t: large[t] + up for t in tasks}), alone])
        rows.to_csv(tmp_path / folder / "gadre_models.csv", index=False)
        baselines = pd.DataFrame({"Eval Task": module.TASKS, "Random baseline": 20.0})
        baselines.to_csv(tmp_path / folder / "gadre_task_baselines.csv", index=False)
        left_out, section = module.sections(tmp_path / folder)
        assert left_out.title.endswith("other: left out") and left_out.notes
        found.append(section.tables["predict_gadre_rpj"])
    one, two = found
    assert set(one["target"]) == {"large"} and len(one) == 2 * 18
    np.testing.assert_array_equal(one["predicted"], two["predicted"])
    mean = one[one["task"] == module.SEVENTEEN]
    assert mean["actual"].iloc[0] == pytest.approx(large[tasks].mean(axis=1).iloc[0])


def test_larger_public_models_are_predicted_and_never_fitted(experiment, published_data, tmp_path):
    module = experiment("predict_public")
    frame = pd.read_csv(published_data / module.FILE)[[*module._COLUMNS, "MMLU", "GSM8K"]]
    large = frame.iloc[:1].assign(Model="large", **{"FLOPs (1E21)": 6300.0})
    found = []
    for folder, up in (("one", 0.0), ("two", 0.1)):
        (tmp_path / folder).mkdir()
        rows = pd.concat([frame, large.assign(MMLU=large["MMLU"] + up, GSM8K=np.nan)])
        rows.to_csv(tmp_path / folder / module.FILE, index=False)
        (section,) = module.sections(tmp_path / folder)
        assert section.notes[0].startswith("1 empty cells dropped")
        found.append(section.tables["predict_public_models"])
    one, two = found
    assert set(one["target"]) == {"large"} and set(one["method"]) == set(module.METHODS)
    np.testing.assert_array_equal(one["predicted"], two["predicted"])
    few, section = frame.drop(columns="GSM8K"), None
    few.to_csv(tmp_path / module.FILE, index=False)
    (section,) = module.sections(tmp_path)
    held = section.tables["predict_public_models"]
    assert (held["flops"] > 2e22).all() and held["target"].nunique() == 29


def test_results_have_a_column_per_method_and_coverage_is_counted(
    experiment, monkeypatch, tmp_path, capsys
):
    program, records = experiment("predict"), experiment("records")
    rows = pd.DataFrame({"method": ["lossline"] * 4 + ["fp"], "actual": [0.1, 0.2, 0.3, 0.9, 0.9]})
    for level, half in ((50, 0.1), (80, 0.2), (90, 0.5)):
        rows[f"low_{level}"], rows[f"high_{level}"] = 0.2 - half, 0.2 + half
    rows.loc[3, ["low_90", "high_90"]] = 0.0
    section = records.Section(
        title="one",
        rows=[records.Comparison(what="error", published="5", methods={"fp": "4"}, ours="3")],
        tables={"a_backtest": rows},
    )
    monkeypatch.setattr(program, "SOURCES", {"a.csv": lambda folder: [section]})
    monkeypatch.setattr(program, "PROCESSES", 1)
    with pytest.raises(UserError, match=r"none of a\.csv"):
        program.run(tmp_path, tmp_path / "out")
    (tmp_path / "a.csv").write_text("")
    assert program.run(tmp_path, tmp_path / "out") == []
    results = pd.read_csv(tmp_path / "out" / "predict_results.csv")
    assert list(results.columns) == ["section", "quantity", "published", "fp", "ours"]
    assert list(results.iloc[0]) == ["one", "error", "5", 4.0, "3"]
    held = results.iloc[1]["ours"]
    assert held.startswith("75.0 (19.4-99.4; 3 of 4), 75.0") and held.count("3 of 4") == 3
    assert (tmp_path / "out" / "a_backtest.csv").is_file()
    assert "75.0 (19.4-99.4" in capsys.readouterr().out
    assert program.run(tmp_path, tmp_path / "out") == []  # its own files are removed first
    assert not list((tmp_path / "out").glob("*.earlier"))
