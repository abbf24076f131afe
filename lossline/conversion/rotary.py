"""How positions rotate, as config.json says it: transformers 4 has a base beside an object
``rope_scaling``, transformers 5 one object ``rope_parameters`` with all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lossline.conversion.family import Entries
from lossline.errors import UserError


def rotation(tree: Entries) -> Entries:
    """The object of the two that is there, or no entries.

    Raises:
        UserError: both are there and differ, or it has an object for each type of layer.
    """
    scaling, parameters = tree.section("rope_scaling"), tree.section("rope_parameters")
    if scaling and parameters:
        tree.require_same("rope_scaling", dict(parameters), "rope_parameters")
    found = scaling or parameters
    nested = [name for name, value in found.items() if isinstance(value, Mapping)]
    if nested:
        raise UserError(
            f"{tree.where}: rotary positions of their own for {', '.join(nested)} are not "
            "supported; only the same in all layers are"
        )
    return found


def kind_of(found: Entries) -> Any:
    """Its scaling: "default" is none; older files call it ``type``."""
    return found.get("rope_type", found.get("type", "default"))


def number_of(tree: Entries, found: Entries, beside: str, within: str, default: float) -> float:
    """A number that stands within the object or beside it, under another name.

    Raises:
        UserError: it stands in both places, with two values.
    """
    value = found.number(within, tree.number(beside, default))
    tree.require_same(beside, value, f"{within} of the rotary positions")
    return value
