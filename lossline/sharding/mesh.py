"""The device mesh: four named axes, on one CPU as on a pod.

``data`` splits the batch and nothing else, ``fsdp`` splits the batch and every large parameter
(ZeRO-3), ``sequence`` splits the length of activations, for contexts too long for one device (each
gathers the keys and values of the whole row), ``tensor`` splits heads, hidden units and the
vocabulary (Megatron). A mesh of one device runs the same code with all axes of size 1.
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

MESH_AXES = ("data", "fsdp", "sequence", "tensor")
BATCH_AXES = ("data", "fsdp")


@dataclass(frozen=True, kw_only=True)
class MeshOptions:
    """How many devices stand along each mesh axis.

    Attributes:
        data, fsdp, sequence, tensor: devices along the axis; at most one of them may be -1, "all
            the devices that are left".
        rules: changes to the table of ``lossline.sharding.rules``, as "logical=mesh axis"
            ("mlp=fsdp"), or "logical=" to replicate along that logical axis.
    """

    data: int = -1
    fsdp: int = 1
    sequence: int = 1
    tensor: int = 1
    rules: tuple[str, ...] = ()


def make_mesh(options: MeshOptions, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over ``devices`` (default: all of all processes).

    Raises:
        UserError: the axes' sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = _sizes(options, len(devices))
    if devices[0].platform == "cpu":
        # Virtual devices have no topology; make_mesh would only complain about their missing
        # coordinates.
        return Mesh(
            np.asarray(devices).reshape(sizes),
            MESH_AXES,
            axis_types=(AxisType.Auto,) * len(MESH_AXES),
        )
    # An axis may take a part of a dimension of the torus: 32 of 8 × 8 × 8.
    grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def resolved(options: MeshOptions, count: int) -> MeshOptions:
    """The same mesh over ``count`` devices, with a number in place of -1.

    Raises:
        UserError: the axes' sizes do not multiply to the number of devices.
    """
    sizes = zip(MESH_AXES, _sizes(options, count), strict=True)
    return dataclasses.replace(options, **dict(sizes))  # type: ignore[arg-type]


def require_divisible(what: str, number: int, by: str, ways: int, *, devices: int) -> None:
    """Refuses ``number`` that ``ways`` does not divide, naming both and the nearest numbers that
    work.

    Args:
        devices: that could stand along ``by``: what is proposed in place of ``ways`` divides them,
            too.

    Raises:
        UserError: ``number % ways != 0``.
    """
    if number % ways:
        mend = f"{by} = {nearest_divisors(math.gcd(number, devices), ways)}"
        raise indivisible(what, number, by, ways, mend=mend)


def indivisible(what: str, number: int, by: str, ways: int, *, mend: str) -> UserError:
    """That ``ways`` does not divide ``number``, with its nearest multiples; ``mend``: what else to
    do."""
    below, above = number // ways * ways, -(-number // ways) * ways
    near = f"{below} or {above}" if below else f"{above}"
    return UserError(
        f"{what} {number} is not divisible by {by} = {ways}; nearest that work: {what} {near}, or "
        f"{mend}"
    )


def giving_axis(*axes: str) -> str:
    """The mesh axis that makes room, or takes what is left, when the size of ``axes`` changes."""
    return "fsdp" if "data" in axes else "data"


def devices_along(mesh: Mesh, *axes: str) -> int:
    """Devices that could stand along ``axes`` together if all others but ``giving_axis`` keep
    theirs."""
    return math.prod(mesh.shape[axis] for axis in {*axes, giving_axis(*axes)})


def nearest_divisors(number: int, ways: int) -> str:
    """The divisors of ``number`` next below and above ``ways``, for a message."""
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
                f"mesh {axis} = {size}: must be a positive number of devices, or -1 for all that "
                f"are left"
            )
    if sizes.count(-1) > 1:
        raise UserError(f"mesh {shown}: only one axis may be -1; give the others a number")
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes:
        if count % known:
            raise UserError(
                f"mesh {shown} needs a multiple of {known} devices, there are {count}; "
                f"nearest that work: {nearest_divisors(count, known)} in place of {known}"
            )
        sizes[sizes.index(-1)] = count // known
    elif known != count:
        raise UserError(
            f"mesh {shown} needs {known} devices, there are {count}; nearest that work: "
            f"{_nearest_mesh(sizes, count)} (or set one axis to -1)"
        )
    return tuple(sizes)


def _nearest_mesh(sizes: Sequence[int], count: int) -> str:
    """The factorization of ``count`` closest to ``sizes`` in log scale."""
    divisors = [n for n in range(1, count + 1) if count % n == 0]
    options = itertools.product(divisors, repeat=len(MESH_AXES))
    best = min(
        (option for option in options if math.prod(option) == count),
        key=lambda option: sum(abs(math.log(a / b)) for a, b in zip(option, sizes, strict=True)),
    )
    return " × ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, best, strict=True))
