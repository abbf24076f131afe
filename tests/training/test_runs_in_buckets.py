"""A training whose runs are in a bucket is the training on a disk, killed and resumed or not."""

import pytest
from killed_training import assert_same_run, train_and_kill

from lossline.errors import UserError
from lossline.runs.run_directory import RunDirectory
from lossline.training.loop import train


def test_run_in_a_bucket_killed_and_resumed_is_bitwise_that_on_a_disk(options, bucket, capfd):
    local, there = options(), options(root=f"{bucket}/runs")
    train_and_kill(there, step=10)
    run = RunDirectory.open(there.folder)
    assert (run.path / "lock").exists() and not run.is_locked()
    with run.lock(), pytest.raises(UserError, match=r"is being written by process \d+ on"):
        train(there)
    resumed = train(there)
    assert "continuing from checkpoint " in capfd.readouterr().out
    assert_same_run(resumed, there, train(local), local)
    assert not (resumed.path / "lock").exists()
