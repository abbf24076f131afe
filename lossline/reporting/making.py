"""The last section of every report: command, origin of the numbers and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lossline.reporting.grids import mapping_grid
from lossline.reporting.page import Block, Listing, Section


def making_section(
    provenance: Mapping[str, Any], settings: Mapping[str, Any], *, more: Sequence[Block] = ()
) -> Section:
    """Return how a report was made.

    Args:
        provenance: origin of the numbers; "command" is shown apart. Empty: not shown.
        settings: options of the verb, as their identity.
        more: further blocks, after the settings.
    """
    origin = {name: value for name, value in provenance.items() if name != "command"}
    command = str(provenance.get("command", ""))
    blocks: list[Block] = [Listing(title="Command", text=command)] if command else []
    if origin:
        blocks.append(mapping_grid("Origin of the numbers", origin))
    blocks += [mapping_grid("Settings", settings), *more]
    return Section(title="How this report was made", anchor="making", blocks=blocks)
