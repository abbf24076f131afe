"""The loss table: types, derived values, every kind of bad row, atomic storage."""

import gzip
import math
import os

import numpy as np
import pandas as pd
import pytest

from lossline import tables
from lossline.errors import UserError
from lossline.tables import storage
from lossline.tables.schema import COLUMN_NAMES, COLUMNS


def test_sums_become_loss_bits_per_byte_and_accuracy(table):
    first = table[
        (table.run_id == "llama") & (table.step == 2) & (table.eval_set == "arc_easy")
    ].iloc[0]
    assert first.loss == pytest.approx(2.0)
    assert first.bits_per_byte == pytest.approx(2000 / 4000 / math.log(2))
    assert first.accuracy == 0.5
    assert table[table.kind == "validation"].accuracy.isna().all()


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_round_trip_keeps_values_types_and_gaps(table, tmp_path, suffix):
    table["x_rule"] = "slide"
    table.loc[0, ["params", "seed", "architecture"]] = [np.nan, pd.NA, np.nan]
    table.loc[1, ["params", "seed", "architecture"]] = [np.nan, pd.NA, np.nan]
    table.loc[2:3, ["params", "seed", "architecture"]] = [np.nan, pd.NA, np.nan]
    path = tables.write(table, tmp_path / f"losses{suffix}")
    pd.testing.assert_frame_equal(tables.read(path), table)


def test_counts_beyond_float_precision_survive(rows, tmp_path):
    for row in rows:
        row["seed"] = 2**53 + 1
    assert (
        tables.read(tables.write(tables.from_rows(rows), tmp_path / "t.parquet")).seed[0]
        == 2**53 + 1
    )


def test_published_means_without_sums_are_a_valid_table():
    rows = [
        {
            "run_id": "a",
            "step": 1,
            "tokens": 5.5,
            "eval_set": "c4",
            "kind": "validation",
            "loss": 3.0,
        }
    ]
    table = tables.from_rows(rows)
    tables.validate(table)
    assert np.isnan(table.bits_per_byte[0])
    assert list(table.columns) == list(COLUMN_NAMES)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_table_of_an_earlier_version_is_read_with_the_new_columns_empty(table, tmp_path, suffix):
    added = [column.name for column in COLUMNS if column.added]
    assert {"start_run", "start_tokens", "trained_tokens", "selection_flops"} <= set(added)
    old, path = table.drop(columns=added), tmp_path / f"old.{suffix}"
    old.to_parquet(path) if suffix == "parquet" else old.to_csv(path, index=False)
    for read in (tables.read, tables.read_unchecked, tables.load):
        found = read(path)
        assert list(found.columns) == list(table.columns)
        assert found[added].isna().all(axis=None)
        pd.testing.assert_frame_equal(found.drop(columns=added), old, check_dtype=False)
    tables.validate(old)
    tables.read(tables.write(old, tmp_path / "new.parquet"))
    with pytest.raises(UserError, match="column 'params' is missing"):
        tables.validate(old.drop(columns="params"))


def test_published_mean_is_not_replaced(rows):
    rows[0]["loss"] = 4.0001
    assert tables.from_rows(rows).loss[0] == 4.0001


@pytest.mark.parametrize(
    ("column", "row", "value", "expected"),
    [
        ("loss", 2, np.nan, "column 'loss', row 3: the value is missing (NaN)"),
        ("loss", 2, -1.0, "column 'loss', row 3: -1 is negative"),
        ("loss", 2, np.inf, "column 'loss', row 3: the value is infinite"),
        ("loss", 0, 4.0 / math.log(2), "bits instead of nats"),
        ("bits_per_byte", 0, 1.0, "nats instead of bits"),
        ("loss", 0, 3.9, "does not agree with its sums"),
        (
            "accuracy",
            1,
            50.0,
            "write a fraction, or convert percent with percent = true in a mapping",
        ),
        ("run_id", 4, None, "column 'run_id', row 5: the cell is empty"),
        ("tokens", 4, np.nan, "column 'tokens', row 5: the cell is empty"),
        ("kind", 0, "test", "'test' is not one of validation, task"),
        ("status", 0, "fine", "'fine' is not one of ok, failed, excluded"),
        ("status", 0, "failed", "a row with status failed has a value"),
        ("params", 1, 0.0, "column 'params', row 2: the value is 0"),
        ("target_tokens", 1, -4, "column 'target_tokens', row 2: -4 is negative"),
        ("eval_set", 1, "wiki", "row 2: run 'llama' at step 1 on 'wiki' is already in row 1"),
        ("architecture", 3, "rnn", "row 4: run llama has rnn here and llama in row 1"),
        ("tokens", 3, 7.0, "row 4: checkpoint llama at step 2 has 7.0 here and 2000.0 in row 3"),
    ],
)
def test_bad_cell_error_names_column_and_row(table, column, row, value, expected):
    if column == "loss" and (value is np.nan or not 0 < value < np.inf):
        table["bits_per_byte"] = np.nan
        table[["nats", "target_tokens", "target_bytes"]] = np.nan
    table.loc[row, column] = value
    with pytest.raises(UserError, match=r"^losses: ") as caught:
        tables.validate(table, where="losses")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mixed_nats_and_bits_are_found_without_sums(table):
    table[["nats", "target_tokens", "target_bytes"]] = np.nan
    tables.validate(table)
    table.loc[2, "loss"] /= math.log(2)
    with pytest.raises(UserError, match=r"row 3: .* nats are mixed with bits"):
        tables.validate(table)


def test_small_accuracies_of_a_set_in_percent_are_found_too(table):
    """A score of 0.8% is not one of 80%."""
    rows = pd.concat([table] * 2, ignore_index=True).assign(eval_set="quiz", kind="task")
    rows["step"] = np.arange(1, len(rows) + 1)
    rows["tokens"] = 1000.0 * rows["step"]
    rows[["loss", "bits_per_byte", "nats", "correct", "questions"]] = np.nan
    rows["accuracy"] = 40.0
    rows.loc[2, "accuracy"] = 0.8
    found = [problem for problem in tables.find_problems(rows) if problem.column == "accuracy"]
    assert [problem.position for problem in found] == list(range(len(rows)))
    assert found[2].what == "0.8 is in percent, like others of its set"
    rows["accuracy"] = 0.4
    rows.loc[2, "accuracy"] = 1.2  # one wrong cell says nothing of the others
    found = [problem for problem in tables.find_problems(rows) if problem.column == "accuracy"]
    assert [problem.position for problem in found] == [2]


def test_excluded_rows_may_hold_any_value_but_need_their_names(table):
    table.loc[0, ["status", "message", "loss"]] = ["excluded", "diverged", -1.0]
    tables.validate(table)


def test_table_is_valid_after_bad_rows_are_excluded(table):
    table.loc[2, "loss"] = -1.0
    table.loc[5, "run_id"] = None
    kept, problems = tables.exclude_bad_rows(table)
    tables.validate(kept)
    assert len(kept) == len(table) - 1  # a row without a run cannot be kept for the record
    assert {problem.position for problem in problems} == {2, 5}
    excluded = kept[kept.status == "excluded"]
    assert excluded.index.tolist() == [2] and "negative" in excluded.message.iloc[0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.drop(columns="loss"), "column 'loss' is missing"),
        (lambda t: t.rename(columns={"loss": "los"}), "did you mean 'los'?"),
        (lambda t: t.assign(notes="hm"), "column 'notes' is not part of a loss table"),
    ],
)
def test_wrong_column_is_a_user_error(table, change, expected):
    with pytest.raises(UserError) as caught:
        tables.validate(change(table))
    assert expected in str(caught.value)


def test_text_in_a_number_column_is_a_user_error(tmp_path, table):
    frame = table.astype(object)
    frame.loc[3, "nats"] = "12,5"
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(UserError, match=r"column 'nats', row 4: '12,5' is not a number"):
        tables.read(tmp_path / "t.csv")


def test_failed_write_keeps_the_old_table_and_leaves_no_files(table, tmp_path, monkeypatch):
    path = tables.write(table, tmp_path / "t.parquet")

    def full_disk(self, partial, **_):
        with open(partial, "wb") as file:
            file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full_disk)
    with pytest.raises(OSError, match="no space"):
        tables.write(table, path)
    assert os.listdir(tmp_path) == ["t.parquet"]
    pd.testing.assert_frame_equal(tables.read(path), table)


def test_invalid_table_is_never_written(table, tmp_path):
    with pytest.raises(UserError):
        tables.write(table.assign(step=-1), tmp_path / "t.parquet")
    assert not list(tmp_path.iterdir())


def test_broken_or_missing_file_is_a_user_error(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="cannot be read as parquet"):
        tables.read(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="no such file"):
        tables.read(tmp_path / "u.parquet")


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("t.csv", lambda data: data.replace(b",", b";"), "separated by semicolons; save it with"),
        ("t.csv", lambda data: data.decode().encode("utf-16"), "not UTF-8 text; save it again"),
        ("t.csv.gz", lambda data: gzip.compress(data)[:200], "is the file complete"),
    ],
)
def test_file_of_another_program_or_cut_off_is_a_user_error(
    tmp_path, table, name, change, expected
):
    (tmp_path / name).write_bytes(change(table.to_csv(index=False).encode()))
    with pytest.raises(UserError, match=expected):
        tables.read(tmp_path / name)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_windows_line_ends_and_a_byte_order_mark_are_accepted(tmp_path, table, mark):
    text = table.to_csv(index=False, lineterminator="\r\n").encode()
    (tmp_path / "t.csv").write_bytes(mark + text)
    pd.testing.assert_frame_equal(tables.read(tmp_path / "t.csv"), table)


def test_load_finds_run_directories(table, tmp_path):
    for run in ("llama", "mamba"):
        tables.write(
            table[table.run_id == run], tmp_path / "runs" / f"{run}-1a2b" / "losses.parquet"
        )
    (tmp_path / "runs" / "unfinished").mkdir()
    loaded = tables.load(tmp_path / "runs")
    pd.testing.assert_frame_equal(loaded, table)
    assert len(tables.load(tmp_path / "runs" / "llama-1a2b")) == 4
    with pytest.raises(UserError, match=r"python -m lossline\.evaluate"):
        tables.load(tmp_path / "runs" / "unfinished")
    with pytest.raises(UserError, match=r"joined: .*already in row"):
        tables.load([tmp_path / "runs", tmp_path / "runs" / "llama-1a2b"])


def test_concat_keeps_extra_columns_of_all_tables(table):
    joined = tables.concat([table, table.assign(run_id=table.run_id + "2", x_rule="slide")])
    tables.validate(joined)
    assert joined.x_rule.isna().sum() == len(table)
    assert joined.dtypes["context_length"] == table.dtypes["context_length"]


def test_jsonl_is_read(table, tmp_path):
    table.to_json(tmp_path / "losses.jsonl", orient="records", lines=True)
    pd.testing.assert_frame_equal(storage.read(tmp_path / "losses.jsonl"), table)


def test_open_columns_are_typed_joined_and_written(table, tmp_path):
    """``option.``, ``factor.``, ``share.``, ``component_tokens.``: any number of columns."""
    mixed = table.assign(
        **{
            "option.schedule.warmup": "0.10",
            "factor.my factor": "a",
            "share.wiki": 0.25,
            "component_tokens.wiki": table["tokens"] * 0.25,
        }
    )
    plain = table.assign(run_id=table["run_id"] + "-plain")
    joined = tables.concat([mixed, plain])
    assert joined["option.schedule.warmup"].isna().sum() == len(plain)
    for name in ("t.parquet", "t.csv"):
        tables.write(joined, tmp_path / name)
        again = tables.read(tmp_path / name)
        assert again["share.wiki"].dtype == "float64"
        assert set(again["option.schedule.warmup"].dropna()) == {"0.10"}
        assert len(again) == len(joined)


@pytest.mark.parametrize("name", ["option.x", "factor.x", "share.x", "component_tokens.x"])
def test_open_fact_must_be_constant_within_a_run(table, name):
    """For ``component_tokens``: constant within a checkpoint."""
    values = [str(i) if name[0] in "of" else float(i) for i in range(len(table))]
    with pytest.raises(UserError, match=name):
        tables.validate(tables.concat([table.assign(**{name: values})]))


@pytest.mark.parametrize("name", ["share.x", "component_tokens.x"])
@pytest.mark.parametrize(("value", "what"), [(-0.5, "is negative"), (float("inf"), "is infinite")])
def test_numbers_of_components_are_checked(table, name, value, what):
    with pytest.raises(UserError, match=rf"column '{name}', row 1: .*{what}"):
        tables.validate(table.assign(**{name: value}))


@pytest.mark.parametrize("name", ["option.", "options.x", "shares.x"])
def test_bare_or_misspelled_prefix_is_not_a_column(table, name):
    with pytest.raises(UserError, match="not part of a loss table"):
        tables.validate(table.assign(**{name: "1"}))
