"""Sweeps in several files: one run is one run, one checkpoint has one step."""

import pandas as pd
import pytest

from lossline import tables
from lossline.lines.fitting import fit_lines
from lossline.tables.sweeps import import_sweep

WIDE = """
[columns]
run_id = "model"
tokens = "seen"
params = "params"
[sets.c4]
loss = "c4"
"""
LONG = """
[columns]
run_id = "model"
params = "params"
tokens = "seen"
eval_set = "set"
loss = "loss"
"""
EARLY = [("A", 1e9, 5e7, 3.9, 10), ("B", 1e9, 9e7, 3.8, 10)]
LATE = [("A", 2e9, 5e7, 3.7, 20), ("B", 2e9, 9e7, 3.6, 20), ("C", 1e9, 9e7, 3.5, 10)]


def put(path, rows, header="model,seen,params,c4,step"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def imported(path, text, tmp_path, source="csv"):
    (tmp_path / "m.toml").write_text(text)
    return import_sweep(source, path, mapping=tmp_path / "m.toml")


def checkpoints(table):
    assert (table.status == "ok").all()
    return {(r, s): loss for r, s, loss in zip(table.run_id, table.step, table.loss, strict=True)}


WHOLE = {("A", 1): 3.9, ("A", 2): 3.7, ("B", 1): 3.8, ("B", 2): 3.6, ("C", 1): 3.5}


@pytest.mark.parametrize("names", [("a.csv", "b.csv"), ("b.csv", "a.csv"), ("x/m.csv", "y/m.csv")])
@pytest.mark.parametrize("source", ["", 'source = "mine"\n'])
def test_run_in_two_files_has_one_count_of_steps(tmp_path, names, source):
    folder = tmp_path / "evals"
    for name, rows in zip(names, (EARLY, LATE), strict=True):
        put(folder / name, rows)
    found = imported(folder, source + WIDE, tmp_path)
    assert found.notes == () and checkpoints(found.table) == WHOLE
    assert set(found.table.source) == {"mine" if source else "evals"}
    one = imported(put(tmp_path / "all.csv", EARLY + LATE), source + WIDE, tmp_path)
    assert checkpoints(one.table) == WHOLE
    steps = imported(folder, WIDE.replace("[sets", 'step = "step"\n[sets'), tmp_path)
    assert checkpoints(steps.table) == {(r, 10 * s): loss for (r, s), loss in WHOLE.items()}


def test_tables_and_json_of_one_import_have_one_source_and_one_count_of_steps(tmp_path):
    put(tmp_path / "in" / "a.csv", EARLY)
    names = ["model", "seen", "params", "c4", "step"]
    pd.DataFrame(LATE, columns=names).to_json(tmp_path / "in" / "b.json", orient="records")
    paths = [tmp_path / "in" / "a.csv", tmp_path / "in" / "b.json"]
    found = imported(paths, WIDE, tmp_path)
    assert checkpoints(found.table) == WHOLE and set(found.table.source) == {"in"}


@pytest.mark.parametrize("shape", ["rows", "sets", "files"])
def test_long_table_without_steps_gets_one_step_per_checkpoint(tmp_path, shape):
    rows = [
        (model, params, tokens, name, extra + 2 + 400 * params**-0.34 + 900 * tokens**-0.34)
        for model, params in (("m0", 2e7), ("m1", 4e7), ("m2", 8e7))
        for tokens in (4e9, 1e9, 2e9)  # not in order
        for name, extra in (("c4", 0.1), ("pile", 0.0))
    ]
    header = "model,params,seen,set,loss"
    if shape == "files":
        for name in ("c4", "pile"):
            put(tmp_path / "in" / f"{name}.csv", [r for r in rows if r[3] == name], header)
    else:
        rows.sort(key=lambda row: row[3] if shape == "sets" else "")
        put(tmp_path / "in" / "all.csv", rows, header)
    found = imported(tmp_path / "in", LONG, tmp_path)
    table = found.table
    assert found.notes == () and (table.status == "ok").all() and len(table) == 18
    steps = dict(zip(zip(table.run_id, table.tokens, strict=True), table.step, strict=True))
    assert {key[1]: step for key, step in steps.items()} == {1e9: 1, 2e9: 2, 4e9: 3}
    assert table.groupby(["run_id", "step"]).eval_set.nunique().eq(2).all()
    assert fit_lines(table, x_sets=["c4"], y_sets=["pile"])  # pairs are found


def test_rows_of_one_checkpoint_fill_each_others_gaps(tmp_path):
    text = WIDE + '[sets.pile]\nloss = "pile"\n'
    header = "model,seen,params,c4,pile"
    rows = [("A", 1e9, 5e7, "", 3.1), ("A", 1e9, 5e7, 3.9, ""), ("A", 2e9, 5e7, "", "")]
    table = imported(put(tmp_path / "one.csv", rows, header), text, tmp_path).table
    ok = table[table.status == "ok"].set_index("eval_set")
    assert ok.loss.to_dict() == {"c4": 3.9, "pile": 3.1} and ok.step.tolist() == [1, 1]
    assert table[table.status == "failed"].step.tolist() == [2, 2]
    put(tmp_path / "in" / "0.csv", [rows[0], ("B", 1e9, 5e7, 3.5, 3.0)], header)
    put(tmp_path / "in" / "1.csv", [rows[1], ("C", 1e9, 5e7, 3.4, 2.9)], header)
    table = imported(tmp_path / "in", text, tmp_path).table
    assert (table.status == "ok").all() and len(table) == 6


def test_checkpoint_measured_twice_gets_a_note(tmp_path):
    rows = [("A", 1e9, 5e7, 3.9, 1), ("A", 1e9, 5e7, 3.8, 1)]
    found = imported(put(tmp_path / "t.csv", rows), WIDE, tmp_path)
    assert found.table.status.tolist() == ["ok", "excluded"]
    assert "already in row 1 (loss 3.9 there, 3.8 here); set aside" in found.notes[0]


def test_points_without_names_are_numbered_across_files(tmp_path):
    first = [(1e8, 6e18, 3.0), (2e8, 2.4e19, 2.8)]
    put(tmp_path / "in" / "a.csv", first, "params,flops,loss")
    put(tmp_path / "in" / "b.csv", [(4e8, 9.6e19, 2.6), first[0]], "params,flops,loss")
    table = import_sweep("chinchilla", tmp_path / "in").table
    sound = table[table.status == "ok"]
    assert dict(zip(sound.run_id, sound.loss, strict=True)) == {
        "chinchilla-001": 3.0, "chinchilla-002": 2.8, "chinchilla-003": 2.6,
    }  # fmt: skip


def test_models_of_one_name_with_different_tokens_are_two_runs(tmp_path):
    header = "data,params,tokens,val_loss"
    put(tmp_path / "in" / "a.csv", [("web", 1e8, 1e9, 3.0)], header)
    put(tmp_path / "in" / "b.csv", [("web", 1e8, 2e9, 2.9), ("web", 2e8, 2e9, 2.8)], header)
    table = import_sweep("kempner", tmp_path / "in").table
    assert dict(zip(table.run_id, table.loss, strict=True)) == {
        "web-100000000": 3.0, "web-100000000#2": 2.9, "web-200000000": 2.8,
    }  # fmt: skip
    header = "name,pretraining_data,params,tokens,loss/c4_val"
    put(tmp_path / "g" / "a.csv", [("m", "web", 1e8, 1e9, 3.0)], header)
    put(tmp_path / "g" / "b.csv", [("m", "web", 1e8, 1e9, 2.9)], header.replace("c4_val", "openlm"))
    table = import_sweep("gadre", tmp_path / "g").table
    assert table.run_id.tolist() == ["m", "m"] and (table.status == "ok").all()


def test_public_model_in_two_files_is_one_run(tmp_path):
    header = "Name,Architecture,Pretraining Data,Tokenizer,Size,Tokens,C4 Validation Loss"
    facts = ("m", "Llama", "C4", "gpt2", "1e9")
    put(tmp_path / "in" / "a.csv", [(*facts, "2e9", 3.2)], header)
    put(tmp_path / "in" / "b.csv", [(*facts, "1e9", 3.5)], header)
    table = import_sweep("llm_line", tmp_path / "in").table
    assert checkpoints(table) == {("m", 1): 3.5, ("m", 2): 3.2}


def test_model_without_a_name_is_set_aside_but_not_one_named_nan(tmp_path):
    header = "name,pretraining_data,params,tokens,loss/c4_val"
    rows = [("nan", "web", 1e8, 1e9, 3.0), ("", "web", 2e8, 1e9, 2.9)]
    found = import_sweep("gadre", put(tmp_path / "g.csv", rows, header))
    assert found.table.run_id.tolist() == ["nan"]
    assert any("row 2: run_id: the cell is empty" in note for note in found.notes)
    tables.validate(found.table)
