"""Placement of parameters, optimizer state and batches on the mesh."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lossline.errors import UserError
from lossline.sharding.mesh import (
    BATCH_AXES,
    devices_along,
    giving_axis,
    indivisible,
    nearest_divisors,
)
from lossline.sharding.rules import Rules


def replicated(mesh: Mesh) -> NamedSharding:
    """Return a sharding that keeps a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, *, microbatches: int = 1) -> NamedSharding:
    """Return a sharding that splits rows over ``data`` and ``fsdp``.

    With microbatches, a leading axis that is not split comes before the rows.
    """
    leading = (None,) if microbatches > 1 else ()
    return NamedSharding(mesh, PartitionSpec(*leading, BATCH_AXES))


def place_rows(arrays: Any, sharding: NamedSharding) -> Any:
    """Return arrays with rows split over the mesh; each process places the rows it holds.

    Args:
        arrays: pytree of whole NumPy arrays, the same in every process.
        sharding: ``batch_sharding``.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(arrays, sharding)
    return jax.tree.map(
        lambda array: jax.make_array_from_callback(array.shape, sharding, array.__getitem__),
        arrays,
    )


def parameter_shardings(shapes: Any, axes: Any, mesh: Mesh, rules: Rules) -> Any:
    """Return one ``NamedSharding`` per parameter, read from the table of rules.

    Args:
        shapes: pytree of arrays or ``ShapeDtypeStruct``.
        axes: pytree of the same structure; each leaf is a tuple of logical axis names, one per
            dimension.
        mesh: the device mesh.
        rules: the table.

    Raises:
        UserError: an axis has no rule, two axes use one mesh axis, no parameter uses a changed
            rule, or a mesh axis does not divide a dimension.
        ValueError: the axes do not fit the shapes (a bug of the model).
    """
    used: set[str] = set()
    dimensions: list[_Dimension] = []

    def place(path: tuple[Any, ...], array: Any, names: tuple[str | None, ...]) -> NamedSharding:
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        if len(names) != len(array.shape):
            raise ValueError(f"{where}: shape {array.shape} but axes {names}")
        used.update(name for name in names if name is not None)
        spec = rules.spec(where, names)
        for size, name, part in zip(array.shape, names, spec, strict=True):
            parts = (part,) if isinstance(part, str) else part or ()
            dimensions.append(_Dimension(where, name, size, parts))
        return NamedSharding(mesh, spec)

    placed = jax.tree_util.tree_map_with_path(place, shapes, axes)
    _require_division(dimensions, mesh)
    rules.refuse_unused(used)
    return placed


class _Dimension(NamedTuple):
    """One dimension of a parameter: its logical name, size, and the mesh axes that split it."""

    where: str
    name: str | None
    size: int
    parts: tuple[str, ...]


def _require_division(dimensions: Sequence[_Dimension], mesh: Mesh) -> None:
    """Raise a UserError for the first dimension that its mesh axis does not divide.

    The proposed sizes also divide all other dimensions on that axis, except the vocabulary, which
    can be padded.
    """
    for where, name, size, parts in dimensions:
        ways = math.prod(mesh.shape[axis] for axis in parts)
        if size % ways == 0:
            continue
        by = f"mesh {'×'.join(parts)}"
        alike = [d.size for d in dimensions if d.parts == parts and d.name != "vocab"]
        sizes = nearest_divisors(math.gcd(size, *alike, devices_along(mesh, *parts)), ways)
        fix = f"{by} = {sizes} (with the remaining devices on mesh {giving_axis(*parts)})"
        if name == "vocab":
            raise UserError(
                f"{where}: a vocabulary of {size} is not divisible by {by} = {ways}; pad it with "
                f"the model's vocab_multiple = {ways} (to {-(-size // ways) * ways}), or set {fix}"
            )
        fix += f', or the mesh rule "{name}=" (a copy on every device)'
        raise indivisible(f"{where} axis {name!r} of size", size, by, ways, fix=fix)


def parameter_table(shapes: Any, axes: Any, shardings: Any) -> str:
    """Return a text table of every parameter, with the total in the last row.

    Its columns are name, shape, dtype, logical axes, partition and count.
    """
    header = ("parameter", "shape", "dtype", "axes", "partition", "count")
    rows: list[tuple[str, ...]] = []
    flat, _ = jax.tree_util.tree_flatten_with_path(shapes)
    names = jax.tree.leaves(axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    for (path, array), name, sharding in zip(flat, names, jax.tree.leaves(shardings), strict=True):
        rows.append(
            (
                jax.tree_util.keystr(path, simple=True, separator="/"),
                "×".join(map(str, array.shape)) or "scalar",
                str(array.dtype),
                ",".join(map(str, name)),
                ",".join(str(part or "-") for part in sharding.spec) or "-",
                f"{math.prod(array.shape):,}",
            )
        )
    total = sum(math.prod(array.shape) for _, array in flat)
    rows.append(("total", "", "", "", "", f"{total:,}"))
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines) + "\n"
