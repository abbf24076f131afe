"""Decide the verdict on a factor from its contrasts."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from lossline.attribution.contrasts import Contrast, Kind
from lossline.attribution.results import Verdict

# A hint forbids "does not move". It is a contrast of another kind than LEVELS, larger than the
# margin, whose p-value is below this after correction for such contrasts of its factor and set.
_HINT = 0.1
# Two groups move alike if both move in the same direction, and the smaller move is at least this
# share of the larger one.
_ALIKE = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """Verdict on one factor in one unit, with the contrasts that it rests on.

    Attributes:
        verdict: MOVES, BELOW, NO_MOVE, BY_GROUP, PROVISIONAL or UNRESOLVED.
        moved: contrasts that are significant and not within the margin, smallest p-value first. For
            BY_GROUP, the contrasts between groups come first, largest difference first.
        lent: like ``moved``, but significant only with the noise of other runs.
        small: contrasts that are significant and within the margin.
        hints: contrasts that are not significant but forbid "does not move".
        uneven: contrasts of levels whose moves differ between matched groups by more than the
            margin. They forbid "does not move" too: the groups may differ in a way that no single
            factor describes.
        open_sets: sets on which at least two levels are not shown to lie within the margin.
    """

    verdict: Verdict
    moved: tuple[Contrast, ...] = ()
    lent: tuple[Contrast, ...] = ()
    small: tuple[Contrast, ...] = ()
    hints: tuple[Contrast, ...] = ()
    uneven: tuple[Contrast, ...] = ()
    open_sets: tuple[str, ...] = ()


Judged = tuple[Judgement, Sequence[Contrast]]


def judge_unit(contrasts: Sequence[Contrast]) -> Judgement:
    """Return the verdict on one factor in one unit.

    It is UNRESOLVED where run-to-run noise is unknown.
    """
    ranked = sorted(contrasts, key=lambda item: item.clarity)
    significant = [item for item in ranked if item.significant]
    own = [item for item in significant if not item.uncertainty.borrowed]
    moved = [item for item in own if not item.equivalent]
    small = [item for item in own if item.equivalent]
    lent = [i for i in significant if i.uncertainty.borrowed and not i.equivalent]
    main = [item for item in contrasts if item.kind is Kind.LEVELS]
    open_sets = tuple(dict.fromkeys(item.y_set for item in main if not item.equivalent))
    second = [item for item in ranked if item.kind is not Kind.LEVELS]
    on_set = Counter(item.y_set for item in second)
    hints = [
        item
        for item in second
        if item.p_value * on_set[item.y_set] < _HINT and abs(item.move) > item.margin
    ]
    found = Judgement(
        verdict=Verdict.UNRESOLVED,
        moved=tuple(moved),
        lent=tuple(lent),
        small=tuple(small),
        hints=tuple(hints),
        uneven=tuple(item for item in main if item.spread > item.margin),
        open_sets=open_sets,
    )
    differ = [item for item in moved if item.kind is Kind.GROUPS and not _alike(item)]
    if differ:
        differ.sort(key=lambda item: -abs(item.move))
        rest = [item for item in moved if item not in differ]
        return dataclasses.replace(found, verdict=Verdict.BY_GROUP, moved=(*differ, *rest))
    if moved:
        return dataclasses.replace(found, verdict=Verdict.MOVES)
    if main and not open_sets and not hints and not found.uneven:
        return dataclasses.replace(found, verdict=Verdict.BELOW if small else Verdict.NO_MOVE)
    if lent:
        return dataclasses.replace(found, verdict=Verdict.PROVISIONAL, moved=tuple(lent))
    return found


def judge_factor(
    factor: str, nats: Sequence[Contrast], bits: Sequence[Contrast]
) -> tuple[Verdict, Judged, Judged]:
    """Return the verdict on a factor, from both units.

    A tokenizer changes what a token is, so it always moves lines in nats per token. Bits per byte
    therefore decide, if every line that moves is measured in them. Every other factor is compared
    among runs of one tokenizer, where both units agree. There nats decide, and bits per byte decide
    on sets without nats.

    Returns:
        The verdict; judgement and contrasts in the unit that decides; judgement and contrasts in
        the other unit.
    """
    if factor != "tokenizer" or not bits or not nats:
        measured = {item.y_set for item in nats}
        main = [*nats, *(item for item in bits if item.y_set not in measured)]
        found = judge_unit(main)
        return found.verdict, (found, main), (judge_unit(bits), bits if nats else [])
    in_nats, in_bits = judge_unit(nats), judge_unit(bits)
    per_token, per_byte = (in_nats, nats), (in_bits, bits)
    same = in_bits.verdict in (Verdict.NO_MOVE, Verdict.BELOW)
    if in_nats.verdict.moving and (same or in_bits.verdict is Verdict.UNRESOLVED):
        if same and {item.y_set for item in in_nats.moved} - {item.y_set for item in bits}:
            unknown = dataclasses.replace(in_bits, verdict=Verdict.UNRESOLVED)
            return in_nats.verdict, per_token, (unknown, bits)
        if same and in_nats.verdict is not Verdict.PROVISIONAL:
            return Verdict.PER_TOKEN, per_token, per_byte
        return in_nats.verdict, per_token, per_byte
    if in_nats.verdict is in_bits.verdict:
        return in_bits.verdict, per_token, per_byte
    return in_bits.verdict, per_byte, per_token


def _alike(item: Contrast) -> bool:
    """Whether two groups move in the same direction and by similar amounts."""
    moves = [side.move for side in item.sides]
    smaller, larger = sorted(moves, key=abs)
    return smaller * larger > 0 and abs(smaller) >= _ALIKE * abs(larger)
