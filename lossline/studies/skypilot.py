"""Write one SkyPilot task file per training of a study; the person's own ``sky`` launches it.

SkyPilot is not imported, because its packages do not fit beside JAX's.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lossline.errors import UserError
from lossline.files import write_text
from lossline.studies.planned_run import PlannedRun

SKYPILOT = "skypilot"


@dataclass(frozen=True, kw_only=True)
class SkyOptions:
    """Machines of a study's trainings. What is empty or 0 is left to SkyPilot.

    Attributes:
        accelerators: kind and number on each node: ``"H100:8"``, or a TPU slice: ``"tpu-v4-64"``.
        infra: where: ``"gcp/us-central2"``, ``"k8s"``, ``"slurm/my-cluster"``.
        spot: whether to use machines that can be preempted. SkyPilot starts the training again on
            another one; it continues from its newest checkpoint.
        recovery: how SkyPilot looks for another machine: ``"EAGER_NEXT_REGION"`` or ``"FAILOVER"``.
        restarts: how many times SkyPilot starts a training again that ended with an error.
        nodes: machines of one training; the run must bind ``launch.how``. The hosts of a TPU slice
            are one node.
        disk_gb: size of the disk.
        image: machine image, or ``"docker:NAME"``.
        resources: further entries of the task's ``resources``.
        workdir: local folder that is copied to the machine and where the training starts; empty:
            none (a container that has everything).
        mounts: path on the machine -> bucket or local path, SkyPilot's ``file_mounts``:
            ``{"/runs": {"source": "gs://my-bucket", "mode": "MOUNT"}}``.
        volumes: path on the machine -> volume of Kubernetes.
        environment: variables of the training.
        setup: shell commands, run once on every machine.
        python: Python on the machine.
    """

    accelerators: str = ""
    infra: str = ""
    spot: bool = False
    recovery: str = ""
    restarts: int = 0
    nodes: int = 1
    disk_gb: int = 0
    image: str = ""
    resources: Mapping[str, Any] = field(default_factory=dict)
    workdir: str = "."
    mounts: Mapping[str, Any] = field(default_factory=dict)
    volumes: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    setup: Sequence[str] = ()
    python: str = "python"

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise UserError(f"sky.nodes = {self.nodes}: must be at least 1")
        for name in ("restarts", "disk_gb"):
            if getattr(self, name) < 0:
                raise UserError(f"sky.{name} = {getattr(self, name)}: must not be negative")


def task(run: PlannedRun, options: SkyOptions, *, study: str) -> dict[str, Any]:
    """Return the task of one training, in the form of SkyPilot's YAML.

    Args:
        run: the training.
        options: of its machines.
        study: name of the study, the first part of the task's name.

    Raises:
        UserError: the run directory would be lost with the machine.
    """
    _check_kept(run, options)
    recovery: dict[str, Any] = {
        "strategy": options.recovery,
        "max_restarts_on_errors": options.restarts,
    }
    resources: dict[str, Any] = {
        "infra": options.infra,
        "accelerators": options.accelerators,
        "use_spot": options.spot,
        "job_recovery": _given(recovery),
        "disk_size": options.disk_gb,
        "image_id": options.image,
    }
    command = shlex.join(["-m", "lossline.train", *run.arguments])
    tree = {
        "name": task_name(study, run.name),
        "resources": {**_given(resources), **options.resources},
        "num_nodes": options.nodes,
        "workdir": options.workdir,
        "envs": {name: str(value) for name, value in options.environment.items()},
        "file_mounts": dict(options.mounts),
        "volumes": dict(options.volumes),
        "setup": _lines(["set -e", *options.setup]) if options.setup else "",
        "run": _lines([f"exec {options.python} {command}"]),
    }
    return _given(tree)


def write_tasks(
    runs: Sequence[PlannedRun], options: SkyOptions, *, study: str, folder: Path
) -> list[str]:
    """Write a task file per run; return the commands that launch them.

    Args:
        runs: runs that are left to train.
        options: of their machines.
        study: name of the study, the first part of the tasks' names.
        folder: folder of the files, on a disk, where ``sky`` reads them.

    Raises:
        UserError: the run directories would be lost with the machines.
    """
    tasks = [task(run, options, study=study) for run in runs]
    folder.mkdir(parents=True, exist_ok=True)
    commands = []
    for run, tree in zip(runs, tasks, strict=True):
        path = folder / f"{run.name}.yaml"
        text = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
        write_text(path, f"# Training {run.name} of the study {study}.\n{text}")
        commands.append(shlex.join(["sky", "jobs", "launch", "--yes", "--detach-run", str(path)]))
    return commands


def task_name(study: str, run: str) -> str:
    """Return the name of a run's task: letters, digits, hyphens."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", f"{study}-{run}").strip("-")


def _check_kept(run: PlannedRun, options: SkyOptions) -> None:
    """Check that the run directory lies in a bucket or a mount, and so outlives the machine."""
    place = str(run.folder)
    mounts = [path.rstrip("/") for path in (*options.mounts, *options.volumes)]
    if "://" in place or any(f"{place}/".startswith(f"{mount}/") for mount in mounts):
        return
    raise UserError(
        f"run {run.name}: its directory {place} would be lost with the machine. Set study.root to "
        "a bucket (gs://…), or below a path of sky.mounts."
    )


def _given(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if value}


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such (``run: |``)."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
