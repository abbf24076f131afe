"""State of the runs of a study, read from their directories and logs."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from lossline.errors import UserError
from lossline.files import locked
from lossline.studies.planned_run import PlannedRun
from lossline.studies.record import Submission, SubmissionRecord
from lossline.studies.status import State, status_lines, status_text, view

TOTAL = 40_000


@pytest.fixture
def run(tmp_path: Path) -> PlannedRun:
    """A planned run of 400 steps of 100 tokens."""
    return PlannedRun(
        name="llama-wiki", arguments=(), folder=tmp_path / "runs" / "llama-wiki-0", fingerprint="f",
        tokens=TOTAL, flops_per_token=1.0,
    )  # fmt: skip


def record(run: PlannedRun, state: str, step: int = 0, message: str = "") -> None:
    """Write what a training writes until ``step``."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "config.json").write_text("{}")
    status = {"state": state, "step": step, "message": message}
    (run.folder / "status.json").write_text(json.dumps(status))
    rows = (
        {"step": k, "tokens": 100 * k, "loss": 5.0 - k / 100, "tokens_per_second": 2000.0}
        for k in range(10, step + 1, 10)
    )
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (run.folder / "metrics.jsonl").write_text(f'{lines}{{"step": 999')  # a row is being written


def look(run: PlannedRun, last: Submission | None = None) -> tuple[State, str]:
    logs = run.folder.parents[1] / "logs"
    seen = view(run, logs=logs, last=last, jobs=logs / "slurm")
    return seen.state, seen.note


def log(run: PlannedRun, text: str) -> Path:
    path = run.folder.parents[1] / "logs" / f"{run.name}.log"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_running_run_has_rate_loss_and_time_left(run: PlannedRun) -> None:
    record(run, "running", 100)
    with locked(run.folder / "lock", str):
        seen = view(run, logs=run.folder)
    assert (seen.state, seen.step, seen.steps, seen.loss) == (State.RUNNING, 100, 400, 4.0)
    assert (seen.rate, seen.seconds_left) == (2000.0, 15.0)
    text = status_text([seen, seen])
    assert "llama-wiki  running           100/400      2,000   4.0000       15 s" in text
    assert text.endswith(
        "2 runs: 2 running; 25% of 0.1M tokens, 4.0k tokens/s, 15 s left at this rate"
    )


def test_run_whose_process_is_gone_has_stopped(run: PlannedRun) -> None:
    record(run, "running", 100)
    (run.folder / "lock").touch()
    assert look(run) == (State.STOPPED, "continues from step 100")
    log(run, "step 100/400\nlossline study: the training ended with signal SIGKILL\n")
    assert look(run) == (State.STOPPED, "signal SIGKILL; continues from step 100")
    log(run, "lossline train: interrupted; …\nlossline study: the training ended with status 130\n")
    assert look(run) == (State.STOPPED, "continues from step 100")
    record(run, "running", 0)
    assert look(run) == (State.STOPPED, "starts again")


def test_failed_run_says_why(run: PlannedRun) -> None:
    record(run, "failed", 100, "step 120 gave loss nan")
    assert look(run) == (State.FAILED, "step 120 gave loss nan")
    record(run, "running", 100)
    log(run, "MemoryError: 3 GB\nlossline study: the training ended with status 1\n")
    assert look(run) == (State.FAILED, "status 1: MemoryError: 3 GB")


def test_run_that_was_refused_says_why(run: PlannedRun) -> None:
    assert look(run) == (State.WAITING, "")
    log(run, "$ python -m lossline.train\nlossline train: error: no GPU\n")
    assert look(run) == (State.FAILED, "no GPU")


def test_submitted_run_names_its_job_until_it_starts(run: PlannedRun) -> None:
    old = log(run, "lossline train: error: no GPU\n")
    os.utime(old, (100, 100))
    job = Submission(on="slurm", job="7_3", time=200.0)
    assert look(run, job) == (State.SUBMITTED, "job 7_3")
    os.utime(old, (300, 300))
    assert look(run, job) == (State.FAILED, "no GPU")
    record(run, "running", 100)
    os.utime(old, (100, 100))
    assert look(run, job) == (State.SUBMITTED, "job 7_3, continues from step 100")
    with locked(run.folder / "lock", str):
        assert look(run, job) == (State.RUNNING, "job 7_3")


def test_job_that_does_not_come_to_its_training_says_why(run: PlannedRun, tmp_path: Path) -> None:
    job = Submission(on="slurm", job="7_3", time=200.0)
    jobs = tmp_path / "logs" / "slurm"
    jobs.mkdir(parents=True)
    (jobs / "7_3_0_log.out").touch()
    (jobs / "7_31_0_log.err").write_text("of another job")
    assert look(run, job) == (State.SUBMITTED, "job 7_3, its training has not started")
    (jobs / "7_3_0_log.err").write_text("line 8: module: command not found\n")
    note = "job 7_3, its training has not started: line 8: module: command not found"
    assert look(run, job) == (State.SUBMITTED, note)
    (jobs / "7_3_0_result.pkl").touch()
    note = "job 7_3 ended before its training: line 8: module: command not found"
    assert look(run, job) == (State.FAILED, note)
    for file in jobs.iterdir():  # of an earlier job with this number
        os.utime(file, (100, 100))
    assert look(run, job) == (State.SUBMITTED, "job 7_3")


def test_finished_run_counts_whole(run: PlannedRun) -> None:
    record(run, "finished", 400)
    seen = view(run, logs=run.folder)
    assert (seen.state, seen.tokens, seen.loss) == (State.FINISHED, TOTAL, 1.0)
    assert status_text([seen]).endswith("1 runs: 1 finished; 100% of 0.0M tokens")


def test_states_for_programs_are_json_of_one_line_each(run: PlannedRun) -> None:
    record(run, "running", 100)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('\n{"step": 110, "tokens": 11000, "loss": NaN, "tokens_per_second": 2000.0}\n')
    with locked(run.folder / "lock", str):
        running = view(run, logs=run.folder)
    waiting = view(replace(run, name="é", folder=run.folder / "x"), logs=run.folder)
    first, second = (json.loads(line) for line in status_lines([running, waiting]).splitlines())
    assert first == {
        "run": "llama-wiki", "folder": str(run.folder), "state": "running", "step": 110,
        "steps": 400, "tokens": 11000, "total_tokens": TOTAL, "tokens_per_second": 2000.0,
        "loss": None, "seconds_left": 14.5, "note": "",
    }  # fmt: skip
    assert (second["run"], second["state"], second["steps"]) == ("é", "waiting", None)


def test_run_without_its_store_waits(run: PlannedRun) -> None:
    missing = PlannedRun(**{**vars(run), "missing": "no store at x. Run prepare."})
    assert look(missing) == (State.WAITING, "no store at x")


@pytest.mark.parametrize("content", ["", "[]", '{"state": "runn', '{"state": "odd", "step": 1}'])
def test_run_with_a_damaged_status_does_not_hide_the_others(run: PlannedRun, content: str) -> None:
    record(run, "running", 100)
    (run.folder / "status.json").write_text(content)
    state, note = look(run)
    assert state is State.FAILED
    assert note.startswith("status.json is ")


@pytest.mark.parametrize("row", ['{"step": "a", "tokens": 1}', '{"step": 5, "tokens": Infinity}'])
def test_rows_that_are_not_of_a_training_are_passed_over(run: PlannedRun, row: str) -> None:
    record(run, "running", 100)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write(f"\n{row}\n")
    assert view(run, logs=run.folder).step == 100


@pytest.mark.parametrize(
    "item", ['{"on": "slurm", "job": "1", "time": "x"}', '{"on": "slurm"}', "3"]
)
def test_damaged_record_of_jobs_is_refused(tmp_path: Path, item: str) -> None:
    (tmp_path / "submitted.json").write_text(f'{{"a": {item}}}')
    with pytest.raises(UserError, match=r"submitted\.json is damaged"):
        SubmissionRecord(tmp_path)
