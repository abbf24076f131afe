"""Importers: published tables, small tables in the sources' layouts, mappings, wrong input."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lossline import tables
from lossline.errors import UserError
from lossline.fits.fitting import at_chance
from lossline.tables.sweeps import import_sweep
from lossline.tables.sweeps.mapped import read_mapping

PUBLISHED = {
    "kempner": "kempner_sweep.csv",
    "llm_line": "llm_line_hf.csv",
    "gadre": "gadre_models.csv",
    "chinchilla": "chinchilla_points.csv",
    "olmo_ladder": "olmo_ladder.csv",
}


@pytest.mark.parametrize("source", PUBLISHED)
def test_published_tables_become_valid_loss_tables(published_data, source, tmp_path):
    path = published_data / PUBLISHED[source]
    table = import_sweep(source, path).table
    tables.validate(table)
    wide = pd.read_csv(path)
    per_set = table.groupby("eval_set").size()
    assert (per_set == len(wide)).all()
    again = tables.read(tables.write(table, tmp_path / "t.parquet"))
    pd.testing.assert_frame_equal(again, table)


def test_imported_values_are_in_the_right_cells(published_data):
    wide = pd.read_csv(published_data / PUBLISHED["kempner"]).set_index("id")
    table = import_sweep("kempner", published_data / PUBLISHED["kempner"]).table
    row = wide.loc["xrncg2uq"]
    run = table[table.run_id == "xrncg2uq"].set_index("eval_set")
    assert run.loc["c4", "loss"] == row["eval/c4_val/CrossEntropyLoss"]
    assert run.loc["own", "loss"] == row["val_loss"]
    assert run.loc["arc_easy", "loss"] == row["eval/downstream_ce_loss/arc_easy_test_ce_loss"]
    assert run.loc["arc_easy", "accuracy"] == row["eval/downstream/arc_easy_test_acc"]
    assert run.loc["arc_easy", "kind"] == "task"
    assert run.loc["c4", "flops"] == pytest.approx(6 * row["params"] * row["tokens"])


@pytest.mark.parametrize("source", ["kempner", "llm_line", "gadre", "olmo_ladder"])
def test_additional_rows_and_columns_are_accepted(published_data, tmp_path, source):
    wide = pd.read_csv(published_data / PUBLISHED[source]).head(30)
    key = {"kempner": "id", "llm_line": "Name", "gadre": "name", "olmo_ladder": "run"}[source]
    more = wide.assign(**{key: wide[key].map("{}-again".format), "notes": "x"})
    pd.concat([wide, more]).to_csv(tmp_path / "more.csv", index=False)
    assert (
        import_sweep(source, tmp_path / "more.csv").table.run_id.nunique()
        == 2 * wide[key].nunique()
    )


def test_missing_columns_error_lists_those_found(tmp_path):
    pd.DataFrame({"data": ["c4"], "param": [1], "tokens": [2], "val_loss": [3.0]}).to_csv(
        tmp_path / "s.csv"
    )
    with pytest.raises(
        UserError, match=r"s\.csv: missing column 'params'; did you mean 'param'\?; found: "
    ):
        import_sweep("kempner", tmp_path / "s.csv")


def _kempner_original(**changes) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "_step": [9, 9],
            "data": ["a", "b"],
            "params": [1e8, 2e8],
            "tokens": [1e9, 2e9],
            "val_loss": [3.0, 2.9],
            "eval/c4_val/CrossEntropyLoss": [3.5, 3.4],
            "train/Perplexity": [20.0, 18.0],
        }
        | changes
    )


def test_kempner_without_compute_columns(tmp_path):
    _kempner_original().to_csv(tmp_path / "sweep.csv", index=False)
    table = import_sweep("kempner", tmp_path / "sweep.csv").table
    assert sorted(table.eval_set.unique()) == ["c4", "own"]
    assert table.flops.tolist() == [6e17, 2.4e18] * 2


def test_bad_cells_get_a_note_and_the_rest_is_imported(tmp_path):
    wide = _kempner_original(**{"eval/c4_val/CrossEntropyLoss": [np.nan, -3.4]})
    wide.to_csv(tmp_path / "sweep.csv", index=False)
    imported = import_sweep("kempner", tmp_path / "sweep.csv")
    c4 = imported.table[imported.table.eval_set == "c4"]
    assert c4.status.tolist() == ["failed", "excluded"]
    assert (imported.table[imported.table.eval_set == "own"].status == "ok").all()
    assert any("row 1: no value (NaN)" in note for note in imported.notes)
    assert any("row 2: loss: -3.4 is negative" in note for note in imported.notes)


LINE_HEADER = (
    "Name,Architecture,Size,Pretraining Data,Tokenizer,Steps,Tokens,"
    "C4 Validation Loss,C4 Validation BPB"
)
LINE_ROWS = "m,Llama,1e9,C4,gpt2,100,1e9,3.5,0.9\nm,Llama,1e9,C4,gpt2,200,2e9,3.2,0.82\n"


@pytest.mark.parametrize(
    "header",
    [
        f"{LINE_HEADER}\nName,Arch,Size (params),Data,Tok,Steps,Tokens,nats,bits\n",
        f"{','.join('abcdefghi')}\n{LINE_HEADER}\n",
        "Name,Architecture,Size,Pretraining,Tokenizer,Steps,Tokens,C4,C4 Validation\n"
        ",,,Data,,,,Validation Loss,BPB\n",
        f"{LINE_HEADER}\n",
    ],
)
def test_second_header_of_the_llm_line_file(tmp_path, header):
    (tmp_path / "latest_pm_hf.csv").write_text(header + LINE_ROWS)
    table = import_sweep("llm_line", tmp_path / "latest_pm_hf.csv").table
    assert table.loss.tolist() == [3.5, 3.2]
    assert table.bits_per_byte.tolist() == [0.9, 0.82]
    assert table.step.tolist() == [100, 200]


def test_llm_line_model_without_tokens_gets_a_note(tmp_path):
    (tmp_path / "l.csv").write_text(
        LINE_HEADER + "\n" + LINE_ROWS + "olmo,OLMo,,Dolma,neox,,,3.1,0.8\n"
    )
    imported = import_sweep("llm_line", tmp_path / "l.csv")
    assert imported.table.run_id.unique().tolist() == ["m"]
    assert any("row 3: olmo" in note for note in imported.notes)


def test_chinchilla_accepts_the_column_names_of_its_authors(tmp_path):
    (tmp_path / "svg.csv").write_text("Model Size,Training FLOP,loss\n1e9,6e19,2.5\n")
    table = import_sweep("chinchilla", tmp_path / "svg.csv").table
    assert table.tokens.tolist() == [1e10]


def test_olmo_ladder_folder_of_one_file_per_run(tmp_path):
    for run in ("190M-1xC", "370M-1xC"):
        (tmp_path / f"{run}.csv").write_text(
            "_step,throughput/total_tokens,eval/c4_en-validation/CrossEntropyLoss\n10,1e6,4.0\n20,2e6,3.9\n"
        )
    table = import_sweep("olmo_ladder", tmp_path).table
    assert table.run_id.unique().tolist() == ["190M-1xC", "370M-1xC"]


MAPPING = """
source = "mine"
[columns]
run_id = "Name"
tokens = "toks"
pretraining_data = "data"
[constants]
tokenizer = "gpt2"
[sets.c4]
loss = "c4 bits"
unit = "bits"
[sets.arc]
kind = "task"
accuracy = "arc acc"
"""


@pytest.fixture
def export(tmp_path: Path) -> Path:
    frame = pd.DataFrame(
        {
            "Name": ["a", "a", "b"],
            "toks": [2e6, 1e6, 1e6],
            "data": ["wiki", "wiki", "code"],
            "c4 bits": [4.0, 5.0, 6.0],
            "arc acc": [0.5, 0.4, 0.3],
        }
    )
    frame.to_csv(tmp_path / "export.csv", index=False)
    return tmp_path / "export.csv"


def test_any_table_is_imported_with_a_mapping(tmp_path, export):
    (tmp_path / "m.toml").write_text(MAPPING)
    table = import_sweep("csv", export, mapping=tmp_path / "m.toml").table
    c4 = table[table.eval_set == "c4"]
    np.testing.assert_allclose(c4.loss, np.array([4, 5, 6]) * math.log(2))
    assert c4.step.tolist() == [2, 1, 1]
    assert c4.tokenizer.tolist() == ["gpt2"] * 3
    assert table[table.eval_set == "arc"].accuracy.tolist() == [0.5, 0.4, 0.3]
    (tmp_path / "m.toml").write_text(MAPPING.replace('kind = "task"\n', ""))
    again = import_sweep("csv", export, mapping=tmp_path / "m.toml").table
    pd.testing.assert_frame_equal(again, table)


def test_perplexities_and_percent_are_converted(tmp_path, export):
    frame = pd.read_csv(export)
    frame["ppl"] = [math.e**3, 0.0, -2.0]
    frame["arc acc"] *= 100
    frame.to_csv(export, index=False)
    text = MAPPING.replace('"c4 bits"', '"ppl"').replace('"bits"', '"perplexity"')
    (tmp_path / "m.toml").write_text(text + "percent = true\n")
    table = import_sweep("csv", export, mapping=tmp_path / "m.toml").table
    c4 = table[table.eval_set == "c4"]
    assert c4.loss.iloc[0] == pytest.approx(3.0)
    assert c4.status.tolist() == ["ok", "excluded", "excluded"]
    np.testing.assert_allclose(table[table.eval_set == "arc"].accuracy, [0.5, 0.4, 0.3])


def test_mapping_states_the_accuracy_of_guessing(tmp_path, export):
    """``quiz`` is unknown; ``arc`` is known with 4 answers, but the mapping states a value."""
    text = MAPPING + 'chance = 0.45\n[sets.quiz]\nkind = "task"\naccuracy = "arc acc"\n'
    reasons = {}
    for chance in ("", "chance = 0.5\n"):
        (tmp_path / "m.toml").write_text(text + chance)
        found = import_sweep("csv", export, mapping=tmp_path / "m.toml").table
        again = tables.read(tables.write(found, tmp_path / "t.parquet"))
        reasons[chance] = at_chance(again).set_index("what")["reason"].to_dict()
    assert reasons[""] == {}
    assert set(reasons["chance = 0.5\n"]) == {"quiz"}
    assert "at or below chance (0.5)" in reasons["chance = 0.5\n"]["quiz"]
    for wrong in ("25", "-0.1", '"half"', "true"):
        (tmp_path / "m.toml").write_text(f"{text}chance = {wrong}\n")
        with pytest.raises(UserError, match=r"\[sets.quiz\] chance = .*from 0 to below 1"):
            import_sweep("csv", export, mapping=tmp_path / "m.toml")


def test_gadre_table_of_tasks_states_the_accuracy_of_guessing(published_data, tmp_path):
    models = published_data / PUBLISHED["gadre"]
    baselines = published_data / "gadre_task_baselines.csv"
    table = import_sweep("gadre", [models, baselines]).table
    stated = table.groupby("eval_set")["x_chance"].first()
    assert stated["math_qa"] == 0.25 and stated["bigbench_strange_stories"] == 0.5
    assert stated.drop(table.loc[table.kind == "validation", "eval_set"].unique()).notna().all()
    plain = import_sweep("gadre", models).table
    pd.testing.assert_frame_equal(table.drop(columns="x_chance"), plain)
    assert at_chance(plain).empty or "math_qa" not in set(at_chance(plain)["what"])
    with pytest.raises(UserError, match="give the models too"):
        import_sweep("gadre", baselines)
    text = baselines.read_text().replace(",2376,25,", ",2376,2500,")
    (tmp_path / "b.csv").write_text(text)
    with pytest.raises(UserError, match="2500 is not a percentage from 0 to below 100"):
        import_sweep("gadre", [models, tmp_path / "b.csv"])


def test_cell_of_text_is_a_missing_measurement(tmp_path):
    wide = _kempner_original()
    wide = pd.concat([wide, wide.assign(data=["c", "d"])], ignore_index=True).astype(object)
    wide.loc[1, "eval/c4_val/CrossEntropyLoss"] = "-"
    wide.loc[3, "eval/c4_val/CrossEntropyLoss"] = "diverged"
    wide.to_csv(tmp_path / "sweep.csv", index=False)
    imported = import_sweep("kempner", tmp_path / "sweep.csv")
    c4 = imported.table[imported.table.eval_set == "c4"]
    assert c4.status.tolist() == ["ok", "failed", "ok", "failed"]
    assert c4.message.iloc[3] == "'diverged' is not a number"
    assert c4.loss.isna().tolist() == [False, True, False, True]
    assert (imported.table[imported.table.eval_set == "own"].status == "ok").all()
    assert imported.notes == (
        "sweep.csv: column 'eval/c4_val/CrossEntropyLoss', 2 rows: 2, 4: '-' is not a number; "
        "taken as missing",
    )
    wide["eval/c4_val/CrossEntropyLoss"] = ["3.5", "oops", "bad", "wrong"]
    wide.to_csv(tmp_path / "sweep.csv", index=False)
    with pytest.raises(
        UserError, match=r"'eval/c4_val/Cross.*' holds text in 3 of 4 cells \(row 2"
    ):
        import_sweep("kempner", tmp_path / "sweep.csv")
    wide["eval/c4_val/CrossEntropyLoss"] = ["3.5", "-", "--", "N/A"]
    wide.to_csv(tmp_path / "sweep.csv", index=False)
    assert (import_sweep("kempner", tmp_path / "sweep.csv").table.loss.notna()).sum() == 5


@pytest.mark.parametrize(
    ("source", "column"),
    [
        ("kempner", "tokens"),
        ("kempner", "params"),
        ("llm_line", "Tokens"),
        ("llm_line", "Size"),
        ("gadre", "params"),
        ("gadre", "lr"),
        ("chinchilla", "flops"),
        ("olmo_ladder", "step"),
    ],
)
def test_text_in_a_fact_of_a_published_table_excludes_its_row(
    published_data, tmp_path, source, column
):
    wide = pd.read_csv(published_data / PUBLISHED[source]).head(20).astype({column: object})
    whole = import_sweep(source, published_data / PUBLISHED[source]).table
    wide.loc[7, column] = "oops"
    wide.to_csv(tmp_path / "t.csv", index=False)
    imported = import_sweep(source, tmp_path / "t.csv")
    said = [note for note in imported.notes if "row 8: " in note]
    assert len(said) == 1 and re.search("'oops' is not a (whole )?number; set aside", said[0])
    sound = imported.table[imported.table.status == "ok"]
    sets = sound.eval_set.nunique()
    assert sound.groupby("eval_set").size().max() == 19 and sets == whole.eval_set.nunique()
    wide[column] = "oops"
    wide.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(UserError, match=f"column '{column}' holds text in 20 of 20 cells"):
        import_sweep(source, tmp_path / "t.csv")


def test_cell_of_text_does_not_affect_other_measurements(tmp_path):
    header = "Name,Architecture,Size,Pretraining Data,Tokenizer,Tokens,"
    (tmp_path / "l.csv").write_text(
        f"{header}ARC Loss,ARC Accuracy\na,Llama,1e9,C4,gpt2,1e9,-,0.4\n"
        "b,Llama,2e9,C4,gpt2,1e9,2.5,0.5\n"
    )
    imported = import_sweep("llm_line", tmp_path / "l.csv")
    assert imported.table.status.tolist() == ["ok", "ok"]
    assert imported.table.loss.isna().tolist() == [True, False]
    assert imported.table.accuracy.tolist() == [0.4, 0.5]
    assert any("row 1: '-' is not a number; taken as missing" in note for note in imported.notes)


def test_text_in_a_fact_excludes_its_row_and_a_text_column_is_an_error(tmp_path, export):
    frame = pd.read_csv(export).astype(object)
    frame["lr"] = ["1e-3", "-", "fast"]
    frame.to_csv(export, index=False)
    text = MAPPING.replace('tokens = "toks"', 'tokens = "toks"\nlearning_rate = "lr"')
    (tmp_path / "m.toml").write_text(text.replace('run_id = "Name"', 'run_id = "toks"', 1))
    frame["toks"] = [3e6, 2e6, 1e6]
    frame.to_csv(export, index=False)
    imported = import_sweep("csv", export, mapping=tmp_path / "m.toml")
    assert imported.table[imported.table.eval_set == "c4"].status.tolist() == [
        "ok",
        "ok",
        "excluded",
    ]
    assert imported.notes == (
        "export.csv: column 'learning_rate', row 3: learning_rate: 'fast' is not a number; "
        "set aside",
    )
    (tmp_path / "m.toml").write_text(text.replace('"lr"', '"data"'))
    with pytest.raises(UserError, match="'data' holds text in 3 of 3 cells"):
        import_sweep("csv", export, mapping=tmp_path / "m.toml")


def test_long_table_is_imported_with_a_mapping(tmp_path):
    pd.DataFrame(
        {"r": ["a", "a"], "s": [1, 1], "t": [5, 5], "on": ["x", "y"], "l": [3.0, None]}
    ).to_parquet(tmp_path / "long.parquet")
    columns = 'run_id = "r"\nstep = "s"\ntokens = "t"\neval_set = "on"\nloss = "l"\n'
    (tmp_path / "m.toml").write_text("[columns]\n" + columns)
    table = import_sweep("csv", tmp_path / "long.parquet", mapping=tmp_path / "m.toml").table
    assert table.status.tolist() == ["ok", "failed"]
    (tmp_path / "long.csv").write_text("r,s,t,on,l\na,1,5,x,3.0\na,1,5,y,-\nb,1,5,x,2.0\n")
    imported = import_sweep("csv", tmp_path / "long.csv", mapping=tmp_path / "m.toml")
    assert imported.table.status.tolist() == ["ok", "failed", "ok"]
    assert imported.table.message.iloc[1] == "'-' is not a number"
    assert imported.notes == (
        "long.csv: column 'loss', row 2: '-' is not a number; taken as missing",
    )


@pytest.mark.parametrize(
    ("wrong", "right", "expected"),
    [
        ("[constant]", "[constants]", "unknown section 'constant'; did you mean 'constants'?"),
        ("run_ids =", "run_id =", "unknown [columns] name 'run_ids'; did you mean 'run_id'?"),
        ("los = ", "loss = ", "unknown key of [sets.c4] 'los'; did you mean 'loss'?"),
        ('"tok"', '"toks"', "column 'tok' is not in export.csv; did you mean 'toks'?"),
        ('unit = "bit"', 'unit = "bits"', "unit = 'bit': must be one of nats, bits, perplexity"),
        ('kind = "test"', 'kind = "task"', "kind = 'test': must be one of validation, task"),
        ('percent = 1\nkind = "task"', 'kind = "task"', "percent = 1: must be true or false"),
        ('kind = "validation"', 'kind = "task"', "needs a loss or bits_per_byte; map one, or"),
        ('"Name', '"Name"', "not valid TOML"),
        ("3", '"Name"', "[columns] run_id = 3: must be the name of a column in quotes"),
        ("3", '"c4 bits"', "[sets.c4] loss = 3: must be the name of a column in quotes"),
        ("", 'run_id = "Name"\n', "[columns] lacks run_id"),
        ("", MAPPING[MAPPING.index("[sets.c4]") :], "no evaluation set"),
    ],
)
def test_mistake_in_a_mapping_is_a_user_error(tmp_path, export, wrong, right, expected):
    (tmp_path / "m.toml").write_text(MAPPING.replace(right, wrong, 1))
    with pytest.raises(UserError) as caught:
        import_sweep("csv", export, mapping=tmp_path / "m.toml")
    assert expected in str(caught.value)


def test_sets_that_are_not_sections_are_a_user_error(tmp_path, export):
    text = MAPPING[: MAPPING.index("[sets.c4]")]
    (tmp_path / "m.toml").write_text(f"sets = 3\n{text}")
    with pytest.raises(UserError, match=r"'sets' must be sections \[sets.NAME\]"):
        import_sweep("csv", export, mapping=tmp_path / "m.toml")


def test_mapping_may_start_with_a_byte_order_mark(tmp_path, export):
    (tmp_path / "m.toml").write_text(MAPPING, encoding="utf-8-sig")
    assert read_mapping(tmp_path / "m.toml").source == "mine"


def test_the_documented_mapping_is_valid(tmp_path):
    from lossline.tables.sweeps import mapped

    shown = [line[4:] for line in mapped.__doc__.splitlines() if line.startswith("    ")]
    (tmp_path / "m.toml").write_text("\n".join(shown))
    named = {measure.eval_set for measure in read_mapping(tmp_path / "m.toml").sets}
    assert named == {"c4", "hellaswag", "paloma_*"}


def _command(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "lossline.import_sweep", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_command_writes_once_and_is_idempotent(tmp_path):
    _kempner_original().to_csv(tmp_path / "sweep.csv", index=False)
    arguments = (
        "kempner",
        "--path",
        str(tmp_path / "sweep.csv"),
        "--out",
        str(tmp_path / "t.parquet"),
    )
    first = _command(*arguments)
    assert first.returncode == 0, first.stderr
    assert "4 measurements of 2 runs on 2 sets" in first.stdout
    assert "up to date" in _command(*arguments).stdout
    _kempner_original(val_loss=[3.0, 2.8]).to_csv(tmp_path / "sweep.csv", index=False)
    other = _command(*arguments)
    assert other.returncode == 2
    assert "already exists with different contents" in other.stderr
    assert len(other.stderr.splitlines()) == 1


def test_command_with_a_missing_column_writes_nothing(tmp_path):
    _kempner_original().drop(columns="tokens").to_csv(tmp_path / "sweep.csv", index=False)
    done = _command(
        "kempner", "--path", str(tmp_path / "sweep.csv"), "--out", str(tmp_path / "t.parquet")
    )
    assert done.returncode == 2
    assert done.stderr.startswith(
        "lossline import_sweep: error: sweep.csv: missing column 'tokens'"
    )
    assert not (tmp_path / "t.parquet").exists()


def test_different_problems_of_one_column_have_separate_notes(tmp_path):
    points = pd.DataFrame({"params": 1e8, "flops": 1e19, "loss": [3.0, -1.0, np.inf, 2.9, np.inf]})
    points["flops"] *= np.arange(1, 6)
    points.to_csv(tmp_path / "points.csv", index=False)
    notes = import_sweep("chinchilla", tmp_path / "points.csv").notes
    assert sorted(notes) == [
        "points.csv: column 'loss', 2 rows: 3, 5: loss: the value is infinite; set aside",
        "points.csv: column 'loss', row 2: loss: -1 is negative; set aside",
    ]


def test_copied_row_is_not_a_second_run(tmp_path: Path) -> None:
    rows = pd.DataFrame({"params": [1e8, 2e8], "flops": [6e18, 2.4e19], "loss": [3.0, 2.8]})
    path = tmp_path / "points.csv"
    pd.concat([rows, rows.iloc[:1]]).to_csv(path, index=False)
    imported = import_sweep("chinchilla", path)
    assert imported.table["run_id"].nunique() == 2
    assert imported.notes[0].startswith("points.csv: 1 rows repeat another in every column")
