"""From the contrasts of a factor to its verdict."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from lossline.attribution.contrasts import Contrast, Kind
from lossline.attribution.results import Verdict

__all__ = ["Judged", "Judgement", "judge_factor", "judge_unit"]

# A contrast besides the levels that is beyond the margin forbids "does not move" if its p-value,
# corrected for the other such contrasts of its factor and set alone, is below this.
_HINT = 0.1
# Groups answer alike if all move the same way, the least by at least this share of the most.
_ALIKE = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the contrasts of one factor in one unit say.

    Attributes:
      verdict: MOVES, BELOW, NO_MOVE, BY_GROUP, PROVISIONAL or UNRESOLVED.
      moved: contrasts that say so, the clearest first: significant and not within the margin. Of
        BY_GROUP, first those of groups that answer differently, the largest difference first.
      lent: the same, by the noise of other runs.
      small: significant, but within the margin.
      hints: what forbids "does not move" without being significant.
      uneven: levels whose moves in matched groups spread by more than the margin, which forbids it
        too: the groups may answer differently in a way that no single factor describes.
      open_sets: sets on which some two levels are not shown to be within the margin.
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
    """The verdict of one factor in one unit; UNRESOLVED where nothing is known about chance."""
    ranked = sorted(contrasts, key=lambda item: item.clarity)
    significant = [item for item in ranked if item.significant]
    own = [item for item in significant if not item.chance.borrowed]
    moved = [item for item in own if not item.equivalent]
    small = [item for item in own if item.equivalent]
    lent = [i for i in significant if i.chance.borrowed and not i.equivalent]
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
    differ = [item for item in moved if item.kind is Kind.GROUPS and not alike(item)]
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
    """The verdict of a factor; the contrasts that it rests on, with their judgement; and those in
    the other unit, with theirs.

    A tokenizer changes what a token is, so that it moves lines in nats per token in any case: bits
    per byte decide, if every line that moves is measured in them. Every other factor is compared
    among runs of one tokenizer, where both units say the same: nats decide, and bits per byte on
    sets without nats.
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


def alike(item: Contrast) -> bool:
    """Whether both groups move the same way, and by amounts that are not far apart."""
    moves = [side.move for side in item.sides]
    smaller, larger = sorted(moves, key=abs)
    return smaller * larger > 0 and abs(smaller) >= _ALIKE * abs(larger)
