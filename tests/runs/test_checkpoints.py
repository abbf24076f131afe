"""Checkpoints: complete or absent, restorable on any mesh, tied to their training data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lossline.errors import UserError
from lossline.runs.checkpoints import (
    CheckpointWriter,
    clear_unsealed,
    newest_intact,
    problem,
    restore_arrays,
    restore_state,
)
from lossline.runs.run_directory import RunDirectory, RunState, RunStatus
from lossline.sharding import MeshOptions, make_mesh

REPLICATED = PartitionSpec()


def make_state(step):
    return {
        "params": {"a": {"w": jnp.arange(64.0).reshape(8, 8) + step}, "b": jnp.float32(step)},
        "optimizer": {"mu": jnp.full((8, 8), step, jnp.float32), "count": jnp.int32(step)},
    }


def abstract(mesh=None, spec=REPLICATED):
    mesh = mesh or make_mesh(MeshOptions(data=1), devices=jax.devices()[:1])

    def describe(leaf):
        part = spec if leaf.ndim else REPLICATED
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, part))

    return jax.tree.map(describe, make_state(0))


def write(run, steps, *, kept=lambda step: True, **options):
    writer = CheckpointWriter(run, data="text", **options)
    for step in steps:
        writer.save(step, make_state(step), kept=kept(step))
    writer.close()


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path)


def largest_file(folder):
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def assert_equal(state, step):
    jax.tree.map(np.testing.assert_array_equal, state, make_state(step))


def test_round_trip_on_another_mesh(run):
    write(run, [5])
    mesh = make_mesh(MeshOptions(data=2, fsdp=4))
    state = restore_state(run, 5, abstract(mesh, PartitionSpec("fsdp", "data")), data="text")
    assert_equal(state, 5)
    assert state["params"]["a"]["w"].addressable_shards[0].data.shape == (2, 4)
    assert_equal({"params": restore_arrays(run, 5, abstract()["params"])} | make_state(5), 5)


def test_state_may_be_overwritten_when_save_returns(run):
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    writer = CheckpointWriter(run, data="text", optimizer_states=9)
    state = make_state(0)
    for k in range(4):
        writer.save(k, state, kept=True)
        state = step(state)
    writer.close()
    for k in range(4):
        assert_equal(restore_state(run, k, abstract(), data="text"), k)


def test_only_the_newest_checkpoints_keep_their_optimizer_state(run):
    write(run, [1, 2, 3, 4], optimizer_states=2)
    assert run.checkpoint_steps() == run.kept_checkpoint_steps() == [1, 2, 3, 4]
    folder = run.path / "checkpoints"
    assert [(folder / str(s) / "optimizer").exists() for s in (1, 2, 3, 4)] == [0, 0, 1, 1]
    assert all(problem(folder / str(s)) is None for s in (1, 2, 3, 4))


def test_replaceable_checkpoints_are_deleted(run):
    write(run, [1, 2, 3, 4, 5], kept=lambda step: step in (2, 5))
    assert run.checkpoint_steps() == run.kept_checkpoint_steps() == [2, 5]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest"])
def test_corrupt_newest_checkpoint_falls_back_with_a_message(run, damage):
    write(run, [1, 2, 3], optimizer_states=3)
    folder = run.path / "checkpoints" / "3"
    victim = (
        folder / "manifest.json" if damage == "manifest" else largest_file(folder / "optimizer")
    )
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "truncate":
        del content[len(content) // 2 :]
    if damage == "manifest":
        content[:] = b'{"step": 3'
    victim.write_bytes(content)
    if damage == "remove":
        victim.unlink()
    said = []
    assert newest_intact(run, say=said.append) == 2
    assert len(said) == 1 and "3 is corrupt" in said[0] and "falling back" in said[0]
    assert run.checkpoint_steps() == [1, 2]
    assert (folder.parent / "3.corrupt-0").is_dir()  # kept for inspection
    said.clear()
    assert newest_intact(run, say=said.append) == 2 and not said


def test_no_intact_checkpoint_gives_none(run):
    assert newest_intact(run, say=print) is None
    write(run, [1])
    largest_file(run.path / "checkpoints").unlink()
    assert newest_intact(run, say=lambda text: None) is None


def test_partial_checkpoints_are_deleted(run):
    write(run, [1, 2])
    folder = run.path / "checkpoints"
    (folder / "2" / "manifest.json").unlink()
    (folder / "3.orbax-checkpoint-tmp-7").mkdir()
    clear_unsealed(run)
    assert sorted(item.name for item in folder.iterdir()) == ["1"]


def test_other_data_is_refused(run):
    write(run, [1])
    with pytest.raises(UserError, match="fingerprint text, but the store now has other"):
        restore_state(run, 1, abstract(), data="other")


def test_restoring_a_missing_or_corrupt_checkpoint_raises_user_error(run):
    write(run, [1, 2])
    with pytest.raises(UserError, match=r"no checkpoint 3\. Choose one of 1, 2"):
        restore_arrays(run, 3, abstract()["params"])
    largest_file(run.path / "checkpoints" / "2" / "params").write_bytes(b"?")
    largest_file(run.path / "checkpoints" / "1" / "params").write_bytes(b"?")
    resume, another = r"Resume the training to write it again\.", "Choose another step, or make the"
    for state, step, mend in (
        (RunState.RUNNING, 2, resume),
        (RunState.RUNNING, 1, another),
        (RunState.FINISHED, 2, another),
    ):
        run.write_status(RunStatus(state=state, step=2))
        with pytest.raises(UserError, match=f"{step} is corrupt: .*{mend}"):
            restore_arrays(run, step, abstract()["params"])
    (run.path / "status.json").write_text("?")
    with pytest.raises(UserError, match=f"2 is corrupt: .*{another}"):
        restore_arrays(run, 2, abstract()["params"])


def test_error_of_a_save_is_raised_at_the_next_wait(run, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("lossline.runs.checkpoints.write_manifest", fail)
    writer = CheckpointWriter(run, data="text")
    writer.save(1, make_state(1), kept=True)
    with pytest.raises(OSError, match="disk full"):
        writer.wait()
    writer.close()
    assert run.checkpoint_steps() == []
