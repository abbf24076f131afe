"""A training whose runs are in a bucket is the training on a disk, killed and resumed or not."""

import os
import pickle
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from lossline.errors import UserError
from lossline.runs import checkpoints
from lossline.runs.run_directory import RunDirectory
from lossline.training.loop import train
from lossline.training.make_trainer import make_trainer
from lossline.training.metrics import read_metrics

KILL = """
import os, pickle, signal, sys
from lossline.training import loop

report = loop._Reporter._report
def _report(self, step, metrics):
    report(self, step, metrics)
    if step == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

loop._Reporter._report = _report
loop.train(pickle.load(sys.stdin.buffer))
"""


def state_of(run, options):
    data = run.facts["store_fingerprint"]
    shapes = make_trainer(options).abstract_state
    return jax.tree.map(
        np.asarray, checkpoints.restore_state(run, options.total_steps, shapes, data=data)
    )


def metrics_of(run):
    rows = read_metrics(run.path / "metrics.jsonl")
    return [{k: v for k, v in row.items() if "per_second" not in k} for row in rows]


def assert_same_run(run, options, other, other_options):
    assert metrics_of(run) == metrics_of(other)
    states = state_of(run, options), state_of(other, other_options)
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_run_in_a_bucket_killed_and_resumed_is_bitwise_that_on_a_disk(options, bucket, capfd):
    local, there = options(), options(root=f"{bucket}/runs")
    done = subprocess.run(
        [sys.executable, "-c", KILL, "10"],
        input=pickle.dumps(there), check=False, capture_output=True, env=os.environ,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    run = RunDirectory.open(there.folder)
    assert (run.path / "lock").exists() and not run.is_locked()
    with run.lock(), pytest.raises(UserError, match=r"is being written by process \d+ on"):
        train(there)
    resumed = train(there)
    assert "continuing from checkpoint " in capfd.readouterr().out
    assert_same_run(resumed, there, train(local), local)
    assert not (resumed.path / "lock").exists()
