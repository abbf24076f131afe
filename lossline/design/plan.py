"""What is asked of a design, the runs it may choose from, and its answer."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from lossline.errors import UserError
from lossline.seeds import check_seed
from lossline.tables.schema import Unit


class Question(enum.StrEnum):
    """Whose interval is to shrink."""

    LINE = "line"  # y of a fitted line at a loss x, or at the loss of a target budget
    TRANSLATION = "translation"  # loss on a target set at (N, D), from another set's sweep
    PREDICTION = "prediction"  # loss or score of a model that nobody has trained
    FACTOR = "factor"  # difference between two levels of a factor along matched runs


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A run that could be made.

    Attributes:
        params: N, parameters.
        tokens: D, training tokens.
        flops: C, training FLOPs: its cost.
        facts: column of the loss table -> value: facts that place the run, such as
            pretraining_data, the level of a factor, or the shares of a mixture.
    """

    params: float
    tokens: float
    flops: float
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is asked.

    Attributes:
        question: the question.
        x_set: evaluation set of the x axis. Translation: of the source's losses (default: each
            run's own). Factor: default as in ``attribution``. Prediction: unused.
        y_set: evaluation set asked about.
        unit: unit of the losses, "loss" or "bits_per_byte".
        groups: values of pretraining_data. Line and prediction: of the runs (default: all). Two:
            the line between them. Translation: source and target, in this order.
        factor: column of the factor.
        levels: the two levels compared.
        params: N of the model asked about.
        tokens: D of the model asked about.
        flops: its C, in place of N and D: then at the table's median D/N.
        loss: x asked about, of a line.
        shares: component -> share of the mixture asked about, of a prediction on mixtures.
        metric: of a prediction: "loss", "bits_per_byte" or "accuracy"; default: ``unit``.

    Raises:
        UserError: a value is out of range.
    """

    question: Question
    x_set: str = ""
    y_set: str = ""
    unit: Unit = Unit.NATS
    groups: tuple[str, ...] = ()
    factor: str = ""
    levels: tuple[str, ...] = ()
    params: float | None = None
    tokens: float | None = None
    flops: float | None = None
    loss: float | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    metric: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "question", Question(self.question))
        object.__setattr__(self, "unit", Unit(self.unit))
        for name in ("params", "tokens", "flops", "loss"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UserError(f"target.{name} = {value}: must be a number above 0.")


@dataclass(frozen=True, kw_only=True)
class DesignOptions:
    """Options of a design.

    Attributes:
        level: probability that the interval covers.
        roughness: how fast the error of a law's form changes with distance (``beliefs``). Chosen
            out of 0, 0.1, 0.2, 0.4 and 0.8 by hidden runs of the Kempner sweep's smaller budgets
            (experiments/published/next_runs.py --inner); all of them pick much the same runs.
        tied: share of the shrinkage by which plans may differ and count as equal: of such plans,
            the one of fewest runs is taken. Chosen as ``roughness`` was, out of 0, 0.02 and 0.05.
        repeats: how often one candidate may be picked (other seeds of the same run).
        most_runs: picks at most.
        resamples: reweightings of the runs behind the interval.
        seed: seed of the reweightings.

    Raises:
        UserError: a value is out of range.
    """

    level: float = 0.9
    roughness: float = 0.4
    tied: float = 0.02
    repeats: int = 2
    most_runs: int = 20
    resamples: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed, "design.seed")
        if not 0 < self.level < 1:
            raise UserError(f"design.level = {self.level}: must lie between 0 and 1.")
        for name in ("roughness", "tied"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"design.{name} = {getattr(self, name)}: must be at least 0.")
        if self.repeats < 1 or self.most_runs < 1 or self.resamples < 20:
            raise UserError(
                "design: repeats and most_runs must be at least 1, resamples at least 20."
            )


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An interval of the quantity asked about.

    Attributes:
        value: estimate.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the width."""
        return (self.high - self.low) / 2


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A chosen run.

    Attributes:
        candidate: the run.
        half_width: expected half width of the interval after this run and all picks before it.
        share: its share of the whole plan's shrinkage.
        per_flop: shrinkage of the half width by this run, per FLOP.
        ties: other candidates whose shrinkage per FLOP is as good within its own error.
    """

    candidate: Candidate
    half_width: float
    share: float
    per_flop: float
    ties: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which runs to make next.

    Attributes:
        question: the question in words.
        unit: unit of the interval, in words.
        now: the interval without new runs.
        picks: runs in order.
        largest_first: what the same budget gives if the largest runs that fit are made first.
        halving: runs that would halve the interval: the first of the picks, or the picks and more
            chosen in the same way; None if no number would.
        halving_reason: why not, or how these runs are meant.
        candidates: one row per candidate, by shrinkage per FLOP: params, tokens, flops, its facts,
            half_width (after this run alone) and gain_per_flop.
        notes: sentences on limits of the answer.
    """

    question: str
    unit: str
    now: Interval
    picks: tuple[Pick, ...]
    largest_first: tuple[Pick, ...]
    halving: int | None
    halving_reason: str
    candidates: pd.DataFrame
    notes: tuple[str, ...] = ()
