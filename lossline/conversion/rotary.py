"""Rotary positions in config.json.

Transformers 4 writes a base and an object ``rope_scaling``; transformers 5 writes one object
``rope_parameters`` with everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lossline.conversion.family import Entries
from lossline.errors import UserError


def rotation(tree: Entries) -> Entries:
    """Return the entries of ``rope_parameters`` or of ``rope_scaling``, whichever exists.

    Return no entries if neither exists.

    Raises:
        UserError: both objects exist and differ, or the object has a section per type of layer.
    """
    scaling, parameters = tree.section("rope_scaling"), tree.section("rope_parameters")
    if scaling and parameters:
        tree.require_same("rope_scaling", dict(parameters), "rope_parameters")
    found = scaling or parameters
    nested = [name for name, value in found.items() if isinstance(value, Mapping)]
    if nested:
        raise UserError(
            f"{tree.where}: rotary positions per type of layer ({', '.join(nested)}) are not "
            "supported; use a model with the same in all layers"
        )
    return found


def kind_of(found: Entries) -> Any:
    """Return the kind of scaling; "default" means none. Older files name the entry ``type``."""
    return found.get("rope_type", found.get("type", "default"))


def number_of(tree: Entries, found: Entries, outer: str, inner: str, default: float) -> float:
    """Return a number that is given inside the object or outside it, under another name.

    Args:
        tree: entries of config.json.
        found: entries of the object.
        outer: name outside the object.
        inner: name inside the object.
        default: value if both are absent.

    Raises:
        UserError: both are given and differ.
    """
    value = found.number(inner, tree.number(outer, default))
    tree.require_same(outer, value, f"{inner} of the rotary positions")
    return value
