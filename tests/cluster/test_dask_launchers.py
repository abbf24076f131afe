"""The launchers of Dask clusters start what Dask's own command lines and packages accept."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from standing_cluster import ROOT

LAUNCHERS = ROOT / "experiments" / "launchers"
STANDARD = ("--cpus-per-task=16", "--requeue", "--array=1-4", "--partition=cpu")


def accepted(words: list[str]) -> dict[str, object]:
    """Options of a `dask worker` or `dask scheduler` command line, read by Dask's own parser."""
    from distributed.cli import dask_scheduler, dask_worker

    if words[0] == "dask":
        kind, arguments = words[1], words[2:]
    else:
        assert words[1] == "-m" and words[2].startswith("distributed.cli.dask_")
        kind, arguments = words[2].removeprefix("distributed.cli.dask_"), words[3:]
    command = {"worker": dask_worker.main, "scheduler": dask_scheduler.main}[kind]
    options = command.make_context(kind, list(arguments)).params
    assert not options["preload_argv"]  # unknown options land there
    return options


def programs(folder: Path) -> None:
    """Stand-ins of Slurm and python that write down their arguments."""
    folder.mkdir()
    for name in ("sbatch", "scancel", "python"):
        script = folder / name
        script.write_text(
            f"#!/bin/bash\nexec 3>&1 >> {folder}/log\n"
            f'for word in {name} "$@"; do printf "%s\\0" "$word"; done\nprintf "\\n"\n'
        )
        script.chmod(0o755)


def test_slurm_launcher_submits_workers_of_its_scheduler(tmp_path: Path) -> None:
    programs(tmp_path / "bin")
    with (tmp_path / "bin/sbatch").open("a") as script:
        script.write("echo 17 >&3\n")
    done = subprocess.run(
        [str(LAUNCHERS / "dask_slurm.sh"), "4", "--partition=cpu"],
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    address = done.stdout.splitlines()[0]
    assert re.fullmatch(r"tcp://[\w.-]+:8786", address)
    started = [line.split("\0")[:-1] for line in (tmp_path / "bin/log").read_text().splitlines()]
    assert [words[0] for words in started] == ["sbatch", "python", "scancel"]
    assert set(STANDARD) <= set(started[0]) and started[2] == ["scancel", "17"]
    worker = accepted(shlex.split(started[0][-1])[1:])
    assert (worker["scheduler"], worker["n_workers"], worker["nthreads"]) == (address, "16", 1)
    assert accepted(started[1])["port"] == "8786"


def test_slurm_launcher_says_how_it_is_used() -> None:
    done = subprocess.run([LAUNCHERS / "dask_slurm.sh"], capture_output=True, text=True)
    assert done.returncode == 2 and "JOBS" in done.stderr


def test_kubernetes_cluster_starts_what_dask_accepts() -> None:
    cluster = yaml.safe_load((LAUNCHERS / "dask_kubernetes.yaml").read_text())
    assert (cluster["apiVersion"], cluster["kind"]) == ("kubernetes.dask.org/v1", "DaskCluster")
    worker, scheduler = (
        cluster["spec"][kind]["spec"]["containers"][0] for kind in ("worker", "scheduler")
    )
    assert worker["image"] == scheduler["image"]
    assert accepted(worker["args"])["n_workers"] == worker["resources"]["requests"]["cpu"]
    assert accepted(scheduler["args"])["host"] == "0.0.0.0"
    ports = {port["name"]: port["containerPort"] for port in scheduler["ports"]}
    assert all(
        port["targetPort"] in ports for port in cluster["spec"]["scheduler"]["service"]["ports"]
    )
    assert (
        f"tcp://{cluster['metadata']['name']}-scheduler:{ports['tcp-comm']}"
        in (LAUNCHERS / "dask_kubernetes.yaml").read_text()
    )


@pytest.fixture
def jobqueue() -> ModuleType:
    import runpy

    module = ModuleType("dask_jobqueue_launcher")
    module.__dict__.update(runpy.run_path(str(LAUNCHERS / "dask_jobqueue.py")))
    return module


def test_jobqueue_options_are_one_process_per_core(jobqueue: ModuleType) -> None:
    assert jobqueue.OPTIONS["processes"] == jobqueue.OPTIONS["cores"]
    assert ROOT == jobqueue.CHECKOUT


def test_jobqueue_makes_a_job_script_that_dask_accepts(jobqueue: ModuleType) -> None:
    package = pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is the user's install")
    local = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with package.SLURMCluster(**jobqueue.OPTIONS, scheduler_options=local) as cluster:
        script = cluster.job_script()
        address = cluster.scheduler_address
    lines = script.splitlines()
    assert "#SBATCH --cpus-per-task=16" in lines and "#SBATCH --requeue" in lines
    assert f"cd {jobqueue.CHECKOUT}" in lines
    worker = accepted(shlex.split(next(line for line in lines if "dask_worker" in line)))
    assert (worker["scheduler"], worker["n_workers"], worker["nthreads"]) == (address, "16", 1)
