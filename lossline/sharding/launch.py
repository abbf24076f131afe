"""Start JAX in one process, or in many that act as one (``jax.distributed``)."""

from __future__ import annotations

import enum
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import jax

from lossline.errors import UserError

SECONDS_TO_MEET = 300  # as JAX's own limit, after which it would abort
_SECONDS_MORE = 60


class Launch(enum.Enum):
    """How a process learns its own number among the processes of a run."""

    SINGLE = "single"
    AUTO = "auto"  # JAX reads the environment of a TPU pod, SLURM or Open MPI
    EXPLICIT = "explicit"  # from launch.coordinator, launch.processes and launch.process_id


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """How the processes of one training, evaluation or scoring find each other.

    Attributes:
        how: "single", "auto" (JAX reads the environment of the cluster) or "explicit".
        coordinator: "host:port" of process 0 (for "explicit").
        processes: number of processes (for "explicit").
        process_id: number of this process, from 0 (for "explicit").
        virtual_cpu_devices: split the CPU of every process into this many devices, to test a mesh
            without the hardware.
    """

    how: Launch = Launch.SINGLE
    coordinator: str | None = None
    processes: int | None = None
    process_id: int | None = None
    virtual_cpu_devices: int | None = None

    def __post_init__(self) -> None:
        for name in ("processes", "virtual_cpu_devices"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"launch.{name} = {value}: must be at least 1")


def launch(options: LaunchOptions) -> None:
    """Join the other processes. Call it before any code uses a device.

    Raises:
        UserError: for "explicit", one of the three facts is missing, the coordinator has no port,
            or the process id is out of range; for "auto", no cluster is found.
    """
    if options.virtual_cpu_devices is not None:
        jax.config.update("jax_num_cpu_devices", options.virtual_cpu_devices)
    if options.how is Launch.SINGLE or jax.distributed.is_initialized():
        return
    if options.how is Launch.AUTO:
        _join_cluster()
        return
    if options.coordinator is None or options.processes is None or options.process_id is None:
        raise UserError(
            "launch.how = 'explicit' needs three more bindings: set launch.coordinator, "
            "launch.processes and launch.process_id"
        )
    if not 0 <= options.process_id < options.processes:
        raise UserError(
            f"launch.process_id = {options.process_id}: must be from 0 to {options.processes - 1} "
            f"(launch.processes - 1)"
        )
    _, _, port = options.coordinator.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 2**16 or port == options.coordinator:
        raise UserError(
            f"launch.coordinator = {options.coordinator!r}: must be host:port of process 0, for "
            "example 10.0.0.1:1234"
        )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    with _impatient(f"process {options.process_id} of {options.processes}"):
        jax.distributed.initialize(
            options.coordinator,
            options.processes,
            options.process_id,
            initialization_timeout=SECONDS_TO_MEET + _SECONDS_MORE,
        )


@contextmanager
def _impatient(who: str) -> Iterator[None]:
    """End this process in one line if the others do not come; JAX would abort with a stack trace.

    Args:
        who: number of this process among all, for the message.
    """
    waiting = threading.Timer(SECONDS_TO_MEET, _give_up, [who])
    waiting.daemon = True
    waiting.start()
    try:
        yield
    finally:
        waiting.cancel()


def _give_up(who: str) -> None:
    print(
        f"lossline: error: {who} has waited {SECONDS_TO_MEET} s for the others. Start all at about "
        "the same time, with the same launch.coordinator and launch.processes and each with a "
        "launch.process_id of its own; process 0 runs on the host of the coordinator.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)  # the main thread waits inside JAX


def _join_cluster() -> None:
    try:
        with _impatient("this process"):
            jax.distributed.initialize(initialization_timeout=SECONDS_TO_MEET + _SECONDS_MORE)
    except ValueError as error:  # JAX found no cluster; the message names the missing setting
        reason = str(error).rstrip(".")
        raise UserError(
            f"launch.how = 'auto': found no TPU pod, SLURM or Open MPI ({reason}). Set it to "
            "'single', or to 'explicit' with launch.coordinator, processes and process_id"
        ) from None
