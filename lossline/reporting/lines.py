"""Fitted lines, prepared for figures and tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lossline.lines.calibration import pool_of
from lossline.lines.estimators import PARAMETERS
from lossline.lines.fitting import Line
from lossline.reporting.appearance import text
from lossline.reporting.grids import fact_columns, group_columns, number, status_cell, with_interval
from lossline.reporting.page import Cell, Column, Grid
from lossline.tables.schema import Unit

_SIGNS = {"kappa": "κ", "gamma": "γ"}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line to draw: ``line.predict(x)`` and ``line.band(x, level)`` over ``domain``.

    Attributes:
        line: fitted line.
        facts: facts of its group of runs.
        unit: unit of both axes.
        domain: range of x over which it is drawn.
    """

    line: Line
    facts: Mapping[str, Any]
    unit: Unit
    domain: tuple[float, float]

    @property
    def name(self) -> str:
        """Name of the group, such as ``wiki, llama, bpe-4096``."""
        return ", ".join(text(value) for value in self.facts.values())


def curves_for(curves: Iterable[Curve], *, x: str, y: str, unit: Unit) -> list[Curve]:
    """Return the curves of one panel, in a fixed order."""
    found = [
        curve
        for curve in curves
        if curve.line.x_set == x and curve.line.y_set == y and curve.unit is unit
    ]
    return sorted(found, key=lambda curve: curve.name)


def drawable(lines: Iterable[Line]) -> list[Curve]:
    """Return the lines that can be drawn, as curves.

    The data must determine the line, and both of its losses must be of the same checkpoint.
    """
    return [
        Curve(line=line, facts=line.group, unit=Unit(line.unit), domain=line.x_range)
        for line in lines
        if line.drawable and not line.y_group
    ]


def calibration_note(lines: Iterable[Line]) -> str:
    """Say which errors set the sizes of prediction intervals, by kind of line."""
    found = {pool_of(line.kind): line.calibration for line in lines if line.parameters}
    return " ".join(
        f"Prediction intervals of {pool} lines: {one.sentence}."
        for pool, one in sorted(found.items())
    )


def line_grid(lines: Sequence[Line], unit: Unit) -> Grid:
    """Return a table with one row per fitted line, including the failed ones."""
    facts = group_columns(line.group for line in lines)
    used = {name for line in lines for name in line.parameters}
    parameters = [
        name for name in PARAMETERS if name in ("K", "kappa", "E_x", "E_y") or name in used
    ]
    columns = [
        *fact_columns(facts),
        Column("x", keep=True), Column("y", keep=True),
        *[Column(_SIGNS.get(name, name), number=True) for name in parameters],
        Column("R²", number=True), Column("R² of straight line", number=True),
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
        caption="In brackets: 90% intervals, by a bootstrap over runs.",
        empty=f"No line was fitted in {unit.words}.",
    )  # fmt: skip


def _parameter(line: Line, name: str) -> Cell:
    """Estimate and 90% interval; the columns of ``Line.draws`` are in the order of PARAMETERS."""
    value = line.parameters.get(name)
    if value is None or not len(line.draws):
        return Cell(number(value))
    low, high = np.quantile(line.draws[:, PARAMETERS.index(name)], [0.05, 0.95])
    return with_interval(value, low, high)
