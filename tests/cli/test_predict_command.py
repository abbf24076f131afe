"""``lossline.predict``: writes a complete folder or nothing; one line for each bad input."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import planted_mixture_table
import pytest
from prediction import planted_runs

from lossline import predict, tables
from lossline.cli import predict_command
from lossline.cli.configuration import run_verb
from lossline.cli.predict_command import PredictCommand, parse_point, predict_to_folder
from lossline.errors import UserError
from lossline.prediction import PredictOptions, predict_table

QUICK = {"resamples": 10, "methods": ("lossline", "fp", "flp")}
BELOW, LARGEST = "n=1e+08 r=10", planted_runs.TARGET


def planted_tasks() -> dict:
    """A task that has emerged, and one that no model can do."""
    return {
        "arc_easy": lambda n, d: planted_runs.score(planted_runs.gold_loss(n, d)),
        "mmlu": lambda n, d: 0.23,
    }


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return planted_runs.table(checkpoints=4, tasks=planted_tasks(), noise=0.003)


@pytest.fixture(scope="module")
def found(table):
    return predict_table(table, PredictOptions(targets=(LARGEST, BELOW), **QUICK))


@pytest.fixture
def saved(table, tmp_path) -> Path:
    return tables.write(table, tmp_path / "losses.parquet")


@pytest.fixture
def instant(found, monkeypatch):
    """Replace fitting by an instant result, for tests about the folder."""
    monkeypatch.setattr(
        predict_command, "predict_runs", lambda table, options, mixtures, say: found
    )


def command(saved: Path, **changes) -> PredictCommand:
    given = {
        "table": str(saved),
        "out": str(saved.parent / "predictions"),
        "report": False,
        **QUICK,
    }
    return PredictCommand(**(given | changes))


def run(*arguments: str) -> None:
    """Run the command line in this process."""
    run_verb("predict", predict.__doc__, predict.load, flags=predict.FLAGS, argv=arguments)


def refused(capsys, *arguments: str) -> str:
    """Return the one line that the command prints before it exits with status 2."""
    with pytest.raises(SystemExit) as exit_:
        run(*arguments)
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("lossline predict: error: ")
    return said


# --- points ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ("7e9 4e12", (7e9, 4e12)),
        ((7e9, 4e12), (7e9, 4e12)),
        ([7e9, 4e12], (7e9, 4e12)),
        ("7e9 4e12 web=0.8 code=.2", (7e9, 4e12, {"web": 0.8, "code": 0.2})),
        ([7e9, 4e12, {"web": 0.8, "code": 0.2}], (7e9, 4e12, {"web": 0.8, "code": 0.2})),
    ],
)
def test_points_are_numbers_or_text(point, expected):
    assert parse_point(point) == expected


@pytest.mark.parametrize("point", ["7e9", "", "7e9 many", (7e9,), 7e9, None, "7e9 4e12 web"])
def test_other_points_are_refused(point):
    with pytest.raises(UserError, match=r'is no point\. Write "7e9 4e12": parameters, then tokens'):
        parse_point(point)


# --- the whole way ---------------------------------------------------------------------------


def test_command_predicts_writes_and_predicts_again_from_its_predictor(saved, capsys):
    out = saved.parent / "predictions"
    quick = ["--gin.predict.resamples=10", '--gin.predict.methods=["lossline", "fp"]']
    point = ["--point", "1.3e10 2.6e11"]
    run("--table", str(saved), "--out", str(out), "--target", LARGEST, *point, *quick,
        "--exclude", BELOW)  # fmt: skip
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if line.startswith("arc_easy"))
    assert LARGEST in row and "%" in row
    assert said.index("Prediction of runs") < said.index("Projection of models that nobody")
    assert f"- Left out of everything: {BELOW}." in said
    assert "Leaving out one size changes the predictions by at most:" in said
    assert "Mean error on the same" in said
    names = {
        "predictions.csv", "predictions.parquet", "backtest.csv", "influence.csv", "stages.csv",
        "decisions.csv", "predictor.json", "summary.txt", "report.html", "figures",
    }  # fmt: skip
    assert names <= {path.name for path in out.iterdir()}
    assert (out / "summary.txt").read_text() in said
    both = pd.read_csv(out / "predictions.csv"), pd.read_parquet(out / "predictions.parquet")
    for frame in both:
        assert set(frame["kind"]) == {"prediction", "projection"}
        assert frame.loc[frame["kind"] == "projection", "actual"].isna().all()
    saved.unlink()  # the table is not needed any more
    run("--predictor", str(out / "predictor.json"), *point)
    again = capsys.readouterr().out
    row = next(line for line in said.splitlines() if "1.3e+10 parameters" in line)
    same = next(line for line in again.splitlines() if line.startswith("arc_easy"))
    assert row.split() == same.split()
    assert "measured" not in again and "Projection of models" in again


def test_three_lines_in_a_notebook(saved):
    found = predict_table(tables.load(saved), PredictOptions(**QUICK))
    rows = found.predictions.set_index(["task", "method"])
    assert abs(rows.loc[("arc_easy", "lossline"), "relative_error"]) < 0.05


def test_same_inputs_are_up_to_date_and_other_results_are_kept(saved, capsys, instant):
    assert predict_to_folder(command(saved)) is not None
    capsys.readouterr()
    assert predict_to_folder(command(saved, report=False)) is None
    said = capsys.readouterr().out
    assert "is up to date" in said and "Prediction of runs" in said
    with pytest.raises(UserError, match=r"Choose another --out or add --replace"):
        predict_to_folder(command(saved, targets=(LARGEST,)))
    assert predict_to_folder(command(saved, targets=(LARGEST,), replace=True)) is not None
    assert sorted(path.name for path in saved.parent.iterdir()) == ["losses.parquet", "predictions"]


def test_results_of_other_code_are_not_up_to_date(table, saved, tmp_path, monkeypatch):
    package = tmp_path / "package"
    shutil.copytree(Path(predict_command.__file__).parents[1], package)
    monkeypatch.setattr("lossline.__file__", str(package / "__init__.py"))
    made_by = predict_command.predict_fingerprint(table, command(saved))
    assert predict_command.predict_fingerprint(table, command(saved, out="elsewhere")) == made_by
    for room in ("tables", "laws", "prediction", "fits"):
        with (package / room / "__init__.py").open("a") as code:
            code.write("# other\n")
        other = predict_command.predict_fingerprint(table, command(saved))
        assert other != made_by, room
        made_by = other


def test_folder_of_something_else_is_never_changed(saved, instant):
    out = saved.parent / "predictions"
    out.mkdir()
    (out / "fit.json").write_text('{"what": "results of lossline.fit", "fingerprint": ""}')
    with pytest.raises(UserError, match=r"contains no results of lossline\.predict"):
        predict_to_folder(command(saved, replace=True))
    assert [path.name for path in out.iterdir()] == ["fit.json"]


# --- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "give one of --table, to fit and predict, and --predictor"),
        (["--table", "t", "--predictor", "p"], "give one of --table"),
        (["--table", "t"], "missing binding: predict.out. Add --out=FOLDER"),
        (["--predictor", "p"], '--predictor needs --point "7e9 4e12"'),
        (["--predictor", "p", "--point", "1 2", "--out", "o"], "predict.out has no effect"),
        (["--predictor", "p", "--point", "1 2"], "cannot be read as a predictor"),
        (["--table", "t", "--out", "o", "--point", "7e9"], "'7e9' is no point"),
        (["--table", "t", "--optimum", "a", "--out", "o"], "predict.out has no effect"),
        (
            ["--table", "t", "--optimum", "a", "--gin.predict.above_flops=1"],
            "predict.above_flops has no effect",
        ),
        (["--table", "t", "--optimum", "a", "--point", "1 2", "3 4"], "2 points are given"),
        (["--table", "t", "--optimum", "a", "--gin.predict.weights={'b': 1}"], "'b' is not among"),
        (["--table", "t", "--out", "o", "--gin.predict.metric=f1"], "'f1' is unknown"),
        (["--table", "t", "--out", "o", "--points", "1 2"], "did you mean --gin.predict.points"),
    ],
)
def test_wrong_command_is_one_line(arguments, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert expected in refused(capsys, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "arguments", "expected"),
    [
        ({"flops": np.nan, "params": np.nan}, [], "the table has no compute"),
        ({}, ["--target", "big"], "the table has no run 'big'"),
        ({}, ["--exclude", "big"], "the table has no run 'big'"),
        ({}, ["--point", "7e9 -4e12"], "must be positive, finite numbers"),
        ({"accuracy": np.nan}, [], "no task with accuracy"),
        (
            {"bits_per_byte": np.nan},
            ["--gin.predict.metric=bits_per_byte"],
            'bind predict.metric = "accuracy" to predict accuracies',
        ),
        ({}, ["--gin.predict.chance={'mmlo': 0.25}"], "no task 'mmlo'. Near names: "),
        ({}, ["--gin.predict.methods=['lucky']"], "'lucky' is unknown"),
    ],
)
def test_wrong_table_or_name_is_one_line_and_writes_nothing(
    table, changes, arguments, expected, capsys, tmp_path
):
    saved = tables.write(table.assign(**changes), tmp_path / "losses.parquet")
    out = str(tmp_path / "out")
    assert expected in refused(capsys, "--table", str(saved), "--out", out, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["losses.parquet"]


def test_task_in_percent_is_named_and_the_rest_is_predicted(table, tmp_path, capsys):
    percent = table.copy()
    percent.loc[percent.eval_set == "mmlu", "accuracy"] *= 100
    saved = tmp_path / "losses.parquet"
    percent.to_parquet(saved)
    found = predict_to_folder(command(saved))
    said = [line for line in capsys.readouterr().out.splitlines() if "a fraction" in line]
    assert len(said) == 1 and "convert percent with percent = true in a mapping" in said[0]
    assert set(found.predictions["task"]) == {"arc_easy"}


def test_unknown_chance_is_named_with_its_binding_and_the_rest_is_predicted(
    table, tmp_path, capsys
):
    renamed = table.assign(eval_set=table.eval_set.replace({"mmlu": "puzzle"}))
    saved = tables.write(renamed, tmp_path / "losses.parquet")
    found = predict_to_folder(command(saved))
    said = capsys.readouterr().out
    assert "puzzle" in said and "predict.chance = {'puzzle': 0.25}" in said
    rows = found.predictions[found.predictions["method"] == "lossline"].set_index("task")
    assert rows.loc["puzzle", "status"] == "no input"
    assert rows.loc["arc_easy", "status"] == "predicted"


def test_tasks_without_a_number_for_one_reason_share_a_line(table, tmp_path, capsys):
    puzzles = {"mmlu": "puzzle", "arc_easy": "riddle"}
    renamed = table.assign(eval_set=table.eval_set.replace(puzzles))
    predict_to_folder(command(tables.write(renamed, tmp_path / "losses.parquet")))
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if "the accuracy of guessing" in line]
    assert len(lines) == 2, "one line of what has no number, one note"
    assert lines[0].startswith("- puzzle, riddle (")
    assert "on <task> is unknown: bind predict.chance = {'<task>': 0.25}" in lines[0]
    assert lines[1].startswith("- puzzle, riddle: the accuracy of guessing is unknown; methods")


def test_target_within_the_runs_is_called_an_interpolation(saved, capsys):
    predict_to_folder(command(saved, targets=(BELOW,)))
    assert f"- {BELOW}: the target lies within the compute of the runs: an interpolation." in (
        capsys.readouterr().out
    )


def test_one_size_is_said_and_methods_without_it_have_reasons(tmp_path, capsys):
    models = [(f"d={d:g}", 1e8, d) for d in (1e9, 2e9, 4e9, 8e9)]
    few = planted_runs.table(models, checkpoints=4)
    saved = tables.write(few, tmp_path / "losses.parquet")
    found = predict_to_folder(command(saved, methods=("lossline", "ladder", "fp")))
    assert "all runs have one size: laws in N and D cannot be fitted" in capsys.readouterr().out
    rows = found.predictions.set_index("method")
    assert rows.loc["fp", "status"] == "predicted"
    assert rows.loc["ladder", "status"] in ("too few runs", "not identified", "no input")
    assert rows.loc["ladder", "reason"]


def test_dropped_rows_are_in_the_summary(table, tmp_path, capsys):
    broken = table.copy()
    broken["kind"] = broken["kind"].astype(object)
    broken.loc[3, "kind"] = "tusk"
    saved = tmp_path / "losses.parquet"
    broken.to_parquet(saved)
    predict_to_folder(command(saved))
    assert "dropped: row 4: kind: 'tusk' is not one of" in capsys.readouterr().out


# --- mixtures --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mixtures")
    return tables.write(planted_mixture_table.table(), folder / "mixtures.parquet")


def test_point_with_shares_is_projected(mixtures, tmp_path, capsys):
    out = tmp_path / "out"
    run("--table", str(mixtures), "--out", str(out), "--point", "1e9 2e10 web=0.7 code=0.3",
        "--gin.predict.resamples=5", '--gin.predict.methods=["lossline"]')  # fmt: skip
    said = capsys.readouterr().out
    assert "Projection of models" in said and "web 0.7, code 0.3" in said
    assert (out / "report.html").exists()
    # The file predicts the same later, and asks for shares.
    run("--predictor", str(out / "predictor.json"), "--point", "1e9 2e10 web=0.7 code=0.3")
    again = capsys.readouterr().out
    line = next(line for line in said.splitlines() if line.startswith("mixed "))
    assert line in again
    assert "a point needs shares" in refused(
        capsys, "--predictor", str(out / "predictor.json"), "--point", "1e9 2e10"
    )


def test_best_mixture_is_printed_with_its_bindings(mixtures, capsys):
    run("--table", str(mixtures), "--optimum", "mixed", "--gin.predict.resamples=5",
        "--gin.predict.limits=@limits()", "--gin.limits.upper={'code': 0.2}")  # fmt: skip
    said = capsys.readouterr().out
    assert "mixture.shares = {'code': 0.2, 'web': 0.8}" in said
    assert "train.store = @mixture()" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--optimum", "humaneval"], "target 'humaneval' is unknown"),
        (["--optimum", "mixed", "--point", "1e9 2e10 web=1"], "--optimum finds the shares"),
        (["--optimum", "mixed", "--point", "1e9 -1"], "must be positive, finite numbers"),
        (
            ["--out", "out", "--point", "1e9 2e10"],
            'a point needs shares. Write "1e+09 2e+10 code=',
        ),
        (
            ["--out", "out", "--point", "1e9 2e10 web=0.7"],
            "predict.points: 1e+09 parameters, 2e+10 tokens, web 0.7: the shares sum to 0.7, not",
        ),
        (
            ["--out", "out", "--point", "1e9 2e10 books=1"],
            "1e+09 parameters, 2e+10 tokens, books 1: component 'books' is unknown",
        ),
    ],
)
def test_wrong_mixture_is_one_line(mixtures, arguments, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert expected in refused(capsys, "--table", str(mixtures), *arguments)
    assert not list(tmp_path.iterdir())
