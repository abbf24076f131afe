"""Fitted lines as figures and tables see them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lossline.lines.estimators import PARAMETERS
from lossline.lines.fitting import Line
from lossline.reporting.appearance import text
from lossline.reporting.grids import fact_columns, group_columns, number, status_cell, with_interval
from lossline.reporting.page import Cell, Column, Grid
from lossline.reporting.points import Unit

_SIGNS = {"kappa": "κ", "gamma": "γ"}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line to draw: `line.predict(x)` and `line.band(x, level)` over `domain`, in `unit`."""

    line: Line
    facts: Mapping[str, Any]
    unit: Unit
    domain: tuple[float, float]

    @property
    def name(self) -> str:
        """The group in words, e.g. ``wiki, llama, bpe-4096``."""
        return ", ".join(text(value) for value in self.facts.values())


def curves_for(curves: Iterable[Curve], *, x: str, y: str, unit: Unit) -> list[Curve]:
    """The curves of one panel, in a fixed order."""
    found = [
        curve
        for curve in curves
        if curve.line.x_set == x and curve.line.y_set == y and curve.unit is unit
    ]
    return sorted(found, key=lambda curve: curve.name)


def drawable(lines: Iterable[Line]) -> list[Curve]:
    """Those lines that the data determined and that join losses of one checkpoint, as curves."""
    return [
        Curve(line=line, facts=line.group, unit=Unit(line.unit), domain=line.x_range)
        for line in lines
        if line.drawable and not line.y_group
    ]


def line_grid(lines: Sequence[Line], unit: Unit) -> Grid:
    """One row per fitted line, the failed ones too."""
    facts = group_columns(line.group for line in lines)
    used = {name for line in lines for name in line.parameters}
    parameters = [
        name for name in PARAMETERS if name in ("K", "kappa", "E_x", "E_y") or name in used
    ]
    columns = [
        *fact_columns(facts),
        Column("x", keep=True), Column("y", keep=True),
        *[Column(_SIGNS.get(name, name), number=True) for name in parameters],
        Column("R²", number=True), Column("straight R²", number=True),
        Column("runs", number=True), Column("points", number=True),
        Column("status", keep=True),
    ]  # fmt: skip
    rows = [
        [
            *[Cell(text(line.group.get(fact))) for fact in facts],
            Cell(line.x_set),
            Cell(line.y_set),
            *[_parameter(line, name) for name in parameters],
            Cell(number(line.r2, 5)),
            Cell(number(line.r2_linear, 5)),
            Cell(str(line.n_runs)),
            Cell(str(line.n_points)),
            status_cell(line.status, line.message),
        ]
        for line in lines
    ]
    return Grid(
        title=f"Lines in {unit.words}", columns=columns, rows=rows,
        caption="In brackets: 90% intervals by a bootstrap over runs.",
        empty=f"No line was fitted in {unit.words}.",
    )  # fmt: skip


def _parameter(line: Line, name: str) -> Cell:
    """Estimate and 90% interval; the columns of `Line.draws` stand in the order of PARAMETERS."""
    value = line.parameters.get(name)
    if value is None or not len(line.draws):
        return Cell(number(value))
    low, high = np.quantile(line.draws[:, PARAMETERS.index(name)], [0.05, 0.95])
    return with_interval(value, low, high)
