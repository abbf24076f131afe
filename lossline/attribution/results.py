"""What an attribution says: per factor a verdict, per evaluation set the move behind it, with
intervals."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

__all__ = ["Attribution", "Effect", "FactorAttribution", "GroupMove", "Interval", "Verdict"]


class Verdict(enum.StrEnum):
    """What the data say about a factor. "Small" means within the margin of the unit, shown by two
    one-sided tests."""

    MOVES = "moves"  # some line moves, after correction for all comparisons, and not by little
    BY_GROUP = "moves differently by group"  # in some groups of runs otherwise than in others
    PER_TOKEN = (
        "moves per token"  # a tokenizer that moves lines in nats; in bits per byte by little
    )
    PROVISIONAL = "moves if noise is alike"  # as MOVES, if its runs vary as other runs do
    BELOW = "moves, but by less than the margin"  # all moves are small, some are not zero
    NO_MOVE = "does not move"  # all moves are small, and none is told from zero
    UNRESOLVED = "cannot be told"  # the intervals leave room for a move that is not small
    CONFOUNDED = "confounded"  # several levels, but never changed alone
    CONSTANT = "constant"  # one level only
    MISSING = "not recorded"  # the table does not hold the fact

    @property
    def moving(self) -> bool:
        """Whether some line moves by more than a little."""
        return self in (Verdict.MOVES, Verdict.BY_GROUP, Verdict.PER_TOKEN, Verdict.PROVISIONAL)


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
      low_level, high_level: the two levels of the largest move of those that count (where all are
        small and some not zero, of the smallest p-value); of a trend, its ends.
      move: y at `high_level` minus y at `low_level`; simultaneous interval over all pairs of
        levels.
      p_value: of "these two levels have one line", times the number of pairs of levels: t tests
        with the run as the unit; NaN if there is no noise estimate.
      p_corrected: of the same, by Holm over the pairs of levels (and trends) of all factors and
        sets in this unit.
      margin: what counts as small, in the unit; p_equivalent: of "some two levels are further apart
        than the margin", the largest over pairs of levels, by two one-sided tests; NaN where the
        runs of some pair show no noise of their own.
      detectable: the smallest move that these runs would have shown, with a power of 80% and after
        correction.
      p_resampled: of the pair shown, by permuting the runs' deviations (Freedman-Lane); NaN if not
        computed.
      share: share of the variance of runs about one line for all that this factor alone explains.
      partial_r2: share of the variance that the other factors leave unexplained.
      spread: root mean square distance of all runs from one line for all, in the unit of `move`.
      degrees: degrees of freedom behind the interval; noise: standard deviation of a run about its
        line, of all runs that this factor compares.
      noise_from: "own" runs; "borrowed" from other runs, and counted 3 times, where single runs
        determine the move; "" where there is none.
      runs, groups: matched runs, and matched groups that they form; fewest: runs of the level that
        has fewest.
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
    p_equivalent: float
    margin: float
    detectable: float
    share: float
    partial_r2: float
    spread: float
    degrees: float
    noise: float
    noise_from: str
    runs: int
    groups: int
    fewest: int
    x_low: float
    x_high: float
    y_middle: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupMove:
    """The move in the groups of runs that share a level of another factor, where groups differ.

    Attributes:
      factor, level: the other factor, and its level.
      unit, y_set, low_level, high_level: as in `Effect`; move: y at `high_level` minus y at
        `low_level`.
      p_corrected: of "the other groups move alike".
    """

    factor: str
    level: str
    unit: str
    y_set: str
    low_level: str
    high_level: str
    move: float
    p_corrected: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorAttribution:
    """The verdict on one factor.

    Attributes:
      factor: column of the loss table; label: how a sentence calls it.
      levels: its levels, numbers in ascending order, words most frequent first.
      verdict, sentence: the answer; message: why it cannot be given, or what limits it.
      nats, bits_per_byte: per unit, the effect that the sentence names: the largest of the moves
        that count; else the largest of all, or of small ones the clearest (smallest p-value); the
        other unit's on the same set. None where nothing could be compared in that unit.
      unit: of the two, the one that the sentence speaks of first.
      p_corrected: of the contrast that the sentence names, which may be another than `nats`.
      effects: one per y set and unit.
      by_group: the moves in groups of runs that answer differently.
      ratio: size of the named effect over that of the largest factor's, in one unit.
      lacking: labels of facts that some of the runs compared do not record.
      otherwise: what the runs are analysed without -> the verdict that this changes to.
    """

    factor: str
    label: str
    levels: tuple[str, ...]
    verdict: Verdict
    sentence: str
    message: str = ""
    nats: Effect | None = None
    bits_per_byte: Effect | None = None
    unit: str = "loss"
    p_corrected: float = math.nan
    effects: tuple[Effect, ...] = ()
    by_group: tuple[GroupMove, ...] = ()
    ratio: float = math.nan
    lacking: tuple[str, ...] = ()
    otherwise: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def named(self) -> Effect | None:
        """The effect that the sentence names."""
        return self.nats if self.unit == "loss" else self.bits_per_byte

    @property
    def size(self) -> float:
        """Of the named effect, without its sign, in `unit`."""
        moves = [abs(group.move) for group in self.by_group]
        return max([abs(self.named.move.value) if self.named else math.nan, *moves])

    @property
    def tested(self) -> bool:
        """Whether any line could be compared."""
        return bool(self.effects)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attribution:
    """All factors of a study.

    Attributes:
      factors: those that move the line by their size, then the others that were tested by theirs,
        then the rest.
      contrasts: one row per contrast (`attribution.contrasts`), factor by factor.
      x_set: set of the x axis; alpha: level of the tests; message: why there is no attribution, if
        there is none.
      ranking: one sentence, the factors by the size of their moves; margins: one sentence, what
        counts as small.
      notes: what was found about single runs: copies that were dropped, runs that lie far off.
    """

    factors: tuple[FactorAttribution, ...] = ()
    contrasts: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    x_set: str = ""
    alpha: float = 0.05
    message: str = ""
    ranking: str = ""
    margins: str = ""
    notes: tuple[str, ...] = ()

    def factor(self, name: str) -> FactorAttribution:
        """The attribution of one factor, by column name."""
        return next(factor for factor in self.factors if factor.factor == name)

    def effects(self) -> pd.DataFrame:
        """One row per factor × y set × unit: the fields of `Effect`, `move` as `value`, `low`,
        `high`."""
        return pd.DataFrame([_flat(effect) for factor in self.factors for effect in factor.effects])

    def summary(self) -> pd.DataFrame:
        """One row per factor: verdict, sentence, and the named effect in nats and in bits per
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
            "ranking": self.ranking,
            "margins": self.margins,
            "notes": list(self.notes),
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
            ranking=tree["ranking"],
            margins=tree["margins"],
            notes=tuple(tree["notes"]),
        )


def _flat(effect: Effect) -> dict[str, Any]:
    row = dataclasses.asdict(effect)
    move = row.pop("move")
    return row | move


def _headline(unit: str, effect: Effect | None) -> dict[str, Any]:
    names = ("value", "low", "high")
    moves = {f"{unit}_{name}": getattr(effect.move, name) if effect else math.nan for name in names}
    numbers = ("p_value", "p_corrected", "p_equivalent", "detectable", "share", "partial_r2")
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


def _with_nan(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: math.nan if value is None else value for key, value in tree.items()}


def _effect_from(tree: Mapping[str, Any] | None) -> Effect | None:
    if tree is None:
        return None
    return Effect(**(_with_nan(tree) | {"move": Interval(**_with_nan(tree["move"]))}))


def _factor_from(tree: Mapping[str, Any]) -> FactorAttribution:
    effects = tuple(_effect_from(item) for item in tree["effects"])
    return FactorAttribution(
        **{
            **tree,
            "levels": tuple(tree["levels"]),
            "verdict": Verdict(tree["verdict"]),
            "by_group": tuple(GroupMove(**_with_nan(item)) for item in tree["by_group"]),
            "lacking": tuple(tree["lacking"]),
            "ratio": math.nan if tree["ratio"] is None else tree["ratio"],
            "p_corrected": math.nan if tree["p_corrected"] is None else tree["p_corrected"],
            "nats": _effect_from(tree["nats"]),
            "bits_per_byte": _effect_from(tree["bits_per_byte"]),
            "effects": tuple(effect for effect in effects if effect is not None),
        }
    )
