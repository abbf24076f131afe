"""Trainings of a study as jobs: what Slurm is given, and what a job does when it must end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from code_job import Code

from lossline.errors import UserError
from lossline.files import locked
from lossline.studies import slurm
from lossline.studies.packed_trainings import PackedTrainings, TrainingsFailed
from lossline.studies.planned_run import PlannedRun
from lossline.studies.record import SubmissionRecord
from lossline.studies.slurm import SlurmOptions, check_installed, submit

REPOSITORY = Path(__file__).resolve().parents[2]

# Slurm's programs as far as submitit and lossline call them. Each notes its arguments.
PROGRAMS = {
    "sbatch": """
[ -e {folder}/refusal ] && cat {folder}/refusal >&2 && exit 1
n=$(ls {folder} | grep -c '^job_')
cp "$1" {folder}/job_$n
echo "Submitted batch job 7$n"
""",
    "srun": """
while [ "${{1#--}}" != "$1" ]; do
  case $1 in --output|--error) shift;; esac
  shift
done
exec "$@"
""",
    "squeue": "echo $* > {folder}/squeue.txt; [ -e {folder}/silent ] && exit 1; cat {folder}/queue",
    "scontrol": "echo $* > {folder}/scontrol.txt",
}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of what the programs of Slurm were given."""
    programs, folder = tmp_path / "bin", tmp_path / "cluster"
    programs.mkdir()
    folder.mkdir()
    (folder / "queue").touch()
    for name, script in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\n{script.format(folder=folder)}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def planned(tmp_path: Path) -> Callable[[str], PlannedRun]:
    def make(name: str) -> PlannedRun:
        folder = tmp_path / "study" / "runs" / f"{name}-0"
        return PlannedRun(
            name=name, arguments=("--gin_file=run.gin",), folder=folder, fingerprint=name,
            tokens=9, flops_per_token=float(ord(name)),
        )  # fmt: skip

    return make


@pytest.fixture
def submitted(
    tmp_path: Path, planned: Callable[[str], PlannedRun]
) -> Callable[[str, SlurmOptions], dict[str, str]]:
    """Submit runs, named by letters; return the job of every run."""

    def call(names: str, options: SlurmOptions) -> dict[str, str]:
        study = tmp_path / "study"
        runs = [planned(name) for name in names]
        submit(runs, options, study=study, logs=study / "logs", on="slurm")
        return {name: item.job for name, item in SubmissionRecord(study).of_run.items()}

    return call


def test_runs_are_an_array_with_the_options_of_the_study(cluster: Path, submitted) -> None:
    options = SlurmOptions(
        partition="gpu", account="me", qos="low", gpus=4, cpus=32, memory_gb=1.5, hours=2.5,
        seconds_to_save=300, runs_per_job=2, at_once=8, setup=["module load cuda"],
        parameters={"constraint": "h100"},
    )  # fmt: skip
    # The longest first, and two of about equal length in a job.
    assert submitted("abcde", options) == {
        "e": "70_0", "d": "70_0", "c": "70_1", "b": "70_1", "a": "70_2",
    }  # fmt: skip
    lines = (cluster / "job_0").read_text().splitlines()
    for option in (
        "array=0-2%3", "partition=gpu", "account=me", "qos=low", "gpus-per-node=4",
        "cpus-per-task=32", "mem=1536M", "time=150", "signal=USR2@300", "requeue", "nodes=1",
        "ntasks-per-node=1", "constraint=h100", "job-name=study", "open-mode=append",
    ):  # fmt: skip
        assert f"#SBATCH --{option}" in lines
    assert "module load cuda" in lines


def test_an_option_that_is_false_is_left_out(cluster: Path, submitted) -> None:
    submitted("a", SlurmOptions(parameters={"requeue": False, "exclusive": True}))
    job = (cluster / "job_0").read_text()
    assert "#SBATCH --exclusive\n" in job and "--requeue" not in job


def test_only_what_is_missing_is_submitted(
    cluster: Path, submitted, planned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submitted("abcd", SlurmOptions()) == {f: f"70_{i}" for i, f in enumerate("dcba")}
    (cluster / "queue").write_text("70_0\n12345\n")  # d is queued or running
    for name, state in (("a", "finished"), ("b", "failed")):
        folder = planned(name).folder
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "status.json").write_text(json.dumps({"state": state, "step": 1}))
    planned("c").folder.mkdir(parents=True)
    capsys.readouterr()
    with locked(planned("c").folder / "lock", str):  # started by hand
        jobs = submitted("abcd", SlurmOptions())
    assert jobs == {"a": "70_3", "b": "71", "c": "70_1", "d": "70_0"}
    said = capsys.readouterr().out
    assert "submitted 1 of 4 runs in 1 job (71); 1 finished, 2 queued or running" in said
    assert (cluster / "squeue.txt").read_text() == "--me --noheader --array --format=%i\n"
    (cluster / "queue").write_text("70_0\n70_1\n71\n")
    submitted("abcd", SlurmOptions())
    assert "nothing to submit: 1 finished, 3 queued or running of 4 runs" in capsys.readouterr().out
    assert not (cluster / "job_2").exists()


def test_refusal_of_sbatch_is_one_line_and_leaves_nothing(
    cluster: Path, submitted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cluster / "refusal").write_text(
        "sbatch: error: invalid partition specified: gpus\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified\n"
    )
    with pytest.raises(UserError, match="refused the jobs: invalid partition specified: gpus"):
        submitted("ab", SlurmOptions(partition="gpus"))
    assert not any((tmp_path / "study" / "logs" / "slurm").iterdir())
    assert not (tmp_path / "study" / "submitted.json").exists()
    assert not capsys.readouterr().err


def test_queue_that_does_not_answer_submits_nothing(cluster: Path, submitted) -> None:
    submitted("a", SlurmOptions())
    (cluster / "silent").touch()
    with pytest.raises(UserError, match="squeue does not tell which jobs are queued"):
        submitted("ab", SlurmOptions())
    assert not (cluster / "job_1").exists()


def test_damaged_record_is_refused(cluster: Path, submitted, tmp_path: Path) -> None:
    submitted("a", SlurmOptions())
    (tmp_path / "study" / "submitted.json").write_text('{"a": {"id": 3}}')
    with pytest.raises(UserError, match=r"submitted\.json is damaged"):
        submitted("a", SlurmOptions())


def test_machine_without_slurm_or_submitit_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    check_installed("local")
    with pytest.raises(UserError, match="this machine has no sbatch"):
        check_installed("slurm")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"needs submitit.*\[cluster\]"):
        check_installed("slurm")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gpus": 8, "runs_per_job": 3}, "slurm.gpus = 8 cannot be divided"),
        ({"cpus": 7, "runs_per_job": 2}, "slurm.cpus = 7 cannot be divided"),
        ({"nodes": 2, "runs_per_job": 2}, "needs slurm.nodes = 1"),
        ({"hours": 0.01}, "slurm.hours = 0.01: must be longer"),
        ({"nodes": 0}, "slurm.nodes = 0: must be at least 1"),
        ({"gpus": -1}, "slurm.gpus = -1: must not be negative"),
        ({"parameters": {"time": 60}}, "slurm.parameters has 'time': 60. Bind slurm.hours instead"),
        ({"parameters": {"array": "0-3"}}, "slurm.at_once instead"),
        ({"parameters": {3: 4}}, "slurm.parameters has 3: 4"),
        ({"parameters": {"constraint": None}}, "slurm.parameters has 'constraint': None"),
    ],
)
def test_options_that_do_not_fit_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SlurmOptions(**wrong)  # type: ignore[arg-type]


def test_large_grids_are_several_arrays(
    cluster: Path, submitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "_LARGEST_ARRAY", 2)
    jobs = submitted("abcde", SlurmOptions())
    assert jobs == {"e": "70_0", "d": "70_1", "c": "71_0", "b": "71_1", "a": "72"}


# A training that takes a while, saves when it is asked, and then ends as a training does.
SAVES = """
import pathlib, signal, sys, time
def save(*_):
    with open("saved", "a") as file: file.write("x")
    sys.exit(130)
signal.signal(signal.SIGTERM, save)
pathlib.Path("started").touch()
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("hours", "signals", "left"),
    [
        (24.0, (signal.SIGTERM, signal.SIGUSR2), 100),  # a preemption
        (0.1, (signal.SIGUSR2,), 99),  # the time limit is near
    ],
)
def test_job_near_its_end_saves_and_is_queued_again(
    cluster: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hours: float,
    signals: tuple[signal.Signals, ...],
    left: int,
) -> None:
    """Slurm signals the whole group of the job; a second signal would kill a training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}:{Path(__file__).parent}")
    runs = [Code(name="a", verb="train", arguments=[SAVES])]
    work = PackedTrainings(runs=runs, logs=tmp_path / "logs", seconds_to_save=60)
    executor = slurm._executor(SlurmOptions(hours=hours), tmp_path / "jobs", "slurm", "study")
    [job] = executor.submit_array([work])
    process = subprocess.Popen(
        ["bash", str(cluster / "job_0")],
        env={**os.environ, "SLURM_JOB_ID": job.job_id},
        start_new_session=True,
    )
    wait_for((tmp_path / "started").exists)
    for number in signals:
        os.killpg(process.pid, number)
    process.wait(timeout=30)
    requeued = cluster / "scontrol.txt"
    wait_for(lambda: requeued.exists() and requeued.read_text() == f"requeue {job.job_id}\n")
    assert (tmp_path / "saved").read_text() == "x"
    again = job.submission()
    assert again.function == work and not again.function._processes
    assert again._timeout_countdown == left


def test_failure_leaves_the_other_trainings_of_the_job(tmp_path: Path) -> None:
    broken = Code(name="broken", verb="train", arguments=["print('why'); raise SystemExit(3)"])
    other = Code(name="other", verb="train", arguments=["import time; time.sleep(1); print(1)"])
    with pytest.raises(TrainingsFailed, match=r"^broken ended with status 3, see .*broken\.log$"):
        PackedTrainings(runs=[broken, other], logs=tmp_path, slots=2)()
    ends = [(tmp_path / f"{name}.log").read_text().splitlines()[-1] for name in ("broken", "other")]
    assert ends == ["lossline study: the training ended with status 3", "1"]


def test_trainings_of_a_job_share_its_gpus_and_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,6,7")
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], sorted(os.sched_getaffinity(0)))"
    jobs = [Code(name=name, verb="train", arguments=[code]) for name in "ab"]
    work = PackedTrainings(runs=jobs, logs=tmp_path, slots=2, gpus=4)
    work()
    said = [(tmp_path / f"{name}.log").read_text().splitlines()[-1] for name in "ab"]
    assert [line.split()[0] for line in said] == ["2,3", "6,7"]
    if len(os.sched_getaffinity(0)) > 1:
        assert said[0].split(maxsplit=1)[1] != said[1].split(maxsplit=1)[1]
    assert replace(work, slots=1)._devices(0) == {}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("bad", [{"hours": float("nan")}, {"hours": float("inf")}])
def test_a_time_limit_without_end_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"slurm\.hours = .*must be a finite number"):
        SlurmOptions(**bad)
