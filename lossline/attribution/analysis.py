"""Test every contrast of every factor of a table, with corrected p-values (Holm 1979)."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from lossline.attribution.comparison import Plans, line_scatter
from lossline.attribution.contrasts import Contrast, Kind, contrasts_of, factor_noise
from lossline.attribution.matched import Losses, Matched
from lossline.attribution.options import AttributionOptions, margin_of
from lossline.attribution.regression import Regression
from lossline.errors import UserError
from lossline.matching.groups import Design, MatchedGroup
from lossline.matching.nested import Shares, nested_shares
from lossline.tables.frames import nearest_name, nearest_names
from lossline.tables.schema import OWN_SET, SetKind, Unit
from lossline.terminal import Say, counted, silent
from lossline.workers import HERE, Workers

_MAIN_SHARE = 0.5  # share of alpha for contrasts of levels; the other kinds share the rest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Analysis:
    """Facts of the runs, and the contrasts of every factor that could be tested.

    Attributes:
        plan: facts of the runs.
        x_set: evaluation set of the x axis.
        matched: matched runs of each testable factor.
        contrasts: all contrasts, in both units.
        shares: shares of variance by (factor, unit, y set).
        margins: margins by (unit, y set).
        message: reason why nothing could be tested; empty otherwise.
    """

    plan: Design
    x_set: str = ""
    matched: tuple[Matched, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    shares: Mapping[tuple[str, str, str], Shares] = dataclasses.field(default_factory=dict)
    margins: Mapping[tuple[str, str], float] = dataclasses.field(default_factory=dict)
    message: str = ""

    @property
    def factors(self) -> tuple[str, ...]:
        """Factors that could be tested."""
        return tuple(each.factor for each in self.matched)

    def of(self, factor: str) -> list[Contrast]:
        """Return the contrasts of one factor."""
        return [item for item in self.contrasts if item.factor == factor]


@dataclasses.dataclass(frozen=True)
class _OneSet:
    """A y set, its losses (``losses_on``) and its margin."""

    y_set: str
    points: pd.DataFrame
    margin: float


_Found = tuple[list[Contrast], dict[str, Shares]]  # on one set


@dataclasses.dataclass(frozen=True, kw_only=True)
class Begun:
    """An analysis that was begun.

    Attributes:
        known: what is known before its tests end: all but contrasts and shares.
        losses: unit -> y set -> losses of checkpoints (``losses_on``).
    """

    known: Analysis
    losses: Mapping[str, Mapping[str, pd.DataFrame]] = dataclasses.field(default_factory=dict)
    _tested: Mapping[str, Callable[[], list[_Found]]] = dataclasses.field(default_factory=dict)
    _alpha: float = math.nan

    def wait(self) -> Analysis:
        """Return the whole analysis, once all its tests have ended."""
        contrasts: list[Contrast] = []
        shares: dict[tuple[str, str, str], Shares] = {}
        for unit, found in self._tested.items():
            in_unit: list[Contrast] = []
            for y_set, (of_one, share) in zip(self.losses[unit], found(), strict=True):
                in_unit += of_one
                shares |= {(factor, unit, y_set): part for factor, part in share.items()}
            contrasts += _corrected(in_unit, self._alpha)
        return dataclasses.replace(self.known, contrasts=tuple(contrasts), shares=shares)


def begin(
    rows: pd.DataFrame,
    options: AttributionOptions,
    plan: Design,
    matched: tuple[Matched, ...] = (),
    *,
    workers: Workers = HERE,
    say: Say = silent,
) -> Begun:
    """Begin to test every factor of the measured rows of a loss table.

    Args:
        rows: measured rows.
        options: options of the attribution.
        plan: facts of the runs.
        matched: matched runs from an earlier analysis of the same plan, to save time.
        workers: where to test them; with one process, all tests end before this returns.
        say: receives a line of progress now and then.

    Raises:
        UserError: an option names a set that the table does not have.
    """
    x_set = options.x_set or neutral_set(rows)
    if x_set is None:
        own = (rows["eval_set"] == OWN_SET).any()
        only = ", except that of each run's own data" if own else ""
        message = f"the table holds no validation loss{only}"
        return Begun(known=Analysis(plan=plan, message=message))
    y_sets = _y_sets(rows, x_set, options)
    matched = matched or _testable(plan)
    tested: dict[str, Callable[[], list[_Found]]] = {}
    losses: dict[str, Mapping[str, pd.DataFrame]] = {}
    margins: dict[tuple[str, str], float] = {}
    # Of dozens of columns, margins need two.
    of_set = rows[["eval_set", "target_tokens", "target_bytes"]].groupby("eval_set", observed=True)
    for unit in Unit:
        losses[unit] = losses_on(rows, x_set, y_sets, unit, options.max_x)
        sets = [
            _OneSet(name, points, margin_of(of_set.get_group(name), unit, options))
            for name, points in losses[unit].items()
        ]
        margins |= {(unit, one.y_set): one.margin for one in sets}
        ask = functools.partial(_on_sets, plan=plan, matched=matched, options=options, unit=unit)
        tested[unit] = _begin_each(workers, ask, sets, say, unit)
    if not margins:
        above = "" if options.max_x is None else f" up to max_x = {options.max_x:g}"
        message = f"no checkpoint has both a loss on {x_set}{above} and a loss on another set"
        return Begun(known=Analysis(plan=plan, message=message))
    known = Analysis(plan=plan, x_set=x_set, matched=matched, margins=margins)
    return Begun(known=known, losses=losses, _tested=tested, _alpha=options.alpha)


def _begin_each(
    workers: Workers, ask: Callable[..., list[_Found]], sets: Sequence[_OneSet], say: Say, unit: str
) -> Callable[[], list[_Found]]:
    """Begin to test each set, one share of the sets per process; return what waits for it all."""
    count = min(workers.processes, len(sets))
    if count <= 1:
        found = ask(sets, say=say)
        return lambda: found
    shares = [workers.begin(ask, sets[i::count]) for i in range(count)]

    def wait() -> list[_Found]:
        ended = []
        for number, share in enumerate(shares, 1):
            ended.append(share())
            say(f"  {number} of {count} parts ({unit})")
        return [ended[i % count][i // count] for i in range(len(sets))]

    return wait


def _on_sets(
    sets: Sequence[_OneSet],
    *,
    plan: Design,
    matched: tuple[Matched, ...],
    options: AttributionOptions,
    unit: str,
    say: Say = silent,
) -> list[_Found]:
    """Return the contrasts and the shares of variance on each set, without correction."""
    lines, plans = plan.lines(), Plans()
    regressions: dict[bytes, Regression] = {}
    found = []
    for one in counted(sets, say, f"sets ({unit})"):
        losses = Losses(one.points, plans)
        asked = {
            each.factor: list(
                contrasts_of(
                    plan, each, matched, losses, options, unit, one.y_set, one.margin
                )
            )
            for each in matched
        }  # fmt: skip
        shares = nested_shares(plan, one.points, list(asked))
        found.append((_with_uncertainty(asked, lines, losses, regressions), shares))
    return found


def _testable(plan: Design) -> tuple[Matched, ...]:
    """Factors with at least two recorded levels that are not tested as part of another factor."""
    return tuple(
        Matched.of(plan, name)
        for name in plan.listed()
        if len(plan.recorded_levels(name)) > 1 and plan.stands_for(name) == name
    )


def losses_on(
    rows: pd.DataFrame, x_set: str, y_sets: Sequence[str], unit: str, max_x: float | None
) -> dict[str, pd.DataFrame]:
    """Return the losses of checkpoints on the x set and each y set.

    Args:
        rows: measured rows of a loss table.
        x_set: evaluation set of the x axis.
        y_sets: evaluation sets of the y axis.
        unit: "loss" (nats per token) or "bits_per_byte".
        max_x: leave out checkpoints with x above this; None keeps all.

    Returns:
        y set -> table with index (run_id, step), sorted, and columns x and y. A set without any
        checkpoint is left out.
    """
    values = rows[np.isfinite(rows[unit].to_numpy(float))]
    wide = values.pivot(index=["run_id", "step"], columns="eval_set", values=unit)
    if x_set not in wide:
        return {}
    if max_x is not None:
        wide = wide[wide.index.isin(_up_to(rows, x_set, max_x))]
    found = {
        name: wide[[x_set, name]].dropna().sort_index() for name in y_sets if name in wide.columns
    }
    return {name: points for name, points in found.items() if not points.empty}


def _up_to(rows: pd.DataFrame, x_set: str, max_x: float) -> pd.MultiIndex:
    """Checkpoints whose x is at most ``max_x``: nats, or bits per byte if no row has nats."""
    x = rows[rows["eval_set"] == x_set]
    value = x["loss"] if x["loss"].notna().any() else x["bits_per_byte"]
    return pd.MultiIndex.from_frame(x.loc[value <= max_x, ["run_id", "step"]])


def neutral_set(rows: pd.DataFrame) -> str | None:
    """Return the validation set to use as x, or None if the table has none.

    It is measured on most checkpoints. A set that no run was trained on is preferred.
    """
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
    known = sorted(rows["eval_set"].unique())
    for name in (x_set, *options.y_sets):
        if name not in known:
            raise UserError(
                f"attribution: no evaluation set {name!r} in the table{nearest_name(name, known)}; "
                f"it has {nearest_names(name, known)}"
            )
    wanted = options.y_sets or tuple(known)
    return [name for name in wanted if name not in (x_set, OWN_SET)]


def _with_uncertainty(
    found: Mapping[str, Sequence[Contrast]],
    lines: Sequence[MatchedGroup],
    losses: Losses,
    regressions: dict[bytes, Regression],
) -> list[Contrast]:
    """Contrasts on one set with their standard errors.

    The noise to borrow is the one with most degrees of freedom. It comes from the factor's own
    groups, from the lines of runs that differ only in size, or from the groups of other factors.
    """
    about_lines = line_scatter(
        [points for group in lines if (points := losses.points(group)) is not None], regressions
    )
    pooled = {factor: factor_noise(items) for factor, items in found.items()}
    result = []
    for factor, items in found.items():
        others = [noise for name, noise in pooled.items() if name != factor]
        noise = max((pooled[factor], about_lines, *others), key=lambda item: item.degrees)
        result += [item.with_uncertainty(noise, pooled[factor]) for item in items]
    return result


def _corrected(items: list[Contrast], alpha: float) -> list[Contrast]:
    """Add Holm's (1979) step-down correction.

    The first test uses the runs compared. A contrast that is not significant is tested again with
    the noise of other runs, and ``uncertainty`` holds it. Half of alpha goes to contrasts of
    levels, half to all other kinds.
    """
    result = list(items)
    for share, family in _families(items):
        by_own = _holm([item.own.p_value(item.move) for item in family.values()], share)
        borrowing = [_by_most(item) for item in family.values()]
        by_any = _holm([item.p_value for item in borrowing], share)
        detectable = alpha * share / len(family)
        for (index, item), other, first, second in zip(
            family.items(), borrowing, by_own, by_any, strict=True
        ):
            lent = other.uncertainty.borrowed and (second < alpha or not item.own.known)
            chosen, p_value = (other, second) if lent and not first < alpha else (item, first)
            result[index] = dataclasses.replace(
                chosen, p_corrected=p_value, detectable=chosen.uncertainty.detectable(detectable)
            )
    return result


def _families(items: Sequence[Contrast]) -> Iterator[tuple[float, dict[int, Contrast]]]:
    """Yield the share of alpha and the contrasts (index -> contrast) of each family."""
    for share, main in ((_MAIN_SHARE, True), (1.0 - _MAIN_SHARE, False)):
        family = {i: item for i, item in enumerate(items) if (item.kind is Kind.LEVELS) == main}
        if family:
            yield share, family


def _by_most(item: Contrast) -> Contrast:
    """The contrast tested with the noise of other runs, where these may be used."""
    return item.with_lent() if item.lent.known else item


def _holm(p_values: Sequence[float], share: float) -> list[float]:
    """Corrected p-values; NaN stays NaN, but still counts in the number of tests."""
    corrected = [math.nan] * len(p_values)
    order = sorted(
        (i for i, p_value in enumerate(p_values) if not math.isnan(p_value)),
        key=lambda i: p_values[i],
    )
    worst = 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, p_values[i] * (len(p_values) - rank) / share))
        corrected[i] = worst
    return corrected
