"""Sweeps kept as JSON: nested keys, list items, joined files, patterns, wrong input."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from lossline.errors import UserError
from lossline.tables.sweeps import import_sweep
from lossline.tables.sweeps.file_names import in_file_name

MAPPING = """
join = ["model", "name"]
[columns]
params = "config.params"
tokens = "config.tokens"
pretraining_data = "config.data"
[sets.c4]
loss = "results[set=c4].loss"
[sets.pile]
loss = "results[files~pile/].loss"
[sets.tasks]
name = "*"
kind = "task"
accuracy = "metrics.*.acc"
"""


def model(name: str, size: float, **changes) -> dict:
    tree = {
        "name": name,
        "config": {"params": size, "tokens": 20 * size, "data": "c4", "layers": [1, 2]},
        "results": [
            {"set": "c4", "loss": 3.0 + 1e7 / size, "files": ["s3://c4/0.tar"]},
            {"set": "other", "loss": 2.5 + 1e7 / size, "files": ["s3://pile/0.tar", "pile/1"]},
        ],
    }
    return tree | changes


def evaluation(name: str, **scores: float) -> dict:
    return {
        "name": f"of {name}",
        "model": name,
        "metrics": {k: {"acc": v, "n": 9} for k, v in scores.items()},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(tmp_path / "sweep" / "models" / "a.json", model("a", 1e7))
    put(tmp_path / "sweep" / "models" / "b.json", model("b", 2e7))
    put(tmp_path / "sweep" / "evals" / "b.json", evaluation("b", arc=0.4, piqa=0.7))
    put(tmp_path / "sweep" / "evals" / "a.json", evaluation("a", arc=0.3, piqa=0.6))
    (tmp_path / "sweep" / "notes.txt").write_text("not JSON")
    put(tmp_path / "sweep" / ".cache" / "a.json", "of a program")
    return tmp_path / "sweep"


def put(path: Path, tree: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return path


def imported(path: Path, mapping: str = MAPPING, source: str = "csv"):
    toml = put(path.parent / "m.toml", mapping)
    return import_sweep(source, path, mapping=toml)


def refused(path: Path, mapping: str = MAPPING) -> str:
    with pytest.raises(UserError) as caught:
        imported(path, mapping)
    return str(caught.value)


def values(table: pd.DataFrame, column: str = "loss") -> dict:
    known = table[table[column].notna()]
    return dict(zip(zip(known.run_id, known.eval_set, strict=True), known[column], strict=True))


def test_files_of_one_model_are_joined_and_list_items_are_selected(folder):
    found = imported(folder)
    assert values(found.table) == {
        ("a", "c4"): 4.0,
        ("b", "c4"): 3.5,
        ("a", "pile"): 3.5,
        ("b", "pile"): 3.0,
    }
    assert values(found.table, "accuracy") == {
        ("a", "arc"): 0.3,
        ("b", "arc"): 0.4,
        ("a", "piqa"): 0.6,
        ("b", "piqa"): 0.7,
    }
    assert set(found.table.loc[found.table.eval_set == "arc", "kind"]) == {"task"}
    assert found.table.groupby("run_id").tokens.first().to_dict() == {"a": 2e8, "b": 4e8}
    assert found.notes == ()


def test_files_are_joined_by_a_part_of_their_name(folder):
    expected = imported(folder).table
    for file in (folder / "evals").glob("*.json"):
        tree = json.loads(file.read_text())
        put(folder / "evals" / f"evaluation_{file.stem}_heavy.json", {"metrics": tree["metrics"]})
        file.unlink()
    by_name = MAPPING.replace('"model"', '"file[evaluation_*_heavy]"')
    pd.testing.assert_frame_equal(imported(folder, by_name).table, expected)
    whole = imported(folder, by_name.replace("evaluation_*_heavy", "evals/evaluation_*_heavy.json"))
    pd.testing.assert_frame_equal(whole.table, expected)
    wrong = by_name.replace("evaluation_*_heavy", "evaluation_heavy")
    assert "'evaluation_heavy' has no star; write * in place of the value" in refused(folder, wrong)


@pytest.mark.parametrize(
    ("file", "pattern", "value"),
    [
        ("a/run-1.5b.json", "*", "run-1.5b"),
        ("a/run-1.5b.json", "run-*", "1.5b"),
        ("a/run-1.5b.json", "*.json", "run-1.5b"),
        ("a/lr=0.1/metrics.csv.gz", "lr=*/metrics", "0.1"),
        ("a/m1/results_2024-01-02.json", "*/results_*", "m1"),
        ("a/m1/results.json", "b/*/results", None),
        ("a/m1/results.json", "run_*", None),
        ("results.json", "*/" * 90 + "results", None),
    ],
)
def test_star_matches_the_text_in_a_file_name(file, pattern, value):
    assert in_file_name(f"file[{pattern}]", Path(file)) == value


def test_tables_are_named_by_their_folder(tmp_path):
    for name, loss in (("small", 3.5), ("large", 3.0)):
        put(tmp_path / "runs" / name / "metrics.csv", f"step,tokens,c4\n1,10,4.0\n2,20,{loss}\n")
    mapping = """
[columns]
run_id = "file[*/metrics]"
step = "step"
tokens = "tokens"
[constants]
pretraining_data = "c4"
[sets.c4]
loss = "c4"
"""
    table = imported(tmp_path / "runs", mapping).table
    last = table[table.step == 2]
    assert dict(zip(last.run_id, last.loss, strict=True)) == {"small": 3.5, "large": 3.0}
    said = refused(tmp_path / "runs", mapping.replace("*/metrics", "run_*"))
    assert "'file[run_*]' is not in metrics.csv: no file has a name that matches" in said


def test_json_list_and_jsonl_give_the_same_table(folder, tmp_path):
    trees = [
        json.loads(file.read_text())
        for file in sorted(folder.glob("*/[ab].json"))
        if file.parent.name != ".cache"
    ]
    whole = put(tmp_path / "all.json", trees)
    lines = put(tmp_path / "all.jsonl", "\n".join(json.dumps(tree) for tree in trees) + "\n\n")
    # A separator of lines for Unicode is none for JSON.
    lines.write_text(lines.read_text().replace('"of a"', '"of\u2028a"'), encoding="utf-8")
    expected = imported(folder).table.assign(source="s")
    for path in (whole, lines):
        pd.testing.assert_frame_equal(imported(path).table.assign(source="s"), expected)


def test_list_items_are_selected_by_position_and_pattern(folder):
    text = MAPPING[: MAPPING.index("[sets.c4]")]
    table = imported(
        folder / "models",
        text + '[sets.first]\nloss = "results.0.loss"\n'
        '[sets."set/*"]\nloss = "results[set=*].loss"\n',
    ).table
    assert values(table) == {
        ("a", "first"): 4.0,
        ("b", "first"): 3.5,
        ("a", "set/c4"): 4.0,
        ("b", "set/c4"): 3.5,
        ("a", "set/other"): 3.5,
        ("b", "set/other"): 3.0,
    }


def test_selectors_can_be_nested(tmp_path):
    nested = [
        {"shots": shots, "tasks": [{"task": t, "acc": a} for t, a in scores.items()]}
        for shots, scores in ((0, {"arc": 0.2, "piqa": 0.5}), (5, {"arc": 0.3, "piqa": 0.6}))
    ]
    put(tmp_path / "s" / "a.json", {"id": "a", "d": 1e6, "evals": nested})
    text = '[columns]\nrun_id = "id"\ntokens = "d"\n[sets."*"]\nkind = "task"\n'
    table = imported(tmp_path / "s", text + 'accuracy = "evals[shots=5].tasks[task=*].acc"\n').table
    assert values(table, "accuracy") == {("a", "arc"): 0.3, ("a", "piqa"): 0.6}


def test_star_matches_csv_columns_and_sections_override_patterns(tmp_path):
    frame = pd.DataFrame({"Name": ["a"], "toks": [1e6], "eval/c4/loss": [3.0]})
    frame["eval/pile/loss"] = 4.0
    frame.assign(**{"eval/pile/acc": 0.5}).to_csv(tmp_path / "e.csv", index=False)
    text = '[columns]\nrun_id = "Name"\ntokens = "toks"\n'
    star = '[sets."*"]\nloss = "eval/*/loss"\n'
    assert values(imported(tmp_path / "e.csv", text + star).table) == {
        ("a", "c4"): 3.0,
        ("a", "pile"): 4.0,
    }
    own = '[sets.c4]\nloss = "eval/c4/loss"\nunit = "bits"\n'
    table = imported(tmp_path / "e.csv", text + star + 'accuracy = "eval/*/acc"\n' + own).table
    assert values(table)["a", "c4"] == pytest.approx(3 * 0.6931471805599453)
    assert values(table, "accuracy") == {("a", "pile"): 0.5}
    twice = '[sets.more]\nname = "*"\nloss = "eval/*/loss"\n'
    for mapping, expected in (
        (text + star + twice, "two patterns make the set 'c4' of e.csv"),
        (text + star.replace("eval", "evl"), "no column of e.csv is like 'evl/*/loss'; did you"),
        (text + star.replace("/*/", "/c4/"), "'eval/c4/loss': a set whose name has a star is a"),
        (text + star.replace("loss", "name = 3\nloss", 1), "name = 3: must be text in quotes"),
        ('join = "Name"\n' + text + star, "join works only for JSON files, and "),
    ):
        assert expected in refused(tmp_path / "e.csv", mapping)


def test_contradiction_of_joined_files_names_both(folder):
    # Both files have a name of their own, which nothing asks for.
    assert {"a", "b"} == set(imported(folder).table.run_id)
    put(folder / "evals" / "b.json", evaluation("b", arc=0.4) | {"config": {"tokens": 7}})
    with pytest.raises(UserError) as caught:
        imported(folder)
    said = str(caught.value)
    assert "models/b.json: 'config.tokens' of 'b' is 400000000.0, but 7 in " in said
    assert "evals/b.json" in said


def test_missing_value_or_nan_is_not_a_contradiction(folder):
    put(folder / "evals" / "b.json", '{"model": "b", "metrics": {"arc": {"acc": NaN}}}')
    put(folder / "evals" / "b2.json", evaluation("b", arc=0.4))
    found = imported(folder)
    assert values(found.table, "accuracy")["b", "arc"] == 0.4
    missing = found.table[(found.table.run_id == "b") & (found.table.eval_set == "piqa")].iloc[0]
    assert (missing.status, missing.accuracy != missing.accuracy) == ("failed", True)
    assert any("'metrics.piqa.acc'" in note and "evals/b.json" in note for note in found.notes)


def test_unrelated_files_are_left_out_with_a_note(folder):
    put(folder / "datasets" / "c4.json", {"name": "c4", "size": 5})
    put(folder / "about.json", {"version": 2})
    found = imported(folder)
    assert set(found.table.run_id) == {"a", "b"}
    said = "\n".join(found.notes)
    assert "about.json: no 'model' or 'name' to join by; left out" in said
    assert "datasets/c4.json: no value (NaN); set aside" in said


BROKEN = {
    "cut": ('{"name": "c", ', "not valid JSON: .* is the file complete"),
    "lines": ('{"name": "c"}\n{"name": "d"}', "one object per line, name it .jsonl"),
    "twice": ('{"name": "c", "x": 1, "x": 2}', "the key 'x' exists twice in one object"),
    "dots": (
        '{"name": "c", "x.y": 1, "x": {"y": 2}}',
        "a nested key and another key are both named 'x.y'",
    ),
    "number": ("[1, 2]", "row 1: holds 1 instead of an object {…}"),
    "empty": ("", "not valid JSON"),
    "deep": ("[" * 100_000, "cannot be read as JSON"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_file_is_a_user_error(folder, kind):
    text, expected = BROKEN[kind]
    put(folder / "models" / "c.json", text)
    with pytest.raises(UserError, match=f"models/c.json.*{expected}") as caught:
        imported(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        ("set=c4", "set=c5", "column 'results[set=c5].loss' is not in "),
        ("config.params", "config.parms", "did you mean 'config.params'?; found: "),
        ('["model", "name"]', '"nom"', "join: no object has 'nom'; found: "),
        ('["model", "name"]', "3", "join = 3: must be the name of a key, or a list of names"),
        ('["model", "name"]', '["a", 3]', "join = ['a', 3]: must be the name of a key"),
    ],
)
def test_mistake_in_a_json_mapping_is_a_user_error(folder, right, wrong, expected):
    assert expected in refused(folder, MAPPING.replace(right, wrong))


def test_other_wrong_input_is_a_user_error(folder, tmp_path):
    (folder / "latin.json").write_bytes('{"name": "é"}'.encode("latin-1"))
    assert "latin.json: not UTF-8 text" in refused(folder)
    (folder / "latin.json").unlink()
    twice = model("c", 1e7)
    twice["results"][1]["set"] = "c4"
    put(folder / "models" / "c.json", twice)
    assert "'results[set=c4].loss' is 4.0 in one item and 3.5 in another" in refused(folder)
    (tmp_path / "none").mkdir()
    assert "none: no .csv or .parquet or .json or .jsonl file" in refused(tmp_path / "none")
    assert "lines.jsonl: the table has no rows" in refused(put(tmp_path / "lines.jsonl", ""))
    assert "no such file" in refused(tmp_path / "gone.json")


def test_cell_of_text_is_named_by_file_or_position(folder, tmp_path):
    bad = model("c", 1e7)
    bad["results"][0]["loss"] = "diverged"
    path = put(folder / "models" / "c.json", bad)
    said = "column 'results[set=c4].loss', {}: 'diverged' is not a number; taken as missing"
    assert f"{folder}: {said.format('models/c.json')}" in imported(folder).notes
    trees = [json.loads(file.read_text()) for file in sorted(path.parent.iterdir())]
    whole = put(tmp_path / "all.json", trees)
    text = MAPPING[: MAPPING.index("[sets.tasks]")]
    assert imported(whole, text).notes == (f"{whole}: {said.format('row 3')}",)


def test_json_files_next_to_tables_get_a_note(tmp_path):
    pd.DataFrame({"Name": ["a"], "toks": [1e6], "l": [3.0]}).to_csv(tmp_path / "e.csv", index=False)
    put(tmp_path / "package.json", {"version": 2})
    text = '[columns]\nrun_id = "Name"\ntokens = "toks"\n[sets.c4]\nloss = "l"\n'
    toml = put(tmp_path / "m.toml", text)
    found = import_sweep("csv", tmp_path, mapping=toml)
    assert values(found.table) == {("a", "c4"): 3.0}
    assert "1 .json or .jsonl files next to the tables are not read" in found.notes[0]


def test_error_without_a_mapping_names_columns_to_map(folder, tmp_path):
    for source, said in (("csv", "needs a mapping file"), ("gadre", "no pretraining_data")):
        command = [sys.executable, "-m", "lossline.import_sweep", source, "--path", str(folder)]
        command += ["--out", str(tmp_path / "t.parquet")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert said in done.stderr and "--mapping=FILE.toml" in done.stderr
        assert "params may be 'config.params'" in done.stderr
        assert "loss may be 'results[].loss'" in done.stderr
        assert not (tmp_path / "t.parquet").exists()
    with pytest.raises(UserError, match="it holds JSON: use the source 'csv' with a mapping"):
        import_sweep("kempner", folder)


def plain(row: pd.Series) -> dict:
    return {name: value if pd.notna(value) else None for name, value in row.to_dict().items()}


def gadre_folder(models: Path, out: Path) -> Path:
    """The table of models as JSON: one file with the run, one with what was evaluated."""
    frame = pd.read_csv(models)
    for number, (_, row) in enumerate(frame.iterrows()):
        known = plain(row)
        losses = [
            {"loss": known[name], "val_data": [f"s3://bucket/{name[5:]}/shard.tar"]}
            for name in known
            if name.startswith("loss/")
        ]
        facts = {n: v for n, v in known.items() if "/" not in n and not isinstance(v, str)}
        facts["steps"] = round(known["tokens"] / (known["batch_sequences"] * 2048))
        run = {"uuid": number, "dataset": known["pretraining_data"], "hyperparameters": facts}
        put(out / "models" / f"{number:03}.json", run | {"results": losses})
        scores = {n[9:]: known[n] for n in known if n.startswith("accuracy/")}
        found = {"model_uuid": number, "uuid": f"e{number}", "eval_metrics": {"icl": scores}}
        put(out / "evals" / f"{number:03}.json", found)
    return out


GADRE = """
join = ["model_uuid", "uuid"]
[columns]
params = "hyperparameters.params"
params_non_embedding = "hyperparameters.params_non_embedding"
tokens = "hyperparameters.tokens"
step = "hyperparameters.steps"
learning_rate = "hyperparameters.lr"
weight_decay = "hyperparameters.weight_decay"
pretraining_data = "dataset"
[sets.losses]
name = "*"
loss = "results[val_data=s3://bucket/*/shard.tar].loss"
[sets.tasks]
name = "*"
kind = "task"
accuracy = "eval_metrics.icl.*"
"""


def test_gadre_models_as_json_give_the_loss_table_of_the_csv(published_data, tmp_path):
    models = published_data / "gadre_models.csv"
    baselines = published_data / "gadre_task_baselines.csv"
    out = gadre_folder(models, tmp_path / "exp_data")
    (out / "tasks.csv").write_text(baselines.read_text())
    expected = import_sweep("gadre", [models, baselines]).table
    expected = expected.drop(columns="option.batch_size")  # the mapping does not name it
    found = imported(out, GADRE, source="gadre").table
    # What the files call a model is not what the table calls it.
    names = dict(zip(found.run_id.unique(), expected.run_id.unique(), strict=True))
    found = found.assign(run_id=found.run_id.map(names).astype(expected.run_id.dtype))
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_json_with_gadre_column_names_needs_no_mapping(published_data, tmp_path):
    frame = pd.read_csv(published_data / "gadre_models.csv").head(9)
    frame.to_csv(tmp_path / "models.csv", index=False)
    for number, (_, row) in enumerate(frame.iterrows()):
        known = plain(row)
        tree: dict = {"name": known.pop("name"), "data": {}, "loss": {}, "accuracy": {}}
        for name, value in known.items():
            kind, _, inner = name.rpartition("/")
            tree[kind or "data"][inner] = value
        put(tmp_path / "json" / f"{number}.json", tree)
    found = import_sweep("gadre", tmp_path / "json")
    assert "read by the published table's names: name = 'name'" in found.notes[0]
    expected = import_sweep("gadre", tmp_path / "models.csv").table
    pd.testing.assert_frame_equal(found.table, expected, check_exact=True)
    put(tmp_path / "json" / "9.json", {"train": {"tokens": 5}})
    with pytest.raises(UserError, match=r"both 'data.tokens' and 'train.tokens' exist"):
        import_sweep("gadre", tmp_path / "json")
