"""How the selective scan's kernels lie on a mesh: rows over its batch axes, channels over "tensor".
No device needs another's share but for sums that are taken outside the kernels.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

from lossline.sharding.mesh import BATCH_AXES

# Partition of u, dt, y and their gradients; of A; of the maps B and C; of states; of partial sums.
_AXES = {
    "positions": ("batch", None, "tensor"),
    "rates": (None, "tensor"),
    "maps": ("batch", None, None),
    "states": ("batch", None, None, "tensor"),
    "rates_by_row": ("batch", None, "tensor"),
    "maps_by_block": ("batch", "tensor", None, None),
}


def on_each_device(call: Callable, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Callable:
    """The call on each device's share, as XLA cannot partition a Pallas kernel.

    Args:
        inputs, outputs: which of ``_AXES`` each of its arguments and results is.
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
    """Why a kernel cannot take blocks of ``lanes`` channels on each device, and the nearest that it
    can; None if it can.
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
