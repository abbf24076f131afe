"""Attribute a loss table: which factor moved the line, and by how much?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from lossline.attribution.analysis import Analysis, Begun, begin
from lossline.attribution.contrasts import Kind
from lossline.attribution.describe import contrast_rows, effects_of
from lossline.attribution.options import AttributionOptions
from lossline.attribution.results import (
    Attribution,
    FactorAttribution,
    GroupMove,
    Verdict,
)
from lossline.attribution.sentences import (
    and_list,
    limits,
    named,
    ranking,
    sentence_of,
    untested_sentence,
)
from lossline.attribution.unsound_runs import Outlier, copies, outliers
from lossline.attribution.verdicts import Judged, judge_factor
from lossline.matching.groups import design, label_of
from lossline.tables.schema import Status, Unit
from lossline.terminal import Say, silent
from lossline.workers import HERE, Workers


def attribute(
    table: pd.DataFrame,
    options: AttributionOptions | None = None,
    *,
    workers: Workers = HERE,
    say: Say = silent,
) -> Attribution:
    """Test every factor of a loss table.

    Copies of a run are left out with a note. All tests are repeated without the first third of each
    run's range of x, and without outlier runs. If a verdict changes, its sentence gives the other
    verdict.

    Factors that could not be tested are in the result too: those with one level, those that never
    change alone, and those that the table does not record.

    Args:
        table: loss table.
        options: options of the attribution; None for the defaults.
        workers: where to test the factors on each set.
        say: receives a line of progress now and then.

    Raises:
        UserError: an option names a set that the table does not have.
    """
    options = options or AttributionOptions()
    rows = table[table["status"] == str(Status.OK)]
    if rows.empty:
        return Attribution(message="the table holds no measurements", alpha=options.alpha)
    plan = design(rows)
    twice = copies(rows, plan)
    if twice:
        rows = rows[~rows["run_id"].isin(list(twice))]
        plan = design(rows)
    notes = _copies_note(twice)
    begun = begin(rows, options, plan, workers=workers, say=say)
    if begun.known.message:
        return Attribution(message=begun.known.message, alpha=options.alpha, notes=tuple(notes))
    # The repeats begin before the first tests have ended, so that no worker waits for this process.
    x_set = begun.known.x_set
    parts = {"the first third of each run's range of x": _without_start(rows, x_set)}
    odd = _outliers(begun)
    if odd:
        off = [item.run for item in odd]
        words = f"the outlier {'run' if len(off) == 1 else 'runs'} {and_list(off)}"
        parts[words] = rows[~rows["run_id"].isin(off)]
    quick = dataclasses.replace(options, resamples=0, x_set=x_set)
    repeats = {}
    for words, part in parts.items():
        say(f"  repeat without {words}")
        repeats[words] = _begin_without(part, quick, begun.known, workers)
    found = begun.wait()
    factors = _ranked([_factor(found, name) for name in found.plan.listed()])
    factors = [_with_lacking(factor) for factor in factors]
    for words, repeat in repeats.items():
        again = _verdicts(repeat)
        factors = [_if_otherwise(factor, words, again) for factor in factors]
    return Attribution(
        factors=tuple(factors),
        contrasts=contrast_rows(found),
        x_set=found.x_set,
        alpha=options.alpha,
        ranking=ranking(factors, found.x_set),
        margins=_margins(found),
        notes=tuple([*notes, *map(_outlier_note, odd)]),
    )


# --- one factor --------------------------------------------------------------------------------


def _factor(found: Analysis, factor: str) -> FactorAttribution:
    plan, label = found.plan, label_of(factor)
    levels = plan.recorded_levels(factor)
    contrasts = found.of(factor)
    if not any(item.kind is Kind.LEVELS for item in contrasts):
        verdict, sentence, message = untested_sentence(plan, factor, label, levels)
        return FactorAttribution(
            factor=factor, label=label, levels=levels, verdict=verdict, sentence=sentence,
            message=message,
        )  # fmt: skip
    nats, bits = ([item for item in contrasts if item.unit == unit] for unit in Unit)
    verdict, main, other = judge_factor(factor, nats, bits)
    by_group = tuple(_group_moves(main)) if verdict is Verdict.BY_GROUP else ()
    along = plan.along(factor)
    name = label
    if along:
        name += f" (and with it {and_list([label_of(fact) for fact in along])})"
    used = sorted({run for item in contrasts for run in item.runs_used})
    lacking = tuple(label_of(fact) for fact in plan.lacking(factor, used))
    sentence = sentence_of(name, verdict, main, other, by_group, found.x_set)
    effects = tuple(effects_of(found, factor, contrasts, (main[0], other[0])))
    shown = named(verdict, *main)
    heads = {effect.unit: effect for effect in effects if effect.y_set == shown.y_set}
    return FactorAttribution(
        factor=factor,
        label=label,
        levels=levels,
        verdict=verdict,
        sentence=sentence,
        message=limits(contrasts),
        nats=heads.get("loss"),
        bits_per_byte=heads.get("bits_per_byte"),
        unit=shown.unit,
        p_corrected=shown.p_corrected,
        effects=effects,
        by_group=by_group,
        lacking=lacking,
    )


def _group_moves(main: Judged) -> Iterator[GroupMove]:
    """Moves at each level of the other factor, for the contrast with the largest difference."""
    judged, contrasts = main
    shown = judged.moved[0]
    other = shown.sides[0].factor
    same = [
        item
        for item in contrasts
        if item.kind is Kind.GROUPS
        and item.sides[0].factor == other
        and (item.y_set, item.low_level, item.high_level)
        == (shown.y_set, shown.low_level, shown.high_level)
    ]
    # With two levels or two halves, one contrast holds both sides. With more levels, each contrast
    # holds one level against the rest, so only its first side is a level.
    parts = [(item, side) for item in same for side in item.sides[: 2 if len(same) == 1 else 1]]
    for item, side in parts:
        yield GroupMove(
            factor=other, level=side.level, unit=item.unit, y_set=item.y_set,
            low_level=item.low_level, high_level=item.high_level, move=side.move,
            p_corrected=item.p_corrected,
        )  # fmt: skip


# --- all of them -------------------------------------------------------------------------------


def _ranked(factors: Sequence[FactorAttribution]) -> list[FactorAttribution]:
    """Factors in order, each with its ratio to the largest.

    First those that move the line, then the other tested ones, both by size; then the rest.
    """

    def place(factor: FactorAttribution) -> tuple[int, float]:
        if math.isnan(factor.size):
            return 2 + list(Verdict).index(factor.verdict), 0.0
        return int(not factor.verdict.moving), -factor.size

    ordered = sorted(factors, key=place)
    with_size = [factor for factor in ordered if not math.isnan(factor.size)]
    if len(with_size) < 2:
        return ordered
    largest = with_size[0]
    return [
        factor if math.isnan(factor.size) or largest.size == 0 else _with_ratio(factor, largest)
        for factor in ordered
    ]


def _with_ratio(factor: FactorAttribution, largest: FactorAttribution) -> FactorAttribution:
    ratio = factor.size / largest.size
    if factor is largest or not factor.verdict.moving:
        return dataclasses.replace(factor, ratio=ratio)
    text = f"{factor.sentence} This is {ratio:.2g} times the largest move ({largest.label})."
    return dataclasses.replace(factor, ratio=ratio, sentence=text)


def _with_lacking(factor: FactorAttribution) -> FactorAttribution:
    if not factor.lacking:
        return factor
    text = f"{factor.sentence} Not recorded, so not held equal: {', '.join(factor.lacking)}."
    return dataclasses.replace(factor, sentence=text)


def _margins(found: Analysis) -> str:
    """One sentence on the margin of each unit; empty if nothing was compared."""
    parts = []
    for unit in Unit:
        of_unit = {name: value for (u, name), value in found.margins.items() if u == unit}
        if not of_unit:
            continue
        least = min(of_unit.values())
        wider = [f"{value:.2g} on {name}" for name, value in of_unit.items() if value > least]
        text = f"{least:.2g} {Unit(unit).short}"
        parts.append(text + (f" ({', '.join(wider)}: few tokens)" if wider else ""))
    return f"A move below the margin of {' or '.join(parts)} counts as small." if parts else ""


# --- the same without some of the data ---------------------------------------------------------


def _begin_without(
    rows: pd.DataFrame, options: AttributionOptions, before: Analysis, workers: Workers
) -> Begun | None:
    """Begin an analysis of a part of the rows of another; None if that part has no x or no y."""
    measured = set(rows["eval_set"].unique())
    y_sets = tuple(name for name in options.y_sets if name in measured)
    if options.x_set not in measured or (options.y_sets and not y_sets):
        return None
    kept = dataclasses.replace(options, y_sets=y_sets)
    if set(rows["run_id"].unique()) == set(before.plan.runs.index):
        plan, matched = before.plan, before.matched
    else:
        plan, matched = design(rows), ()
    return begin(rows, kept, plan, matched, workers=workers)


def _verdicts(repeat: Begun | None) -> Mapping[str, FactorAttribution]:
    """Return the verdict on every tested factor of an analysis."""
    if repeat is None:
        return {}
    found = repeat.wait()
    return {name: _factor(found, name) for name in found.factors}


def _if_otherwise(
    factor: FactorAttribution, words: str, again: Mapping[str, FactorAttribution]
) -> FactorAttribution:
    """The factor, with its verdict without some of the data added where that differs."""
    other = again.get(factor.factor)
    if not factor.tested or other is None or other.verdict is factor.verdict:
        return factor
    shown = factor.named
    if shown is not None and not any(
        (effect.unit, effect.y_set) == (shown.unit, shown.y_set) for effect in other.effects
    ):
        return factor  # the remaining data do not compare these lines
    effect, words_of = other.named, ""
    if effect is not None:
        words_of = f" ({effect.move.value:+.3f} {Unit(effect.unit).short} on {effect.y_set})"
    return dataclasses.replace(
        factor,
        sentence=f"{factor.sentence} Without {words}, the verdict is: {other.verdict}{words_of}.",
        otherwise={**factor.otherwise, words: str(other.verdict)},
    )


def _without_start(rows: pd.DataFrame, x_set: str) -> pd.DataFrame:
    """Rows without the checkpoints in the upper third of the range of x of their run."""
    x = rows[rows["eval_set"] == x_set].set_index(["run_id", "step"])
    value = x["loss"].where(x["loss"].notna(), x["bits_per_byte"]).astype(float)
    of_run = value.groupby(level=0)
    high, low = of_run.transform("max"), of_run.transform("min")
    early = value[(value > high - (high - low) / 3.0) & (high > low)]
    index = pd.MultiIndex.from_frame(rows[["run_id", "step"]])
    return rows[~index.isin(early.index)]


def _outliers(begun: Begun) -> list[Outlier]:
    unit = next(unit for unit, of_unit in begun.losses.items() if of_unit)
    return outliers(begun.known.plan, begun.known.factors, begun.losses[unit])


def _copies_note(twice: Mapping[str, str], most: int = 3) -> list[str]:
    if not twice:
        return []
    pairs = [f"{copy} (copy of {first})" for copy, first in list(twice.items())[:most]]
    more = f", and {len(twice) - most} more" if len(twice) > most else ""
    return [
        f"Left out as copies (another run has the same facts and losses): {', '.join(pairs)}{more}."
    ]


def _outlier_note(item: Outlier) -> str:
    return (
        f"Run {item.run} is an outlier: it lies {item.distance:+.3f} off the lines on {item.y_set} "
        f"(studentized residual {item.studentized:+.1f}). Check this run. A sentence gives both "
        f"verdicts where the verdict changes without it."
    )
