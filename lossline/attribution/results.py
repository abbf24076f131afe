"""Results of an attribution: a verdict per factor, and the moves behind it, with intervals."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd


class Verdict(enum.StrEnum):
    """Verdict on a factor. "Small" means shown to lie within the margin by two one-sided tests."""

    MOVES = "moves"  # a move is significant after correction, and not small
    BY_GROUP = "moves differently by group"  # the move depends on another factor
    PER_TOKEN = "moves per token"  # a tokenizer: moves lines in nats; small in bits per byte
    PROVISIONAL = "moves if noise is alike"  # like MOVES, but with the noise of other runs
    BELOW = "moves, but by less than the margin"  # all moves are small; some are significant
    NO_MOVE = "does not move"  # all moves are small; none is significant
    UNRESOLVED = "inconclusive"  # the intervals allow a move that is not small
    CONFOUNDED = "confounded"  # several levels, but never changed alone
    CONSTANT = "constant"  # one level only
    MISSING = "not recorded"  # the table does not hold the fact

    @classmethod
    def _missing_(cls, value: object) -> Verdict | None:
        """Read results that were written before "cannot be told" was renamed."""
        return cls.UNRESOLVED if value == "cannot be told" else None

    @property
    def moving(self) -> bool:
        """Whether some line moves by an amount that is not small."""
        return self in (Verdict.MOVES, Verdict.BY_GROUP, Verdict.PER_TOKEN, Verdict.PROVISIONAL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its interval, in the unit of its loss.

    Attributes:
        value: the estimate.
        low: lower bound; NaN where noise is unknown.
        high: upper bound; NaN where noise is unknown.
    """

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effect:
    """Move of one line when only one factor changes: y at equal x, mean over the common range.

    Attributes:
        factor: column of the loss table.
        x_set: evaluation set of the x axis.
        y_set: evaluation set of the y axis.
        unit: "loss" (nats per token) or "bits_per_byte"; both axes are in this unit.
        low_level: one of the two levels of the largest move that decides the verdict (for "moves,
            but by less than the margin": of smallest p-value); for a trend, its lower end.
        high_level: the other level; for a trend, its upper end.
        move: y at ``high_level`` minus y at ``low_level``, with an interval that holds for all
            pairs of levels together.
        p_value: p-value of "these two levels have one line", times the number of pairs of levels. A
            t test with the run as the unit of evidence; NaN where noise is unknown.
        p_corrected: the same after Holm's correction over the pairs of levels (and trends) of all
            factors and sets in this unit.
        p_resampled: p-value of the pair shown, by permuting the deviations of runs (Freedman and
            Lane); NaN if not computed.
        p_equivalent: p-value of "some two levels differ by more than the margin": the largest over
            pairs of levels, by two one-sided tests. NaN where the runs of a pair show no noise of
            their own.
        margin: a move below this is small, in ``unit``.
        detectable: smallest move that the test would have found, after correction, with a power of
            80%.
        share: share of the variance of runs about one common line that only this factor explains.
        partial_r2: the same as a share of the variance that the other factors leave unexplained.
        spread: root mean square distance of all runs from one common line, in ``unit``.
        degrees: degrees of freedom of the interval.
        noise: standard deviation of a run about its line, over all runs that this factor compares.
        noise_from: "own" for the runs compared; "borrowed" for the noise of other runs, times 3,
            where single runs determine the move; "" where noise is unknown.
        runs: number of matched runs.
        groups: number of matched groups.
        fewest: number of runs of the level with the fewest runs.
        x_low: lower end of the range of x over which the lines are compared.
        x_high: upper end of this range.
        y_middle: mean of y in this range.
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
    """Move in the groups of runs that share a level of another factor.

    Attributes:
        factor: the other factor.
        level: its level in these groups.
        unit: "loss" (nats per token) or "bits_per_byte".
        y_set: evaluation set of the y axis.
        low_level: ``move`` is y at ``high_level`` minus y at this level.
        high_level: see ``low_level``.
        move: difference of y, in ``unit``.
        p_corrected: corrected p-value of "the other groups move by the same amount".
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
    """Verdict on one factor.

    Attributes:
        factor: column of the loss table.
        label: name of the factor in a sentence.
        levels: its levels: numbers in ascending order, words most frequent first.
        verdict: the verdict.
        sentence: the verdict in words, with size, interval and caveats.
        message: why there is no verdict, or what limits it.
        nats: effect that the sentence names, in nats per token: the largest move that decides the
            verdict, else the largest of all (for "moves, but by less than the margin": the one of
            smallest p-value). None where nothing could be compared in this unit.
        bits_per_byte: effect on the same set in bits per byte, or None.
        unit: unit that the sentence names first.
        p_corrected: corrected p-value of the contrast that the sentence names, which may be another
            contrast than ``nats``.
        effects: one effect per y set and unit.
        by_group: moves of the groups of runs, where these differ.
        ratio: size of the named effect divided by that of the factor with the largest one.
        lacking: labels of facts that some of the runs compared do not record.
        otherwise: data left out -> verdict without these data, where it differs.
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
        """Effect that the sentence names."""
        return self.nats if self.unit == "loss" else self.bits_per_byte

    @property
    def size(self) -> float:
        """Absolute size of the effect that the sentence names, in ``unit``; NaN without one."""
        moves = [abs(group.move) for group in self.by_group]
        return max([abs(self.named.move.value) if self.named else math.nan, *moves])

    @property
    def tested(self) -> bool:
        """Whether any line could be compared."""
        return bool(self.effects)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attribution:
    """Attribution of a whole loss table.

    Attributes:
        factors: first the factors that move the line, largest first; then the other tested ones,
            largest first; then the rest.
        contrasts: one row per contrast (``lossline.attribution.contrasts``), factor by factor.
        x_set: evaluation set of the x axis.
        alpha: level of the tests.
        message: why there is no attribution; empty if there is one.
        ranking: one sentence: the factors by size of move.
        margins: one sentence: the margin below which a move is small.
        notes: sentences on single runs: copies that were left out, and outliers.
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
        """Return the attribution of one factor, by column name."""
        return next(factor for factor in self.factors if factor.factor == name)

    def effects(self) -> pd.DataFrame:
        """Return a table with one row per factor, y set and unit.

        Columns are the fields of ``Effect``; ``move`` is split into ``value``, ``low``, ``high``.
        """
        return pd.DataFrame([_flat(effect) for factor in self.factors for effect in factor.effects])

    def summary(self) -> pd.DataFrame:
        """Return a table with one row per factor: verdict, sentence, named effect in both units."""
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
        """Return values that JSON can hold: NaN becomes None."""
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
        """Return the attribution that ``to_dict`` and ``contrasts`` were made from."""
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
