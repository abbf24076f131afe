"""The OLMo ladder's logs: tokens by the batch, files of one name in two folders, mappings."""

import gzip

import pandas as pd
import pytest

from lossline.errors import UserError
from lossline.tables.sweeps import import_sweep

LOSS = "eval/c4_en-validation/CrossEntropyLoss"
ORDER = ["run_id", "step", "eval_set"]


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def log(path, batch=1000, losses=(4.0, 3.9), extra=""):
    rows = [f"{10 * n},{loss},{batch}" for n, loss in enumerate(losses, 1)]
    return put(path, "\n".join([f"_step,{LOSS},batch_size_in_tokens{extra}", *rows]) + "\n")


@pytest.fixture(scope="module")
def logs(published_data):
    """Every tenth row of each published run, as text."""
    cells = pd.read_csv(published_data / "olmo_ladder.csv", dtype=str, keep_default_na=False)
    return cells[cells.groupby("run").cumcount() % 10 == 0]


@pytest.fixture(scope="module")
def published(logs, tmp_path_factory):
    """The loss table of these rows, imported from one file."""
    path = tmp_path_factory.mktemp("published") / "olmo_ladder.csv"
    logs.to_csv(path, index=False)
    return import_sweep("olmo_ladder", path).table.sort_values(ORDER, ignore_index=True)


@pytest.mark.parametrize(
    ("layout", "lengths"),
    [
        ("flat", ["0.5xC", "1xC", "2xC", "5xC", "10xC"]),
        ("by size", ["1xC", "2xC"]),
        ("compressed", ["1xC", "2xC"]),
    ],
)
def test_logs_without_tokens_give_the_published_table(logs, published, tmp_path, layout, lengths):
    folder = tmp_path / "ladder-runs"
    names = {}
    for run, log in logs.groupby("run"):
        size, _, length = run.partition("-")
        if length not in lengths:
            continue
        name = f"{size}/{length}" if layout == "by size" else run
        names[name] = run
        text = log.drop(columns=["run", "size", "tokens"]).rename(columns={"step": "_step"})
        text = text.to_csv(index=False)
        if layout == "compressed":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.csv.gz").write_bytes(gzip.compress(text.encode()))
        else:
            put(folder / f"{name}.csv", text)
    found = import_sweep("olmo_ladder", folder)
    expected = published[published.run_id.isin(names.values())].reset_index(drop=True)
    assert set(found.table.run_id) == set(names) and len(names) == 4 * len(lengths)
    table = found.table.assign(run_id=found.table.run_id.map(names).astype(expected.run_id.dtype))
    table = table.sort_values(ORDER, ignore_index=True)
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert set(table.learning_rate) == {0.000973, 0.000779, 0.000614, 0.000515}
    said = [note for note in found.notes if "no tokens; computed as" in note]
    assert len(said) == len(names)
    assert sum("(524288 tokens per step)" in note for note in said) == len(lengths)
    assert sum("(1.57286e+06 tokens per step)" in note for note in said) == 0  # all digits


def test_tokens_are_steps_times_the_batch(tmp_path):
    found = import_sweep("olmo_ladder", log(tmp_path / "a.csv", batch=524288))
    assert found.table.tokens.tolist() == [5242880, 10485760]
    assert found.notes == (
        "a.csv: no tokens; computed as step × batch_size_in_tokens (524288 tokens per step)",
    )


def test_column_of_tokens_overrides_the_batch_unless_empty(tmp_path):
    text = f"_step,tokens,{LOSS},batch_size_in_tokens\n10,77,4.0,1000\n20,88,3.9,1000\n"
    found = import_sweep("olmo_ladder", put(tmp_path / "a.csv", text))
    assert found.table.tokens.tolist() == [77, 88] and found.notes == ()
    text = text.replace("77", "").replace("88", "NA")
    found = import_sweep("olmo_ladder", put(tmp_path / "a.csv", text))
    assert found.table.tokens.tolist() == [10_000, 20_000] and len(found.notes) == 1


def test_batch_that_changes_within_a_run_is_a_user_error(tmp_path):
    text = log(tmp_path / "a.csv").read_text().replace("3.9,1000", "3.9,2000")
    with pytest.raises(
        UserError, match=r"a\.csv: no tokens, and the run 'a' has 2 values of batch"
    ):
        import_sweep("olmo_ladder", put(tmp_path / "a.csv", text))


def test_files_of_one_name_in_two_folders_are_two_runs(tmp_path):
    log(tmp_path / "in" / "190M" / "1xC.csv", batch=1000, losses=(4.0, 3.9))
    log(tmp_path / "in" / "370M" / "1xC.csv", batch=3000, losses=(3.8, 3.7))
    log(tmp_path / "in" / "370M" / "2xC.csv", batch=3000, losses=(3.6,))
    found = import_sweep("olmo_ladder", tmp_path / "in")
    assert (found.table.status == "ok").all()
    ends = found.table.groupby("run_id").agg({"loss": "min", "tokens": "max"})
    assert ends.loss.to_dict() == {"190M/1xC": 3.9, "370M/1xC": 3.7, "370M/2xC": 3.6}
    assert ends.tokens.to_dict() == {"190M/1xC": 20e3, "370M/1xC": 60e3, "370M/2xC": 30e3}
    assert any("another folder has a file of this name" in note for note in found.notes)
    with_runs = [tmp_path / "in" / size / "1xC.csv" for size in ("190M", "370M")]
    for number, path in enumerate(with_runs):  # a column of runs has the last word
        put(path, f"run,_step,tokens,{LOSS}\nr,{number + 1},{number + 1}e6,{4 - number}\n")
    table = import_sweep("olmo_ladder", with_runs).table
    assert table.run_id.tolist() == ["r", "r"] and (table.status == "ok").all()


@pytest.mark.parametrize(
    ("mapping", "tokens"),
    [
        ('[columns]\nbatch_size_in_tokens = "gbs"\n', [20_000, 40_000]),
        ("[constants]\nbatch_size_in_tokens = 500\n", [5_000, 10_000]),
        ('[columns]\ntokens = "seen"\n', [7, 8]),
    ],
)
def test_mapping_gives_the_column_of_tokens(tmp_path, mapping, tokens):
    path = put(tmp_path / "a.csv", f"_step,{LOSS},gbs,seen\n10,4.0,2000,7\n20,3.9,2000,8\n")
    with pytest.raises(UserError, match="neither 'tokens' nor 'batch_size_in_tokens' is a column"):
        import_sweep("olmo_ladder", path)
    toml = put(tmp_path / "m.toml", mapping)
    found = import_sweep("olmo_ladder", path, mapping=toml)
    assert found.table.tokens.tolist() == tokens and found.table.step.tolist() == [10, 20]
    assert len(found.notes) == ("batch" in mapping)
    put(toml, f'{mapping}[sets.c4]\nloss = "{LOSS}"\n')
    with pytest.raises(
        UserError, match=r"finds the evaluation sets by the names .* remove \[sets\]"
    ):
        import_sweep("olmo_ladder", path, mapping=toml)


def test_csv_mapping_computes_tokens_from_the_batch(tmp_path):
    path = put(
        tmp_path / "t.csv", "model,at,batch,c4\na,10,2000,4.0\na,20,2000,3.9\nb,10,500,4.1\n"
    )
    text = '[columns]\nrun_id = "model"\nstep = "at"\n{}[sets.c4]\nloss = "c4"\n'
    toml = put(tmp_path / "m.toml", text.format('batch_size_in_tokens = "batch"\n'))
    found = import_sweep("csv", path, mapping=toml)
    assert found.table.tokens.tolist() == [20_000, 40_000, 5_000]
    assert found.notes[0].endswith("step × batch_size_in_tokens (2000, 500 tokens per step)")
    put(toml, text.format(""))
    with pytest.raises(UserError, match=r"lacks tokens; add .*, or step and batch_size_in_tokens"):
        import_sweep("csv", path, mapping=toml)
