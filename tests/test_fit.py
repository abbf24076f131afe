"""`lossline.fit`: a table in, a folder out; nothing overwritten, nothing half-written, one bad
group no harm."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted_study import Study

from lossline import tables
from lossline.errors import UserError
from lossline.scaling import fit_command, study_files
from lossline.scaling.attribution import AttributionOptions
from lossline.scaling.attribution_results import Verdict
from lossline.scaling.fit_command import BadRows, FitCommand, fit_to_folder
from lossline.scaling.fitting import StudyFitOptions, fit_study
from lossline.scaling.lines import LineOptions
from lossline.scaling.study_files import load_results

QUICK = {
    "x_sets": ("legal",),
    "lines": LineOptions(resamples=20),
    "attribution": AttributionOptions(resamples=0),
    "law_resamples": 0,
}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Two sets, two architectures: enough for every part of a fit, small enough to fit in a
    second."""
    study = Study(
        moves={"pretraining_data": {"python": 0.6}},
        sets={"legal": 0.0, "wiki": 0.3, "hellaswag": 0.8},
    )
    whole = study.table()
    return whole[(whole.tokenizer == "bpe") & (whole.schedule == "cosine")].reset_index(drop=True)


@pytest.fixture
def saved(table, tmp_path) -> Path:
    return tables.write(table, tmp_path / "losses.parquet")


def command(saved: Path, **changes) -> FitCommand:
    given = {"table": str(saved), "out": str(saved.parent / "fits"), "report": False, **QUICK}
    return FitCommand(**(given | changes))


@pytest.fixture(scope="module")
def results(table):
    return fit_study(table, StudyFitOptions(**QUICK))


@pytest.fixture
def instant(results, monkeypatch):
    """Fitting takes no time, for tests of what becomes of the folder."""
    monkeypatch.setattr(fit_command, "fit_study", lambda table, options, say: results)


def test_every_part_is_there(results):
    assert len(results.lines) == 2 * 6 * 2  # units × groups × y sets
    assert all(line.drawable for line in results.lines)
    assert len(results.compute_laws) == 2 * 6 * 3
    assert results.attribution.factor("pretraining_data").verdict is Verdict.MOVES
    assert results.excluded.empty


def test_largest_runs_are_held_out_and_predicted(results):
    heldout = results.heldout
    largest = results.table.groupby("run_id")["params"].first()
    assert (largest[heldout.run_id.unique()] > 1.5e6).all()
    error = heldout.groupby("method")["relative_error"].apply(lambda values: values.abs().median())
    assert error["line"] < 0.03
    assert {"line", "straight line", "nearest run"} <= set(error.index)
    line = next(line for line in results.lines if line.unit == "loss" and line.y_set == "wiki")
    own = heldout[(heldout.method == "line") & (heldout.unit == "loss") & (heldout.y_set == "wiki")]
    for name, value in line.group.items():
        own = own[own[name] == value]
    assert line.heldout_error == pytest.approx(own.relative_error.abs().mean())


def test_results_survive_the_disk(results, tmp_path):
    (tmp_path / study_files.MARK).write_text("{}")
    study_files.save_results(results, tmp_path)
    again = load_results(tmp_path)
    pd.testing.assert_frame_equal(again.table, results.table)
    x = np.linspace(3.5, 5, 4)
    for before, after in zip(results.lines, again.lines, strict=True):
        np.testing.assert_allclose(after.predict(x), before.predict(x))
        np.testing.assert_allclose(after.band(x), before.band(x))
        assert (after.status, after.group, after.kind) == (before.status, before.group, before.kind)
    assert len(again.compute_laws) == len(results.compute_laws)
    pd.testing.assert_frame_equal(again.attribution.effects(), results.attribution.effects())
    pd.testing.assert_frame_equal(again.heldout, results.heldout, check_dtype=False)
    flat = pd.read_parquet(tmp_path / "lines.parquet")
    assert {"group.architecture", "parameters.K", "x_range.0", "r2", "r2_linear", "status"} <= set(
        flat.columns
    )


def test_one_bad_group_leaves_the_rest(table):
    lone = table[
        (table.architecture == "llama")
        & (table.pretraining_data == "wiki")
        & (table.params < 1.5e6)
    ]
    flat = lone.assign(run_id="flat", architecture="gru", loss=3.0, bits_per_byte=1.0)
    alone = lone.assign(run_id="alone", architecture="rnn")
    results = fit_study(tables.concat([table, flat, alone]), StudyFitOptions(**QUICK))
    by_group = {(line.group["architecture"], line.drawable) for line in results.lines}
    assert ("llama", True) in by_group and ("mamba", True) in by_group
    bad = [line for line in results.lines if line.group["architecture"] in ("gru", "rnn")]
    assert bad and all(line.message and not line.drawable for line in bad)


def test_left_out_rows_are_listed_with_their_reason(table):
    table = table.copy()
    table.loc[:1, ["status", "message"]] = ["excluded", "diverged"]
    excluded = fit_study(table, StudyFitOptions(**QUICK)).excluded
    assert excluded.rows.sum() == 2
    assert excluded.reason.tolist() == ["excluded: diverged"]


def test_a_table_without_measurements(table):
    with pytest.raises(UserError, match="nothing to fit"):
        fit_study(table.assign(status="excluded"))


def test_unknown_sets_and_units_are_named(table):
    with pytest.raises(
        UserError, match="no evaluation set 'c5' in the table; it has hellaswag, legal, wiki"
    ):
        fit_study(table, StudyFitOptions(**(QUICK | {"x_sets": ("c5",)})))
    with pytest.raises(UserError, match="'nats' is unknown; choose of loss, bits_per_byte"):
        StudyFitOptions(units=("nats",))


def test_same_inputs_are_up_to_date_and_others_never_overwritten(saved, table, capsys, instant):
    assert fit_to_folder(command(saved)) is not None
    verdict = (saved.parent / "fits" / "verdict.txt").read_text()
    assert fit_to_folder(command(saved)) is None
    assert "fits is up to date" in capsys.readouterr().out
    with pytest.raises(
        UserError, match="results of other inputs; choose another --out, or give --replace"
    ):
        fit_to_folder(command(saved, law_resamples=2))
    tables.write(table.assign(loss=table.loss + 0.01, bits_per_byte=np.nan), saved)
    with pytest.raises(UserError, match="other inputs"):
        fit_to_folder(command(saved))
    assert (saved.parent / "fits" / "verdict.txt").read_text() == verdict
    assert fit_to_folder(command(saved, replace=True)) is not None
    assert sorted(path.name for path in saved.parent.iterdir()) == ["fits", "losses.parquet"]


def test_a_foreign_folder_is_never_touched(saved):
    out = saved.parent / "thesis"
    out.mkdir()
    (out / "chapter.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds no results of lossline"):
        fit_to_folder(command(saved, out=str(out), replace=True))
    assert [path.name for path in out.iterdir()] == ["chapter.txt"]


def test_an_empty_folder_is_free(saved, instant):
    (saved.parent / "fits").mkdir()
    assert fit_to_folder(command(saved)) is not None


def test_an_interrupted_fit_leaves_nothing(saved, monkeypatch, instant):
    def interrupted(results, folder):
        (folder / "lines.json").write_text("[")
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_command, "save_results", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_to_folder(command(saved))
    assert [path.name for path in saved.parent.iterdir()] == ["losses.parquet"]


def test_what_a_killed_fit_left_is_removed(saved, instant):
    left = saved.parent / ".fits.partial-999999999"
    left.mkdir()
    (left / "lines.json").write_text("[")
    fit_to_folder(command(saved))
    assert not left.exists()


def test_bad_rows_can_be_left_out(saved, table, capsys):
    broken = table.copy()
    broken.loc[3, "loss"] = -1.0
    broken.to_parquet(saved)
    with pytest.raises(UserError, match=r"column 'loss', row 4: -1 is negative"):
        fit_to_folder(command(saved))
    results = fit_to_folder(command(saved, bad_rows=BadRows.EXCLUDE))
    assert "excluded: " in capsys.readouterr().out
    assert results.excluded.rows.sum() == 1
    assert all(line.drawable for line in results.lines)


def run(*arguments: str) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "lossline.fit", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_the_command_prints_the_verdict_and_writes_the_report(saved):
    fast = [
        f"--gin.fit.{name}" for name in ('x_sets=["legal"]', "law_resamples=0", "lines=@lines()")
    ]
    done = run(
        "--table",
        str(saved),
        "--out",
        str(saved.parent / "fits"),
        *fast,
        "--gin.lines.resamples=20",
    )
    assert done.returncode == 0, done.stderr
    assert "- Changing the pretraining data moves the line" in done.stdout
    assert "report.html" in done.stdout.splitlines()[-1]
    out = saved.parent / "fits"
    names = {
        "report.html",
        "lines.parquet",
        "lines.json",
        "attribution.json",
        "verdict.txt",
        "heldout.parquet",
    }
    assert names <= {path.name for path in out.iterdir()}
    assert list((out / "figures").glob("*.png"))
    assert load_results(out).provenance["command"].startswith("python -m lossline.fit --table")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.drop(columns="loss"), "column 'loss' is missing"),
        (
            lambda t: t.assign(loss=t.loss.where(t.index != 4), bits_per_byte=math.nan),
            "row 5: the value is missing (NaN)",
        ),
        (
            lambda t: t.assign(loss=t.loss.where(t.index != 4, -2.0)),
            "column 'loss', row 5: -2 is negative",
        ),
        (lambda t: pd.concat([t, t.head(1)]), "is already in row 1"),
        (
            lambda t: t.assign(loss=t.loss.where(t.index != 4, t.loss / math.log(2))),
            "nats are mixed with bits",
        ),
    ],
)
def test_a_bad_table_is_one_line_and_status_2(table, tmp_path, change, expected):
    change(table).to_parquet(tmp_path / "losses.parquet", index=False)
    done = run("--table", str(tmp_path / "losses.parquet"), "--out", str(tmp_path / "fits"))
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("lossline fit: error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["losses.parquet"]


def test_a_missing_table_is_one_line(tmp_path):
    done = run("--table", str(tmp_path / "no.parquet"), "--out", str(tmp_path / "fits"))
    assert done.returncode == 2
    assert "no such file or folder" in done.stderr


def test_three_lines_in_a_notebook(saved, results, monkeypatch):
    from lossline.reporting import plot_lines

    table = tables.load(saved)
    pd.testing.assert_frame_equal(table, results.table)
    assert plot_lines(results, x="legal", y="hellaswag").lines
