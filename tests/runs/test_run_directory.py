"""Run directories: one writer, one config, no stale locks, no import of JAX."""

import signal
import subprocess
import sys

import pytest

from lossline.errors import UserError
from lossline.files import write_json
from lossline.runs.run_directory import RunDirectory, RunState, RunStatus, claim, differences

HOLD = """
import sys, time
from pathlib import Path
from lossline.runs.run_directory import RunDirectory
with RunDirectory(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other_writer(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_second_writer_is_refused_and_a_killed_writer_leaves_no_lock(tmp_path, other_writer):
    run = RunDirectory(tmp_path)
    with pytest.raises(UserError, match=rf"written by process {other_writer.pid}"), run.lock():
        pass
    assert run.is_locked()
    other_writer.send_signal(signal.SIGKILL)
    other_writer.wait()
    assert not run.is_locked()
    with run.lock():
        assert run.is_locked()


def test_is_locked_writes_nothing(tmp_path):
    assert not RunDirectory(tmp_path).is_locked()
    assert list(tmp_path.iterdir()) == []


def test_claim_accepts_only_the_same_config(tmp_path):
    config = {"__class__": "TrainOptions", "seed": 0, "model": {"width": 64}}
    run, started = claim(tmp_path / "a" / "run", config)
    assert not started and not run.path.exists()
    run.path.mkdir(parents=True)
    write_json(run.path / "config.json", config)
    assert claim(run.path, config) == (run, True)
    with pytest.raises(UserError, match=r"another config: model\.width was 64 and is now 32"):
        claim(run.path, {**config, "model": {"width": 32}})


def test_claim_refuses_what_is_not_a_run_directory(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"not empty and contains no config\.json"):
        claim(tmp_path, {})
    with pytest.raises(UserError, match="is a file"):
        claim(tmp_path / "thesis.tex", {})
    with pytest.raises(UserError, match=r"no config\.json"):
        RunDirectory.open(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        RunDirectory.open(tmp_path / "nowhere")


def test_a_start_that_was_killed_before_the_mark_is_taken_over(tmp_path):
    """The training writes config.json last; until then the folder is not a run directory."""
    for name in ("lock", "model.txt", "config.gin", ".facts.json.0123abcd.partial"):
        (tmp_path / name).touch()
    assert claim(tmp_path, {"steps": 3}) == (RunDirectory(tmp_path), False)


def test_status_and_checkpoint_steps(tmp_path):
    run = RunDirectory(tmp_path)
    assert run.status.state is RunState.RUNNING and run.status.step == 0
    run.write_status(RunStatus(state=RunState.FAILED, step=3, message="why"))
    assert run.status == RunStatus(state=RunState.FAILED, step=3, message="why")
    for step, sealed in ((10, True), (9, True), (11, False)):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
        if sealed:
            write_json(tmp_path / "checkpoints" / str(step) / "manifest.json", {"kept": step == 10})
    (tmp_path / "checkpoints" / "12.orbax-checkpoint-tmp-1").mkdir()
    assert run.checkpoint_steps() == [9, 10]
    assert run.kept_checkpoint_steps() == [10]


def test_differences_name_the_leaves():
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 1}, "d": 3}) == [
        "c was 2 and is now None",
        "d was None and is now 3",
    ]


def test_damaged_json_raises_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not JSON"):
        _ = RunDirectory.open(tmp_path).config
    with pytest.raises(UserError, match=r"facts\.json is missing"):
        _ = RunDirectory.open(tmp_path).facts


def test_reading_does_not_import_jax():
    code = "import sys, lossline.runs.run_directory; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("content", ["null", "[1]", "3"])
def test_a_config_without_options_is_damaged(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json is damaged: .* train again\."):
        claim(tmp_path, {"seed": 0})


@pytest.mark.parametrize(("content", "said"), [("[1]", "no facts"), ("{}", "not hold tokenizer")])
def test_facts_without_a_fact_are_damaged(tmp_path, content, said):
    write_json(tmp_path / "config.json", {"__class__": "TrainOptions"})
    (tmp_path / "facts.json").write_text(content)
    with pytest.raises(UserError, match=rf"facts\.json is damaged: .*{said}.* train again\."):
        RunDirectory(tmp_path).facts["tokenizer"]
