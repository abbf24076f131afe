"""Steps before and after the runs: what each is given, and which are started again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lossline import tables
from lossline.errors import UserError
from lossline.studies import study
from lossline.studies.grid import Axis
from lossline.studies.planned_run import PlannedRun
from lossline.studies.processes import Job
from lossline.studies.record import single
from lossline.studies.skypilot import SkyOptions
from lossline.studies.study import Command, StudyOptions, run_study


def command(folder: Path, verb: str, **bindings: object) -> Command:
    gin_file = folder / f"{verb}.gin"
    gin_file.touch()
    return Command(verb=verb, title=f"title of {verb}", gin_file=str(gin_file), bindings=bindings)


@pytest.fixture
def options(tmp_path: Path) -> StudyOptions:
    """A study of one run, with a study before it and two comparisons after it."""
    inner = {"study.root": "{study}", "study.name": "population"}
    compare = command(tmp_path, "compare")
    return StudyOptions(
        name="outer",
        root=str(tmp_path),
        before=[
            command(tmp_path, "gather"),
            command(tmp_path, "study", **inner),
            command(tmp_path, "select"),
        ],
        run_gin_file="run.gin",
        grid=Axis(factor="method", levels={"uniform": {}}),
        evaluate=command(tmp_path, "evaluate"),
        fit=command(tmp_path, "fit"),
        after=[compare, replace(compare, bindings={"compare.baseline": "uniform"})],
    )


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Command lines of the jobs that a study starts; trainings and measurements are left out."""
    jobs: list[str] = []

    def run(job: Job) -> None:
        jobs.append(" ".join([job.verb, *job.arguments[1:]]))
        for argument in job.arguments:
            if argument.startswith(f"--gin.{job.verb}.out="):
                out = Path(argument.split("=")[1].strip("'"))
                out.mkdir(exist_ok=True)
                (out / "report.html").touch()
                name = "verdict.txt" if job.verb == "fit" else "summary.txt"
                (out / name).write_text(f"result of {job.verb}\n")

    row = {"run_id": "uniform-0", "step": 1, "tokens": 9.0, "eval_set": "x", "kind": "validation"}
    run_of = PlannedRun(
        name="uniform",
        arguments=(),
        folder=tmp_path / "uniform-0",
        fingerprint="f",
        tokens=9,
        flops_per_token=1.0,
        factors={"method": "uniform"},
    )
    monkeypatch.setattr(study, "run", run)
    monkeypatch.setattr(study, "_planned", lambda options, point, parsed: run_of)
    monkeypatch.setattr(study, "_at_once", lambda options: 1)
    monkeypatch.setattr(study, "_train", lambda *_: None)
    monkeypatch.setattr(study, "_evaluate", lambda *_: None)
    monkeypatch.setattr(study, "load", lambda folders: tables.from_rows([row | {"loss": 1.0}]))
    return jobs


def test_commands_after_the_fit_get_the_table_and_a_folder_each(
    options: StudyOptions, started: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_study(options)
    outer = tmp_path / "outer"
    table = f"--gin.compare.table='{outer}/losses.parquet'"
    assert started[-2:] == [
        f"compare {table} --gin.compare.out='{outer}/compare'",
        f"compare --gin.compare.baseline='uniform' {table} --gin.compare.out='{outer}/compare-2'",
    ]
    assert tables.read(outer / "losses.parquet")["factor.method"].tolist() == ["uniform"]
    said = capsys.readouterr().out
    assert "[6/8] title of fit" in said and "[8/8] title of compare" in said


def test_a_study_and_what_reads_its_runs_start_every_time(
    options: StudyOptions, started: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_study(options)
    first = [job.split()[0] for job in started]
    assert first == ["gather", "study", "select", "fit", "compare", "compare"]
    assert f"--gin.study.root='{tmp_path / 'outer'}'" in started[1]
    capsys.readouterr()
    started.clear()
    run_study(options)
    assert [job.split()[0] for job in started] == ["study", "select"]
    said = capsys.readouterr().out
    assert said.count("done before") == 4 and said.count("result of compare") == 2


def test_a_training_and_what_reads_its_run_start_every_time(
    options: StudyOptions, started: list[str], tmp_path: Path
) -> None:
    train = command(tmp_path, "train", **{"train.directory": "{study}/base"})
    options = replace(options, before=[options.before[0], train, options.before[2]])
    run_study(options)
    assert f"train --gin.train.directory='{tmp_path / 'outer' / 'base'}'" in started
    started.clear()
    run_study(options)
    assert [job.split()[0] for job in started] == ["train", "select"]


def test_a_changed_gin_file_starts_a_comparison_again(
    options: StudyOptions, started: list[str], tmp_path: Path
) -> None:
    run_study(options)
    started.clear()
    (tmp_path / "compare.gin").write_text("# changed")
    run_study(options)
    assert [job.split()[0] for job in started] == ["study", "select", "compare", "compare"]


def test_a_folder_of_the_study_itself_is_not_given_to_a_command(options: StudyOptions) -> None:
    report = replace(options.after[0], verb="report")
    named = study._after(replace(options, after=[report, *options.after]))
    assert list(named) == ["report-2", "compare", "compare-2"]


def test_a_plan_lists_the_commands_after_the_fit(
    options: StudyOptions, started: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run_study(replace(options, dry_run=True))
    verbs = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert verbs == ["gather", "study", "select", "train", "evaluate", "fit", "compare", "compare"]


def test_nothing_runs_after_a_refusal(
    options: StudyOptions, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    work: Callable[[Job], None] = study.run

    def refuse(job: Job) -> None:
        if job.verb == "study":
            raise UserError("refused")
        work(job)

    monkeypatch.setattr(study, "run", refuse)
    with pytest.raises(UserError, match="refused"):
        run_study(options)
    assert [job.split()[0] for job in started] == ["gather"]


def test_a_missing_gin_file_is_refused_before_anything_starts(
    options: StudyOptions, started: list[str]
) -> None:
    wrong = replace(options.after[0], gin_file="compar.gin")
    with pytest.raises(UserError, match=r"command compare .*no file compar\.gin"):
        run_study(replace(options, after=[wrong]))
    assert not started


def test_submitting_runs_the_steps_before_and_stops(
    options: StudyOptions,
    started: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = []
    monkeypatch.setattr(study, "check_installed", lambda on: None)
    monkeypatch.setattr(study, "submit", lambda runs, jobs, **how: given.append((runs, how["on"])))
    run_study(replace(options, submit="slurm"))
    assert [job.split()[0] for job in started] == ["gather", "study", "select"]
    assert [([run.name for run in runs], on) for runs, on in given] == [(["uniform"], "slurm")]
    assert "start the study again without --submit" in capsys.readouterr().out


def test_logs_and_job_files_of_a_study_in_a_bucket_are_on_the_disk(
    options: StudyOptions,
    started: list[str],
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = []
    monkeypatch.setattr(study, "check_installed", lambda on: None)
    monkeypatch.setattr(study, "submit", lambda runs, jobs, **how: given.append(how["logs"]))
    there = replace(options, root=bucket, sky=SkyOptions(mounts={str(tmp_path): bucket}))
    run_study(replace(there, submit="slurm"))
    assert given == [Path("logs/outer")]
    run_study(replace(there, submit="skypilot"))
    assert capsys.readouterr().out.endswith(" logs/outer/skypilot/uniform.yaml\n")
    assert Path("logs/outer/skypilot/uniform.yaml").is_file()
    Path("logs/outer/uniform.log").write_text("lossline train: error: no GPU\n")
    run_study(replace(there, status=True))
    assert "no GPU" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["slurm", "skypilot"])
def test_a_run_without_its_store_is_not_submitted(
    options: StudyOptions, started: list[str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    [point] = options.grid.points()
    run = replace(study._planned(options, point, None), missing="no store at x. Run prepare.")
    monkeypatch.setattr(study, "_planned", lambda options, point, parsed: run)
    monkeypatch.setattr(study, "check_installed", lambda on: None)
    with pytest.raises(UserError, match="uniform: no store at x"):
        run_study(replace(options, submit=where))


def test_an_unknown_scheduler_is_refused(options: StudyOptions) -> None:
    with pytest.raises(UserError, match=r"study\.submit = 'pbs': must be slurm, skypilot or local"):
        replace(options, submit="pbs")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": ""}, "study.name is empty"),
        ({"name": "../x"}, r"study\.name = '\.\./x': cannot name a folder"),
        ({"processes": -1}, "study.processes = -1: must be 0"),
        ({"json": True}, "Add --status"),
    ],
)
def test_options_of_a_study_that_cannot_be_are_refused(
    options: StudyOptions, wrong: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        replace(options, **wrong)


@pytest.mark.parametrize("verb", ["evalute", "", "a.b"])
def test_a_misspelled_verb_is_refused_before_anything_starts(
    options: StudyOptions, started: list[str], verb: str
) -> None:
    wrong = replace(options.evaluate, verb=verb)
    with pytest.raises(UserError, match=rf"command\.verb = '{verb}' .*no verb of lossline"):
        run_study(replace(options, evaluate=wrong))
    assert not started


def test_status_and_plan_need_no_scheduler_here(
    options: StudyOptions,
    started: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    elsewhere = replace(options, submit="slurm")
    run_study(replace(elsewhere, status=True, json=True))
    run_study(replace(elsewhere, dry_run=True))
    status, *plan = capsys.readouterr().out.splitlines()
    assert json.loads(status)["run"] == "uniform" and plan[0].startswith("gather")
    with pytest.raises(UserError, match="this machine has no sbatch"):
        run_study(elsewhere)
    assert not started


def test_two_submissions_of_a_study_at_once_are_one(
    options: StudyOptions, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "check_installed", lambda on: None)
    with single(options.folder), pytest.raises(UserError, match="already works on this study"):
        run_study(replace(options, submit="slurm"))
    assert not started and not (options.folder / "submitted.json").exists()


@pytest.mark.parametrize("content", ["", "[1]", "3", "null"])
def test_a_damaged_record_is_refused(
    options: StudyOptions, started: list[str], content: str
) -> None:
    options.folder.mkdir()
    (options.folder / "study.json").write_text(content)
    with pytest.raises(UserError, match=r"study\.json is damaged"):
        run_study(options)
    assert not started
