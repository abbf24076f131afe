"""What is said of a factor, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossline.attribution.contrasts import BORROWED, Contrast, Kind
from lossline.attribution.results import FactorAttribution, GroupMove, Verdict
from lossline.attribution.verdicts import Judgement
from lossline.matching.groups import Design, label_of

__all__ = [
    "SHORT_UNITS",
    "and_list",
    "clearest",
    "limits",
    "named",
    "ranking",
    "sentence_of",
    "untested_sentence",
]

SHORT_UNITS = {"loss": "nats", "bits_per_byte": "bits per byte"}
_FEW = 2  # runs of a level, up to which a sentence says what it rests on


def sentence_of(
    name: str,
    verdict: Verdict,
    main: tuple[Judgement, Sequence[Contrast]],
    other: tuple[Judgement, Sequence[Contrast]],
    by_group: Sequence[GroupMove],
    x_set: str,
) -> str:
    """The sentence of one factor.

    Args:
      name: how the sentence calls it.
      verdict: of the factor.
      main: judgement and contrasts in the unit to speak of first; other: in the other unit.
      by_group: the moves in groups that answer differently.
      x_set: set of the x axis.
    """
    found, contrasts = main
    at = f"at equal loss on {x_set}"
    if verdict is Verdict.BY_GROUP:
        return f"Changing {name} moves the line differently by group: {at}, {_groups(by_group)}."
    if verdict in (Verdict.MOVES, Verdict.PER_TOKEN, Verdict.PROVISIONAL):
        return _moves(name, verdict, found, contrasts, other, at)
    if verdict is Verdict.UNRESOLVED:
        return _unresolved(name, found, contrasts, at)
    levels = [item for item in contrasts if item.kind is Kind.LEVELS]
    shown = named(verdict, found, contrasts)
    how = "moves the line, but by less than" if verdict is Verdict.BELOW else "does not move"
    bound = f"the margin of {_margin(levels)}"
    one = len(levels) == 1
    if verdict is Verdict.BELOW:
        rank = "" if one else f", the clearest of {len(levels)} differences"
        return (
            f"Changing {name} {how} {bound}: {at}, {_said(shown)}{rank}; the 90% interval "
            f"{'' if one else 'of each '}lies within the margin."
        )
    each = "the difference" if one else f"each of {len(levels)} differences"
    return (
        f"Changing {name} {how} the line: {at}, the 90% interval of {each} lies within {bound}; "
        f"{'it' if one else 'the largest'} is {_found(shown)}."
    )


def _moves(
    name: str,
    verdict: Verdict,
    found: Judgement,
    contrasts: Sequence[Contrast],
    other: tuple[Judgement, Sequence[Contrast]],
    at: str,
) -> str:
    shown = named(verdict, found, contrasts)
    _, rest = other
    lent = verdict is Verdict.PROVISIONAL
    sets = {item.y_set for item in contrasts}
    moving = {item.y_set for item in found.moved}
    more = {item.y_set for item in found.lent} - moving
    text = (
        f"Changing {name} moves the line{_per_token(shown, verdict, other)}"
        f"{' if its runs vary like the others' if lent else ''}: {at}, {_said(shown)}; "
        f"lines move on {len(moving)} of {len(sets)} {_plural(len(sets), 'set')}"
    )
    if more:
        text += f", and on {len(more)} more if runs vary alike"
    parts = [text + ("" if lent else _by_how_much(shown)) + "."]
    if shown.kind is Kind.LEVELS and (same := _same(shown, rest)) is not None:
        parts.append(f"On {same.y_set} that is {_amount(same)} ({_chance(same)}).")
    if lent:
        parts.append(_borrows(shown))
        return " ".join(parts)
    parts += [text for text in (_levels(shown, contrasts), _rests_on(shown)) if text]
    return " ".join(parts)


def _per_token(
    shown: Contrast, verdict: Verdict, other: tuple[Judgement, Sequence[Contrast]]
) -> str:
    """Of a tokenizer that moves the line in nats, what is known of bits per byte."""
    if verdict is Verdict.PER_TOKEN:
        return " per token but not per byte"
    judged, contrasts = other
    if shown.factor != "tokenizer" or shown.unit != "loss" or not contrasts:
        return ""
    if judged.verdict is not Verdict.UNRESOLVED:
        return " per token but not per byte" if not judged.verdict.moving else ""
    sets = {item.y_set for item in contrasts}
    return (
        f" per token (whether per byte cannot be told: not shown to be within the margin on "
        f"{len(judged.open_sets)} of {len(sets)} {_plural(len(sets), 'set')})"
    )


def _borrows(item: Contrast) -> str:
    level, few = item.fewest
    if item.own.known:
        whose = (
            f"Its {item.comparison.runs} runs are too few to estimate the noise between runs "
            f"({item.own.degrees:.2g} degrees of freedom)"
        )
    elif few:
        whose = f"{few} {_plural(few, 'run')} of {level} cannot show the noise between runs"
    else:
        whose = "Single runs cannot show the noise between runs"
    return f"{whose}, so that of other runs is used, times {BORROWED:g}."


def _unresolved(name: str, found: Judgement, contrasts: Sequence[Contrast], at: str) -> str:
    levels = [item for item in contrasts if item.kind is Kind.LEVELS]
    shown = largest(levels)
    if all(math.isnan(item.p_value) for item in levels):
        return (
            f"Whether {name} moves the line cannot be told: {at}, {_found(shown)}, but there are "
            f"too few matched runs to estimate the noise between runs."
        )
    more = f" by more than the margin of {_margin(levels)}" if found.small else ""
    which = "the difference" if len(levels) == 1 else f"the largest of {len(levels)} differences"
    text = (
        f"Whether {name} moves the line{more} cannot be told from these runs: {at}, {which} is "
        f"{_found(shown)}"
    )
    if found.open_sets:
        sets = {item.y_set for item in levels}
        text += (
            f"; on {len(found.open_sets)} of {len(sets)} {_plural(len(sets), 'set')} it is not "
            f"shown to lie within the margin of {_margin(levels)}"
        )
    parts = [text + "."]
    if found.small:
        parts.append(f"Within the margin, {_said(clearest(found.small))}.")
    parts.append(_visible([item for item in levels if item.unit == shown.unit]))
    if found.uneven:
        parts.append(_uneven(max(found.uneven, key=lambda item: item.spread)))
    if found.hints:
        parts.append(f"There is a hint: {_said(found.hints[0], uncorrected=True)}.")
    parts.append(_rests_on(shown))
    return " ".join(text for text in parts if text)


def _uneven(item: Contrast) -> str:
    low, high = min(item.by_group.values()), max(item.by_group.values())
    return (
        f"Matched groups of runs differ: {item.y_set} moves by {low:+.3f} to {high:+.3f} "
        f"{SHORT_UNITS[item.unit]} {_ends(item)}, which may be chance or not."
    )


def _visible(levels: Sequence[Contrast]) -> str:
    """The smallest move that would have been seen, over the sets."""
    known = [item for item in levels if not math.isnan(item.detectable)]
    if not known:
        return ""
    least, most = (pick(known, key=lambda item: item.detectable) for pick in (min, max))
    unit = SHORT_UNITS[least.unit]
    text = f"The smallest move that they could have shown is {least.detectable:.2g} {unit}"
    if least.y_set == most.y_set:
        return f"{text}."
    return f"{text} on {least.y_set} and {most.detectable:.2g} on {most.y_set}."


def ranking(factors: Sequence[FactorAttribution], x_set: str) -> str:
    """One sentence: the factors that were tested, by the size of their moves."""
    tested = [factor for factor in factors if not math.isnan(factor.size)]
    if not tested:
        return ""
    parts = []
    for factor in tested:
        effect = factor.named
        assert effect is not None
        verdict = "" if factor.verdict is Verdict.MOVES else f", {factor.verdict}"
        parts.append(
            f"{factor.label} {factor.size:.3g} {SHORT_UNITS[effect.unit]} ({effect.y_set}{verdict})"
        )
    return f"Factors by the size of their move at equal loss on {x_set}: {'; '.join(parts)}."


def clearest(items: Sequence[Contrast]) -> Contrast:
    """The contrast of the smallest p-value; of equal ones, or without any, the largest."""
    return min(items, key=lambda item: item.clarity)


def largest(items: Sequence[Contrast]) -> Contrast:
    """The contrast of the largest move."""
    return max(items, key=lambda item: abs(item.move))


# What a sentence names first, where several contrasts say that a line moves.
_FIRST = (Kind.LEVELS, Kind.BEND, Kind.REST, Kind.OFF_TREND, Kind.GROUPS)


def named(verdict: Verdict, found: Judgement, contrasts: Sequence[Contrast]) -> Contrast:
    """The contrast that the sentence names: of those that make the verdict, the largest of the
    first kind that there is; of moves that are all small, the clearest; else the largest move."""
    levels = [item for item in contrasts if item.kind is Kind.LEVELS]
    if verdict is Verdict.BY_GROUP:
        return found.moved[0]
    if verdict.moving:
        kind = min((item.kind for item in found.moved), key=_FIRST.index)
        return largest([item for item in found.moved if item.kind is kind])
    if verdict is Verdict.BELOW:
        small = [item for item in found.small if item.kind is Kind.LEVELS]
        return clearest(small or found.small)
    return largest(levels)


def _said(item: Contrast, *, uncorrected: bool = False) -> str:
    """A contrast as a clause."""
    chance = f"p = {item.p_value:.2g}, not corrected" if uncorrected else _chance(item)
    amount = f"{_amount(item)} ({chance})"
    if item.kind is Kind.LEVELS:
        return f"{item.y_set} differs by {amount}, {_ends(item)}"
    if item.kind is Kind.REST:
        return f"{item.y_set} differs by {amount} between {item.high_level} and the other levels"
    if item.kind is Kind.OFF_TREND:
        return f"on {item.y_set}, {item.high_level} lies off the trend of the others by {amount}"
    if item.kind is Kind.BEND:
        side = "above" if item.move > 0 else "below"
        return (
            f"the trend bends on {item.y_set}: its middle lies {side} the line from "
            f"{item.low_level} to {item.high_level}, by {amount}"
        )
    first, second = item.sides
    return (
        f"{item.y_set} differs {_ends(item)} by {first.move:+.3f} {SHORT_UNITS[item.unit]} where "
        f"{label_of(first.factor)} is {first.level} and by {second.move:+.3f} where it is "
        f"{second.level} (the difference: {chance})"
    )


def _found(item: Contrast) -> str:
    return f"{_amount(item)} on {item.y_set} ({_chance(item)}), {_ends(item)}"


def _groups(moves: Sequence[GroupMove]) -> str:
    first = min(moves, key=lambda move: move.p_corrected)
    each = and_list([f"by {move.move:+.3f} where it is {move.level}" for move in moves])
    return (
        f"{first.y_set} differs from {first.low_level} to {first.high_level} by an amount (in "
        f"{SHORT_UNITS[first.unit]}) that depends on {label_of(first.factor)}: {each} "
        f"({_corrected(first.p_corrected)})"
    )


def _by_how_much(item: Contrast) -> str:
    """Where the interval reaches into the margin, that it does."""
    if abs(item.move) - item.chance.reach(2.0 * item.alpha) >= item.margin:
        return ""
    return (
        f"; whether by more than the margin of {item.margin:.2g} {SHORT_UNITS[item.unit]} is not "
        f"shown"
    )


def _levels(shown: Contrast, contrasts: Sequence[Contrast]) -> str:
    """Of three or more levels, which are told apart on the set shown and which are not."""
    same = [
        item
        for item in contrasts
        if item.kind is Kind.LEVELS and item.y_set == shown.y_set and item.unit == shown.unit
    ]
    if len(same) < 2:
        return ""
    equal = [item for item in same if item.equivalent]
    apart = [item for item in same if item.significant and not item.equivalent]
    open_ = [item for item in same if item not in apart and item not in equal]
    if len(apart) == len(same):
        return f"On {shown.y_set}, all {len(same)} pairs of levels differ."
    parts = [
        f"{_pairs(items)} {words}"
        for items, words in ((apart, "differ"), (equal, "are within the margin"),
                             (open_, "cannot be told apart"))
        if items
    ]  # fmt: skip
    return f"On {shown.y_set}, {'; '.join(parts)}."


def _pairs(items: Sequence[Contrast], most: int = 6) -> str:
    names = [f"{item.low_level} and {item.high_level}" for item in items]
    return ", ".join(names[:most]) + (f"; … ({len(names)} pairs)" if names[most:] else "")


def _rests_on(item: Contrast) -> str:
    level, few = item.fewest
    return f"This rests on {few} {_plural(few, 'run')} of {level}." if 0 < few <= _FEW else ""


def _same(shown: Contrast, others: Sequence[Contrast]) -> Contrast | None:
    """The same comparison in the other unit."""
    key = (shown.kind, shown.y_set, shown.low_level, shown.high_level)
    return next((o for o in others if (o.kind, o.y_set, o.low_level, o.high_level) == key), None)


def _margin(items: Sequence[Contrast]) -> str:
    """The margins of the sets of some contrasts, per unit."""
    parts = []
    for unit in dict.fromkeys(item.unit for item in items):
        values = sorted({item.margin for item in items if item.unit == unit})
        ends = dict.fromkeys((values[0], values[-1]))
        parts.append(f"{' to '.join(f'{value:.2g}' for value in ends)} {SHORT_UNITS[unit]}")
    return and_list(parts)


def _amount(item: Contrast) -> str:
    text = f"{item.move:+.3f} {SHORT_UNITS[item.unit]}"
    low, high = item.interval()
    return text if math.isnan(low) else f"{text} [{low:+.3f}, {high:+.3f}]"


def _chance(item: Contrast) -> str:
    return _corrected(item.p_corrected)


def _corrected(p_value: float) -> str:
    if math.isnan(p_value):
        return "no p-value"
    return f"corrected p {f'= {p_value:.2g}' if p_value >= 1e-4 else '< 0.0001'}"


def _ends(item: Contrast) -> str:
    return f"from {item.low_level} to {item.high_level}"


def _plural(count: int, word: str) -> str:
    return word if count == 1 else word + "s"


def and_list(words: Sequence[str]) -> str:
    """The words with commas and an "and"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _start(label: str) -> str:
    return label[0].upper() + label[1:]


def untested_sentence(
    plan: Design, factor: str, label: str, levels: Sequence[str]
) -> tuple[Verdict, str, str]:
    """Verdict, sentence and message of a factor without a contrast."""
    if not plan.recorded(factor):
        return Verdict.MISSING, f"{_start(label)} is not recorded in the table.", ""
    if len(levels) < 2:
        text = f"{_start(label)} is the same in all runs ({levels[0]}): nothing to compare."
        return Verdict.CONSTANT, text, ""
    lead = plan.stands_for(factor)
    if lead != factor:
        text = (
            f"Whether {label} alone moves the line cannot be told: it only changes together with "
            f"{label_of(lead)}, where both are tested."
        )
        return Verdict.CONFOUNDED, text, f"changes with {label_of(lead)}"
    along = plan.changes_along(factor)
    if along:
        names = and_list([label_of(name) for name in along])
        text = (
            f"Whether {label} moves the line cannot be told: it never changes alone; "
            f"in the runs that are most alike, {names} {'change' if len(along) > 1 else 'changes'} "
            f"with it."
        )
        return Verdict.CONFOUNDED, text, f"changes with {names}"
    text = (
        f"Whether {label} moves the line cannot be told: the runs that differ in it alone have no "
        f"range of loss in common."
    )
    return Verdict.CONFOUNDED, text, "no common range of loss"


def limits(contrasts: Sequence[Contrast]) -> str:
    """What a verdict rests on: runs and groups, borrowed noise."""
    main = [item for item in contrasts if item.kind is Kind.LEVELS]
    groups = max(item.comparison.groups for item in main)
    runs = max(item.comparison.runs for item in main)
    parts = [f"{runs} runs in {groups} matched {_plural(groups, 'group')}"]
    sets = {item.y_set for item in main}
    if lent := {item.y_set for item in main if item.chance.borrowed}:
        where = "" if lent == sets else f" on {len(lent)} of {len(sets)} sets"
        parts.append(
            f"too few to estimate the noise between runs{where}: that of other runs is used, "
            f"times {BORROWED:g}"
        )
    return "; ".join(parts)
