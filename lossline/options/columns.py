"""Identity of a run as columns of the loss table: ``option.<path>``, one cell per option."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lossline.options.roles import OPTION_PREFIX

_CLASS = "__class__"


def option_columns(identity: Mapping[str, Any]) -> dict[str, str]:
    """Return every option of an identity (``lossline.options.identity``) as a table cell.

    The column of a nested option is its path joined by dots: ``option.schedule.warmup``. Cells are
    text: strings unchanged, None and "" as "none" (an empty cell means "not recorded"), everything
    else as JSON. The classes of options (such as a Llama or a cosine schedule) are not included;
    the columns ``architecture``, ``optimizer`` and ``schedule`` record them.
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
