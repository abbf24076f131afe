"""Write a tree of options as gin text that builds the same tree. This module does not need gin."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lossline.options.identity import option_value


def gin_text(name: str, options: Any, components: Mapping[str, Callable[..., Any]]) -> str:
    """Return the bindings of all options, defaults included.

    Args:
        name: Gin name of the options, such as "train".
        options: dataclass; its fields may contain other dataclasses.
        components: Gin name -> class of these, as registered by the entry point.

    Returns:
        One block of ``owner.option = value`` lines per dataclass. An option whose value gin cannot
            build (such as a user's own class, passed from Python) becomes a comment with its
            ``repr``.
    """
    writer = _Writer(components)
    writer.add(name, options)
    return "\n\n".join("\n".join(block) for block in writer.blocks) + "\n"


class _Writer:
    """Writer of blocks. Different values of one class get scopes; equal values share a block."""

    def __init__(self, components: Mapping[str, Callable[..., Any]]) -> None:
        self.blocks: list[list[str]] = []
        self._names = {component: name for name, component in components.items()}
        self._known: dict[str, Any] = {}  # owner -> the options of its block

    def add(self, owner: str, options: Any) -> None:
        """Write the block of ``owner``, then the blocks of the dataclasses that it contains."""
        self._known[owner] = options
        block: list[str] = []
        self.blocks.append(block)
        for item in dataclasses.fields(options):
            if not item.init:
                continue
            value = option_value(options, item)
            try:
                block.append(f"{owner}.{item.name} = {self._text(value)}")
            except _NotGin:
                block.append(f"# {owner}.{item.name} = {value!r}")

    def _text(self, value: Any) -> str:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return f"@{self._reference(value)}()"
        if isinstance(value, enum.Enum):
            return repr(value.value)
        if isinstance(value, Mapping):
            items = (f"{key!r}: {self._text(item)}" for key, item in value.items())
            return f"{{{', '.join(items)}}}"
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(map(self._text, value))}]"
        if isinstance(value, Path):
            return repr(str(value))
        if value is None or isinstance(value, (bool, int, float, str)):
            return repr(value)
        raise _NotGin

    def _reference(self, value: Any) -> str:
        name = self._names.get(type(value))
        if name is None:
            raise _NotGin
        number, owner = 1, name
        while owner in self._known and self._known[owner] != value:
            number += 1
            owner = f"n{number}/{name}"
        if owner not in self._known:
            self.add(owner, value)
        return owner


class _NotGin(Exception):
    """Raised for a value that gin text cannot build."""
