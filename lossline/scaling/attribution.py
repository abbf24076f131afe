"""Which factor moved the line? Tests of "one line, or a line per level" on runs matched in
everything else.

For every factor that a study varies and every evaluation set: take the groups of runs that differ
  in this factor alone
(`matching`), compare the lines of its levels at equal x (`line_test`), and correct the p-values for
the number of comparisons (Holm 1979). Three levels of a number or any levels of a word are compared
pair by pair; more levels of a number by their trend in its logarithm. Both axes of a line are in
nats per token, and once more in bits per byte: a tokenizer may move a line in the one and not in
  the other.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.options.roles import SIZE
from lossline.scaling.attribution_results import (
    Attribution,
    Effect,
    FactorAttribution,
    Interval,
    Verdict,
)
from lossline.scaling.attribution_sentences import judge
from lossline.scaling.line_test import (
    NO_NOISE,
    Comparison,
    Noise,
    Points,
    compare,
    line_scatter,
    pooled_noise,
    t_test,
)
from lossline.scaling.matching import Design, MatchedGroup, design, label_of
from lossline.scaling.nested import Shares, nested_shares
from lossline.seeds import check_seed
from lossline.tables.schema import OWN_SET, SetKind, Status

__all__ = ["AttributionOptions", "attribute", "neutral_set"]

UNITS = ("loss", "bits_per_byte")
_TREND_FROM = 4  # levels of a number
_NO_SHARES = Shares(share=math.nan, partial_r2=math.nan, spread=math.nan)
_OWN_DEGREES = 4.0  # below, a factor's own groups say too little about chance


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttributionOptions:
    """How factors are tested.

    Attributes:
      x_set: evaluation set of the x axis; by default a validation set that no run was trained on.
      y_sets: sets whose lines are tested; by default all others that have a loss.
      alpha: family-wise level of the tests.
      negligible: a move that is significant does not count all the same if it explains less than
        this share of the runs' spread about one line for all, and is less than half as large as
        that spread.
      margin: "does not move" is said where no interval reaches beyond this share of y, half the
        spread between runs or twice the noise of a run, whichever is largest; else "cannot be
        told".
      resamples: permutations for the resampled p-values; 0 for none. seed: of these permutations.
    """

    x_set: str | None = None
    y_sets: tuple[str, ...] = ()
    alpha: float = 0.05
    negligible: float = 0.01
    margin: float = 0.02
    resamples: int = 499
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed, "attribution.seed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Tested:
    """One comparison of one factor on one set, with its noise and its p-values."""

    factor: str
    unit: str
    y_set: str
    low_level: str
    high_level: str
    scale: float  # of d: 1 for a pair, the log ratio of the ends for a trend
    pairs: int  # comparisons that share the interval's level
    comparison: Comparison
    by_group: dict[str, float]
    pooled_sizes: bool
    noise: Noise = NO_NOISE
    noise_from: str = ""
    p_value: float = float("nan")
    p_corrected: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")


def attribute(table: pd.DataFrame, options: AttributionOptions | None = None) -> Attribution:
    """Tests every factor of a loss table.

    A factor with one level, one that never changes alone, and one that the table does not record
    are in the result with that verdict. Raises `UserError` only for options that do not fit the
    table.
    """
    options = options or AttributionOptions()
    rows = table[table["status"] == str(Status.OK)]
    if rows.empty:
        return Attribution(message="the table holds no measurements", alpha=options.alpha)
    plan = design(rows)
    x_set = options.x_set or neutral_set(rows)
    if x_set is None:
        own = (rows["eval_set"] == OWN_SET).any()
        only = "no validation loss but that of each run's own data" if own else "no validation loss"
        return Attribution(message=f"the table holds {only}", alpha=options.alpha)
    y_sets = _y_sets(rows, x_set, options)
    factors = [
        name
        for name in plan.listed()
        if len(plan.recorded_levels(name)) > 1 and plan.stands_for(name) == name
    ]
    matched = [_Matched.of(plan, factor) for factor in factors]
    lines = plan.lines()
    tested: list[_Tested] = []
    shares: dict[tuple[str, str, str], Shares] = {}
    for unit in UNITS:
        in_unit: list[_Tested] = []
        wide = _wide(rows, unit)
        for y_set in [name for name in y_sets if {x_set, name} <= set(wide.columns)]:
            points = wide[[x_set, y_set]].dropna().sort_index()
            if points.empty:
                continue
            in_unit += _test_set(lines, matched, _Losses(points), unit, y_set, options)
            for factor, share in nested_shares(plan, points, factors).items():
                shares[factor, unit, y_set] = share
        tested += _holm(in_unit)
    return _assemble(plan, x_set, tested, shares, options)


def neutral_set(rows: pd.DataFrame) -> str | None:
    """The validation set to use as x: measured on most checkpoints, and no run's training set if
    there is such a one."""
    validation = rows[(rows["kind"] == str(SetKind.VALIDATION)) & (rows["eval_set"] != OWN_SET)]
    unit = "loss" if validation["loss"].notna().any() else "bits_per_byte"
    counts = validation[validation[unit].notna()].groupby("eval_set").size()
    if counts.empty:
        return None
    trained_on = [_plain(name) for name in rows["pretraining_data"].dropna().unique()]
    most = counts.max()

    def rank(name: str) -> tuple[bool, bool, str]:
        text = _plain(name)
        own = any(text in data or data in text for data in trained_on)
        return counts[name] < 0.9 * most, own, text

    return min(map(str, counts.index), key=rank)


def _plain(name: object) -> str:
    return "".join(letter for letter in str(name).lower() if letter.isalnum())


def _y_sets(rows: pd.DataFrame, x_set: str, options: AttributionOptions) -> list[str]:
    known = sorted(set(rows["eval_set"]))
    for name in (x_set, *options.y_sets):
        if name not in known:
            raise UserError(
                f"attribution: no evaluation set {name!r} in the table; it has {', '.join(known)}"
            )
    wanted = options.y_sets or tuple(known)
    return [name for name in wanted if name not in (x_set, OWN_SET)]


def _wide(rows: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Losses per checkpoint (index: run_id, step), one column per set that has any in this unit."""
    values = rows[np.isfinite(rows[unit].to_numpy(float))]
    return values.pivot(index=["run_id", "step"], columns="eval_set", values=unit)


# --- one set -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Matched:
    """The comparisons of one factor that the facts allow, whatever was measured.

    equal, pooled: matched groups of runs of one size, and of all sizes; choices: the levels of each
      comparison;
    number: of a trend, the factor in logarithms.
    """

    factor: str
    equal: list[MatchedGroup]
    pooled: list[MatchedGroup]
    choices: list[tuple[str, ...]]
    number: pd.Series | None

    @classmethod
    def of(cls, plan: Design, factor: str) -> _Matched:
        levels = plan.recorded_levels(factor)
        values = plan.trend_of(factor) if len(levels) >= _TREND_FROM else None
        return cls(
            factor=factor,
            equal=plan.groups(factor),
            pooled=[] if factor == SIZE else plan.groups(factor, pool_sizes=True),
            choices=plan.pairs(factor) if values is None else [levels],
            number=None if values is None else np.log(values.where(values > 0)),
        )

    def ends(self, chosen: Sequence[str], groups: Sequence[MatchedGroup]) -> tuple[str, str, float]:
        """The two levels that a comparison speaks of, and what d differs by between them."""
        if self.number is None:
            return chosen[0], chosen[1], 1.0
        used = [level for level in chosen if any(level in group.levels for group in groups)]
        middle = [
            float(
                np.median(
                    [self.number[run] for group in groups for run in group.levels.get(level, ())]
                )
            )
            for level in (used[0], used[-1])
        ]
        return used[0], used[-1], middle[1] - middle[0]


class _Losses:
    """Losses on two sets, by run."""

    def __init__(self, points: pd.DataFrame) -> None:
        run = np.asarray(points.index.get_level_values(0), dtype=str)
        names, start = np.unique(run, return_index=True)  # the index is sorted
        values = points.to_numpy(float)
        self.of_run = dict(zip(names, np.split(values, start[1:]), strict=True))

    def points(self, group: MatchedGroup, number: pd.Series | None) -> Points | None:
        """Points of the runs of a group; d counts the levels, or is the factor's own number."""
        parts, runs, d = [], [], []
        for index, members in enumerate(group.levels.values()):
            for run in members:
                if run in self.of_run:
                    values = self.of_run[run]
                    parts.append(values)
                    runs.append(np.full(len(values), run))
                    d.append(
                        np.full(len(values), float(index) if number is None else float(number[run]))
                    )
        if not parts:
            return None
        x, y = np.concatenate(parts).T
        return Points(x=x, y=y, run=np.concatenate(runs), d=np.concatenate(d))

    def compare(
        self,
        groups: Sequence[MatchedGroup],
        number: pd.Series | None,
        resamples: int = 0,
        seed: int = 0,
    ) -> Comparison | None:
        given = [points for group in groups if (points := self.points(group, number)) is not None]
        return compare(given, resamples=resamples, seed=seed) if given else None


def _test_set(
    lines: Sequence[MatchedGroup],
    matched: Sequence[_Matched],
    losses: _Losses,
    unit: str,
    y_set: str,
    options: AttributionOptions,
) -> list[_Tested]:
    by_factor = {
        each.factor: list(_comparisons(each, losses, unit, y_set, options)) for each in matched
    }
    scatter = line_scatter(
        [points for group in lines if (points := losses.points(group, None)) is not None]
    )
    result: list[_Tested] = []
    for factor, items in by_factor.items():
        noise, source = _noise(factor, by_factor, scatter)
        result += [_with_noise(item, noise, source, options.alpha) for item in items]
    return result


def _noise(factor: str, by_factor: dict[str, list[_Tested]], scatter: Noise) -> tuple[Noise, str]:
    """Chance between runs: from this factor's own groups; else about the runs' lines, or from other
    factors' groups."""
    own = _pooled(by_factor[factor])
    if own.degrees >= _OWN_DEGREES:
        return own, "own"
    others = [_pooled(items) for name, items in by_factor.items() if name != factor]
    candidates = [(own, "own"), (scatter, "pooled"), *((noise, "pooled") for noise in others)]
    noise, source = max(candidates, key=lambda item: item[0].degrees)
    return (noise, source) if noise.degrees >= 1.0 else (NO_NOISE, "")


def _pooled(items: Sequence[_Tested]) -> Noise:
    levels = {item.low_level for item in items} | {item.high_level for item in items}
    # Every run of a factor with L levels takes part in L - 1 pairs: L/2 times more than there is to
    # learn.
    return pooled_noise(
        [item.comparison for item in items], share=min(1.0, 2.0 / max(len(levels), 1))
    )


def _with_noise(item: _Tested, noise: Noise, source: str, alpha: float) -> _Tested:
    p_value, low, high = t_test(item.comparison, noise, alpha / item.pairs)
    return dataclasses.replace(
        item,
        noise=noise,
        noise_from=source,
        p_value=p_value,
        low=low * item.scale,
        high=high * item.scale,
    )


def _comparisons(
    matched: _Matched, losses: _Losses, unit: str, y_set: str, options: AttributionOptions
) -> Iterator[_Tested]:
    """The comparisons of one factor that the losses on these two sets allow."""
    for chosen in matched.choices:
        found = _best_matching(matched, losses, chosen, options)
        if found is None:
            continue
        comparison, groups, pooled_sizes = found
        low, high, scale = matched.ends(chosen, groups)
        alone = {group.name: losses.compare([group], matched.number) for group in groups}
        yield _Tested(
            factor=matched.factor,
            unit=unit,
            y_set=y_set,
            low_level=low,
            high_level=high,
            scale=scale,
            pairs=len(matched.choices),
            comparison=comparison,
            by_group={name: each.move * scale for name, each in alone.items() if each is not None},
            pooled_sizes=pooled_sizes,
        )


def _best_matching(
    matched: _Matched, losses: _Losses, chosen: Sequence[str], options: AttributionOptions
) -> tuple[Comparison, list[MatchedGroup], bool] | None:
    """Groups of equal size where these hold at least half of the runs that groups of all sizes
    would."""
    found = []
    for pool_sizes, groups in ((False, matched.equal), (True, matched.pooled)):
        groups = [group.only(chosen) for group in groups]
        groups = [group for group in groups if len(group.levels) > 1]
        comparison = losses.compare(groups, matched.number, options.resamples, options.seed)
        if comparison is not None:
            found.append((comparison, groups, pool_sizes))
    if not found:
        return None
    return found[0] if found[0][0].runs >= 0.5 * found[-1][0].runs else found[-1]


def _holm(items: list[_Tested]) -> list[_Tested]:
    """Holm's (1979) step-down correction over all comparisons that have a p-value."""
    order = sorted(
        (index for index, item in enumerate(items) if not math.isnan(item.p_value)),
        key=lambda index: items[index].p_value,
    )
    corrected = list(items)
    worst = 0.0
    for rank, index in enumerate(order):
        worst = max(worst, min(1.0, items[index].p_value * (len(order) - rank)))
        corrected[index] = dataclasses.replace(items[index], p_corrected=worst)
    return corrected


# --- results -----------------------------------------------------------------------------------


def _assemble(
    plan: Design,
    x_set: str,
    tested: Sequence[_Tested],
    shares: dict[tuple[str, str, str], Shares],
    options: AttributionOptions,
) -> Attribution:
    factors = []
    for factor in plan.listed():
        items = [item for item in tested if item.factor == factor]
        effects = tuple(_effects(x_set, items, shares))
        levels = plan.recorded_levels(factor)
        factors.append(judge(plan, factor, label_of(factor), effects, levels, options))
    factors.sort(key=_order)
    contrasts = pd.DataFrame([_contrast(x_set, item) for item in tested])
    return Attribution(
        factors=tuple(factors), contrasts=contrasts, x_set=x_set, alpha=options.alpha
    )


def _order(factor: FactorAttribution) -> int:
    return list(Verdict).index(factor.verdict)


def _effects(
    x_set: str, items: Sequence[_Tested], shares: dict[tuple[str, str, str], Shares]
) -> Iterator[Effect]:
    """Per set and unit, the pair of levels that is told apart most clearly stands for the
    factor."""
    key = sorted(
        {(item.unit, item.y_set) for item in items}, key=lambda k: (UNITS.index(k[0]), k[1])
    )
    for unit, y_set in key:
        pairs = [item for item in items if (item.unit, item.y_set) == (unit, y_set)]
        clear = min(pairs, key=lambda item: (_last(item.p_value), -abs(item.comparison.move)))
        share = shares.get((clear.factor, unit, y_set), _NO_SHARES)
        yield Effect(
            factor=clear.factor,
            x_set=x_set,
            y_set=y_set,
            unit=unit,
            low_level=clear.low_level,
            high_level=clear.high_level,
            move=Interval(
                value=clear.comparison.move * clear.scale, low=clear.low, high=clear.high
            ),
            p_value=min(1.0, clear.p_value * len(pairs))
            if clear.p_value == clear.p_value
            else math.nan,
            p_corrected=clear.p_corrected,
            p_resampled=clear.comparison.p_resampled,
            share=share.share,
            partial_r2=share.partial_r2,
            spread=share.spread,
            degrees=clear.noise.degrees,
            noise=clear.noise.deviation,
            noise_from=clear.noise_from,
            runs=clear.comparison.runs,
            groups=clear.comparison.groups,
            x_low=clear.comparison.x_low,
            x_high=clear.comparison.x_high,
            y_middle=clear.comparison.y_middle,
        )


def _last(p_value: float) -> float:
    return math.inf if math.isnan(p_value) else p_value


def _contrast(x_set: str, item: _Tested) -> dict[str, object]:
    comparison = item.comparison
    return {
        "factor": item.factor,
        "unit": item.unit,
        "x_set": x_set,
        "y_set": item.y_set,
        "low_level": item.low_level,
        "high_level": item.high_level,
        "move": comparison.move * item.scale,
        "low": item.low,
        "high": item.high,
        "p_value": item.p_value,
        "p_corrected": item.p_corrected,
        "p_resampled": comparison.p_resampled,
        "noise": item.noise.deviation,
        "degrees": item.noise.degrees,
        "noise_from": item.noise_from,
        "runs": comparison.runs,
        "groups": comparison.groups,
        "sizes": "pooled" if item.pooled_sizes else "equal",
        "x_low": comparison.x_low,
        "x_high": comparison.x_high,
        "moves_by_group": json.dumps(item.by_group, ensure_ascii=False),
    }
