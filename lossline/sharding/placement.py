"""Where parameters, optimizer state and batches live on the mesh."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lossline.errors import UserError
from lossline.sharding.mesh import BATCH_AXES, nearest_divisors, require_divisible
from lossline.sharding.rules import Rules


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, *, microbatches: int = 1) -> NamedSharding:
    """Rows split over ``data`` and ``fsdp``; with microbatches a whole leading axis stands before
    the rows."""
    leading = (None,) if microbatches > 1 else ()
    return NamedSharding(mesh, PartitionSpec(*leading, BATCH_AXES))


def parameter_shardings(shapes: Any, axes: Any, mesh: Mesh, rules: Rules) -> Any:
    """One ``NamedSharding`` per parameter, read off the table strictly.

    Args:
        shapes: pytree of arrays or ``ShapeDtypeStruct``.
        axes: pytree of the same structure whose leaves are tuples of logical axis names, one per
            dimension.

    Raises:
        UserError: an axis without a rule, two axes on one mesh axis, a changed rule that nothing
            uses, a dimension that its mesh axis does not divide.
        ValueError: axes that do not fit the shapes (a bug of the model).
    """
    used: set[str] = set()

    def place(path: tuple[Any, ...], array: Any, names: tuple[str | None, ...]) -> NamedSharding:
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        if len(names) != len(array.shape):
            raise ValueError(f"{where}: shape {array.shape} but axes {names}")
        used.update(name for name in names if name is not None)
        spec = rules.spec(where, names)
        for size, name, part in zip(array.shape, names, spec, strict=True):
            parts = (part,) if isinstance(part, str) else part or ()
            ways = math.prod(mesh.shape[axis] for axis in parts)
            by = f"mesh {'×'.join(parts)}"
            if name == "vocab" and size % ways:
                raise UserError(
                    f"{where}: a vocabulary of {size} is not divisible by {by} = {ways}; pad it "
                    f"with the model's "
                    f"vocab_multiple = {ways} (to {-(-size // ways) * ways}), or set {by} = "
                    f"{nearest_divisors(size, ways)}"
                )
            require_divisible(f"{where} axis {name!r} of size", size, by, ways)
        return NamedSharding(mesh, spec)

    placed = jax.tree_util.tree_map_with_path(place, shapes, axes)
    rules.refuse_unused(used)
    return placed


def parameter_table(shapes: Any, axes: Any, shardings: Any) -> str:
    """Text table of every parameter: name, shape, dtype, logical axes, partition, count; the total
    last."""
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
