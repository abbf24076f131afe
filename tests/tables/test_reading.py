"""Tables of any columns: every cell keeps its column and its text."""

import gzip
import json
import math

import numpy as np
import pandas as pd
import pytest

from lossline import tables
from lossline.cli.import_command import ImportOptions, import_to_file
from lossline.errors import UserError
from lossline.tables.reading import read_any
from lossline.tables.sweeps import import_sweep

MAPPING = """
[columns]
run_id = "model"
tokens = "seen"
params = "params"
pretraining_data = "data"
[sets.c4]
loss = "c4"
"""


@pytest.fixture
def mapping(tmp_path):
    (tmp_path / "m.toml").write_text(MAPPING)
    return tmp_path / "m.toml"


def refused(path) -> str:
    with pytest.raises(UserError) as caught:
        read_any(path)
    return str(caught.value)


@pytest.mark.parametrize("end", [",", ",,", ", ,"])
@pytest.mark.parametrize("header_too", [False, True])
def test_trailing_separators_do_not_shift_columns(tmp_path, mapping, end, header_too):
    head = "model,data,seen,params,c4,pile" + (end if header_too else "")
    rows = [f"{n},web,{n}000,{n}00,3.{n},2.{n}{end}" for n in (1, 2, 3)]
    (tmp_path / "t.csv").write_text("\n".join([head, *rows]) + "\n")
    table = import_sweep("csv", tmp_path / "t.csv", mapping=mapping).table
    assert table.run_id.tolist() == ["1", "2", "3"]
    assert table.tokens.tolist() == [1000, 2000, 3000]
    assert table.params.tolist() == [100, 200, 300]
    assert table.loss.tolist() == [3.1, 3.2, 3.3]
    assert list(read_any(tmp_path / "t.csv").columns)[:6] == head.split(",")[:6]


@pytest.mark.parametrize(
    ("text", "line", "fields", "named"),
    [
        ("a,b\n1,2\n3,4,5\n", 3, 3, 2),  # one field too many
        ("a,b\n1,2\n\n3\n", 4, 1, 2),  # one too few, after an empty line
        ("a,b\nr1,1,2\nr2,3,4\n", 2, 3, 2),  # names of rows without a name of their column
        ("a,b\nx,1,000\ny,2,000\n", 2, 3, 2),  # thousands
        ("a,b,c\n1,2,3\n4,5,6,\n", 3, 4, 3),  # at the end of one row only
        ("a,b,c\nllama,7b,2,\nm,1,\n", 2, 4, 3),  # a cell with the separator, an empty one
        ('a,b\n"x\ny",1\nz\n', 4, 1, 2),  # a cell of two lines before
    ],
)
@pytest.mark.parametrize("kind", ["csv", "tsv", "csv.gz"])
def test_row_that_does_not_fit_the_header_is_a_user_error(
    tmp_path, text, line, fields, named, kind
):
    path = tmp_path / f"t.{kind}"
    data = text.replace(",", "\t") if kind == "tsv" else text
    path.write_bytes(gzip.compress(data.encode()) if kind == "csv.gz" else data.encode())
    assert f"t.{kind}, line {line}: {fields} fields, but the header has {named}" in refused(path)


def test_every_reader_refuses_a_row_that_is_too_long(tmp_path, table):
    lines = table.to_csv(index=False).splitlines()
    (tmp_path / "losses.csv").write_text("\n".join([lines[0], *(f"x,{row}m" for row in lines[1:])]))
    columns = len(table.columns)
    expected = f"line 2: {columns + 1} fields, but the header has {columns} columns"
    with pytest.raises(UserError, match=expected):
        tables.load(tmp_path / "losses.csv")
    originals = {
        "kempner": "data,params,tokens,val_loss\nweb,1e8,1e9,3.0\n",
        "llm_line": "Name,Architecture,Pretraining Data,Tokenizer,Size,Tokens,C4 Validation Loss\n"
        "m,Llama,C4,gpt2,1e9,1e9,3.5\n",
        "gadre": "name,pretraining_data,params,tokens,loss/c4_val\nm,c4,1e8,1e9,3.0\n",
        "chinchilla": "params,flops,loss\n1e9,6e19,2.5\n",
        "olmo_ladder": "run,step,tokens,eval/c4_en-validation/CrossEntropyLoss\nr,1,1e6,4.0\n",
    }
    for source, text in originals.items():
        (tmp_path / "s.csv").write_text(text)
        right = import_sweep(source, tmp_path / "s.csv").table
        head, row, _ = text.split("\n")
        (tmp_path / "s.csv").write_text(f"{head}\n{row},\n")
        pd.testing.assert_frame_equal(import_sweep(source, tmp_path / "s.csv").table, right)
        (tmp_path / "s.csv").write_text(f"{head}\n{row},7\n")
        with pytest.raises(UserError, match=r"s\.csv, line 2: "):
            import_sweep(source, tmp_path / "s.csv")


def test_columns_of_one_name_must_be_equal(tmp_path, mapping):
    path = tmp_path / "t.csv"
    path.write_text("model,data,seen,params,c4,c4\na,web,1e9,1e8,3.0,3.0\n")
    assert import_sweep("csv", path, mapping=mapping).table.loss.tolist() == [3.0]
    path.write_text("model,data,seen,params,c4,c4\na,web,1e9,1e8,3.0,9.0\n")
    assert "column 'c4' exists twice (columns 5 and 6) with different cells" in refused(path)


def test_first_of_two_headers_may_repeat_names(tmp_path):
    (tmp_path / "l.csv").write_text(
        "Name,Architecture,Pretraining Data,Tokenizer,Size,Tokens,C4,C4,ARC,ARC\n"
        ",,,,,,Validation Loss,Validation BPB,Loss,BPB\n"
        "m,Llama,C4,gpt2,1e9,1e9,3.5,0.9,2.5,0.7\n"
    )
    table = import_sweep("llm_line", tmp_path / "l.csv").table.set_index("eval_set")
    assert table.loc["C4", ["loss", "bits_per_byte"]].tolist() == [3.5, 0.9]
    assert table.loc["ARC", ["loss", "bits_per_byte"]].tolist() == [2.5, 0.7]


def test_wrong_separator_is_a_user_error(tmp_path):
    (tmp_path / "t.csv").write_text("a;b\n1;3,5\n")  # a comma in the number
    assert "separated by semicolons; save it with commas" in refused(tmp_path / "t.csv")
    (tmp_path / "t.tsv").write_text("a,b\n1,2\n")
    assert "separated by commas; save it with tabs" in refused(tmp_path / "t.tsv")
    (tmp_path / "t.csv").write_text('a,b\n1,"2\n3,4\n')
    assert "t.csv, line 3: cannot be read as a table: " in refused(tmp_path / "t.csv")


def test_byte_order_marks_and_repeated_headers_are_skipped(tmp_path):
    part = "\ufeffmodel,loss\r\na,1\r\n"
    (tmp_path / "t.csv").write_text(part + part.replace("a,1", "b,2"), newline="")
    frame = read_any(tmp_path / "t.csv")
    assert frame.model.tolist() == ["a", "b"] and frame.loss.tolist() == ["1", "2"]


NAMES = ["1.10", "1.1", "001", "01", "1", "1e3", "1000.0", "NA", "null", "None", "nan", "inf",
         "True", "N/A", "9007199254740993", "9007199254740992", "-", "2024-01-01", " x",
         "a,\"b\"\n"]  # fmt: skip


def source_file(path):
    rows = [
        {"model": name, "data": name, "seen": 1e9 + n, "params": 1e8, "c4": 3 + n / 7}
        for n, name in enumerate(NAMES)
    ]
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        pd.DataFrame(rows).to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
@pytest.mark.parametrize("out", ["csv", "parquet"])
def test_names_keep_their_text_and_import_is_repeatable(tmp_path, mapping, kind, out):
    path = tmp_path / f"sweep.{kind}"
    source_file(path)
    options = ImportOptions(
        source="csv", path=(str(path),), out=str(tmp_path / f"o.{out}"), mapping=str(mapping)
    )
    written = import_to_file(options)
    read = tables.load(written)
    assert read.run_id.tolist() == NAMES and read.pretraining_data.tolist() == NAMES
    assert read.loss.tolist() == [3 + n / 7 for n in range(len(NAMES))]
    assert (read.status == "ok").all() and (read.step == 1).all()
    assert import_to_file(options) == written
    pd.testing.assert_frame_equal(read, import_sweep("csv", path, mapping=mapping).table)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_loss_table_reads_back_equal(rows, tmp_path, suffix):
    values = np.random.default_rng(0).uniform(1, 9, len(rows)).tolist()
    for row, name, value in zip(rows, NAMES, values, strict=False):
        row |= {"run_id": name, "architecture": name, "seed": 2**62 + 1, "x_tag": name,
                "x_value": value, "x_flag": True, "x_none": None}  # fmt: skip
    rows[1]["seed"] = None
    table = tables.from_rows(rows)
    if suffix == "jsonl":
        path = tmp_path / "t.jsonl"
        table.to_json(path, orient="records", lines=True, double_precision=15)
        table["x_value"] = table["x_value"].round(15)
    else:
        path = tables.write(table, tmp_path / f"t.{suffix}")
    read = tables.read(path)
    exact = [name for name in table.columns if suffix != "jsonl" or table[name].dtype != "float64"]
    pd.testing.assert_frame_equal(read[exact], table[exact], check_exact=True)
    assert read.seed.iloc[0] == 2**62 + 1 and read.seed.isna().sum() == 1


def test_whole_numbers_keep_all_digits_if_other_cells_are_empty(tmp_path):
    ids = [2**53 + 1, None, 2**60 + 1]
    pd.DataFrame({"id": pd.array(ids, dtype="Int64")}).to_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"id": n}) for n in ids))
    for name in ("t.parquet", "t.jsonl"):
        assert read_any(tmp_path / name).id.dropna().tolist() == [2**53 + 1, 2**60 + 1]


def test_parquet_index_and_folder_names_do_not_become_columns(tmp_path):
    frame = pd.DataFrame({"model": ["001", "01"], "loss": [3.0, 2.0]})
    folder = tmp_path / "data=web"
    folder.mkdir()
    frame.set_index("model").to_parquet(folder / "t.parquet")
    read = read_any(folder / "t.parquet")
    assert sorted(read.columns) == ["loss", "model"] and read.model.tolist() == ["001", "01"]


def test_words_for_missing_values_are_empty_only_in_number_columns(tmp_path, mapping):
    (tmp_path / "t.csv").write_text(
        "model,data,seen,params,c4\nNA,None,1e9,NA,3.0\nb,w,1e9,5,nan\n"
    )
    table = import_sweep("csv", tmp_path / "t.csv", mapping=mapping).table
    assert table.run_id.tolist() == ["NA", "b"]
    assert table.status.tolist() == ["ok", "failed"]
    assert math.isnan(table.params[0]) and table.params[1] == 5


@pytest.mark.parametrize("cell", ["1_000", "0x10", "True", "1,5", "1 000", "１"])
def test_odd_cells_are_not_read_as_numbers(tmp_path, mapping, cell):
    (tmp_path / "t.csv").write_text(
        f'model,data,seen,params,c4\na,w,1e9,5,"{cell}"\nb,w,1e9,5,3\nc,w,1e9,5,2\n'
    )
    imported = import_sweep("csv", tmp_path / "t.csv", mapping=mapping)
    assert imported.table.status.tolist() == ["failed", "ok", "ok"]
    assert f"row 1: {cell!r} is not a number; taken as missing" in imported.notes[0]


def test_count_beyond_64_bits_is_a_user_error(rows, tmp_path):
    table = tables.from_rows(rows).astype({"seed": object})
    table.loc[2, "seed"] = str(2**64)
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(UserError, match="'seed', row 3: 18446744073709551616 is a whole number b"):
        tables.read(tmp_path / "t.csv")


def test_compressed_and_tab_separated_tables_of_a_folder_are_read(tmp_path, mapping):
    folder = tmp_path / "in"
    folder.mkdir()
    head = "model,data,seen,params,c4\n"
    (folder / "a.CSV").write_text(head + "a,web,1e9,1e8,3.0\n")
    (folder / "b.csv.gz").write_bytes(gzip.compress((head + "b,web,1e9,1e8,3.1\n").encode()))
    (folder / "c.tsv").write_text((head + "c,web,1e9,1e8,3.2\n").replace(",", "\t"))
    table = import_sweep("csv", folder, mapping=mapping).table
    assert table.run_id.tolist() == ["a", "b", "c"]
