"""What a step can be compiled for: a TPU slice that is not here, or the devices at hand."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lossline.errors import UserError

GIB = 2.0**30


@dataclass(frozen=True, kw_only=True)
class Chip:
    """Data sheet of one JAX device; None where no bound is to be had (a CPU).

    Attributes:
      name: as people say it.
      flops: dense bfloat16 FLOP/s.
      memory: bytes of HBM that a program may use; for v4, what its compiler allows.
      bandwidth: bytes per second from and to HBM.
      link: bytes per second that one device sends along one mesh axis: both directions of one ring
        of links. A mesh axis that spans more dimensions of the torus has more; this is the floor.
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
      dimensions: of its torus; sizes: slices that its documentation lists.
      chip_config: how the cores of a chip appear; v4's two act as one device ("megacore"), which is
        what a v4 host shows by default.
    """

    chip: Chip
    dimensions: int
    sizes: str
    chip_config: str | None = None


# Peak and HBM from the vendor's data sheets; links from the same and from "How to scale your model"
# (one-way bytes per second per link, times two directions).
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
# By the first words of a GPU's device kind, first match; links: NVLink, both directions.
GPUS = {
    "NVIDIA H200": Chip(name="H200", flops=989.4e12, memory=139e9, bandwidth=4.8e12, link=9e11),
    "NVIDIA H100 PCIe": Chip(
        name="H100 PCIe", flops=756e12, memory=79e9, bandwidth=2.0e12, link=6e11
    ),
    "NVIDIA H100": Chip(name="H100", flops=989.4e12, memory=79e9, bandwidth=3.35e12, link=9e11),
    "NVIDIA A100": Chip(name="A100", flops=312e12, memory=79e9, bandwidth=2.0e12, link=6e11),
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """Devices to compile for.

    Attributes:
      name: as asked for; backend: "cpu", "gpu" or "tpu"; chip: of each device.
      devices: JAX devices, present or described.
    """

    name: str
    backend: str
    chip: Chip
    devices: Sequence[object]


def find_target(name: str) -> Target:
    """The devices that a name such as ``v4:4x4x8``, ``cpu``, ``cpu:8``, ``gpu`` or ``here`` means.

    To be called before JAX has touched a device.

    Raises:
      UserError: an unknown name (the known ones are listed), or a TPU name without libtpu.
    """
    if name == "here" or re.fullmatch(r"(cpu|gpu)(:\d+)?", name):
        return _present(name)
    family_name, _, layout = name.partition(":")
    family = TPU_FAMILIES.get(family_name)
    if family is None or not re.fullmatch(r"\d+(x\d+)*", layout):
        raise UserError(f"no topology {name!r}; there are {known_topologies()}")
    if layout.count("x") != family.dimensions - 1:
        raise UserError(
            f"topology {name!r}: {family_name} slices have {family.dimensions} dimensions, such as "
            f"{family_name}:{family.sizes.split(', ')[0]}"
        )
    return _described(name, family)


def known_topologies() -> str:
    """All that `find_target` knows, for a message."""
    tpus = "; ".join(f"{name}: {family.sizes}" for name, family in TPU_FAMILIES.items())
    return f"TPU slices ({tpus}), cpu, cpu:<devices>, gpu, here"


def slices_of(name: str, devices: int) -> list[str]:
    """Listed slices of the family of a slice such as ``v4:2x2x1`` with at least so many devices,
    smallest first; none for what is no slice."""
    family, _, _ = name.partition(":")
    known = TPU_FAMILIES[family].sizes.split(", ") if family in TPU_FAMILIES else []
    return [f"{family}:{size}" for size in known if math.prod(map(int, size.split("x"))) >= devices]


def _described(name: str, family: Family) -> Target:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"compiling for {name} needs the libtpu wheel (no TPU): pip install 'lossline[tpu]', "
            f"or pip install libtpu"
        )
    _quiet_libtpu()
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")
    options = {"chip_config_name": family.chip_config} if family.chip_config else {}
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except Exception as error:  # libtpu raises bare runtime errors for a shape that it refuses
        reason = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise UserError(
            f"libtpu refuses topology {name!r} ({reason[:160]}); usual ones: {family.sizes}"
        ) from error
    return Target(name=name, backend="tpu", chip=family.chip, devices=described.devices)


def _quiet_libtpu() -> None:
    """Keeps libtpu from asking the network which TPU host this is, and from locking the TPU that
    it only describes.
    """
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v4-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")


def _present(name: str) -> Target:
    import jax

    kind, _, count = name.partition(":")
    if count and int(count) < 1:
        raise UserError(f"topology {name!r}: at least one device is needed; write {kind}:1")
    if kind == "cpu" and count:
        # Too late where something has touched a device already: then those there are must do.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", int(count))
    try:
        devices = jax.devices() if kind == "here" else jax.devices(kind)
    except RuntimeError as error:
        raise UserError(f"no {kind} here: {str(error).splitlines()[0]}") from error
    if count and len(devices) < int(count):
        raise UserError(f"topology {name!r}: there are {len(devices)} {kind} devices here")
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
    """Whether a program of this size fits one device; always, where its memory is not known."""
    return bytes_needed <= (math.inf if chip.memory is None else chip.memory)
