"""The verdict on a factor, in words.

Every sentence has the same order: the verdict; the size of the move with its interval and p-value;
how many sets it was found on; then what limits it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossline.attribution.contrasts import BORROWED, Contrast, Kind
from lossline.attribution.results import FactorAttribution, GroupMove, Verdict
from lossline.attribution.verdicts import Judgement
from lossline.matching.groups import Design, label_of
from lossline.tables.schema import Unit

_FEW = 2  # a level with at most this many runs is named in the sentence
_IF_ALIKE = "if its runs are as noisy as other runs"


def sentence_of(
    name: str,
    verdict: Verdict,
    main: tuple[Judgement, Sequence[Contrast]],
    other: tuple[Judgement, Sequence[Contrast]],
    by_group: Sequence[GroupMove],
    x_set: str,
) -> str:
    """Return the sentences on one tested factor.

    Args:
        name: label of the factor, with the facts that change along with it.
        verdict: verdict on the factor.
        main: judgement and contrasts in the unit that is named first.
        other: judgement and contrasts in the other unit.
        by_group: moves of the groups of runs, where these differ.
        x_set: evaluation set of the x axis.
    """
    found, contrasts = main
    at = f"At equal loss on {x_set}"
    if verdict is Verdict.BY_GROUP:
        return _by_group(name, by_group, at)
    if verdict in (Verdict.MOVES, Verdict.PER_TOKEN, Verdict.PROVISIONAL):
        return _moves(name, verdict, found, contrasts, other, at)
    if verdict is Verdict.UNRESOLVED:
        return _unresolved(name, found, contrasts, at)
    return _within_margin(name, verdict, found, contrasts, at)


def _within_margin(
    name: str, verdict: Verdict, found: Judgement, contrasts: Sequence[Contrast], at: str
) -> str:
    """BELOW and NO_MOVE: every move is shown to lie within the margin."""
    levels = [item for item in contrasts if item.kind is Kind.LEVELS]
    shown = named(verdict, found, contrasts)
    margin = f"the margin of {_margin(levels)}"
    one = len(levels) == 1
    if verdict is Verdict.BELOW:
        rank = "Its" if one else f"This is the clearest of {len(levels)} differences. The"
        within = "lies" if one else "of each difference lies"
        return (
            f"Changing {name} moves the line, but by less than {margin}. {at}, {_clause(shown)}. "
            f"{rank} 90% interval {within} within the margin."
        )
    which = "the difference" if one else f"the largest of {len(levels)} differences"
    interval = "Its 90% interval" if one else "The 90% interval of each difference"
    return (
        f"Changing {name} does not move the line. {at}, {which} is {_where(shown)}. "
        f"{interval} lies within {margin}."
    )


def _moves(
    name: str,
    verdict: Verdict,
    found: Judgement,
    contrasts: Sequence[Contrast],
    other: tuple[Judgement, Sequence[Contrast]],
    at: str,
) -> str:
    """MOVES, PER_TOKEN and PROVISIONAL."""
    shown = named(verdict, found, contrasts)
    _, rest = other
    lent = verdict is Verdict.PROVISIONAL
    per_token, per_byte = _per_token(shown, verdict, other)
    parts = [
        f"Changing {name} moves the line{per_token}{f', {_IF_ALIKE}' if lent else ''}.",
        f"{at}, {_clause(shown)}.",
        _how_many_sets(found, contrasts),
    ]
    if not lent:
        parts.append(_by_how_much(shown))
    if shown.kind is Kind.LEVELS and (same := _same(shown, rest)) is not None:
        parts.append(f"On {same.y_set}, this is {_amount(same)} ({_p_value(same)}).")
    parts.append(per_byte)
    parts += [_borrows(shown)] if lent else [_levels(shown, contrasts), _rests_on(shown)]
    return " ".join(text for text in parts if text)


def _how_many_sets(found: Judgement, contrasts: Sequence[Contrast]) -> str:
    sets = {item.y_set for item in contrasts}
    moving = {item.y_set for item in found.moved}
    more = {item.y_set for item in found.lent} - moving
    text = f"The line moves on {len(moving)} of {len(sets)} {_plural(len(sets), 'set')}"
    return f"{text}, and on {len(more)} more {_IF_ALIKE}." if more else f"{text}."


def _per_token(
    shown: Contrast, verdict: Verdict, other: tuple[Judgement, Sequence[Contrast]]
) -> tuple[str, str]:
    """For a tokenizer that moves the line in nats: the unit, and what is known per byte."""
    not_per_byte = " per token, but not per byte"
    if verdict is Verdict.PER_TOKEN:
        return not_per_byte, ""
    judged, contrasts = other
    if shown.factor != "tokenizer" or shown.unit != "loss" or not contrasts:
        return "", ""
    if judged.verdict is not Verdict.UNRESOLVED:
        return ("" if judged.verdict.moving else not_per_byte), ""
    sets = {item.y_set for item in contrasts}
    return " per token", (
        f"Per byte, the result is inconclusive: on {len(judged.open_sets)} of {len(sets)} "
        f"{_plural(len(sets), 'set')}, the move is not shown to lie within the margin."
    )


def _borrows(item: Contrast) -> str:
    """Why the noise of other runs is used."""
    level, few = item.fewest
    if item.own.known:
        whose = (
            f"Its {item.comparison.runs} runs are too few to estimate run-to-run noise "
            f"({item.own.degrees:.2g} degrees of freedom)"
        )
    elif few:
        whose = f"{few} {_plural(few, 'run')} of {level} cannot show run-to-run noise"
    else:
        whose = "Single runs cannot show run-to-run noise"
    return f"{whose}, so the noise of other runs is used, times {BORROWED:g}."


def _unresolved(name: str, found: Judgement, contrasts: Sequence[Contrast], at: str) -> str:
    levels = [item for item in contrasts if item.kind is Kind.LEVELS]
    shown = largest(levels)
    margin = f"the margin of {_margin(levels)}"
    more = f" by more than {margin}" if found.small else ""
    which = "the difference" if len(levels) == 1 else f"the largest of {len(levels)} differences"
    parts = [
        f"Inconclusive: these runs cannot show whether changing {name} moves the line{more}.",
        f"{at}, {which} is {_where(shown)}.",
    ]
    if all(math.isnan(item.p_value) for item in levels):
        parts.append("There are too few matched runs to estimate run-to-run noise.")
        return " ".join(parts)
    if found.open_sets:
        sets = {item.y_set for item in levels}
        parts.append(
            f"On {len(found.open_sets)} of {len(sets)} {_plural(len(sets), 'set')}, the move is "
            f"not shown to lie within {margin}."
        )
    if found.small:
        parts.append(f"Significant, but within the margin: {_clause(clearest(found.small))}.")
    parts.append(_detectable([item for item in levels if item.unit == shown.unit]))
    if found.uneven:
        parts.append(_uneven(max(found.uneven, key=lambda item: item.spread)))
    if found.hints:
        hint = _clause(found.hints[0], uncorrected=True)
        parts.append(f"A hint, not significant after correction: {hint}.")
    parts.append(_rests_on(shown))
    return " ".join(text for text in parts if text)


def _uneven(item: Contrast) -> str:
    low, high = min(item.by_group.values()), max(item.by_group.values())
    return (
        f"Matched groups of runs disagree: {_ends(item)}, the loss on {item.y_set} changes by "
        f"between {low:+.3f} and {high:+.3f} {Unit(item.unit).short}. This may be run-to-run "
        f"noise or a real difference."
    )


def _detectable(levels: Sequence[Contrast]) -> str:
    """The smallest move that the tests would have found, on the best set and on the worst."""
    known = [item for item in levels if not math.isnan(item.detectable)]
    if not known:
        return ""
    least, most = (pick(known, key=lambda item: item.detectable) for pick in (min, max))
    unit = Unit(least.unit).short
    text = f"The smallest detectable move is {least.detectable:.2g} {unit}"
    if least.y_set == most.y_set:
        return f"{text}."
    return (
        f"{text} on {least.y_set} (best set) and {most.detectable:.2g} {unit} on {most.y_set} "
        f"(worst set)."
    )


def ranking(factors: Sequence[FactorAttribution], x_set: str) -> str:
    """Return one sentence: the tested factors, ordered by the size of their moves."""
    tested = [factor for factor in factors if not math.isnan(factor.size)]
    if not tested:
        return ""
    parts = []
    for factor in tested:
        effect = factor.named
        assert effect is not None
        verdict = "" if factor.verdict is Verdict.MOVES else f", {factor.verdict}"
        size = f"{factor.size:.3g} {Unit(effect.unit).short}"
        parts.append(f"{factor.label} {size} (on {effect.y_set}{verdict})")
    return f"Factors by size of move, at equal loss on {x_set}: {'; '.join(parts)}."


def clearest(items: Sequence[Contrast]) -> Contrast:
    """Return the contrast of smallest p-value; of equal p-values, or without any, the largest."""
    return min(items, key=lambda item: item.clarity)


def largest(items: Sequence[Contrast]) -> Contrast:
    """Return the contrast of the largest move."""
    return max(items, key=lambda item: abs(item.move))


# Order in which a sentence names contrasts, where several of them show that a line moves.
_FIRST = (Kind.LEVELS, Kind.BEND, Kind.REST, Kind.OFF_TREND, Kind.GROUPS)


def named(verdict: Verdict, found: Judgement, contrasts: Sequence[Contrast]) -> Contrast:
    """Return the contrast that the sentence names.

    For a moving factor it is the largest of the contrasts that decide the verdict, of the first
    kind in ``_FIRST`` that occurs. For BELOW it is the clearest small move. For every other verdict
    it is the largest move between levels.
    """
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


def _clause(item: Contrast, *, uncorrected: bool = False) -> str:
    """A contrast as a clause with a verb."""
    p_value = f"uncorrected p = {item.p_value:.2g}" if uncorrected else _p_value(item)
    amount = _amount(item)
    if item.kind is Kind.LEVELS:
        return f"the loss on {item.y_set} changes by {amount} {_ends(item)} ({p_value})"
    if item.kind is Kind.REST:
        return (
            f"the loss on {item.y_set} differs by {amount} between {item.high_level} and the other "
            f"levels ({p_value})"
        )
    if item.kind is Kind.OFF_TREND:
        return (
            f"on {item.y_set}, {item.high_level} lies off the trend of the other levels by "
            f"{amount} ({p_value})"
        )
    if item.kind is Kind.BEND:
        side = "above" if item.move > 0 else "below"
        return (
            f"the trend bends on {item.y_set}: its middle lies {side} the straight line from "
            f"{item.low_level} to {item.high_level}, by {amount} ({p_value})"
        )
    first, second = item.sides
    unit, other = Unit(item.unit).short, label_of(first.factor)
    return (
        f"the loss on {item.y_set} changes {_ends(item)} by {first.move:+.3f} {unit} where {other} "
        f"is {first.level}, and by {second.move:+.3f} {unit} where it is {second.level} ({p_value} "
        f"for the difference)"
    )


def _where(item: Contrast) -> str:
    """A contrast of two levels as a noun phrase: amount, set, levels, p-value."""
    return f"{_amount(item)} on {item.y_set}, {_ends(item)} ({_p_value(item)})"


def _by_group(name: str, moves: Sequence[GroupMove], at: str) -> str:
    first = min(moves, key=lambda move: move.p_corrected)
    unit, other = Unit(first.unit).short, label_of(first.factor)
    each = [
        f"by {move.move:+.3f} {unit} where {other if place == 0 else 'it'} is {move.level}"
        for place, move in enumerate(moves)
    ]
    return (
        f"Changing {name} moves the line differently by group: the move depends on {other}. {at}, "
        f"the loss on {first.y_set} changes from {first.low_level} to {first.high_level} "
        f"{', '.join(each[:-1])}, and {each[-1]} ({_corrected(first.p_corrected)} for the "
        f"difference)."
    )


def _by_how_much(item: Contrast) -> str:
    """A caveat where the interval of a move reaches into the margin."""
    if abs(item.move) - item.uncertainty.reach(2.0 * item.alpha) >= item.margin:
        return ""
    return (
        f"It is not shown that the move exceeds the margin of {item.margin:.2g} "
        f"{Unit(item.unit).short}."
    )


def _levels(shown: Contrast, contrasts: Sequence[Contrast]) -> str:
    """For three or more levels on the set shown: which pairs differ and which do not."""
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
                             (open_, "are inconclusive"))
        if items
    ]  # fmt: skip
    return f"On {shown.y_set}, {'; '.join(parts)}."


def _pairs(items: Sequence[Contrast], most: int = 6) -> str:
    names = [f"{item.low_level} and {item.high_level}" for item in items]
    return ", ".join(names[:most]) + (f"; … ({len(names)} pairs)" if names[most:] else "")


def _rests_on(item: Contrast) -> str:
    level, few = item.fewest
    if not 0 < few <= _FEW:
        return ""
    return f"This rests on only {few} {_plural(few, 'run')} of {level}."


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
        parts.append(f"{' to '.join(f'{value:.2g}' for value in ends)} {Unit(unit).short}")
    return and_list(parts)


def _amount(item: Contrast) -> str:
    text = f"{item.move:+.3f} {Unit(item.unit).short}"
    low, high = item.interval()
    return text if math.isnan(low) else f"{text} [{low:+.3f}, {high:+.3f}]"


def _p_value(item: Contrast) -> str:
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
    """Join words with commas and a final "and"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _start(label: str) -> str:
    return label[0].upper() + label[1:]


def untested_sentence(
    plan: Design, factor: str, label: str, levels: Sequence[str]
) -> tuple[Verdict, str, str]:
    """Return verdict, sentence and message of a factor that could not be tested."""
    if not plan.recorded(factor):
        return Verdict.MISSING, f"{_start(label)} is not recorded in the table.", ""
    if len(levels) < 2:
        text = f"{_start(label)} is the same in all runs ({levels[0]}): nothing to compare."
        return Verdict.CONSTANT, text, ""
    lead = plan.stands_for(factor)
    if lead != factor:
        text = (
            f"Confounded: {label} only changes together with {label_of(lead)}. The two are tested "
            f"together, as {label_of(lead)}."
        )
        return Verdict.CONFOUNDED, text, f"changes with {label_of(lead)}"
    along = plan.changes_along(factor)
    if along:
        names = and_list([label_of(name) for name in along])
        text = (
            f"Confounded: {label} never changes alone. Even between the most similar runs, "
            f"{names} {'change' if len(along) > 1 else 'changes'} with it."
        )
        return Verdict.CONFOUNDED, text, f"changes with {names}"
    text = (
        f"Confounded: the runs that differ only in {label} have no range of loss in common, so "
        f"their lines cannot be compared."
    )
    return Verdict.CONFOUNDED, text, "no common range of loss"


def limits(contrasts: Sequence[Contrast]) -> str:
    """Return what limits a verdict: the number of runs and groups, and borrowed noise."""
    main = [item for item in contrasts if item.kind is Kind.LEVELS]
    groups = max(item.comparison.groups for item in main)
    runs = max(item.comparison.runs for item in main)
    parts = [f"{runs} runs in {groups} matched {_plural(groups, 'group')}"]
    sets = {item.y_set for item in main}
    if lent := {item.y_set for item in main if item.uncertainty.borrowed}:
        where = "" if lent == sets else f" on {len(lent)} of {len(sets)} sets"
        parts.append(
            f"too few to estimate run-to-run noise{where}: the noise of other runs is used, times "
            f"{BORROWED:g}"
        )
    return "; ".join(parts)
