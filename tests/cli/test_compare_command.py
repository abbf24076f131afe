"""The verb compare: files, report, and what a second start does."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from planted_comparison import planted

from lossline import compare, tables
from lossline.cli.configuration import run_verb

TARGETS = {"code": ["code"], "bio": ["bio"]}


def call(table: Path, out: Path, *more: str) -> None:
    arguments = ["--table", str(table), "--out", str(out), "--by", "factor.target"]
    arguments += [f"--gin.compare.targets={TARGETS}", "--gin.compare.resamples=100", *more]
    run_verb("compare", compare.__doc__, compare.load, flags=compare.FLAGS, argv=arguments)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "losses.parquet"
    tables.write(planted(), path)
    return path


def test_files_of_a_comparison(table: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    call(table, out)
    methods = pd.read_csv(out / "methods.csv")
    pd.testing.assert_frame_equal(methods, pd.read_parquet(out / "methods.parquet"))
    assert methods["method"].tolist() == ["oracle", "dsir", "uniform"] * 2
    assert pd.read_csv(out / "ranks.csv")["method"].tolist() == ["oracle", "dsir", "uniform"]
    assert len(pd.read_csv(out / "values.csv")) == 18
    page = (out / "report.html").read_text()
    assert "Comparison of factor.method" in page and "data:image/png" in page
    assert (out / "figures/methods.svg").exists()
    assert json.loads((out / "comparison.json").read_text())["settings"]["by"] == "factor.target"
    said = capsys.readouterr().out
    assert (out / "summary.txt").read_text().strip() in said
    assert "code: oracle is lowest" in said and "from uniform: -0." in said
    assert "Average rank over 2 targets: oracle 1.00 [1.00, 1.00]" in said


def test_second_start_finds_the_results(table: Path, tmp_path: Path, capsys) -> None:
    call(table, tmp_path / "out")
    before = (tmp_path / "out/report.html").stat().st_mtime_ns
    capsys.readouterr()
    call(table, tmp_path / "out")
    assert "is up to date" in capsys.readouterr().out
    assert (tmp_path / "out/report.html").stat().st_mtime_ns == before


def test_other_inputs_replace_only_on_demand(table: Path, tmp_path: Path, capsys) -> None:
    call(table, tmp_path / "out")
    with pytest.raises(SystemExit) as stop:
        call(table, tmp_path / "out", "--baseline=dsir")
    assert stop.value.code == 2 and "--replace" in capsys.readouterr().err
    call(table, tmp_path / "out", "--baseline=dsir", "--replace")
    assert "from dsir" in capsys.readouterr().out


def test_at_takes_a_number(table: Path, tmp_path: Path, capsys) -> None:
    first = tables.read(table)["tokens"].min()
    call(table, tmp_path / "out", f"--at={first:g}")
    call(table, tmp_path / "last")
    at, last = (pd.read_csv(tmp_path / folder / "values.csv") for folder in ("out", "last"))
    assert (at["value"] > last["value"]).all()
    with pytest.raises(SystemExit) as stop:
        call(table, tmp_path / "third", "--at=soon")
    assert stop.value.code == 2
    assert "argument --at: invalid float value: 'soon'" in capsys.readouterr().err


def test_a_refusal_is_one_line_and_writes_nothing(table: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        call(table, tmp_path / "out", "--baseline=unifrom")
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1 and "Levels: dsir, oracle, uniform" in said
    assert not (tmp_path / "out").exists()
