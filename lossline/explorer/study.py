"""What a browser needs to know of a study: runs, checkpoints, losses, lines and predictions."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

MOST_VALUES = 300_000  # losses that a page holds: about 2 MB
_DIGITS = 5
_SCALE = {"N": "params", "D": "tokens", "C": "flops"}


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A fitted line as points.

    Attributes:
        unit: column of the loss table that holds its losses.
        x: set of the x axis.
        y: set of the y axis.
        group: facts of its runs.
        values: columns x, y, low, high.
    """

    unit: str
    x: str
    y: str
    group: Mapping[str, str]
    values: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study to explore.

    Attributes:
        losses: unit -> one row per checkpoint (run_id, step, params, tokens, flops), one column
            per set.
        sets: unit -> its sets.
        units: unit -> its name for people.
        facts: one row per run (index), one column per fact that varies, as text.
        x: set of the x axis at first.
        y: set of the y axis at first.
        traces: fitted lines.
        predictions: losses predicted without their run: run_id, x_set, y_set, unit, measured,
            predicted, low, high.
        colors: fact -> value -> color, where the report has one.
    """

    losses: Mapping[str, pd.DataFrame]
    sets: Mapping[str, Sequence[str]]
    units: Mapping[str, str]
    facts: pd.DataFrame
    x: str
    y: str
    traces: Sequence[Trace] = ()
    predictions: pd.DataFrame = field(default_factory=pd.DataFrame)
    colors: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def all_sets(self) -> list[str]:
        """Sets of any unit, sorted."""
        return sorted({name for names in self.sets.values() for name in names})

    def packed(self) -> str:
        """Return the study as JSON, deflated (zlib), in base64."""
        text = json.dumps(self.content(), separators=(",", ":"), allow_nan=False)
        return base64.b64encode(zlib.compress(text.encode("utf-8"), 9)).decode("ascii")

    def content(self) -> dict[str, Any]:
        """Return what the page holds; of too many checkpoints, an even share."""
        keys = ["run_id", "step"]
        parts = [frame.set_index(keys) for frame in self.losses.values()]
        points = pd.concat([part[_present(part)] for part in parts])
        points = points[~points.index.duplicated()].sort_index()
        held, every = _share(len(points), sum(map(len, self.sets.values()))), len(points)
        points = points.iloc[held]
        runs = self.facts.index.to_list()
        of_run = pd.Index(runs).get_indexer(points.index.get_level_values("run_id"))
        return {
            "x": self.x,
            "y": self.y,
            "units": dict(self.units),
            "runs": runs,
            "facts": {name: _levels(self.facts[name]) for name in self.facts},
            "colors": self.colors,
            "left_out": every - len(points),
            "checkpoints": {
                "run": of_run.tolist(),
                "step": [int(step) for step in points.index.get_level_values("step")],
                **{key: _numbers(points[name]) for key, name in _SCALE.items() if name in points},
            },
            "losses": {
                unit: {
                    name: _numbers(part[name].reindex(points.index)) for name in self.sets[unit]
                }
                for unit, part in zip(self.losses, parts, strict=True)
            },
            "traces": [
                {
                    "unit": t.unit, "x": t.x, "y": t.y, "group": dict(t.group),
                    "values": [_numbers(column) for column in t.values.T],
                }
                for t in self.traces
            ],
            "predictions": {
                name: _numbers(self.predictions[name])
                if name in ("measured", "predicted", "low", "high")
                else self.predictions[name].astype(str).to_list()
                for name in self.predictions
            },
        }  # fmt: skip


def _present(part: pd.DataFrame) -> list[str]:
    return [name for name in _SCALE.values() if name in part]


def _share(checkpoints: int, sets: int) -> np.ndarray:
    """Positions of the checkpoints to keep, in golden-ratio steps as in the figures."""
    share = MOST_VALUES / max(checkpoints * sets, 1)
    return np.flatnonzero((np.arange(checkpoints) * 0.6180339887498949) % 1.0 < share)


def _levels(values: pd.Series) -> dict[str, Any]:
    """Levels of a fact in the order in which they first occur, and the level of each run."""
    codes, levels = pd.factorize(values)
    return {"levels": list(levels), "of": codes.tolist()}


def _numbers(values: Any) -> list[float | None]:
    """Numbers with few digits; None where there is none."""
    numbers = np.asarray(values, float)
    known = np.isfinite(numbers) & (numbers != 0.0)
    # Powers of ten up to 10^22 are exact, so that the quotient is what JSON writes short.
    places = _DIGITS - 1 - np.floor(np.log10(np.abs(np.where(known, numbers, 1.0)))).astype(int)
    up, down = 10.0 ** np.clip(places, 0, 300), 10.0 ** np.clip(-places, 0, 300)
    short = np.where(known, np.rint(numbers * up / down) / up * down, numbers)
    return [value if math.isfinite(value) else None for value in short.tolist()]
