"""SkyPilot task files: their structure, and SkyPilot's own parser where it is installed."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from lossline.errors import UserError
from lossline.studies.planned_run import PlannedRun
from lossline.studies.skypilot import SkyOptions, task_name, write_tasks

BUCKET = {"/runs": {"source": "gs://bucket", "mode": "MOUNT"}}
SLICE = SkyOptions(
    accelerators="tpu-v4-64",
    infra="gcp/us-central2",
    spot=True,
    recovery="EAGER_NEXT_REGION",
    restarts=3,
    disk_gb=100,
    mounts=BUCKET,
    environment={"JAX_PLATFORMS": "tpu"},
    setup=["uv venv ~/env", "~/env/bin/pip install -e '.[tpu]'"],
    python="~/env/bin/python",
)
PODS = SkyOptions(
    accelerators="H100:8", infra="k8s", nodes=2, image="docker:me/lossline", workdir="",
    volumes={"/runs": "claim"}, resources={"cpus": "32+"},
)  # fmt: skip


def planned(name: str, folder: str) -> PlannedRun:
    arguments = ("--gin_file=run.gin", "--gin.train.name='it is'")
    return PlannedRun(
        name=name,
        arguments=arguments,
        folder=Path(folder),
        fingerprint="f",
        tokens=9,
        flops_per_token=1.0,
    )


def test_task_of_a_slice_has_its_machines_and_its_command(tmp_path: Path) -> None:
    run = planned("a", "/runs/s/runs/a-0")
    [command] = write_tasks([run], SLICE, study="s", folder=tmp_path)
    path = tmp_path / "a.yaml"
    assert command == f"sky jobs launch --yes --detach-run {path}"
    assert yaml.safe_load(path.read_text()) == {
        "name": "s-a",
        "resources": {
            "infra": "gcp/us-central2",
            "accelerators": "tpu-v4-64",
            "use_spot": True,
            "job_recovery": {"strategy": "EAGER_NEXT_REGION", "max_restarts_on_errors": 3},
            "disk_size": 100,
        },
        "num_nodes": 1,
        "workdir": ".",
        "envs": {"JAX_PLATFORMS": "tpu"},
        "file_mounts": BUCKET,
        "setup": "set -e\nuv venv ~/env\n~/env/bin/pip install -e '.[tpu]'\n",
        "run": "exec ~/env/bin/python -m lossline.train --gin_file=run.gin "
        + shlex.quote("--gin.train.name='it is'")
        + "\n",
    }
    assert "run: |\n" in path.read_text()


def test_task_of_kubernetes_has_a_volume_and_no_working_folder(tmp_path: Path) -> None:
    write_tasks([planned("a", "/runs/s/runs/a-0")], PODS, study="s", folder=tmp_path)
    tree = yaml.safe_load((tmp_path / "a.yaml").read_text())
    assert tree["resources"] == {
        "infra": "k8s", "accelerators": "H100:8", "image_id": "docker:me/lossline", "cpus": "32+"
    }  # fmt: skip
    assert (tree["num_nodes"], tree["volumes"]) == (2, {"/runs": "claim"})
    assert not {"workdir", "setup", "file_mounts"} & tree.keys()


def test_runs_on_the_disk_of_the_machine_are_refused(tmp_path: Path) -> None:
    for place in ("runs/s/runs/a-0", "/runs2/a-0"):
        with pytest.raises(UserError, match=f"run a: its directory {place} would be lost"):
            write_tasks([planned("a", place)], SLICE, study="s", folder=tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_name_of_a_task_has_letters_and_hyphens() -> None:
    assert task_name("llm_line", "llama s-4.5e-3") == "llm-line-llama-s-4-5e-3"


def test_skypilot_reads_the_tasks(tmp_path: Path) -> None:
    sky = pytest.importorskip("sky", reason="SkyPilot has an environment of its own")
    for options in (SLICE, PODS):
        write_tasks([planned("a", "/runs/s/runs/a-0")], options, study="s", folder=tmp_path)
        task = sky.Task.from_yaml(str(tmp_path / "a.yaml"))
        [resources] = task.resources
        assert task.num_nodes == options.nodes and resources.use_spot == options.spot


@pytest.mark.parametrize("name", ["nodes", "restarts", "disk_gb"])
def test_numbers_below_their_least_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"sky\.{name} = -1: must"):
        SkyOptions(**{name: -1})  # type: ignore[arg-type]
