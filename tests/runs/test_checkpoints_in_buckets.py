"""A checkpoint in a bucket is whole or does not count, whichever of its writes fails."""

import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossline.cli.file_errors import refusal_of_a_place
from lossline.files import local_copy, local_folder, write_json
from lossline.places import to_path
from lossline.runs import checkpoints
from lossline.runs.run_directory import RunDirectory


def state(step):
    """A state with arrays that OCDBT keeps in files of their own, and small ones."""
    numbers = jnp.arange(8192, dtype=jnp.float32) + step
    return {"params": {"a": numbers, "b": numbers[:3]}, "optimizer": {"m": numbers * 2}}


def abstract():
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state(0)
    )


def save(run, step, *, optimizer_states=2):
    writer = checkpoints.CheckpointWriter(run, data="text", optimizer_states=optimizer_states)
    try:
        writer.save(step, state(step), kept=True)
        writer.wait()
    finally:
        writer.close()


def newest(run):
    """The state that a resumed training restores."""
    checkpoints.clear_unsealed(run)
    step = checkpoints.newest_intact(run, say=print)
    return step, checkpoints.restore_state(run, step, abstract(), data="text")


@pytest.fixture
def run(bucket):
    folder = to_path(f"{bucket}/run")
    write_json(folder / "config.json", {"model": {}})
    return RunDirectory.open(folder)


def assert_state(found, step):
    jax.tree.map(np.testing.assert_array_equal, found, state(step))


# Objects of the beginning, the middle and the end of a save.
REFUSED = ("params/ocdbt.process_0/d/", "params/manifest.ocdbt", "2/manifest.json")
LOST = ("optimizer/d/", "params/commit_success.txt")


@pytest.mark.parametrize(
    ("kind", "names"), [("refused", REFUSED), ("forgotten", LOST)], ids=["refused", "lost"]
)
def test_resume_falls_back_whichever_write_fails(run, emulator, kind, names):
    """Refused: this write and all later ones, as in a kill. Lost: acknowledged, but not stored."""
    save(run, 1)
    for name in names:
        # gcsfs sends a small file in two requests: an address is asked for, then the content.
        ends = kind == "forgotten" and name.endswith(".txt")
        emulator.fail(
            kind,
            lambda r, name=name: r.action == "write" and name in r.name,
            status=403,
            after=1 if ends else 0,
            times=1 if kind == "forgotten" else 99,
        )
        try:
            save(run, 2)
        except Exception as error:
            assert "UserError" in type(error).__name__ or refusal_of_a_place(error), error
        emulator.faults.clear()
        step, found = newest(run)
        assert step == 1, name
        assert_state(found, 1)


SAVE = """
import sys, time
import jax.numpy as jnp
from lossline.places import to_path
from lossline.runs.checkpoints import CheckpointWriter
from lossline.runs.run_directory import RunDirectory
writer = CheckpointWriter(RunDirectory(to_path(sys.argv[1])), data="text")
state = {"params": {str(k): jnp.arange(8192.0) + k for k in range(12)}, "optimizer": {}}
try:
    writer.save(2, state, kept=True)
    writer.wait()
except Exception as error:
    print("raised", error)
time.sleep(0.5)  # answers are still coming
"""


def test_a_save_without_permission_prints_no_tracebacks(run, emulator):
    emulator.fail(
        "refused", lambda r: r.action == "write" and "/d/" in r.name, times=99, status=403
    )
    done = subprocess.run(
        [sys.executable, "-c", SAVE, str(run.path)], capture_output=True, text=True, check=False
    )
    assert "raised" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["late", "done but 503"])
def test_writes_that_fail_once_are_repeated(run, emulator, kind):
    """The repeated conditional write finds its own first attempt."""
    names = ("params/d/", "params/manifest.ocdbt", "optimizer/manifest.ocdbt", "array_metadatas")
    for name in (*names, "2/manifest.json"):
        emulator.fail(kind, lambda r, name=name: r.action == "write" and name in r.name)
    save(run, 2)
    step, found = newest(run)
    assert step == 2
    assert_state(found, 2)


def test_corrupt_checkpoints_are_set_aside_and_old_optimizer_states_deleted(run):
    for step in (1, 2, 3):
        save(run, step, optimizer_states=2)
    folder = run.path / "checkpoints"
    assert not (folder / "1" / "optimizer").exists() and checkpoints.problem(folder / "1") is None
    next((folder / "3" / "params" / "d").iterdir()).write_bytes(b"changed")
    next((folder / "2" / "optimizer" / "d").iterdir()).unlink()
    said = []
    assert checkpoints.newest_intact(run, parts=("params",), say=said.append) == 1
    assert "has changed since it was written" in said[0] and "is missing" in said[1]
    assert (folder / "3.corrupt-0").is_dir() and run.kept_checkpoint_steps() == [1]


def test_checkpoint_copied_from_a_bucket_is_read_on_a_disk_and_back(run, tmp_path):
    save(run, 1)
    with local_copy(run.path) as copied:
        shutil.copytree(copied, tmp_path / "run")
    local = RunDirectory.open(tmp_path / "run")
    assert_state(newest(local)[1], 1)
    save(local, 2)
    with local_folder(run.path.with_name("back")) as folder:
        shutil.copytree(local.path, folder)
    step, found = newest(RunDirectory.open(run.path.with_name("back")))
    assert step == 2
    assert_state(found, 2)
