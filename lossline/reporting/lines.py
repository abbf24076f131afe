"""Fitted lines as figures see them: facts of the group, unit, and the range their points span."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lossline.reporting.points import Unit


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line to draw: `line.predict(x)` and `line.band(x, level)` over `domain`, in `unit`."""

    line: Any
    facts: Mapping[str, Any]
    unit: Unit
    domain: tuple[float, float]

    @property
    def name(self) -> str:
        """The group in words, e.g. ``wiki, llama, bpe-4096``."""
        return ", ".join(str(value) for value in self.facts.values())


def curves_for(curves: Iterable[Curve], *, x: str, y: str, unit: Unit) -> list[Curve]:
    """The curves of one panel, in a fixed order."""
    found = [
        curve
        for curve in curves
        if curve.line.x_set == x and curve.line.y_set == y and curve.unit is unit
    ]
    return sorted(found, key=lambda curve: curve.name)


def drawable(lines: Iterable[Any]) -> Sequence[Curve]:
    """Those of the lines that the data determined, as curves."""
    return [
        Curve(line=line, facts=line.group, unit=Unit(line.unit), domain=line.x_range)
        for line in lines
        if line.drawable
    ]
