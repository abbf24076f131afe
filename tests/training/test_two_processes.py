"""Two processes train as one, and stop together."""

import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from logged_losses import losses
from quick_compilation import QUICK_COMPILATION

from lossline.runs.run_directory import RunDirectory, RunState, RunStatus
from lossline.sharding import LaunchOptions, MeshOptions
from lossline.sharding.launch import Launch
from lossline.training.loop import train

JOIN = """
import os, pickle, sys, time
from dataclasses import replace
finished, stopped = pickle.load(sys.stdin.buffer)
from lossline.batches.plans import BatchPlan
from lossline.training.loop import train

launch = replace(finished.launch, process_id=int(sys.argv[1]))
train(replace(finished, launch=launch))

read = BatchPlan.batch

def slowly(self, number, rows=None):
    time.sleep(0.4)
    return read(self, number, rows)

BatchPlan.batch = slowly
train(stopped)
"""
MIXED = MeshOptions(data=2, fsdp=2, tensor=2)


@pytest.fixture(scope="module")
def of_two(base_options, tmp_path_factory):
    """Two trainings by two processes of two devices each: one finished, one stopped by a signal.

    The second process gets the signal. It then waits 0.4 seconds for each batch: the service looks
    for a signal once a second, and 24 steps must take longer than that.

    Returns:
        Folder of each training, and what each process printed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch = LaunchOptions(
        how=Launch.EXPLICIT,
        coordinator=f"127.0.0.1:{port}",
        processes=2,
        process_id=0,
        virtual_cpu_devices=2,
    )
    base = replace(base_options, steps=24, mesh=MeshOptions(data=2, fsdp=2))
    folder = tmp_path_factory.mktemp("two")
    chosen = (
        replace(base, root=str(folder / "finished"), launch=launch),
        replace(base, root=str(folder / "stopped")),
    )
    environment = {**os.environ, "XLA_FLAGS": QUICK_COMPILATION, "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        for number in range(2)
    ]
    for process in processes:
        process.stdin.write(pickle.dumps(chosen))
        process.stdin.close()
    finished, stopped = (RunDirectory(each.folder) for each in chosen)
    deadline = time.monotonic() + 300
    while not (stopped.path / "metrics.jsonl").exists() or len(losses(stopped)) < 5:
        assert time.monotonic() < deadline and processes[0].poll() is None
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGINT)
    outputs = [process.stdout.read().decode() for process in processes]
    assert all(process.wait() for process in processes), outputs
    return finished, stopped, outputs


@pytest.fixture(scope="module")
def of_one(base_options, tmp_path_factory):
    """Options of the same training by one process on another mesh, and its losses."""
    chosen = replace(base_options, steps=24, mesh=MIXED, root=str(tmp_path_factory.mktemp("one")))
    return chosen, losses(train(chosen))


@pytest.mark.slow
def test_two_processes_train_like_one_process(of_two, of_one):
    """Data and parameters are split over two processes; then one process resumes the run."""
    (together, _, outputs), (alone, wanted) = of_two, of_one
    assert together.status.state is RunState.FINISHED
    assert "step 24/24" in outputs[0] and not re.search(r"step \d+/", outputs[1])
    assert together.facts["processes"] == 2 and together.kept_checkpoint_steps() == [8, 16, 24]
    expected = losses(together)
    np.testing.assert_allclose(expected, wanted, rtol=1e-4)
    # One process on another mesh repeats the last checkpoint, starting from the one before it.
    shutil.rmtree(together.path / "checkpoints" / "24")
    together.write_status(RunStatus(state=RunState.RUNNING, step=16))
    again = train(replace(alone, root=str(together.path.parent)))
    np.testing.assert_allclose(losses(again), expected, rtol=1e-4)
    assert again.facts["processes"] == 1 and again.kept_checkpoint_steps() == [8, 16, 24]


@pytest.mark.slow
def test_signal_to_one_process_stops_both_after_the_same_step(of_two, of_one):
    """The SIGINT is forwarded as the SIGTERM that a cluster sends.

    The resumed run then equals an undisturbed one.
    """
    (_, stopped, outputs), (alone, wanted) = of_two, of_one
    step = stopped.checkpoint_steps()[-1]
    assert 5 <= step < 24 and stopped.status == RunStatus(state=RunState.RUNNING, step=step)
    assert f"stopped by a signal at step {step}" in outputs[0]
    assert "KeyboardInterrupt" in outputs[1]
    resumed = train(replace(alone, root=str(stopped.path.parent)))
    np.testing.assert_allclose(losses(resumed), wanted, rtol=1e-3)
