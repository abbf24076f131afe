"""Guarantees of the score table: what it holds, and one line for everything that is wrong."""

import math

import numpy as np
import pandas as pd
import pytest

from lossline.errors import UserError
from lossline.tables import scores


def domain(**changes):
    return {
        "model": "m", "step": 10, "kind": "domain", "name": "law", "measure": "bits_per_byte",
        "nats": 100.0, "target_tokens": 50, "target_bytes": 120, "pages": 3, "truncated": 0,
        "pool": "f00d", "rule": "slide 8 by 4", "activations": "float32",
    } | changes  # fmt: skip


def benchmark(**changes):
    row = {"model": "m", "kind": "benchmark", "name": "piqa", "measure": "error", "value": 0.4}
    return row | changes


def test_each_column_has_a_meaning_and_sums_give_the_value():
    assert all(column.meaning for column in scores.COLUMNS)
    table = scores.from_rows([domain(), domain(measure="loss", name="a")])
    assert table["value"].tolist() == [100.0 / math.log(2.0) / 120, 2.0]
    assert table["family"].tolist() == ["m", "m"]
    scores.validate(table)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_written_table_is_read_back_equal(tmp_path, suffix):
    sums = dict.fromkeys(scores.SUMS)
    failed = domain(model="n", **sums, status="failed", message="the checkpoint is damaged")
    rows = [domain(x_store="abc"), benchmark(family="m"), failed | {"x_store": None}]
    table = scores.from_rows(rows)
    path = scores.write(table, tmp_path / f"scores.{suffix}")
    pd.testing.assert_frame_equal(scores.read(path), table)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_small_table_of_values_needs_only_five_columns(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("model,kind,name,measure,value\na,benchmark,piqa,accuracy,0.5\n")
    table = scores.read(path)
    assert table["family"].tolist() == ["a"] and table["status"].tolist() == ["ok"]


def test_two_files_are_one_table(tmp_path):
    one = scores.write(scores.from_rows([domain()]), tmp_path / "one.parquet")
    two = scores.write(scores.from_rows([benchmark(family="m")]), tmp_path / "two.parquet")
    assert scores.read([one, two])["kind"].tolist() == ["domain", "benchmark"]
    with pytest.raises(UserError, match=r"joined.*model 'm' at step 10 on domain 'law' is already"):
        scores.read([one, one])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([domain(), domain()], r"column 'name', row 2: model 'm' at step 10 on domain 'law' is al"),
        ([benchmark(), benchmark()], r"row 2: model 'm' on benchmark 'piqa' is already in row 1"),
        ([domain(kind="validation")], r"column 'kind', row 1: 'validation' is not one of domain,"),
        ([domain(measure="error", value=0.5)], r"column 'measure', row 1: a domain has no error"),
        ([domain(measure="bpb")], r"column 'measure', row 1: 'bpb' is not one of bits_per_byte"),
        ([domain(name=None)], r"column 'name', row 1: the cell is empty"),
        ([domain(nats=math.nan)], r"column 'value', row 1: the value is missing \(NaN\) although"),
        ([benchmark(value=math.nan)], r"column 'value', row 1: the value is missing \(NaN\)"),
        ([benchmark(measure="perplexity", value=math.inf)], r"'value', row 1: the value is infin"),
        ([domain(nats=math.inf)], r"row 1: the value is infinite"),
        ([domain(nats=-1.0)], r"is negative"),
        ([domain(target_bytes=0)], r"row 1: the value is (infinite|0)"),
        ([benchmark(value=74.2)], r"74.2 is above 1, but the measure is error"),
        ([benchmark(measure="perplexity", value=0.4)], r"0.4 is below 1, which no perplexity is"),
        ([benchmark(status="failed")], r"a row with status failed has a value"),
        ([domain(value=2.0)], r"2 does not agree with its sums, which give 1.2"),
        ([domain(), benchmark(family="f")], r"column 'family', row 2: model m has f here and m in"),
        (
            [benchmark(), benchmark(model="n", measure="perplexity", value=4.0)],
            r"column 'measure', row 2: benchmark piqa has perplexity here and error in row 1",
        ),
        (
            [domain(), domain(model="n", pool="beef")],
            r"column 'pool', row 2: domain law has beef here and f00d in row 1",
        ),
        ([domain(bits=1)], r"column 'bits' is not part of a score table; rename it to 'x_bits'"),
    ],
)  # fmt: skip
def test_each_fault_is_one_line_and_nothing_is_written(tmp_path, rows, message):
    with pytest.raises(UserError, match=message) as caught:
        scores.write(scores.from_rows(rows), tmp_path / "s.csv")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_missing_column_and_a_cell_of_text_are_named(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("model,kind,name,value\na,benchmark,piqa,0.5\n")
    with pytest.raises(UserError, match=r"s.csv: column 'measure' is missing; found: model, kind"):
        scores.read(path)
    path.write_text("model,kind,name,measure,value\na,benchmark,piqa,error,half\n")
    with pytest.raises(UserError, match=r"s.csv: column 'value', row 1: 'half' is not a number"):
        scores.read(path)


def test_an_empty_pair_of_sums_gives_no_value():
    table = scores.from_rows([domain(status="failed", nats=None, message="no")])
    assert np.isnan(table["value"]).all()
