"""The one table from logical axes to mesh axes, and the strict reading of it.

Models name their axes ("embed", "mlp"); only this file knows that a mesh exists. Strict means: a
parameter with an axis that no rule covers, a rule that nothing can use, and two logical axes of one
parameter on one mesh axis are errors at the start, never a silently replicated array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jax
from jax.sharding import NamedSharding, PartitionSpec

from lossline.errors import UserError
from lossline.sharding.mesh import BATCH_AXES, MESH_AXES

MeshAxes = str | tuple[str, ...] | None

# Parameters, and the activations that are pinned. Left: what models say. Right: mesh axis, or None
# for "whole everywhere".
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
    "pieces": (*BATCH_AXES, "sequence"),  # of a batch's rows: every device's share of the tokens
}
LOGICAL_AXES = tuple(RULES)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The table in effect.

    Attributes:
        table: logical axis -> mesh axis (or axes, or None).
        changed: logical axes whose rule a person changed; each must be used by the model at hand.
    """

    table: Mapping[str, MeshAxes] = field(default_factory=lambda: dict(RULES))
    changed: tuple[str, ...] = ()

    def spec(self, where: str, axes: Sequence[str | None]) -> PartitionSpec:
        """The partition of an array whose dimensions carry the logical names ``axes`` (None:
        whole).

        Args:
            where: the parameter's name, for messages.

        Raises:
            UserError: a name without a rule; two names on one mesh axis.
        """
        used: dict[str, str] = {}
        parts: list[MeshAxes] = []
        for name in axes:
            part = None if name is None else self._lookup(where, name)
            for mesh_axis in (part,) if isinstance(part, str) else part or ():
                if mesh_axis in used:
                    raise UserError(
                        f"{where}: logical axes {used[mesh_axis]!r} and {name!r} both fall on mesh "
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
        """Refuses a changed rule that no parameter of the model uses.

        Raises:
            UserError: naming the rule and the axes the model has.
        """
        for name in self.changed:
            if name not in used:
                raise UserError(
                    f"unused sharding rule {name!r}: no parameter of this model has that axis; it "
                    f"has {', '.join(sorted(used))}"
                )


def make_rules(changes: Sequence[str] = ()) -> Rules:
    """The table with a person's ``changes`` ("mlp=fsdp", "embed=").

    Raises:
        UserError: a change that is no "name=axis", of an unknown logical or mesh axis, or given
            twice.
    """
    table, changed = dict(RULES), []
    for change in changes:
        name, equals, axis = (part.strip() for part in change.partition("="))
        if not equals:
            raise UserError(
                f'mesh rule {change!r}: write it as "logical axis=mesh axis", such as "mlp=tensor"'
            )
        if name not in RULES:
            raise UserError(
                f"mesh rule {change!r}: no logical axis {name!r}; known: {', '.join(RULES)}"
            )
        if axis and axis not in MESH_AXES:
            raise UserError(
                f"mesh rule {change!r}: no mesh axis {axis!r}; there are {', '.join(MESH_AXES)}"
            )
        if name in changed:
            raise UserError(
                f"mesh rule {change!r}: {name!r} has a rule already; keep one of the two"
            )
        table[name] = axis or None
        changed.append(name)
    return Rules(table=table, changed=tuple(changed))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pins an activation to the mesh in effect (``jax.set_mesh``); does nothing where there is
    none.

    Args:
        axes: one logical name per dimension of ``x``: "batch", "length", a parameter axis such as
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
