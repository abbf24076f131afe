"""Mapping of the selective-scan kernels over a mesh: rows over batch axes, channels over
``tensor``.

Devices exchange only the partial sums that are added outside the kernels.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

from lossline.sharding.mesh import BATCH_AXES

# Axes of u, dt, y and their gradients; of A; of the maps B and C; of states; of partial sums.
_AXES = {
    "positions": ("batch", None, "tensor"),
    "rates": (None, "tensor"),
    "maps": ("batch", None, None),
    "states": ("batch", None, None, "tensor"),
    "rates_by_row": ("batch", None, "tensor"),
    "maps_by_block": ("batch", "tensor", None, None),
}


def on_each_device(call: Callable, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Callable:
    """Return ``call`` mapped over the mesh, because XLA cannot partition a Pallas kernel.

    Args:
        call: function of the arrays of one device.
        inputs, outputs: the name in ``_AXES`` of each argument and each result.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return call
    batch = tuple(axis for axis in BATCH_AXES if axis in mesh.shape)

    def spec(name: str) -> PartitionSpec:
        return PartitionSpec(*(batch if axis == "batch" else axis for axis in _AXES[name]))

    return jax.shard_map(
        call,
        mesh=mesh,
        in_specs=tuple(spec(name) for name in inputs),
        out_specs=tuple(spec(name) for name in outputs),
        check_vma=False,
    )


def channels_obstacle(channels: int, lanes: int) -> str | None:
    """Return why a kernel cannot split the channels over the devices, and the nearest number that
    works.

    Args:
        channels: channels of all devices.
        lanes: channels in one block of the kernel.

    Returns:
        The end of an error message, or None if there is no obstacle.
    """
    mesh = jax.sharding.get_abstract_mesh()
    tensor = 1 if mesh.empty else mesh.shape.get("tensor", 1)
    unit = lanes * tensor
    if channels % unit == 0:
        return None
    below = f"{channels // unit * unit} or " if channels > unit else ""
    by = "" if tensor == 1 else f" ({lanes} × mesh tensor = {tensor})"
    return (
        f"takes a multiple of {unit}{by} channels, not {channels}; nearest: {below}"
        f"{-(-channels // unit) * unit}"
    )
