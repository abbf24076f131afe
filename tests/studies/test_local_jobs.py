"""A study through submitit's local executor: jobs that are preempted or killed come back."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from quick_compilation import QUICK_COMPILATION

from lossline import study
from lossline.cli.configuration import run_verb
from lossline.runs.restoring import load_model
from lossline.runs.run_directory import RunDirectory
from lossline.stores.token_store import TokenStore
from lossline.studies.progress import last_row
from lossline.training.metrics import read_metrics

REPOSITORY = Path(__file__).resolve().parents[2]

RUN = """
train.model = @llama()
llama.vocab_size = 512
llama.context_length = 16
llama.width = 16
llama.layers = 1
llama.heads = 2
llama.mlp_width = 32
train.batch_size = 4
train.steps = 800
train.checkpoints = @checkpoints()
checkpoints.count = 2
train.log = @log()
log.tensorboard = False
train.compilation_cache = "compiled"
"""

# The two runs are the same training; only one of them is disturbed.
STUDY = """
study.name = "small"
study.run_gin_file = "run.gin"
study.grid = @axis()
axis.factor = "case"
axis.levels = {"whole": {}, "stopped": {}}
study.evaluate = @measure/command()
measure/command.verb = "evaluate"
measure/command.title = "measure"
measure/command.gin_file = "evaluation.gin"
study.fit = @fit/command()
fit/command.verb = "fit"
fit/command.title = "fit"
fit/command.gin_file = "fit.gin"
study.slurm = @slurm()
slurm.hours = 1
"""


@pytest.fixture
def workshop(tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with the study's gin files, in which the study runs."""
    (tmp_path / "run.gin").write_text(f"{RUN}train.store = {store.location!r}\n")
    (tmp_path / "study.gin").write_text(STUDY)
    for name in ("evaluation.gin", "fit.gin"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("XLA_FLAGS", QUICK_COMPILATION)
    return tmp_path


def study_here(*arguments: str) -> None:
    """Run the verb in this process."""
    argv = ["--gin_file=study.gin", *arguments]
    run_verb("study", study.__doc__, study.load, flags=study.FLAGS, argv=argv)


def job_of(folder: Path, run: str) -> int:
    """Return the process id of the newest job of a run, which submitit starts again by itself."""
    return int(json.loads((folder / "submitted.json").read_text())[run]["job"])


def child_of(process: int) -> int:
    return int(Path(f"/proc/{process}/task/{process}/children").read_text().split()[0])


def step(run: Path) -> int:
    return int(last_row(run).get("step", 0))


def losses(run: Path) -> list[tuple[float, float]]:
    return [(row["step"], row["loss"]) for row in read_metrics(run / "metrics.jsonl")]


def parameters(run: Path) -> list[np.ndarray]:
    """Return a run's last parameters."""
    found = RunDirectory.open(run)
    _, state = nnx.split(load_model(found, found.checkpoint_steps()[-1]))
    return [np.asarray(array) for array in jax.tree.leaves(nnx.to_pure_dict(state))]


@pytest.mark.slow
def test_disturbed_job_ends_as_an_undisturbed_one(
    workshop: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = workshop / "runs" / "small"
    study_here("--submit=local")
    assert "submitted 2 of 2 runs in 2 jobs" in capfd.readouterr().out
    first = job_of(folder, "stopped")
    wait_for(lambda: any(folder.glob("runs/stopped-*/metrics.jsonl")))
    [stopped] = folder.glob("runs/stopped-*")
    wait_for(lambda: step(stopped) >= 20)
    os.kill(child_of(first), signal.SIGUSR2)  # submitit's preemption
    log = folder / "logs" / "stopped.log"
    wait_for(lambda: "continuing from checkpoint" in log.read_text())
    seen = step(stopped)
    wait_for(lambda: step(stopped) > seen)
    os.kill(child_of(first), signal.SIGKILL)
    wait_for(lambda: not RunDirectory(stopped).is_locked() and not alive(first))
    study_here("--status")
    assert " stopped " in capfd.readouterr().out.splitlines()[2]

    study_here("--submit=local")
    said = capfd.readouterr().out
    assert "submitted 1 of 2 runs in 1 job" in said
    jobs = [job_of(folder, name) for name in ("whole", "stopped")]
    wait_for(lambda: not any(alive(job) for job in jobs))
    study_here("--status")
    table = capfd.readouterr().out.splitlines()
    assert [line.split()[1:3] for line in table[1:3]] == [["finished", "800/800"]] * 2
    assert table[3].startswith("2 runs: 2 finished; 100% of")
    study_here("--submit=local")
    assert "nothing to submit: 2 finished" in capfd.readouterr().out

    [whole] = folder.glob("runs/whole-*")
    assert (whole / "config.json").read_text() == (stopped / "config.json").read_text()
    assert losses(whole) == losses(stopped)
    for ours, theirs in zip(parameters(whole), parameters(stopped), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_job_whose_setup_fails_is_told_of_and_submitted_again(
    workshop: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (workshop / "study.gin").write_text(f"{STUDY}slurm.setup = ['exit 3']\n")
    study_here("--submit=local")
    job = job_of(workshop / "runs" / "small", "whole")
    wait_for(lambda: not alive(job))
    capfd.readouterr()
    study_here("--status")
    line = capfd.readouterr().out.splitlines()[1].split()
    assert line[:2] == ["whole", "failed"]
    assert " ".join(line[2:]) == f"job {job} ended before its training"
    study_here("--submit=local")
    assert "submitted 2 of 2 runs in 2 jobs" in capfd.readouterr().out


def wait_for(condition) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(process: int) -> bool:
    """Return whether a process runs; a zombie process does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
