"""A selective training that is killed goes on as if nothing had happened, bit by bit."""

import json
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

from lossline.objectives.options import Score, Selective
from lossline.runs import checkpoints
from lossline.sharding import MeshOptions
from lossline.training.loop import train
from lossline.training.make_trainer import make_trainer
from lossline.training.metrics import read_metrics

KILLED_AT = 10  # steps after the last checkpoint are in the metrics

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
    trainer = make_trainer(options)
    data = json.loads((run.path / "facts.json").read_text())["store_fingerprint"]
    state = checkpoints.restore_state(run, options.total_steps, trainer.abstract_state, data=data)
    return jax.tree.map(np.asarray, state)


def metrics_of(run):
    rows = read_metrics(run.path / "metrics.jsonl")
    return [{k: v for k, v in row.items() if "per_second" not in k} for row in rows]


@pytest.mark.parametrize(
    ("mesh", "microbatches"), [(MeshOptions(data=8), 1), (MeshOptions(data=4, tensor=2), 2)]
)
def test_resume_after_kill_is_bitwise_identical(
    options, store, written_scores, tmp_path, mesh, microbatches
):
    scores = written_scores(store.location, context_length=32)
    chosen = Selective(share=0.6, score=Score.EXCESS_LOSS, scores=scores)
    changes = {"objective": chosen, "mesh": mesh, "microbatches": microbatches}
    whole = options(**changes)
    killed = replace(whole, root=str(tmp_path / "killed"))
    expected = train(whole)
    # The other process takes the step from the compilation cache. In such a program XLA keeps no
    # order between independent collectives; if there are any, devices wait for each other forever.
    done = subprocess.run(
        [sys.executable, "-c", KILL, str(KILLED_AT)],
        input=pickle.dumps(killed), check=False, capture_output=True, env=os.environ,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    resumed = train(killed)
    assert metrics_of(resumed) == metrics_of(expected)
    assert resumed.trained_tokens(12) == expected.trained_tokens(12) == 12 * int(0.6 * 8 * 32)
    states = (state_of(run, each) for run, each in ((resumed, killed), (expected, whole)))
    jax.tree.map(np.testing.assert_array_equal, *states)
