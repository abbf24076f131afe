"""From effects to a verdict and a plain sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lossline.scaling.attribution_results import Effect, FactorAttribution, Verdict
from lossline.scaling.matching import Design, label_of

if TYPE_CHECKING:
    from lossline.scaling.attribution import AttributionOptions

__all__ = ["judge"]

_UNITS = {"loss": "nats", "bits_per_byte": "bits per byte"}


def judge(
    plan: Design,
    factor: str,
    label: str,
    effects: Sequence[Effect],
    levels: tuple[str, ...],
    options: AttributionOptions,
) -> FactorAttribution:
    """Verdict and sentence of one factor."""
    if not plan.recorded(factor):
        return _untested(
            factor, label, levels, Verdict.MISSING, f"{_start(label)} is not recorded in the table."
        )
    if len(levels) < 2:
        text = f"{_start(label)} is the same in all runs ({levels[0]}): nothing to compare."
        return _untested(factor, label, levels, Verdict.CONSTANT, text)
    if not effects:
        return _confounded(plan, factor, label, levels)
    in_nats = [effect for effect in effects if effect.unit == "loss"]
    in_bits = [effect for effect in effects if effect.unit == "bits_per_byte"]
    verdict = _verdict(factor, in_nats, in_bits, options)
    along = plan.along(factor)
    name = label + (f" (and with it {_and([label_of(fact) for fact in along])})" if along else "")
    return FactorAttribution(
        factor=factor,
        label=label,
        levels=levels,
        verdict=verdict,
        sentence=_sentence(name, verdict, in_nats, in_bits, options),
        message=_limits(effects),
        # Those that the sentence speaks of, so that a figure or a table does not name another.
        nats=_clearest(_moved(in_nats, options) or in_nats),
        bits_per_byte=_clearest(_moved(in_bits, options) or in_bits),
        effects=tuple(effects),
    )


def _untested(
    factor: str,
    label: str,
    levels: tuple[str, ...],
    verdict: Verdict,
    sentence: str,
    message: str = "",
) -> FactorAttribution:
    return FactorAttribution(
        factor=factor,
        label=label,
        levels=levels,
        verdict=verdict,
        sentence=sentence,
        message=message,
    )


def _confounded(
    plan: Design, factor: str, label: str, levels: tuple[str, ...]
) -> FactorAttribution:
    lead = plan.stands_for(factor)
    if lead != factor:
        text = (
            f"Whether {label} alone moves the line cannot be told: it only changes together with "
            f"{label_of(lead)}, where both are tested."
        )
        return _untested(factor, label, levels, Verdict.CONFOUNDED, text, f"changes with {lead}")
    along = plan.changes_along(factor)
    if along:
        names = _and([label_of(name) for name in along])
        text = (
            f"Whether {label} moves the line cannot be told: it never changes alone; "
            f"in the runs that are most alike, {names} {'change' if len(along) > 1 else 'changes'} "
            f"with it."
        )
        return _untested(
            factor, label, levels, Verdict.CONFOUNDED, text, f"changes with {', '.join(along)}"
        )
    text = (
        f"Whether {label} moves the line cannot be told: the runs that differ in it alone have no "
        f"range of "
        "loss in common."
    )
    return _untested(factor, label, levels, Verdict.CONFOUNDED, text, "no common range of loss")


def _verdict(
    factor: str, nats: Sequence[Effect], bits: Sequence[Effect], options: AttributionOptions
) -> Verdict:
    if factor == "tokenizer" and nats and bits and not _moved(bits, options):
        if _moved(nats, options):
            return Verdict.PER_TOKEN
        nats = bits
    if _moved(nats, options) or _moved(bits, options):
        return Verdict.MOVES
    main = nats or bits
    if all(math.isnan(effect.p_value) for effect in main):
        return Verdict.UNRESOLVED
    reaches = [
        max(abs(effect.move.low), abs(effect.move.high)) / _matters(effect, options)
        for effect in main
    ]
    return Verdict.NO_MOVE if np.nanmedian(reaches) <= 1.0 else Verdict.UNRESOLVED


def _matters(effect: Effect, options: AttributionOptions) -> float:
    """The least move that would matter."""
    return max(effect.spread / 2.0, 2.0 * effect.noise, options.margin * effect.y_middle)


def _significant(effects: Sequence[Effect], options: AttributionOptions) -> list[Effect]:
    return [effect for effect in effects if effect.p_corrected < options.alpha]


def _moved(effects: Sequence[Effect], options: AttributionOptions) -> list[Effect]:
    """Significant, and of a size that counts: a share of the spread, or (one odd run explains
    little) half of it."""
    return [
        effect
        for effect in _significant(effects, options)
        if effect.share >= options.negligible or not abs(effect.move.value) < effect.spread / 2.0
    ]


def _clearest(effects: Sequence[Effect]) -> Effect | None:
    def clarity(effect: Effect) -> tuple[float, float]:
        p_value = math.inf if math.isnan(effect.p_value) else effect.p_value
        return p_value, -abs(effect.move.value)

    return min(effects, key=clarity, default=None)


def _sentence(
    label: str,
    verdict: Verdict,
    nats: Sequence[Effect],
    bits: Sequence[Effect],
    options: AttributionOptions,
) -> str:
    if verdict in (Verdict.MOVES, Verdict.PER_TOKEN):
        return _moves(label, verdict, nats, bits, options)
    main = nats or bits
    clear = _clearest(main)
    assert clear is not None
    found = f"{_amount(clear)} on {clear.y_set} ({_chance(clear)}), {_ends(clear)}"
    if verdict is Verdict.NO_MOVE and _significant(main, options):
        return (
            f"Changing {label} hardly moves the line: at equal loss on {clear.x_set}, by {found}, "
            f"which is {_share(clear)} of the spread between runs."
        )
    if verdict is Verdict.NO_MOVE:
        return (
            f"Changing {label} does not move the line: at equal loss on {clear.x_set}, the "
            f"clearest of "
            f"{len(main)} differences is {found}."
        )
    if math.isnan(clear.p_value):
        return (
            f"Whether {label} moves the line cannot be told: {found}, but too few runs are alike "
            f"to say what "
            "chance does."
        )
    return (
        f"Whether {label} moves the line cannot be told from these runs: the clearest of "
        f"{len(main)} differences "
        f"is {found}."
    )


def _moves(
    label: str,
    verdict: Verdict,
    nats: Sequence[Effect],
    bits: Sequence[Effect],
    options: AttributionOptions,
) -> str:
    first, second = (nats, bits) if _moved(nats, options) else (bits, nats)
    clear = _clearest(_moved(first, options))
    assert clear is not None
    how = " per token but not per byte" if verdict is Verdict.PER_TOKEN else ""
    text = (
        f"Changing {label} moves the line{how}: at equal loss on {clear.x_set}, {clear.y_set} "
        f"differs by "
        f"{_amount(clear)} ({_chance(clear)}), {_ends(clear)}; {len(_moved(first, options))} of "
        f"{len(first)} sets move"
    )
    other = next((effect for effect in second if effect.y_set == clear.y_set), _clearest(second))
    if other is None:
        return text + "."
    return f"{text}. On {other.y_set} that is {_amount(other)} ({_chance(other)})."


def _amount(effect: Effect) -> str:
    text = f"{effect.move.value:+.3f} {_UNITS[effect.unit]}"
    if math.isnan(effect.move.low):
        return text
    return f"{text} [{effect.move.low:+.3f}, {effect.move.high:+.3f}]"


def _chance(effect: Effect) -> str:
    if math.isnan(effect.p_corrected):
        return "no p-value"
    shown = f"= {effect.p_corrected:.2g}" if effect.p_corrected >= 1e-4 else "< 0.0001"
    return f"corrected p {shown}"


def _ends(effect: Effect) -> str:
    return f"from {effect.low_level} to {effect.high_level}"


def _share(effect: Effect) -> str:
    if math.isnan(effect.share):
        return "a small part"
    return f"{100.0 * effect.share:.1f}%"


def _limits(effects: Sequence[Effect]) -> str:
    """What limits the test: one group, borrowed noise."""
    groups = max(effect.groups for effect in effects)
    runs = max(effect.runs for effect in effects)
    parts = [f"{runs} runs in {groups} matched group{'s' if groups > 1 else ''}"]
    if any(effect.noise_from == "pooled" for effect in effects):
        parts.append(
            "chance between runs taken from all lines, because these groups are too few to show it"
        )
    return "; ".join(parts)


def _start(label: str) -> str:
    return label[0].upper() + label[1:]


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
