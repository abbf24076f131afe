"""The verb next_runs: what it prints and writes, the grid for study, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lossline import next_runs, tables
from lossline.cli.configuration import build_options, run_verb
from lossline.studies.grid import unique
from lossline.studies.planned_run import run_options
from lossline.studies.study import sources
from lossline.study import load as load_study

REPOSITORY = Path(__file__).resolve().parents[2]
LINE = ("--question=line", "--x_set=legal", "--y_set=quiz", "--target_flops=1e17", "--group=wiki")


def sweep() -> pd.DataFrame:
    """Runs of four sizes at three ratios of tokens on two texts, on one line each."""
    random = np.random.default_rng(0)
    rows = []
    for data, offset in (("wiki", 0.0), ("python", 0.3)):
        for size in (1e7, 2e7, 4e7, 8e7):
            for ratio in (10, 20, 40):
                tokens = ratio * size
                x = 1.5 + 200 * size**-0.3 + 100 * tokens**-0.25 + 0.003 * random.normal()
                y = 1.05 * (x - 1.2) ** 0.95 + 1.1 + offset + 0.004 * random.normal()
                facts = {
                    "run_id": f"{data}-{size:.0f}-{ratio}", "architecture": "llama",
                    "tokenizer": "bpe", "pretraining_data": data, "params": size,
                    "tokens": tokens, "flops": 6 * size * tokens, "step": 1000,
                }  # fmt: skip
                rows += [
                    facts | {"eval_set": name, "kind": kind, "loss": value}
                    for name, kind, value in (("legal", "validation", x), ("quiz", "task", y))
                ]
    return tables.from_rows(rows)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "losses.parquet"
    tables.write(sweep(), path)
    return path


def call(table: Path, *more: str) -> None:
    arguments = ["--table", str(table), "--gin.next_runs.resamples=50", *more]
    run_verb("next_runs", next_runs.__doc__, next_runs.load, flags=next_runs.FLAGS, argv=arguments)


def refusal(capsys: pytest.CaptureFixture[str], table: Path, *more: str) -> str:
    """The one line of a refusal."""
    with pytest.raises(SystemExit) as stop:
        call(table, *more)
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1, said
    return said


def test_a_folder_has_plan_grid_figure_and_page(table: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "plan"
    call(table, *LINE, "--budget=1e18", "--out", str(out))
    said = capsys.readouterr().out
    assert (out / "summary.txt").read_text().strip() in said
    assert "Question: " in said and "halv" in said.lower() and "Grid for study" in said
    picks, plan = pd.read_csv(out / "picks.csv"), json.loads((out / "plan.json").read_text())
    assert len(picks) >= 1 and picks["flops"].sum() <= 1e18
    assert picks["half_width_after"].is_monotonic_decreasing
    assert picks["half_width_after"].iloc[0] < plan["now"]["half_width"]
    assert picks["share_of_gain"].sum() == pytest.approx(1)
    assert [pick["params"] for pick in plan["picks"]] == picks["params"].tolist()
    candidates = pd.read_csv(out / "candidates.csv")
    assert set(picks["flops"]) <= set(candidates["flops"])
    assert candidates["gain_per_flop"].is_monotonic_decreasing
    assert plan["settings"]["question"] == "line" and plan["largest_first"]
    page = (out / "report.html").read_text()
    assert "Which runs next?" in page and "data:image/png" in page and "listed.runs" in page
    assert (out / "figures/width.svg").exists()


def test_without_a_folder_the_grid_is_printed(table: Path, tmp_path: Path, capsys) -> None:
    before = sorted(tmp_path.iterdir())
    call(table, *LINE, "--budget=1e18")
    said = capsys.readouterr().out
    assert "# Fill in" in said and "listed.runs = [" in said and "%STORE_WIKI" in said
    assert sorted(tmp_path.iterdir()) == before


def test_the_grid_of_an_imported_table_becomes_a_study(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every part that is missing is filled in; the study then has the runs of the plan."""
    monkeypatch.chdir(REPOSITORY)
    out = tmp_path / "plan"
    call(table, *LINE, "--budget=1e18", "--out", str(out))
    text, values = (out / "grid.gin").read_text(), []
    for line in text.splitlines():
        name = line.removeprefix("# ").split(" ")[0]
        if "…" in line:
            value = {
                "RUN": "gin_configs/runs/quickstart.gin",
                "EVALUATE": "gin_configs/evaluation/quickstart.gin",
            }.get(name, "data/stores/bpe4096/wiki/train")
            model = "gin_configs/models/quickstart_llama.gin"
            values.append(f'{name} = "{model if name.startswith("MODEL") else value}"')
    (out / "grid.gin").write_text("\n".join([*values, text]))
    study = build_options("study", load_study(), gin_files=[out / "grid.gin"])
    runs = [run_options(*sources(study, point)) for point in unique(study.grid.points())]
    wanted = pd.read_csv(out / "picks.csv")["tokens"]
    assert [run.total_tokens for run in runs] == pytest.approx(list(wanted), rel=0.01)


def test_candidates_of_the_user_are_the_only_ones(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan"
    given = ["1.6e8 3.2e9 pretraining_data=wiki", "8e7 1.6e9 pretraining_data=wiki"]
    call(table, *LINE, "--budget=1e19", "--out", str(out), "--candidate", *given)
    found = pd.read_csv(out / "candidates.csv")
    assert sorted(found["params"]) == [8e7, 1.6e8]
    assert found.sort_values("params")["flops"].tolist() == pytest.approx([7.68e17, 3.072e18])


def test_a_second_start_finds_the_plan(table: Path, tmp_path: Path, capsys) -> None:
    arguments = (*LINE, "--out", str(tmp_path / "plan"))
    call(table, *arguments, "--budget=1e18")
    before = (tmp_path / "plan/report.html").stat().st_mtime_ns
    call(table, *arguments, "--budget=1e18")
    assert "is up to date" in capsys.readouterr().out
    assert (tmp_path / "plan/report.html").stat().st_mtime_ns == before
    assert "--replace" in refusal(capsys, table, *arguments, "--budget=2e18")
    call(table, *arguments, "--budget=2e18", "--replace")


def test_another_folder_is_left_alone(table: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    out = ("--out", str(tmp_path / "mine"))
    assert "contains no results" in refusal(capsys, table, *LINE, "--budget=1e18", *out)
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--budget=-1",), "must be training FLOPs above 0"),
        (("--budget=nan",), "next_runs.budget = 'nan': must be a number"),
        (("--budget=0",), "must be training FLOPs above 0"),
        (("--budget=1e9",), "the cheapest costs 6e+15. Raise the budget"),
        (("--budget=1e18", "--y_set=quizz"), "no set 'quizz'. Near names: legal, quiz"),
        (("--budget=1e18", "--group=wikki"), "no pretraining set 'wikki'"),
        (("--budget=1e18", "--target_flops=-3"), "must be a number above 0"),
        (("--budget=1e18", "--study=nowhere.gin"), "no file nowhere.gin"),
        (("--budget=1e18", "--candidate", "8e7"), "'8e7' is no run"),
        (("--budget=1e18", "--candidate", "8e7 nan"), "must be numbers above 0"),
        (("--budget=1e18", "--candidate", "8e7 1e9 pretraining_data=prose"), "prose"),
        (("--budget=1e18", "--candidate", "8e7 1e9 pretrainin_data=wiki"), "did you mean"),
        (("--budget=1e18", "--candidate", "8e7 1e9 pretraining_data=python"), "Give wiki."),
        (("--budget=1e18", "--unit=bits_per_byte"), "It has loss"),
        (("--budget=1e18", "--x_set=quiz"), "x_set and y_set are both 'quiz'"),
        (("--budget=1e18", "--metric=acuracy"), "Choose loss, bits_per_byte, accuracy"),
        (("--budget=1e18", "--question=translation"), "translation needs 2"),
        (("--budget=1e18", "--question=translation", "--group", "wiki", "wiki"), "given twice"),
        (("--budget=1e18", "--group", "wiki", "wiki"), "given twice"),
        (("--budget=1e18", "--question=factor"), "next_runs.factor"),
        (("--budget=1e18", "--question=lines"), "must be one of 'line', 'translation'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    table: Path, tmp_path: Path, capsys, more: tuple[str, ...], said: str
) -> None:
    out = ("--out", str(tmp_path / "plan"))
    assert said in refusal(capsys, table, *LINE, *more, *out)
    assert [file.name for file in tmp_path.iterdir()] == ["losses.parquet"]


FACTOR = ("--question=factor", "--x_set=legal", "--y_set=quiz", "--budget=1e18")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--factor=pretraining_dat",), "did you mean 'pretraining_data'?"),
        (("--factor=optimizer",), "no column 'optimizer' with values"),
        (("--factor=pretraining_data", "--levels", "wiki", "pyton"), "Levels: python, wiki"),
        (("--factor=pretraining_data", "--levels", "wiki"), "Give the two levels"),
        (("--factor=architecture",), "all runs of the table have the architecture 'llama'"),
        (("--factor=pretraining_data", "--levels", "wiki", "wiki"), "given twice"),
        (("--factor=eval_set",), "'eval_set' does not vary"),
        (("--factor=params",), "Add --levels and two of"),
        ((), "--factor"),
    ],
)
def test_unknown_factors_and_levels(table: Path, capsys, more: tuple[str, ...], said: str) -> None:
    assert said in refusal(capsys, table, *FACTOR, *more)


def without(column: str) -> pd.DataFrame:
    return sweep().assign(**{column: math.nan})


@pytest.mark.parametrize(
    "bad",
    [
        without("params"),
        sweep().query("run_id == 'wiki-10000000-10'"),
        sweep().assign(status="failed", message="diverged", loss=math.nan),
    ],
    ids=["no N", "one run", "all failed"],
)
@pytest.mark.parametrize("question", ["line", "prediction"])
def test_tables_that_cannot_answer(
    tmp_path: Path, capsys, bad: pd.DataFrame, question: str
) -> None:
    path = tmp_path / "bad.parquet"
    tables.write(bad, path)
    out = ("--out", str(tmp_path / "plan"))
    refusal(capsys, path, *LINE, f"--question={question}", "--budget=1e18", *out)
    assert [file.name for file in tmp_path.iterdir()] == ["bad.parquet"]


def test_a_factor_of_two_levels_and_a_translation_are_answered(table: Path, capsys) -> None:
    call(table, *FACTOR, "--factor=pretraining_data", "--target_loss=3.5")
    assert "the move of the pretraining data from python to wiki" in capsys.readouterr().out
    sets = ("--y_set=quiz", "--group", "wiki", "python", "--target_flops=1e19", "--budget=1e18")
    call(table, "--question=translation", "--x_set=legal", *sets)
    said = capsys.readouterr().out
    assert "one more run of python" in said and "listed.runs" in said


def test_a_target_within_the_fitted_runs_is_answered_and_named(table: Path, capsys) -> None:
    target = ("--target_params=4e7", "--target_tokens=8e8")
    more = ("--question=prediction", "--y_set=quiz", "--group=wiki", "--budget=1e18")
    call(table, *more, *target)
    assert "within the fitted runs" in capsys.readouterr().out


def test_a_candidate_of_a_question_about_one_group_belongs_to_it(table: Path, capsys) -> None:
    call(table, *LINE, "--budget=1e18", "--candidate", "8e7 1e9", "1.6e8 4e8")
    assert "STORE_WIKI" in capsys.readouterr().out


MIXTURE = ("--question=prediction", "--y_set=code", "--budget=1e20")
HALF = "--gin.next_runs.shares={'web': 0.5, 'code': 0.5}"


@pytest.fixture
def mixtures(tmp_path: Path) -> Path:
    """Runs of one size on two components, with the loss in both units."""
    random = np.random.default_rng(0)
    rows = []
    for number, share in enumerate(np.linspace(0.05, 0.95, 12)):
        loss = 2.0 + 0.5 * (1 - share) ** 2 + 0.002 * random.normal()
        rows.append(
            {
                "run_id": f"m{number}", "params": 1e8, "tokens": 2e9, "flops": 1.2e18, "step": 1000,
                "share.web": 1 - share, "share.code": share, "eval_set": "code",
                "kind": "validation", "loss": loss, "bits_per_byte": loss / 3,
            }
        )  # fmt: skip
    path = tmp_path / "mixtures.parquet"
    tables.write(tables.from_rows(rows), path)
    return path


def test_mixtures_are_answered_in_the_unit_asked_for(mixtures: Path, capsys) -> None:
    values = []
    for unit in ("loss", "bits_per_byte"):
        call(mixtures, *MIXTURE, HALF, f"--unit={unit}")
        values.append(float(capsys.readouterr().out.partition("Now: ")[2].split()[0]))
    assert values[0] / values[1] == pytest.approx(3, rel=0.01)


def test_a_share_that_is_no_number_is_refused(mixtures: Path, capsys) -> None:
    candidate = ("--candidate", "1e8 2e9 share.web=x share.code=0.5")
    said = refusal(capsys, mixtures, *MIXTURE, HALF, *candidate)
    assert "share.web = 'x': must be a number" in said


def test_mixtures_of_one_scale_are_not_asked_about_another(mixtures: Path, capsys) -> None:
    model = ("--target_params=1e8", "--target_tokens=2e11")
    said = refusal(capsys, mixtures, *MIXTURE, HALF, *model)
    assert "tokens 2e+11: all runs have 2e+09" in said
    call(mixtures, *MIXTURE, HALF, "--target_params=1e8", "--target_tokens=2e9")
