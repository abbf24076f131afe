"""Read the ``Attributes:`` and ``Args:`` sections of Google-style docstrings."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any

_SECTION = re.compile(r"^(Attributes|Args|Arguments):\s*$")
_ENTRY = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?:\s*(.*)$")


def described_fields(component: Callable[..., Any]) -> dict[str, str]:
    """Return the text of every field that a class or function describes, base classes included.

    Args:
        component: a dataclass, or a function with keyword arguments.
    """
    owners = reversed(inspect.getmro(component)) if inspect.isclass(component) else [component]
    described: dict[str, str] = {}
    for owner in owners:
        described |= section_entries(inspect.cleandoc(owner.__doc__ or ""))
    return described


def section_entries(docstring: str) -> dict[str, str]:
    """Return name -> text for each entry of the ``Attributes:`` or ``Args:`` section."""
    lines = docstring.splitlines()
    starts = [number for number, line in enumerate(lines) if _SECTION.match(line)]
    entries: dict[str, str] = {}
    for start in starts:
        body = []
        for line in lines[start + 1 :]:
            if line.strip() and not line.startswith(" "):
                break
            body.append(line)
        entries |= _entries_of(textwrap.dedent("\n".join(body)).splitlines())
    return entries


def _entries_of(lines: list[str]) -> dict[str, str]:
    """Return the entries of one dedented section; indented lines continue an entry."""
    entries: dict[str, list[str]] = {}
    names: list[str] = []
    for line in lines:
        found = _ENTRY.match(line)
        if found:
            names = [name.strip("* ") for name in found[1].split(",")]
            for name in names:
                entries[name] = [found[2]]
        else:
            for name in names:
                entries[name].append(line.strip())
    return {name: " ".join(part for part in parts if part) for name, parts in entries.items()}


def summary(component: Any) -> str:
    """Return the first paragraph of a docstring as one line."""
    return " ".join(inspect.cleandoc(component.__doc__ or "").split("\n\n")[0].split())
