"""The one table from logical axes to mesh axes, and its strict reading.

Models name their axes ("embed", "mlp"); only this file maps them to the mesh. Strict: three
mistakes raise an error at the start, so that no array is replicated silently. They are a parameter
with an axis without a rule, a changed rule that no parameter uses, and two logical axes of one
parameter on one mesh axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jax
from jax.sharding import NamedSharding, PartitionSpec

from lossline.errors import UserError
from lossline.sharding.mesh import BATCH_AXES, MESH_AXES

MeshAxes = str | tuple[str, ...] | None

# Rules for parameters and for the activations that are pinned. Left: logical axis. Right: mesh
# axis, or None for a whole copy on every device.
RULES: Mapping[str, MeshAxes] = {
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "inner": "tensor",
    "inner_heads": "tensor",
    "state": None,
    "dt_rank": None,
    "conv": None,
    "positions": None,
    "layers": None,
    "norm": None,
}
ACTIVATION_RULES: Mapping[str, MeshAxes] = {
    "batch": BATCH_AXES,
    "length": "sequence",
    "pieces": (*BATCH_AXES, "sequence"),  # the share of a batch's tokens that each device holds
}
LOGICAL_AXES = tuple(RULES)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The table of rules in use.

    Attributes:
        table: logical axis -> mesh axis (or axes, or None).
        changed: logical axes whose rule the user changed; the model must use each of them.
    """

    table: Mapping[str, MeshAxes] = field(default_factory=lambda: dict(RULES))
    changed: tuple[str, ...] = ()

    def spec(self, where: str, axes: Sequence[str | None]) -> PartitionSpec:
        """Return the partition of an array whose dimensions have the logical names ``axes``.

        Args:
            where: name of the parameter, for messages.
            axes: logical name of each dimension; None: not split.

        Raises:
            UserError: a name has no rule, or two names use one mesh axis.
        """
        used: dict[str, str] = {}
        parts: list[MeshAxes] = []
        for name in axes:
            part = None if name is None else self._lookup(where, name)
            for mesh_axis in (part,) if isinstance(part, str) else part or ():
                if mesh_axis in used:
                    raise UserError(
                        f"{where}: logical axes {used[mesh_axis]!r} and {name!r} both use mesh "
                        f"axis {mesh_axis!r}; "
                        f'replicate one of them: mesh rules = ["{name}="]'
                    )
                used[mesh_axis] = str(name)
            parts.append(part)
        return PartitionSpec(*parts)

    def _lookup(self, where: str, name: str) -> MeshAxes:
        if name not in self.table:
            raise UserError(
                f"{where}: no sharding rule for logical axis {name!r}; known: "
                f"{', '.join(sorted(self.table))}"
            )
        return self.table[name]

    def refuse_unused(self, used: set[str]) -> None:
        """Raise a UserError if no parameter of the model uses a changed rule.

        Raises:
            UserError: names the rule and the axes of the model.
        """
        for name in self.changed:
            if name not in used:
                raise UserError(
                    f"unused sharding rule {name!r}: no parameter of this model has that axis. "
                    f"Remove the rule; the axes are {', '.join(sorted(used))}"
                )


def make_rules(changes: Sequence[str] = ()) -> Rules:
    """Return the table with the user's ``changes`` ("mlp=fsdp", "embed=").

    Raises:
        UserError: a change is not of the form "name=axis", names an unknown logical or mesh axis,
            or is given twice.
    """
    table, changed = dict(RULES), []
    for change in changes:
        name, equals, axis = (part.strip() for part in change.partition("="))
        if not equals:
            raise UserError(
                f'mesh rule {change!r}: write "logical axis=mesh axis", for example "mlp=tensor"'
            )
        if name not in RULES:
            raise UserError(
                f"mesh rule {change!r}: no logical axis {name!r}; known: {', '.join(RULES)}"
            )
        if axis and axis not in MESH_AXES:
            raise UserError(
                f"mesh rule {change!r}: no mesh axis {axis!r}; known: {', '.join(MESH_AXES)}"
            )
        if name in changed:
            raise UserError(f"mesh rule {change!r}: {name!r} already has a rule. Keep one of them")
        table[name] = axis or None
        changed.append(name)
    return Rules(table=table, changed=tuple(changed))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Shard an activation over the current mesh (``jax.set_mesh``) by the table of rules.

    Without a mesh, return it unchanged.

    Args:
        x: the activation.
        *axes: one logical name per dimension of ``x``: "batch", "length", a parameter axis such as
            "heads" or "mlp", or None.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    table = {
        **RULES,
        **ACTIVATION_RULES,
        "embed": None,
    }  # fsdp already splits the batch of every activation
    spec = Rules(table=table).spec("activation", axes)
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
