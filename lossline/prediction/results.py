"""What a prediction says: a number with intervals, or a typed reason why there is none."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

LEVELS = (0.5, 0.8, 0.9)
"""Probabilities of the intervals beside every prediction."""


class Outcome(enum.StrEnum):
    """Whether a method predicted a target, or why it did not."""

    PREDICTED = "predicted"
    INTERPOLATED = "interpolated"  # predicted; the target lies within the runs' range of compute
    NOT_EMERGED = "not emerged"  # the largest runs do no better than guessing
    TOO_FEW_RUNS = "too few runs"  # fewer runs or sizes than the method has parameters
    NOT_IDENTIFIED = "not identified"  # the data leave a parameter open
    NO_INPUT = "no input"  # the table lacks a loss, compute or a chance level that the method needs

    @property
    def has_number(self) -> bool:
        """Whether there is a predicted value."""
        return self in (Outcome.PREDICTED, Outcome.INTERPOLATED)


class TargetKind(enum.StrEnum):
    """Whether the target exists."""

    PREDICTION = "prediction"  # a run of the table, left out of the fit: its error is shown
    PROJECTION = "projection"  # a model that nobody has trained


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A model whose scores are predicted.

    Attributes:
        name: the run, or a name made of N and D ("7e+09 parameters, 4e+12 tokens").
        kind: prediction or projection.
        params: N.
        tokens: D, training tokens.
        flops: C, training FLOPs; 6 N D if the table records no compute.
        shares: component -> share of the training tokens; empty if not a mixture.
        group: family or other facts that the methods use; empty if none.
    """

    name: str
    kind: TargetKind
    params: float
    tokens: float
    flops: float
    shares: Mapping[str, float] = dataclasses.field(default_factory=dict)
    group: str = ""


# Columns of ``Predictions.predictions``, in order. Accuracies are shares in [0, 1].
PREDICTION_COLUMNS = (
    "group",  # facts that the fitted runs share, in words; empty if the table has one group
    "method",  # name of the method
    "task",  # evaluation set
    "metric",  # accuracy, loss or bits_per_byte
    "target",  # Target.name
    "kind",  # prediction or projection
    "params",
    "tokens",
    "flops",
    "extrapolation",  # C of the target over the largest C fitted; below 1 is an interpolation
    "predicted",
    *(f"{end}_{round(100 * level)}" for level in LEVELS for end in ("low", "high")),
    "actual",  # NaN for a projection
    "relative_error",  # predicted / actual - 1
    "coverage_90",  # share of the backtest's measurements within their 90% interval
    "backtests",  # number of these measurements
    "status",  # Outcome
    "reason",  # why there is no number, or what to know about it; else empty
)

# Columns of ``Predictions.backtest``: as above, with the cut instead of coverage.
BACKTEST_COLUMNS = (
    "cut",  # largest compute of the runs fitted, FLOPs
    "runs",  # number of runs fitted
    *(c for c in PREDICTION_COLUMNS if c not in ("kind", "coverage_90", "backtests")),
)

# Columns of ``Predictions.influence``: what leaving out some runs does to the default method.
INFLUENCE_COLUMNS = ("group", "left_out", "runs", "task", "target", "predicted", "change")

# Columns of ``Predictions.points``: the measurements of one task that the figures show.
POINT_COLUMNS = (
    "group", "task", "metric", "run_id", "params", "tokens", "flops", "value", "chance", "final",
    "emerged", "loss", "gold", "held_out",
)  # fmt: skip

# Columns of ``Predictions.curves``: each method's law along compute, at the targets' D / N.
CURVE_COLUMNS = (
    "group", "task", "metric", "target", "method", "flops", "predicted", "low_90", "high_90",
)  # fmt: skip

# Columns of ``Predictions.stages``: each stage of each method, with its parameters.
STAGE_COLUMNS = (
    "group", "method", "task", "stage", "law", "equation", "source", "parameters", "r2", "runs",
    "points", "flatness", "weakest", "outliers",
)  # fmt: skip

# Columns of ``Predictions.decisions``: is the better of two runs called?
DECISION_COLUMNS = ("method", "task", "pairs", "right", "accuracy", "single_scale_accuracy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictions:
    """Everything that ``python -m lossline.predict`` writes. A part without content is empty.

    Attributes:
        predictions: one row per method, task and target (``PREDICTION_COLUMNS``).
        backtest: one row per method, task, cut and later run (``BACKTEST_COLUMNS``).
        influence: effect of leaving out each size, and each excluded run (``INFLUENCE_COLUMNS``).
        points: the measurements (``POINT_COLUMNS``).
        curves: each method's law along compute (``CURVE_COLUMNS``).
        stages: parameters, fit and identifiability of each stage (``STAGE_COLUMNS``).
        decisions: pairwise decision accuracy (``DECISION_COLUMNS``).
        default: name of the default method.
        notes: sentences on what was left out, or to know.
        settings: options of the prediction.
        predictor: fitted methods as JSON; ``load_predictor`` predicts from it without the table.
    """

    predictions: pd.DataFrame
    backtest: pd.DataFrame
    influence: pd.DataFrame
    points: pd.DataFrame
    curves: pd.DataFrame
    stages: pd.DataFrame
    decisions: pd.DataFrame
    default: str
    notes: Sequence[str] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    predictor: Mapping[str, Any] = dataclasses.field(default_factory=dict)
