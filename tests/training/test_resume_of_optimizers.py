"""Every optimizer resumes bitwise, also those without state."""

import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from lossline.batches.plans import BatchPlan
from lossline.runs import checkpoints
from lossline.runs.run_directory import RunDirectory
from lossline.sharding import MeshOptions
from lossline.training.checkpoint_schedule import CheckpointOptions
from lossline.training.loop import train
from lossline.training.make_trainer import make_trainer
from lossline.training.metrics import read_metrics
from lossline.training.optimizer import SGD, AdamW

# One case for each structure of the state. AdamW in float32 is the optimizer of test_loop.py. Adam
# is AdamW without weight decay, which is an argument of the step and no part of the state.
CASES = {
    "sgd": (SGD(momentum=0.0, weight_decay=0.1, clip_norm=None), "float32"),
    "sgd, bfloat16": (SGD(momentum=0.0), "bfloat16"),
    "sgd, momentum": (SGD(), "float32"),
    "adamw, bfloat16": (AdamW(), "bfloat16"),
}
STOP = 3  # the batch, from 0, at which the first start dies


class Killed(Exception):
    """Raised by a test to stop a run."""


@pytest.fixture
def stopped(monkeypatch):
    """Train until batch ``STOP``."""

    def start(options):
        batch = BatchPlan.batch

        def read(self, number, rows=None):
            if number == STOP:
                raise Killed
            return batch(self, number, rows)

        with monkeypatch.context() as patch:
            patch.setattr(BatchPlan, "batch", read)
            with pytest.raises(Killed):
                train(options)
        return RunDirectory(options.folder)

    return start


@pytest.fixture
def small(options, models):
    """Options of 5 steps with a kept checkpoint after step 2."""

    def make(optimizer, param_dtype="float32", **changes):
        chosen = {"count": 0, "steps": (2,), **changes}
        return options(
            model=replace(models["llama"], layers=1, param_dtype=param_dtype),
            optimizer=optimizer,
            steps=5,
            batch_size=8,
            mesh=MeshOptions(data=8),
            checkpoints=CheckpointOptions(**chosen),
        )

    return make


def whole_run(run, options):
    """Return the losses of all steps and the state after the last one."""
    rows = read_metrics(run.path / "metrics.jsonl")
    data = run.facts["store_fingerprint"]
    state = checkpoints.restore_state(
        run, options.total_steps, make_trainer(options).abstract_state, data=data
    )
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    return [(row["step"], row["loss"], row["gradient_norm"]) for row in rows], arrays


@pytest.mark.parametrize(
    ("optimizer", "param_dtype"),
    [pytest.param(*case, marks=() if name == "sgd" else pytest.mark.slow, id=name)
     for name, case in CASES.items()],
)  # fmt: skip
def test_resume_is_bitwise_identical(small, stopped, capsys, tmp_path, optimizer, param_dtype):
    options = small(optimizer, param_dtype)
    stopped(options)
    capsys.readouterr()
    run = train(options)
    assert "continuing from checkpoint 2 of" in capsys.readouterr().out
    other = replace(options, root=str(tmp_path / "never stopped"))
    (losses, arrays), (expected, wanted) = whole_run(run, options), whole_run(train(other), other)
    assert [step for step, *_ in losses] == [1, 2, 3, 4, 5] and losses == expected
    assert len(arrays) == len(wanted) > 10
    assert all(np.array_equal(a, b) for a, b in zip(arrays, wanted, strict=True))


def test_replaceable_checkpoints_of_an_earlier_version_are_resumed_and_deleted(
    small, stopped, monkeypatch, capsys
):
    """That version kept all replaceable checkpoints of stateless optimizers, and resumed none."""
    options = small(SGD(momentum=0.0), steps=(), minutes=1e-9)
    with monkeypatch.context() as earlier:
        earlier.setattr(checkpoints.CheckpointWriter, "_retire", lambda self, newest: None)
        run = stopped(options)
        assert run.checkpoint_steps() == [1, 2, 3]
    train(options)
    assert "continuing from checkpoint 3 of" in capsys.readouterr().out
    assert run.checkpoint_steps() == run.kept_checkpoint_steps() == [5]


def test_checkpoint_without_required_optimizer_state_is_not_resumed(small, stopped, capsys):
    """Only the newest few checkpoints of Adam contain its state; the others cannot be resumed."""
    options = small(AdamW(), steps=(1, 2))
    run = stopped(options)
    checkpoints.drop_optimizer(run.path / "checkpoints" / "2")
    train(options)
    assert "continuing from checkpoint 1 of" in capsys.readouterr().out


def test_kept_checkpoints_of_a_stateless_optimizer_all_stay(small, stopped):
    options = small(SGD(momentum=0.0), steps=(1, 2, 3, 4), optimizer_states=1)
    run = train(options)
    assert run.checkpoint_steps() == [1, 2, 3, 4, 5]
    folder = run.path / "checkpoints"
    assert all(checkpoints.problem(folder / str(step)) is None for step in (1, 2, 3, 4, 5))
    shutil.rmtree(folder / "5")
    assert checkpoints.newest_intact(run, parts=("params",), say=print) == 4
