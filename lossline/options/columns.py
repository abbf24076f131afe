"""Identity of a run as columns of the loss table: ``option.<path>``, one text per option."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lossline.options.roles import OPTION_PREFIX

__all__ = ["option_columns"]

_CLASS = "__class__"


def option_columns(identity: Mapping[str, Any]) -> dict[str, str]:
    """Every option of an identity (``lossline.options.identity``) as a cell of the loss table.

    The path of an option within nested options is joined by dots: ``option.schedule.warmup``. Cells
    are text: strings as they are, None and "" as "none" (an empty cell means "not recorded"),
    everything else as JSON. Which class an option is of (a Llama, a cosine schedule) is told by the
    named columns ``architecture``, ``optimizer`` and ``schedule``.
    """
    return {OPTION_PREFIX + path: _text(value) for path, value in _leaves(identity, "")}


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if name == _CLASS:
            continue
        if isinstance(value, Mapping) and _CLASS in value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _text(value: Any) -> str:
    if value is None or value == "":
        return "none"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
