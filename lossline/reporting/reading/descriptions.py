"""Words for what the figures of a report show: their alternative texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lossline.attribution.results import Attribution, Effect
from lossline.lines.common_cases import Comparison
from lossline.reporting.grids import number, percent
from lossline.reporting.points import Losses
from lossline.tables.schema import Unit


def panels_show(losses: Losses, x: str, ys: Sequence[str], units: Sequence[Unit]) -> str:
    """Say which losses the panels of ``ys`` against ``x`` show."""
    parts = []
    for unit in units:
        for y in ys:
            frame = losses.paired(x, y, unit=unit)
            if len(frame):
                parts.append(
                    f"{y}: {_checkpoints(len(frame), frame['run_id'].nunique())}, from "
                    f"{number(frame['y'].min(), 3)} to {number(frame['y'].max(), 3)} {unit.words} "
                    f"while {x} goes from {number(frame['x'].min(), 3)} to "
                    f"{number(frame['x'].max(), 3)}."
                )
    return " ".join(parts)


def _checkpoints(checkpoints: int, runs: int) -> str:
    return (
        f"{checkpoints:,} checkpoint{'s' * (checkpoints != 1)} of {runs:,} run{'s' * (runs != 1)}"
    )


def training_shows(losses: Losses, sets: Sequence[str], unit: Unit) -> str:
    """Say between which losses the runs train, for each set."""
    frame = losses.wide(sets, unit=unit)
    parts = [
        f"{name}: from {number(frame[name].max(), 3)} to {number(frame[name].min(), 3)}"
        for name in sets
    ]
    return f"Highest and lowest loss in {unit.words}: {'; '.join(parts)}."


def moves_show(attribution: Attribution) -> str:
    """Say the verdict of every factor and the move that it names."""
    parts = []
    for factor in attribution.factors:
        found = factor.named
        parts.append(
            f"{factor.label.removeprefix('the ')}: {factor.verdict}{_move(found) if found else ''}"
        )
    return "; ".join(parts) + "."


def _move(effect: Effect) -> str:
    return f" ({number(effect.move.value, 2)} {Unit(effect.unit).short} on {effect.y_set})"


def errors_show(found: Comparison) -> str:
    """Say the median error of every method."""
    rows = found.rows
    parts = [
        f"{name} {percent(np.median(np.abs(rows.loc[rows['method'] == name, 'relative_error'])))}"
        for name in found.methods
    ]
    return f"Median errors: {', '.join(parts)}."
