"""Targets of compilation: TPU slices and GPUs that need not be present, or the devices of this
machine.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lossline.errors import UserError
from lossline.installing import install_extra

GIB = 2.0**30


@dataclass(frozen=True, kw_only=True)
class Chip:
    """Data sheet of one JAX device; None where a number is unknown (a CPU).

    Attributes:
        name: short name.
        flops: dense bfloat16 FLOP/s.
        memory: bytes of HBM that a program may use; for v4, the limit of its compiler.
        bandwidth: bytes per second from and to HBM.
        link: bytes per second that one device sends along one mesh axis, over one ring of links in
            both directions. A mesh axis over several dimensions of the torus has more, so this is a
            lower limit.
    """

    name: str
    flops: float | None = None
    memory: float | None = None
    bandwidth: float | None = None
    link: float | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """A TPU generation.

    Attributes:
        chip: data sheet of one device.
        dimensions: dimensions of its torus.
        sizes: slices that its documentation lists.
        chip_config: how the cores of a chip appear. The two cores of v4 act as one device
            ("megacore"), the default of a v4 host.
    """

    chip: Chip
    dimensions: int
    sizes: str
    chip_config: str | None = None


# Peak and HBM: data sheets of the vendor. Links: the same, and "How to scale your model" (one-way
# bytes per second per link, times two directions).
TPU_FAMILIES = {
    "v4": Family(
        chip=Chip(name="TPU v4", flops=275e12, memory=30.75 * GIB, bandwidth=1.2e12, link=9e10),
        dimensions=3,
        sizes="2x2x1, 2x2x2, 2x2x4, 2x4x4, 4x4x4, 4x4x8, 4x8x8, 8x8x8, 8x8x16",
        chip_config="megacore",
    ),
    "v5e": Family(
        chip=Chip(name="TPU v5e", flops=197e12, memory=15.75 * GIB, bandwidth=8.1e11, link=9e10),
        dimensions=2,
        sizes="2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16",
    ),
    "v5p": Family(
        chip=Chip(name="TPU v5p", flops=459e12, memory=95.0 * GIB, bandwidth=2.8e12, link=1.8e11),
        dimensions=3,
        sizes="2x2x1, 2x2x2, 2x2x4, 2x4x4, 4x4x4, 4x4x8, 4x8x8, 8x8x8",
    ),
    "v6e": Family(
        chip=Chip(name="TPU v6e", flops=918e12, memory=31.25 * GIB, bandwidth=1.6e12, link=1.8e11),
        dimensions=2,
        sizes="2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16",
    ),
}
# Keys are the first words of a GPU's device kind; the first match counts. Links: NVLink, both
# directions.
GPUS = {
    "NVIDIA H200": Chip(name="H200", flops=989.4e12, memory=139e9, bandwidth=4.8e12, link=9e11),
    "NVIDIA H100 PCIe": Chip(
        name="H100 PCIe", flops=756e12, memory=79e9, bandwidth=2.0e12, link=6e11
    ),
    "NVIDIA H100": Chip(name="H100", flops=989.4e12, memory=79e9, bandwidth=3.35e12, link=9e11),
    "NVIDIA A100": Chip(name="A100", flops=312e12, memory=79e9, bandwidth=2.0e12, link=6e11),
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU that need not be present: the facts that NVIDIA's compiler needs.

    Attributes:
        kind: device kind, a key of ``GPUS``.
        capability: compute capability, major and minor.
        multiprocessors: number of multiprocessors.
        shared: bytes of shared memory per multiprocessor.
    """

    kind: str
    capability: tuple[int, int]
    multiprocessors: int
    shared: int


CARDS = {
    "h200": Card(kind="NVIDIA H200", capability=(9, 0), multiprocessors=132, shared=228 * 1024),
    "h100": Card(kind="NVIDIA H100", capability=(9, 0), multiprocessors=132, shared=228 * 1024),
    "a100": Card(kind="NVIDIA A100", capability=(8, 0), multiprocessors=108, shared=164 * 1024),
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """Devices to compile for.

    Attributes:
        name: name given by the user.
        backend: "cpu", "gpu" or "tpu".
        chip: data sheet of each device.
        devices: JAX devices, present or only described.
        capability: compute capability of a described GPU.
    """

    name: str
    backend: str
    chip: Chip
    devices: Sequence[object]
    capability: tuple[int, int] | None = None


def find_target(name: str) -> Target:
    """Return the devices for a name: ``v4:4x4x8``, ``h200:8``, ``cpu``, ``cpu:8``, ``gpu``,
    ``here``.

    Call it before JAX uses a device.

    Raises:
        UserError: the name is unknown (the message lists the known ones), or it needs libtpu or
            JAX's CUDA wheels and they are not installed.
    """
    if name == "here" or re.fullmatch(r"(cpu|gpu)(:\d+)?", name):
        return _present(name)
    family_name, _, layout = name.partition(":")
    if family_name in CARDS and re.fullmatch(r"([1-9]\d*)?", layout):
        return _described_cards(name, CARDS[family_name], int(layout or 1))
    family = TPU_FAMILIES.get(family_name)
    if family is None or not re.fullmatch(r"\d+(x\d+)*", layout):
        raise UserError(f"no topology {name!r}; choose one of {known_topologies()}")
    if layout.count("x") != family.dimensions - 1:
        raise UserError(
            f"topology {name!r}: {family_name} slices have {family.dimensions} dimensions; write "
            f"for example {family_name}:{family.sizes.split(', ')[0]}"
        )
    return _described(name, family)


def known_topologies() -> str:
    """Return all names that ``find_target`` knows, for a message."""
    tpus = "; ".join(f"{name}: {family.sizes}" for name, family in TPU_FAMILIES.items())
    cards = ", ".join(f"{name}:<cards>" for name in CARDS)
    return f"TPU slices ({tpus}), {cards}, cpu, cpu:<devices>, gpu, here"


def slices_of(name: str, devices: int) -> list[str]:
    """Return the listed slices of the same family with at least ``devices`` devices, smallest
    first.

    For cards, return numbers of cards of one host; for present devices, return nothing.
    """
    family, _, _ = name.partition(":")
    if family in CARDS:
        return [f"{family}:{count}" for count in (2, 4, 8) if count >= devices]
    known = TPU_FAMILIES[family].sizes.split(", ") if family in TPU_FAMILIES else []
    return [f"{family}:{size}" for size in known if math.prod(map(int, size.split("x"))) >= devices]


def _described(name: str, family: Family) -> Target:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"compiling for {name} needs the libtpu wheel (but no TPU); {install_extra('tpu')}, or "
            f"pip install libtpu"
        )
    _quiet_libtpu()
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")
    options = {"chip_config_name": family.chip_config} if family.chip_config else {}
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except Exception as error:  # libtpu raises plain runtime errors for a shape that it refuses
        reason = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise UserError(
            f"libtpu refuses topology {name!r} ({reason[:160]}); choose one of {family.sizes}"
        ) from error
    return Target(name=name, backend="tpu", chip=family.chip, devices=described.devices)


def _described_cards(name: str, card: Card, count: int) -> Target:
    plugins = [n for n in (13, 12) if importlib.util.find_spec(f"jax_cuda{n}_plugin")]
    if not plugins:
        raise UserError(
            f"compiling for {name} needs JAX's CUDA wheels (but no card); {install_extra('gpu')}, "
            f"or pip install 'jax[cuda13]'"
        )
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")
    described = topologies.get_topology_desc(
        topology_name=name,
        platform="cuda",
        target_config=_target_config(card),
        topology=f"1x1x{count}",
    )
    _require_cudnn(name, plugins[0])
    return Target(
        name=name,
        backend="gpu",
        chip=GPUS[card.kind],
        devices=described.devices,
        capability=card.capability,
    )


def _require_cudnn(name: str, cuda: int) -> None:
    """Raise a UserError if cuDNN is not installed; tracing and compiling need it as well as JAX.

    Call it after the plugin is loaded, which finds the libraries of NVIDIA's wheels.
    """
    versions = importlib.import_module(f"jax_cuda{cuda}_plugin._versions")
    try:
        versions.cudnn_get_version()
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"compiling for {name} also needs the cuDNN wheel ({reason}): pip install "
            f"'jax[cuda{cuda}]', or pip install nvidia-cudnn-cu{cuda}"
        ) from None


def _target_config(card: Card) -> str:
    """Return XLA's ``GpuTargetConfigProto`` as text. Numbers that all cards share are fixed."""
    chip = GPUS[card.kind]
    assert chip.bandwidth is not None and chip.memory is not None
    major, minor = card.capability
    return f"""
        platform_name: "CUDA"
        device_description_str: "{card.kind}"
        dnn_version_info {{ major: 9 minor: 8 patch: 0 }}
        gpu_device_info {{
          cuda_compute_capability {{ major: {major} minor: {minor} }}
          core_count: {card.multiprocessors} fpus_per_core: 128 clock_rate_ghz: 1.8
          threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          registers_per_core_limit: 65536 registers_per_block_limit: 65536
          shared_memory_per_core: {card.shared} shared_memory_per_block: 49152
          shared_memory_per_block_optin: {card.shared - 1024}
          memory_bandwidth: {chip.bandwidth:.0f} device_memory_size: {chip.memory:.0f}
          l2_cache_size: 41943040
        }}
    """


def _quiet_libtpu() -> None:
    """Set the environment so that libtpu makes no network request and does not lock a TPU."""
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v4-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")


def _present(name: str) -> Target:
    import jax

    kind, _, count = name.partition(":")
    if count and int(count) < 1:
        raise UserError(f"topology {name!r}: needs at least one device; write {kind}:1")
    if kind == "cpu" and count:
        # JAX refuses the update after a device has been used; then the existing devices count.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", int(count))
    try:
        devices = jax.devices() if kind == "here" else jax.devices(kind)
    except RuntimeError as error:
        raise UserError(
            f"topology {name!r}: this machine has no {kind} ({str(error).splitlines()[0]}). "
            f"Choose another topology"
        ) from error
    if count and len(devices) < int(count):
        raise UserError(
            f"topology {name!r}: this machine has {len(devices)} {kind} devices; write "
            f"{kind}:{len(devices)}"
        )
    devices = devices[: int(count)] if count else devices
    backend = "gpu" if devices[0].platform in ("gpu", "cuda", "rocm") else devices[0].platform
    return Target(name=name, backend=backend, chip=_chip_of(devices[0]), devices=devices)


def _chip_of(device: object) -> Chip:
    kind = str(getattr(device, "device_kind", "unknown"))
    if getattr(device, "platform", "") == "tpu":
        for name, family in TPU_FAMILIES.items():
            short = {"v5e": "v5 lite", "v6e": "v6 lite", "v5p": "v5"}.get(name, name)
            if kind.lower() == f"tpu {short}":
                return family.chip
    for name, chip in GPUS.items():
        if kind.startswith(name):
            return chip
    return Chip(name=kind)


def fits(chip: Chip, bytes_needed: float) -> bool:
    """Return whether a program of this size fits one device; True if its memory is unknown."""
    return bytes_needed <= (math.inf if chip.memory is None else chip.memory)
