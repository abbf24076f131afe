"""What a report gives to its explorer: losses, facts, lines and predictions of the fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lossline.explorer.study import Study, Trace
from lossline.fits.results import TableFit
from lossline.reporting.appearance import Appearance, text
from lossline.reporting.grids import fact_text, varied_facts
from lossline.reporting.lines import Curve
from lossline.reporting.panels import BAND_LEVEL
from lossline.reporting.points import Losses
from lossline.tables.schema import Unit

_METHOD = "line"  # the predictions to show
_COLUMNS = ["run_id", "x_set", "y_set", "unit", "measured", "predicted", "low", "high"]
_CURVE_POINTS = 41
_MOST_LEVELS = 40  # of a fact that colors runs


def exploration(
    results: TableFit, losses: Losses, curves: Sequence[Curve], appearance: Appearance, *,
    x: str, y: str, units: Sequence[Unit],
) -> Study:  # fmt: skip
    """Return the study to explore.

    Args:
        results: results of the fits.
        losses: losses of its table.
        curves: lines to draw.
        appearance: colors of the report.
        x: set of the x axis at first.
        y: set of the y axis at first.
        units: units with losses.
    """
    frames = {unit.value: losses.joined(unit) for unit in units}
    heldout = results.heldout
    known = [name for name in _COLUMNS if name in heldout]
    ours = heldout.loc[heldout["method"] == _METHOD, known] if len(known) == len(_COLUMNS) else None
    return Study(
        losses=frames,
        sets={unit.value: losses.sets(unit) for unit in units},
        units={unit.value: unit.words for unit in units},
        facts=_facts(losses.table),
        x=x,
        y=y,
        traces=[_trace(curve) for curve in curves],
        predictions=pd.DataFrame() if ours is None else ours,
        colors={"pretraining_data": dict(appearance.colors)},
    )


def _facts(table: pd.DataFrame) -> pd.DataFrame:
    """Facts of each run as text: data and architecture, then those that vary among few levels."""
    runs = table.drop_duplicates("run_id").set_index("run_id").sort_index()
    names = dict.fromkeys(["pretraining_data", "architecture", *varied_facts(runs)])
    chosen = [name for name in names if name in runs and runs[name].nunique() <= _MOST_LEVELS]
    columns = {name: [fact_text(name, value) for value in runs[name]] for name in chosen}
    return pd.DataFrame(columns, index=runs.index)


def _trace(curve: Curve) -> Trace:
    x = np.linspace(*curve.domain, _CURVE_POINTS)
    low, high = curve.line.band(x, BAND_LEVEL)
    return Trace(
        unit=curve.unit.value,
        x=curve.line.x_set,
        y=curve.line.y_set,
        group={name: text(value) for name, value in curve.facts.items()},
        values=np.column_stack([x, curve.line.predict(x), low, high]),
    )
