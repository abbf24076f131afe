"""The launchers of ``experiments/launchers``, run with stand-ins for gcloud, srun and scontrol."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
LAUNCHERS = REPOSITORY / "experiments/launchers"
SCRIPTS = sorted(LAUNCHERS.glob("*.sh"))

# Write each command as one line; $STATES holds one state of the queued resource per line.
GCLOUD = r"""#!/usr/bin/env bash
printf '%q ' "$@" >> "$LOG"; echo >> "$LOG"
case "$*" in
  *describe*) head -n 1 "$STATES"; sed -i 1d "$STATES" ;;
  *"kill -TERM"*) kill "$(cat "$LOG.run")" ;;
  *lossline.train*) echo $$ > "$LOG.run"; ended=$(head -n 1 "$ENDS"); sed -i 1d "$ENDS"
    [ "$ended" != waits ] || { trap 'exit 130' TERM; while :; do sleep 0.05; done; }
    exit "$ended" ;;
esac
"""
SRUN = r"""#!/usr/bin/env bash
echo "srun $*" >> "$LOG"
echo $$ > "$LOG.run"
[ "$ENDS" != waits ] || { trap 'exit 130' TERM; while :; do sleep 0.05; done; }
exit "$ENDS"
"""
SCANCEL = r"""#!/usr/bin/env bash
echo "scancel $*" >> "$LOG"
kill "$(cat "$LOG.run")"
"""
SCONTROL = r"""#!/usr/bin/env bash
echo "scontrol $*" >> "$LOG"
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A folder of stand-ins at the front of PATH, and their log."""
    programs = {"gcloud": GCLOUD, "srun": SRUN, "scancel": SCANCEL, "scontrol": SCONTROL}
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("POLL", "0")
    (tmp_path / "log").write_text("")
    return tmp_path


def lines(machine: Path) -> list[str]:
    return (machine / "log").read_text().splitlines()


def start(script: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [str(LAUNCHERS / script), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen) -> tuple[int, str]:
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists() or not path.read_text():
        assert time.monotonic() < until, f"no {path}"
        time.sleep(0.02)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_launcher_is_valid_and_explains_itself(script):
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    done = subprocess.run([script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ") and done.stderr.count("\n") == 1
    assert os.access(script, os.X_OK)


def test_all_hosts_of_a_slice_get_the_same_command(machine, monkeypatch):
    (machine / "ends").write_text("0\n")
    monkeypatch.setenv("ENDS", str(machine / "ends"))
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_one=1 --xla_two=2")
    code, said = ended(start("tpu_pod.sh", "n", "z", "train", "--gin_file=a b.gin"))
    assert code == 0, said
    (line,) = lines(machine)
    sent = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True
    ).stdout
    assert "ssh\nn\n--zone=z\n--worker=all\n--command=" in sent
    assert "export LIBTPU_INIT_ARGS=--xla_one=1\\ --xla_two=2\n" in sent
    assert "-m lossline.train --gin.train.launch=@launch\\(\\) --gin.launch.how=auto" in sent
    assert "--gin_file=a\\ b.gin" in sent


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["train", "--gin_file=r.gin"], "train"),
        (["evaluate", "--runs", "runs"], "evaluate"),
        (["score", "--runs", "runs"], "score"),
        (["score", "--tokens", "--run=r"], "token_scores"),
        (["score", "--run=r", "--tokens"], "token_scores"),
    ],
)
def test_verbs_of_several_processes_are_told_to_find_each_other(job, monkeypatch, arguments, name):
    (job / "ends").write_text("0\n")
    monkeypatch.setenv("ENDS", str(job / "ends"))
    wanted = f"-m lossline.{arguments[0]} --gin.{name}.launch=@launch() --gin.launch.how=auto "
    wanted += " ".join(arguments[1:])
    ended(start("tpu_pod.sh", "n", "z", *arguments))
    assert wanted in lines(job)[-1].replace("\\", "")
    monkeypatch.setenv("ENDS", "0")
    ended(start("slurm.sh", *arguments))
    assert lines(job)[-1].endswith(wanted)


@pytest.mark.parametrize("script", [["tpu_pod.sh", "n", "z"], ["slurm.sh"]])
@pytest.mark.parametrize("verb", ["dynamics", "prepare", "trian"])
def test_verbs_of_one_process_are_not_started_on_several_hosts(job, script, verb):
    code, said = ended(start(*script, verb, "--gin_file=r.gin"))
    assert code == 2 and said.count("\n") == 1
    assert f"{verb} runs in one process" in said and not lines(job)


def test_a_signal_stops_the_hosts_with_a_checkpoint(machine, monkeypatch):
    (machine / "ends").write_text("waits\n")
    monkeypatch.setenv("ENDS", str(machine / "ends"))
    process = start("tpu_pod.sh", "n", "z", "train")
    wait_for(machine / "log.run")
    process.send_signal(signal.SIGTERM)
    code, said = ended(process)
    assert code == 130 and "save a checkpoint" in said
    assert "kill" in lines(machine)[-1]


def queue_actions(machine: Path) -> list[str]:
    """What was asked of the cloud, without the looks at the state."""
    words = [line.split() for line in lines(machine)]
    return [word[3] for word in words if "describe" not in word]


def run_queue(machine, monkeypatch, *, states: str, ends: str) -> tuple[int, str]:
    for name, text in (("STATES", states), ("ENDS", ends)):
        (machine / name).write_text("".join(f"{word}\n" for word in text.split()))
        monkeypatch.setenv(name, str(machine / name))
    return ended(start("tpu_queue.sh", "my-run", "zone", "v4-16", "train", "--gin_file=r.gin"))


def test_a_slice_is_asked_for_used_and_given_back(machine, monkeypatch):
    states = "ACCEPTED WAITING_FOR_RESOURCES ACTIVE"
    code, said = run_queue(machine, monkeypatch, states=states, ends="0")
    assert code == 0, said
    assert queue_actions(machine) == ["create", "scp", "ssh", "ssh", "delete"]
    first = lines(machine)[0]
    for word in ("my-run --zone=zone", "--node-id=my-run", "--accelerator-type=v4-16"):
        assert word in first
    assert "--spot" not in first


def test_a_preempted_slice_is_asked_for_again_and_the_command_repeated(machine, monkeypatch):
    monkeypatch.setenv("SPOT", "yes")
    states = "ACTIVE ACTIVE SUSPENDED WAITING_FOR_RESOURCES ACTIVE"
    code, said = run_queue(machine, monkeypatch, states=states, ends="255 0")
    assert code == 0, said
    once = ["create", "scp", "ssh", "ssh", "delete"]
    assert queue_actions(machine) == once + once
    assert "--spot" in lines(machine)[0]
    assert "my-run was preempted" in said
    trained = [line for line in lines(machine) if "lossline.train" in line]
    assert len(trained) == 2 and trained[0] == trained[1]


def test_a_command_that_fails_is_not_repeated_and_the_slice_is_given_back(machine, monkeypatch):
    code, said = run_queue(machine, monkeypatch, states="ACTIVE " * 9, ends="2")
    assert code == 2, said
    assert queue_actions(machine) == ["create", "scp", "ssh", "ssh", "delete"]


@pytest.fixture
def job(machine, monkeypatch):
    """A checkout with an environment, as the folder of submission."""
    (machine / "checkout/.venv/bin").mkdir(parents=True)
    (machine / "checkout/.venv/bin/python").symlink_to(shutil.which("true"))
    monkeypatch.setenv("SLURM_SUBMIT_DIR", str(machine / "checkout"))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    return machine


@pytest.mark.parametrize("code", [0, 1])
def test_a_slurm_job_ends_as_its_command(job, monkeypatch, code):
    monkeypatch.setenv("ENDS", str(code))
    assert ended(start("slurm.sh", "train", "--gin_file=r.gin"))[0] == code
    (line,) = lines(job)
    assert line.startswith("srun ") and line.endswith("--gin.launch.how=auto --gin_file=r.gin")
    assert ".venv/bin/python -m lossline.train --gin.train.launch=@launch()" in line


def test_a_slurm_job_out_of_time_saves_and_queues_itself_again(job, monkeypatch):
    monkeypatch.setenv("ENDS", "waits")
    process = start("slurm.sh", "train")
    wait_for(job / "log.run")
    process.send_signal(signal.SIGUSR1)
    code, said = ended(process)
    assert code == 0, said
    assert lines(job)[1:] == ["scancel --signal=TERM 7", "scontrol requeue 7"]


def test_a_slurm_job_asks_for_one_process_per_gpu_and_time_for_a_checkpoint():
    text = (LAUNCHERS / "slurm.sh").read_text()
    asked = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in text.splitlines()
        if line.startswith("#SBATCH ")
    )
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]
    assert asked["signal"] == "B:USR1@300" and "requeue" in asked


def test_a_slurm_job_without_an_environment_is_refused(job, monkeypatch):
    monkeypatch.setenv("SLURM_SUBMIT_DIR", str(job))
    code, said = ended(start("slurm.sh", "train"))
    assert code == 2 and "make .venv/.installed-gpu" in said
