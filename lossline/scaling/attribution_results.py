"""What an attribution says: per factor a verdict, per evaluation set the move behind it, with
intervals."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

__all__ = ["Attribution", "Effect", "FactorAttribution", "Interval", "Verdict"]


class Verdict(enum.StrEnum):
    """What the data say about a factor."""

    MOVES = "moves"  # at least one line moves, after correction for all comparisons
    PER_TOKEN = (
        "moves per token"  # a tokenizer that moves lines in nats per token but not in bits per byte
    )
    NO_MOVE = (
        "does not move"  # none does by an amount that counts, and such a move would have been seen
    )
    UNRESOLVED = "cannot be told"  # none does, but the intervals leave room for a move that matters
    CONFOUNDED = "confounded"  # several levels, but never changed alone
    CONSTANT = "constant"  # one level only
    MISSING = "not recorded"  # the table does not hold the fact


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its interval, in the unit of the loss it belongs to. Bounds are NaN where
    there is no noise estimate."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effect:
    """How far one line moves when only one factor changes: y at equal x, averaged over the common
    range of x.

    Attributes:
      factor: column of the loss table.
      x_set, y_set: evaluation sets of the line.
      unit: "loss" (nats per token) or "bits_per_byte"; both axes are in this unit.
      low_level, high_level: the two levels that are told apart most clearly (smallest p-value).
      move: y at `high_level` minus y at `low_level`; simultaneous interval over all pairs of
        levels.
      p_value: of "one line for all levels": the smallest over pairs of levels times their number, t
        tests with the run as the unit; NaN if there is no noise estimate.
      p_corrected: Holm over all factors and y sets of this unit.
      p_resampled: of the pair shown, by permuting the runs' deviations (Freedman-Lane); NaN if not
        computed.
      share: share of the runs' spread about one line for all that this factor alone explains.
      partial_r2: share of what the other factors leave unexplained.
      spread: root mean square distance of all runs from one line for all, in the unit of `move`.
      degrees: residual degrees of freedom behind the noise estimate; noise: its standard deviation
        per run.
      noise_from: "own" groups, or "pooled" over the other factors' groups where this factor's are
        too few.
      runs, groups: matched runs, and matched groups that they form.
      x_low, x_high: the range of x over which the lines are compared; y_middle: mean of y there.
    """

    factor: str
    x_set: str
    y_set: str
    unit: str
    low_level: str
    high_level: str
    move: Interval
    p_value: float
    p_corrected: float
    p_resampled: float
    share: float
    partial_r2: float
    spread: float
    degrees: float
    noise: float
    noise_from: str
    runs: int
    groups: int
    x_low: float
    x_high: float
    y_middle: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorAttribution:
    """The verdict on one factor.

    Attributes:
      factor: column of the loss table; label: how a sentence calls it.
      levels: its levels, most frequent first.
      verdict, sentence: the answer; message: why it cannot be given, or what limits it.
      nats, bits_per_byte: the effect on the y set whose line moves most clearly (smallest p-value,
        of the moves that count if any does), per unit; None where that unit was not measured or
        nothing could be compared.
      effects: one per y set and unit.
    """

    factor: str
    label: str
    levels: tuple[str, ...]
    verdict: Verdict
    sentence: str
    message: str = ""
    nats: Effect | None = None
    bits_per_byte: Effect | None = None
    effects: tuple[Effect, ...] = ()

    @property
    def tested(self) -> bool:
        """Whether any line could be compared."""
        return bool(self.effects)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attribution:
    """All factors of a study.

    Attributes:
      factors: those that the study varies first, the ones that move the line before the others.
      contrasts: one row per factor × unit × y set × matched group × pair of levels (see
        `attribution.py`).
      x_set: set of the x axis; alpha: level of the tests; message: why there is no attribution, if
        there is none.
    """

    factors: tuple[FactorAttribution, ...] = ()
    contrasts: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    x_set: str = ""
    alpha: float = 0.05
    message: str = ""

    def factor(self, name: str) -> FactorAttribution:
        """The attribution of one factor, by column name."""
        return next(factor for factor in self.factors if factor.factor == name)

    def effects(self) -> pd.DataFrame:
        """One row per factor × y set × unit: the fields of `Effect`, `move` as `value`, `low`,
        `high`."""
        return pd.DataFrame([_flat(effect) for factor in self.factors for effect in factor.effects])

    def summary(self) -> pd.DataFrame:
        """One row per factor: verdict, sentence, and the clearest effect in nats and in bits per
        byte."""
        rows = []
        for factor in self.factors:
            row: dict[str, Any] = {
                "factor": factor.factor,
                "label": factor.label,
                "levels": ", ".join(factor.levels),
                "verdict": str(factor.verdict),
                "sentence": factor.sentence,
                "message": factor.message,
            }
            for unit, effect in (("nats", factor.nats), ("bits_per_byte", factor.bits_per_byte)):
                row |= _headline(unit, effect)
            rows.append(row)
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: NaN becomes None."""
        return {
            "x_set": self.x_set,
            "alpha": self.alpha,
            "message": self.message,
            "factors": [_plain(dataclasses.asdict(factor)) for factor in self.factors],
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any], contrasts: pd.DataFrame) -> Attribution:
        """The inverse of `to_dict`."""
        return cls(
            factors=tuple(_factor_from(item) for item in tree["factors"]),
            contrasts=contrasts,
            x_set=tree["x_set"],
            alpha=tree["alpha"],
            message=tree["message"],
        )


def _flat(effect: Effect) -> dict[str, Any]:
    row = dataclasses.asdict(effect)
    move = row.pop("move")
    return row | move


def _headline(unit: str, effect: Effect | None) -> dict[str, Any]:
    names = ("value", "low", "high")
    moves = {f"{unit}_{name}": getattr(effect.move, name) if effect else math.nan for name in names}
    numbers = ("p_value", "p_corrected", "share", "partial_r2")
    return moves | {
        f"{unit}_{name}": getattr(effect, name) if effect else math.nan for name in numbers
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _effect_from(tree: Mapping[str, Any] | None) -> Effect | None:
    if tree is None:
        return None
    fields: dict[str, Any] = {k: math.nan if v is None else v for k, v in tree.items()}
    move = {key: math.nan if value is None else value for key, value in tree["move"].items()}
    return Effect(**(fields | {"move": Interval(**move)}))


def _factor_from(tree: Mapping[str, Any]) -> FactorAttribution:
    effects = tuple(_effect_from(item) for item in tree["effects"])
    return FactorAttribution(
        **{
            **tree,
            "levels": tuple(tree["levels"]),
            "verdict": Verdict(tree["verdict"]),
            "nats": _effect_from(tree["nats"]),
            "bits_per_byte": _effect_from(tree["bits_per_byte"]),
            "effects": tuple(effect for effect in effects if effect is not None),
        }
    )
