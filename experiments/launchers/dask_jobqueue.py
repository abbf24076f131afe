"""Start a Dask scheduler here and its workers as Slurm jobs, with dask-jobqueue; print the address.

    python experiments/launchers/dask_jobqueue.py
    python -m lossline.prepare --cluster=tcp://HOST:PORT --gin_file=…      # in another shell

Needs `pip install dask-jobqueue` besides the [cluster] extra, in an environment that all nodes see,
and a checkout on a disk that they share. dask-jobqueue also knows PBS, LSF, SGE, OAR and HTCondor:
replace the class. Edit the options for your cluster. Ctrl-C ends the jobs.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
JOBS = 10
OPTIONS: dict[str, Any] = {
    "queue": "cpu",
    "cores": 16,
    "processes": 16,  # one thread each: tokenizing holds Python's lock
    "memory": "64GB",
    "walltime": "12:00:00",
    "job_extra_directives": ["--requeue"],  # after a preemption
    "job_script_prologue": [f"cd {CHECKOUT}"],
    "worker_extra_args": ["--no-dashboard"],
    "log_directory": "dask_logs",
}


def main() -> None:
    """Start the cluster, print its address and wait for Ctrl-C."""
    from dask_jobqueue import SLURMCluster

    with SLURMCluster(**OPTIONS) as cluster:
        cluster.scale(jobs=JOBS)
        print(cluster.scheduler_address, flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    main()
