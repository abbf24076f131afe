"""``lossline.fit``: writes a complete folder or nothing, and fits only valid rows."""

import dataclasses
import json
import math
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted_study import Study

import lossline
from lossline import fit, tables, terminal
from lossline.attribution import AttributionOptions
from lossline.attribution.results import Verdict
from lossline.cli import fit_command
from lossline.cli.configuration import run_verb
from lossline.cli.fit_command import BadRows, FitCommand, fit_to_folder
from lossline.errors import UserError
from lossline.fits import files as study_files
from lossline.fits.files import load_results
from lossline.fits.fitting import TableFitOptions, fit_table
from lossline.lines.fitting import LineOptions
from lossline.reporting import write_report

QUICK = {
    "x_sets": ("legal",),
    "lines": LineOptions(resamples=20),
    "attribution": AttributionOptions(resamples=0),
    "law_resamples": 0,
    "processes": 1,
}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Two sets and two architectures: enough for every part of a fit, and fitted in a second."""
    study = Study(
        moves={"pretraining_data": {"python": 0.6}},
        sets={"legal": 0.0, "wiki": 0.3, "hellaswag": 0.8},
    )
    whole = study.table()
    return whole[(whole.tokenizer == "bpe") & (whole.schedule == "cosine")].reset_index(drop=True)


@pytest.fixture(scope="module")
def few(table) -> pd.DataFrame:
    """One architecture, two sets."""
    keep = (table.architecture == "llama") & (table.pretraining_data != "pubmed")
    return table[keep].reset_index(drop=True)


@pytest.fixture
def saved(table, tmp_path) -> Path:
    return tables.write(table, tmp_path / "losses.parquet")


def command(saved: Path, **changes) -> FitCommand:
    given = {"table": str(saved), "out": str(saved.parent / "fits"), "report": False, **QUICK}
    return FitCommand(**(given | changes))


@pytest.fixture(scope="module")
def results(table):
    return fit_table(table, TableFitOptions(**QUICK))


@pytest.fixture
def instant(results, monkeypatch):
    """Replace fitting by an instant result, for tests about the folder."""
    monkeypatch.setattr(fit_command, "fit_table", lambda table, options, say: results)


def test_results_of_other_code_are_not_up_to_date(table, saved, tmp_path, monkeypatch):
    """Two versions of lossline have different code."""
    package = tmp_path / "package"
    shutil.copytree(Path(lossline.__file__).parent, package)
    before = fit_command.fit_fingerprint(table, command(saved))
    monkeypatch.setattr(lossline, "__file__", str(package / "__init__.py"))
    assert fit_command.fit_fingerprint(table, command(saved)) == before
    rooms = ("laws", "lines", "matching", "attribution", "fits", "tables", "options")
    for file in (*(f"{room}/__init__.py" for room in rooms), "run_order.py"):
        with (package / file).open("a") as code:
            code.write("# other\n")
        after = fit_command.fit_fingerprint(table, command(saved))
        assert after != before, file
        before = after


def test_every_part_of_the_results_exists(results):
    assert len(results.lines) == 2 * 6 * 2  # units × groups × y sets
    assert all(line.drawable for line in results.lines)
    assert len(results.compute_laws) == 2 * 6 * 3
    assert results.attribution.factor("pretraining_data").verdict is Verdict.MOVES
    assert results.excluded.empty


def test_long_stages_report_progress(few, tmp_path, monkeypatch):
    monkeypatch.setattr(terminal, "_SECONDS_BETWEEN_STAGES", 0.0)  # every message
    heard = []
    options = TableFitOptions(lines=LineOptions(resamples=20), law_resamples=20)
    results = fit_table(few, options, say=heard.append)
    write_report(results, tmp_path, say=heard.append)
    count = len(results.lines)
    assert f"  {count - 1} of {count} lines" in heard
    for stage in ("laws resampled (loss)", "held-out sets", "figures/overview.png"):
        assert any(stage in line for line in heard), stage


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


@pytest.mark.parametrize("lacking", ["ranking", "factors/0/ratio", "factors/0/effects/0/margin"])
def test_results_of_another_version_are_refused_in_one_line(results, tmp_path, lacking):
    (tmp_path / study_files.FIT_FOLDER.mark).write_text("{}")
    study_files.save_results(results, tmp_path)
    file = tmp_path / "attribution.json"
    tree = part = json.loads(file.read_text())
    *path, last = lacking.split("/")
    for key in path:
        part = part[int(key) if key.isdigit() else key]
    del part[last]
    file.write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"another version of lossline. Fit again .* --replace"):
        load_results(tmp_path)
    file.unlink()
    with pytest.raises(UserError, match="another version of lossline"):
        load_results(tmp_path)


def test_results_are_loaded_as_saved(results, tmp_path):
    (tmp_path / study_files.FIT_FOLDER.mark).write_text("{}")
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


def test_lines_of_another_version_are_refused_with_a_way_out(results, tmp_path):
    (tmp_path / study_files.FIT_FOLDER.mark).write_text("{}")
    study_files.save_results(results, tmp_path)
    again = load_results(tmp_path)
    assert [one.calibration for one in again.lines] == [one.calibration for one in results.lines]
    flat = pd.read_parquet(tmp_path / "lines.parquet")
    assert {"calibration.source", "calibration.cuts", "calibration.points"} <= set(flat.columns)
    file = tmp_path / "lines.json"
    trees = json.loads(file.read_text())
    for tree in trees:
        tree["calibration"] = {"fan": 0.25, "scatter": 1.5, "form": 0.05}
    file.write_text(json.dumps(trees))
    with pytest.raises(UserError, match="another version"):
        load_results(tmp_path)


def test_bad_group_does_not_affect_the_others(table):
    lone = table[
        (table.architecture == "llama")
        & (table.pretraining_data == "wiki")
        & (table.params < 1.5e6)
    ]
    flat = lone.assign(run_id="flat", architecture="gru", loss=3.0, bits_per_byte=1.0)
    alone = lone.assign(run_id="alone", architecture="rnn")
    results = fit_table(tables.concat([table, flat, alone]), TableFitOptions(**QUICK))
    by_group = {(line.group["architecture"], line.drawable) for line in results.lines}
    assert ("llama", True) in by_group and ("mamba", True) in by_group
    bad = [line for line in results.lines if line.group["architecture"] in ("gru", "rnn")]
    assert bad and all(line.message and not line.drawable for line in bad)


def test_left_out_rows_are_listed_with_a_reason(table):
    table = table.copy()
    table.loc[:1, ["status", "message"]] = ["excluded", "diverged"]
    excluded = fit_table(table, TableFitOptions(**QUICK)).excluded
    assert excluded.rows.sum() == 2
    assert excluded.reason.tolist() == ["excluded: diverged"]


def test_table_without_measurements_is_refused(table):
    with pytest.raises(UserError, match="nothing to fit"):
        fit_table(table.assign(status="excluded"))


def test_sets_with_only_accuracies_are_named(few):
    quiz = few[few.eval_set == "wiki"].assign(eval_set="quiz", kind="task", accuracy=0.5)
    for column in ("loss", "bits_per_byte", "nats", "target_tokens", "target_bytes"):
        quiz[column] = np.nan
    with_quiz = tables.concat([few, quiz])
    excluded = fit_table(with_quiz, TableFitOptions(**QUICK)).excluded
    assert excluded.what.tolist() == ["quiz"] and excluded.rows.tolist() == [len(quiz)]
    assert "only accuracies" in excluded.reason.iloc[0]


def test_single_set_has_laws_and_no_lines(few, capsys, tmp_path):
    own = few[few.eval_set == "wiki"].assign(eval_set="own")
    tables.write(own, tmp_path / "own.parquet")
    quick = {"x_sets": (), "attribution": AttributionOptions(resamples=0)}
    results = fit_to_folder(command(tmp_path / "own.parquet", **quick))
    assert results.lines == ()
    printed = capsys.readouterr().out
    assert "no validation loss, except that of each run's own data" in printed
    assert "No lines: a line needs two sets, at least one of validation; " in printed
    law = results.compute_laws[0]
    assert f"wiki, bpe on own: {law.equation}: E = {law.parameters['E']:.4g}" in printed


def test_unknown_sets_and_units_are_named(table):
    with pytest.raises(
        UserError, match="no evaluation set 'c5' in the table; it has hellaswag, legal, wiki"
    ):
        fit_table(table, TableFitOptions(**(QUICK | {"x_sets": ("c5",)})))
    for name, expected in (
        ("nats", "not a fact of a run"),
        ("architectur", "did you mean 'archit"),
    ):
        with pytest.raises(UserError, match=f"cannot group by '{name}': .*{expected}"):
            fit_table(table, TableFitOptions(**(QUICK | {"group_by": (name,)})))
    with pytest.raises(UserError, match=r"'nats' is unknown\. Choose from loss, bits_per_byte"):
        TableFitOptions(units=("nats",))


def test_same_inputs_are_up_to_date_and_other_results_are_kept(saved, table, capsys, instant):
    assert fit_to_folder(command(saved)) is not None
    verdict = (saved.parent / "fits" / "verdict.txt").read_text()
    assert fit_to_folder(command(saved)) is None
    assert "fits is up to date" in capsys.readouterr().out
    with pytest.raises(
        UserError, match=r"of other inputs or of other code\. Choose another --out or add --replace"
    ):
        fit_to_folder(command(saved, law_resamples=2))
    tables.write(table.assign(loss=table.loss + 0.01, bits_per_byte=np.nan), saved)
    with pytest.raises(UserError, match="other inputs"):
        fit_to_folder(command(saved))
    assert (saved.parent / "fits" / "verdict.txt").read_text() == verdict
    assert fit_to_folder(command(saved, replace=True)) is not None
    assert sorted(path.name for path in saved.parent.iterdir()) == ["fits", "losses.parquet"]


def test_folder_without_results_is_never_changed(saved):
    out = saved.parent / "thesis"
    out.mkdir()
    (out / "chapter.txt").write_text("years of work")
    with pytest.raises(UserError, match="contains no results of lossline"):
        fit_to_folder(command(saved, out=str(out), replace=True))
    assert [path.name for path in out.iterdir()] == ["chapter.txt"]


def test_empty_folder_is_used(saved, instant):
    (saved.parent / "fits").mkdir()
    assert fit_to_folder(command(saved)) is not None


def test_interrupted_fit_leaves_no_files(saved, monkeypatch, instant):
    def interrupted(results, folder):
        (folder / "lines.json").write_text("[")
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_command, "save_results", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_to_folder(command(saved))
    assert [path.name for path in saved.parent.iterdir()] == ["losses.parquet"]


def test_unwritable_path_is_reported_before_the_fit(saved, monkeypatch):
    def fitted(*_, **__):
        raise AssertionError("fitted first")

    monkeypatch.setattr(fit_command, "fit_table", fitted)
    with pytest.raises((OSError, UserError)):
        fit_to_folder(command(saved, out=str(saved / "fits")))  # below a file
    assert [path.name for path in saved.parent.iterdir()] == ["losses.parquet"]


def test_files_of_a_killed_fit_are_removed(saved, instant):
    left = saved.parent / ".fits.partial"
    left.mkdir()
    (left / "lines.json").write_text("[")
    fit_to_folder(command(saved))
    assert not left.exists()


def test_bad_rows_are_left_out_or_refused_on_request(saved, table, capsys):
    broken = table.copy()
    broken.loc[3, "loss"] = -1.0
    broken.to_parquet(saved)
    with pytest.raises(UserError, match=r"column 'loss', row 4: -1 is negative"):
        fit_to_folder(command(saved, bad_rows=BadRows.REFUSE))
    results = fit_to_folder(command(saved))
    printed = capsys.readouterr().out
    assert printed.count("-1 is negative") == 2  # while reading, and at the end
    assert results.excluded.rows.sum() == 1
    assert all(line.drawable for line in results.lines)
    again = load_results(saved.parent / "fits").excluded
    assert "-1 is negative" in again.reason.iloc[0]


def refused(capsys, *arguments: str) -> str:
    """Run the command in this process; return the error that it prints and exits with."""
    with pytest.raises(SystemExit) as exit_:
        run_verb("fit", fit.__doc__, fit.load, flags=fit.FLAGS, argv=arguments)
    assert exit_.value.code == 2
    return capsys.readouterr().err


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


def spoiled(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with every kind of bad row and group at once."""
    table = table.copy()
    table.loc[4, ["loss", "bits_per_byte"]] = math.nan
    table.loc[5, "loss"] = -2.0
    table.loc[6, "loss"] /= math.log(2)
    table.loc[7, "run_id"] = None
    table["accuracy"] = table["accuracy"].where(table["kind"] != "task", 0.2)
    like = table[(table.architecture == "llama") & (table.pretraining_data == "wiki")]
    lone = like[like.run_id == like.run_id.iloc[0]].dropna(subset=["run_id", "loss"])
    lone = lone[lone.loss > 0]
    flat = like.dropna(subset=["run_id", "loss"]).assign(architecture="flat", loss=3.0)
    flat = flat.assign(bits_per_byte=math.nan, run_id=flat.run_id + "-flat")
    few = flat[flat.step < 2].assign(architecture="few", run_id="few-" + flat.run_id)
    few["loss"] = few["loss"] + few["params"] / 1e7
    alone = lone.assign(architecture="alone", run_id="alone")
    return pd.concat([table, table.iloc[[0, 0]], alone, flat, few], ignore_index=True)


SPOILED = {
    "row 5: the value is missing (NaN)",
    "row 6: -2 is negative",
    "nats are mixed with bits",
    "column 'run_id', row 8: the cell is empty",
    "is already in row 1",
    "alone, wiki, bpe: hellaswag",
    "no line: 1 run, at least 2 are needed",
    "points have the same x",
    "no line: 2 points, at least 4 are needed",
    "hellaswag (",
    "at or below chance (0.25) at every checkpoint",
}


def test_bad_parts_are_reported_and_the_rest_is_fitted(table, tmp_path, capfd):
    spoiled(table).to_parquet(tmp_path / "losses.parquet", index=False)
    out = tmp_path / "fits"
    fast = ['--gin.fit.x_sets=["legal"]', "--gin.fit.law_resamples=0", "--gin.fit.lines=@lines()"]
    fast += ["--gin.lines.resamples=20", "--gin.fit.report=False"]
    table_and_out = ("--table", str(tmp_path / "losses.parquet"), "--out", str(out))
    with warnings.catch_warnings(record=True) as warned:
        run_verb("fit", fit.__doc__, fit.load, flags=fit.FLAGS, argv=[*table_and_out, *fast])
    printed = capfd.readouterr()
    assert printed.err == "" and [str(each.message) for each in warned] == []
    missing = [said for said in SPOILED if said not in printed.out]
    assert not missing, printed.out
    verdict = printed.out.split("Left out or uncertain:")[1].splitlines()
    assert all(line.startswith("- ") for line in verdict[1:-1])
    kept = load_results(out)
    sound = [line for line in kept.lines if line.group["architecture"] in ("llama", "mamba")]
    assert sound and all(line.drawable for line in sound)
    reasons = " ".join(row["reason"] for row in json.loads((out / "excluded.json").read_text()))
    for said in (
        "(NaN)",
        "negative",
        "mixed with bits",
        "cell is empty",
        "already",
        "no line: 1 run",
    ):
        assert said in reasons


def test_similar_reasons_are_one_line_and_the_full_list_is_kept(table, results):
    entries = [
        {"what": f"set{n}: run{n}", "rows": 2, "reason": f"excluded: loss: -{n}.5 is negative"}
        for n in range(30)
    ]
    entries += [{"what": "wiki: a", "rows": 1, "reason": "failed: diverged"}]
    entries += [
        {"what": f"g{n}", "rows": 3, "reason": "no line: 1 run, at least 2 are needed"}
        for n in range(2)
    ]
    many = dataclasses.replace(results, excluded=pd.DataFrame(entries))
    said = fit_command.verdict(many).split("Left out or uncertain:\n")[1].splitlines()
    assert said == [
        "- set0: run0; set1: run1; set2: run2; … (27 more) (60 rows): "
        "excluded: loss: -0.5 is negative, and similar",
        "- wiki: a (1 row): failed: diverged",
        "- g0; g1 (6 rows): no line: 1 run, at least 2 are needed",
        "- the full list of 33: excluded.json",
    ]


def test_text_in_a_number_column_excludes_its_row(few, tmp_path):
    broken = few.astype({"loss": object, "step": object})
    broken.loc[3, "loss"] = "oops"
    broken.loc[9, "step"] = 1.5
    broken.to_csv(tmp_path / "losses.csv", index=False)
    results = fit_to_folder(command(tmp_path / "losses.csv"))
    said = " ".join(results.excluded.reason)
    assert "'oops' is not a number" in said and "1.5 is not a whole number" in said
    assert all(line.drawable for line in results.lines)
    with pytest.raises(UserError, match=r"'step', row 10: 1\.5 is not a whole number"):
        tables.read(tmp_path / "losses.csv")


def test_rows_of_a_run_with_other_facts_are_left_out(few, tmp_path):
    """Rows of one run with other facts are left out; the rest is a valid table."""
    run_id = few.run_id.iloc[0]
    rows = few.index[few.run_id == run_id][:3]
    torn = few.copy()
    torn.loc[rows, "params"] = 7e6
    torn.to_parquet(tmp_path / "losses.parquet", index=False)
    results = fit_to_folder(command(tmp_path / "losses.parquet"))
    assert results.excluded.rows.sum() == 3
    assert all(line.drawable for line in results.lines)


def test_ambiguous_units_exclude_only_their_set(few, tmp_path):
    torn = few.copy()
    half = (torn.eval_set == "hellaswag") & (torn.params > 1.5e6)
    torn.loc[half, "loss"] /= math.log(2)
    torn.to_parquet(tmp_path / "losses.parquet", index=False)
    results = fit_to_folder(command(tmp_path / "losses.parquet"))
    assert {line.y_set for line in results.lines if line.drawable} == {"wiki"}
    assert results.excluded.rows.sum() == (few.eval_set == "hellaswag").sum()
    assert results.excluded.reason.str.contains("as many rows").any()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.drop(columns="loss"), "column 'loss' is missing"),
        (lambda t: t.assign(loss=-1.0), "there is nothing to fit"),
    ],
)
def test_unusable_table_is_one_line_with_status_2(table, tmp_path, capsys, change, expected):
    change(table).to_parquet(tmp_path / "losses.parquet", index=False)
    table_and_out = ("--table", str(tmp_path / "losses.parquet"), "--out", str(tmp_path / "fits"))
    error = refused(capsys, *table_and_out)
    assert expected in error
    assert len(error.strip().splitlines()) == 1
    assert error.startswith("lossline fit: error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["losses.parquet"]


def test_missing_table_is_one_line(tmp_path, capsys):
    error = refused(
        capsys, "--table", str(tmp_path / "no.parquet"), "--out", str(tmp_path / "fits")
    )
    assert "no such file or folder" in error


def test_table_and_lines_are_plotted_from_python(saved, results, monkeypatch):
    from lossline.reporting import plot_lines

    table = tables.load(saved)
    pd.testing.assert_frame_equal(table, results.table)
    assert plot_lines(results, x="legal", y="hellaswag").lines
