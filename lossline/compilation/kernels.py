"""Count the bytes that Pallas kernels move.

The compiled program shows a kernel as one opaque call; its grid shows what it reads and writes.
"""

from __future__ import annotations

import math
from typing import Any

from lossline.compilation.flops import Jaxpr, total
from lossline.ops.tpu_attention import share_of_blocks


def kernel_bytes(jaxpr: Jaxpr) -> float:
    """Return the bytes that all Pallas kernels read from and write to main memory, all devices.

    The pipeline of a kernel copies a block when its index differs from that of the previous grid
    step. The number of copies is therefore the product of the grid up to the innermost axis that
    the index depends on. If the index comes from a schedule (causal attention), skipped blocks are
    not copied.
    """
    return total(jaxpr, _bytes)


def _bytes(equation: Any) -> float | None:
    if equation.primitive.name != "pallas_call":
        return None
    mapping = equation.params["grid_mapping"]
    share = share_of_blocks(str(equation.params["name"]), mapping.grid)
    return sum(_block_bytes(block, mapping.grid, share) for block in mapping.block_mappings)


def _block_bytes(block: Any, grid: tuple[int, ...], share: float) -> float:
    axes = _read_by(block.index_map_jaxpr.jaxpr)
    copies = math.prod(grid[: max((axis for axis in axes if axis < len(grid)), default=-1) + 1])
    scheduled = any(axis >= len(grid) for axis in axes)
    sizes = (getattr(size, "block_size", size) for size in block.block_shape)
    elements = math.prod(size for size in sizes if isinstance(size, int))
    return copies * (share if scheduled else 1.0) * elements * block.array_aval.dtype.itemsize


def _read_by(jaxpr: Any) -> set[int]:
    """Return the arguments that an index depends on: grid axes, then arrays of the schedule."""
    sources: dict[Any, set[int]] = {var: {i} for i, var in enumerate(jaxpr.invars)}

    def of(atom: Any) -> set[int]:
        return set() if hasattr(atom, "val") else sources.get(atom, set())

    for equation in jaxpr.eqns:
        found = set().union(*(of(atom) for atom in equation.invars))
        sources.update({var: found for var in equation.outvars})
    return set().union(*(of(atom) for atom in jaxpr.outvars))
