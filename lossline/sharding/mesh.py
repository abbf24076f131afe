"""Device mesh with four named axes, the same on one CPU and on a pod.

- ``data`` splits only the batch.
- ``fsdp`` splits the batch and every large parameter (ZeRO-3).
- ``sequence`` splits the length of activations, for contexts too long for one device; each device
  gathers the keys and values of the whole row.
- ``tensor`` splits heads, hidden units and the vocabulary (Megatron).

A mesh of one device runs the same code with all axes of size 1.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from lossline.errors import UserError
from lossline.sharding.rings import Rings

MESH_AXES = ("data", "fsdp", "sequence", "tensor")
BATCH_AXES = ("data", "fsdp")


@dataclass(frozen=True, kw_only=True)
class MeshOptions:
    """Number of devices along each mesh axis.

    Attributes:
        data, fsdp, sequence, tensor: devices along the axis. One of them may be -1: all devices
            that are left.
        rules: changes to the table of ``lossline.sharding.rules``: "logical axis=mesh axis"
            ("mlp=fsdp"), or "logical axis=" to replicate along that axis.
        rings: "auto", "on" or "off": whether the training step's products of gathered arrays may
            become rings on a TPU (``lossline.sharding.rings``). It changes only rounding and speed.
    """

    data: int = -1
    fsdp: int = 1
    sequence: int = 1
    tensor: int = 1
    rules: tuple[str, ...] = ()
    rings: Rings = Rings.AUTO


def make_mesh(options: MeshOptions, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return the mesh over ``devices`` (default: all devices of all processes).

    Raises:
        UserError: the sizes of the axes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = _sizes(options, len(devices))
    if devices[0].platform == "cpu":
        # Virtual devices have no coordinates, which create_device_mesh needs.
        return Mesh(
            np.asarray(devices).reshape(sizes),
            MESH_AXES,
            axis_types=(AxisType.Auto,) * len(MESH_AXES),
        )
    # Let an axis take part of a dimension of the torus, for example 32 of 8 × 8 × 8.
    grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def resolved(options: MeshOptions, count: int) -> MeshOptions:
    """Return the options for ``count`` devices, with -1 replaced by a number.

    Raises:
        UserError: the sizes of the axes do not multiply to the number of devices.
    """
    sizes = zip(MESH_AXES, _sizes(options, count), strict=True)
    return dataclasses.replace(options, **dict(sizes))  # type: ignore[arg-type]


def require_divisible(what: str, number: int, by: str, ways: int, *, devices: int) -> None:
    """Raise a UserError unless ``ways`` divides ``number``.

    The message gives both numbers and the nearest numbers that work.

    Args:
        what: name of ``number`` in the message.
        number: the number to divide.
        by: name of ``ways`` in the message.
        ways: the divisor.
        devices: devices that could be placed along ``by``; every proposed divisor divides this
            number too.

    Raises:
        UserError: ``number % ways != 0``.
    """
    if number % ways:
        fix = f"{by} = {nearest_divisors(math.gcd(number, devices), ways)}"
        raise indivisible(what, number, by, ways, fix=fix)


def indivisible(what: str, number: int, by: str, ways: int, *, fix: str) -> UserError:
    """Return the error that ``ways`` does not divide ``number``, with the nearest multiples.

    Args:
        what: name of ``number`` in the message.
        number: the number to divide.
        by: name of ``ways`` in the message.
        ways: the divisor.
        fix: another way to fix it, for the end of the message.
    """
    below, above = number // ways * ways, -(-number // ways) * ways
    near = f"{below} or {above}" if below else f"{above}"
    return UserError(
        f"{what} {number} is not divisible by {by} = {ways}; nearest that work: {what} {near}, or "
        f"{fix}"
    )


def giving_axis(*axes: str) -> str:
    """Return the mesh axis that shrinks or grows when the size of ``axes`` changes."""
    return "fsdp" if "data" in axes else "data"


def devices_along(mesh: Mesh, *axes: str) -> int:
    """Return the devices that ``axes`` could use together if only ``giving_axis`` changed."""
    return math.prod(mesh.shape[axis] for axis in {*axes, giving_axis(*axes)})


def nearest_divisors(number: int, ways: int) -> str:
    """Return the nearest divisors of ``number`` at or below and above ``ways``, as text."""
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    below = [d for d in divisors if d <= ways][-1:]
    above = [d for d in divisors if d > ways][:1]
    return " or ".join(str(d) for d in below + above)


def _sizes(options: MeshOptions, count: int) -> tuple[int, ...]:
    sizes = [getattr(options, axis) for axis in MESH_AXES]
    shown = " × ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, sizes, strict=True))
    for axis, size in zip(MESH_AXES, sizes, strict=True):
        if size == 0 or size < -1:
            raise UserError(
                f"mesh {axis} = {size}: must be a positive number of devices, or -1 for all "
                f"devices that are left"
            )
    if sizes.count(-1) > 1:
        raise UserError(f"mesh {shown}: only one axis may be -1. Give the others a number")
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes:
        if count % known:
            raise UserError(
                f"mesh {shown} needs a multiple of {known} devices, but {count} exist; "
                f"nearest that work: {nearest_divisors(count, known)} instead of {known}"
            )
        sizes[sizes.index(-1)] = count // known
    elif known != count:
        raise UserError(
            f"mesh {shown} needs {known} devices, but {count} exist; nearest that work: "
            f"{_nearest_mesh(sizes, count)} (or set one axis to -1)"
        )
    return tuple(sizes)


def _nearest_mesh(sizes: Sequence[int], count: int) -> str:
    """Return the factorization of ``count`` closest to ``sizes`` in log scale."""
    divisors = [n for n in range(1, count + 1) if count % n == 0]
    options = itertools.product(divisors, repeat=len(MESH_AXES))
    best = min(
        (option for option in options if math.prod(option) == count),
        key=lambda option: sum(abs(math.log(a / b)) for a, b in zip(option, sizes, strict=True)),
    )
    return " × ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, best, strict=True))
