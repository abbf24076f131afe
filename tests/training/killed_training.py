"""A training that is killed after a step, and what two runs must have in common."""

import os
import pickle
import signal
import subprocess
import sys

import jax
import numpy as np

from lossline.runs import checkpoints
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


def train_and_kill(options, *, step):
    """Train in another process, which is killed when it has written the metrics of ``step``."""
    done = subprocess.run(
        [sys.executable, "-c", KILL, str(step)],
        input=pickle.dumps(options), check=False, capture_output=True, env=os.environ,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def assert_same_run(run, options, other, other_options):
    """Compare metrics, and states after the last step, bit by bit."""
    assert _metrics(run) == _metrics(other)
    states = _state(run, options), _state(other, other_options)
    jax.tree.map(np.testing.assert_array_equal, *states)


def _state(run, options):
    shapes = make_trainer(options).abstract_state
    data = run.facts["store_fingerprint"]
    state = checkpoints.restore_state(run, options.total_steps, shapes, data=data)
    return jax.tree.map(np.asarray, state)


def _metrics(run):
    rows = read_metrics(run.path / "metrics.jsonl")
    return [{k: v for k, v in row.items() if "per_second" not in k} for row in rows]
