"""Choose runs: most shrinkage per FLOP within a budget, and how many would halve the interval.

Three ways are tried: greedily by shrinkage per FLOP; greedily by shrinkage alone, as many small
runs may never add up to what one large run tells; and the largest that fit. Each is improved by
exchanges of one run, because runs may tell more together than one by one: an end of a line tells
little without the other. Of plans that shrink it as much within the error of this estimate, the
one of fewer runs is taken: larger runs also guard against an error of the form that is
underestimated. For the same reason a plan spends its budget: hidden runs show that further runs are
worth more than is expected of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from lossline.design.beliefs import Belief

Array = np.ndarray

_ROUNDS = 10  # of exchanges
_BETTER = 1e-3  # relative reduction of the variance that an exchange must bring
_LEAST = 1e-5  # share of the interval's variance below which one more run is not worth making
_ROUNDING = 1e-12  # variance added to the noise of each run, so that no matrix is singular
MOST_RUNS = 1000  # more runs than this are no answer to "how many would halve it"
_ENDLESS = 1e6  # runs that count as endlessly many


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a choice may cost.

    Attributes:
        cost: FLOPs of each candidate (M,).
        budget: FLOPs of all picks together.
        repeats: how often one candidate may be picked.
        most_runs: picks at most.
        tied: share of the shrinkage that the estimate does not resolve.
    """

    cost: Array
    budget: float
    repeats: int = 1
    most_runs: int = 20
    tied: float = 0.0

    def allowed(self, chosen: Sequence[int]) -> Array:
        """Return which candidates may follow those chosen (M,)."""
        counts = np.bincount(np.asarray(chosen, int), minlength=len(self.cost))
        left = self.budget * (1 + 1e-9) - self.cost[list(chosen)].sum()
        free = len(chosen) < self.most_runs
        return (self.cost <= left) & (counts < self.repeats) & free


def choose(belief: Belief, limits: Limits) -> list[int]:
    """Return the candidates to run, in order; empty if none within the budget tells anything."""
    starts = [_greedy(belief, limits, by) for by in (limits.cost, np.ones_like(limits.cost))]
    starts.append(largest_first(belief, limits))
    found = [_exchanged(belief, limits, picks) for picks in starts]
    widths = [known(belief, picks).width for picks in found]
    most = min(widths) + limits.tied * (belief.width - min(widths))
    tied = [k for k, width in enumerate(widths) if width <= most]
    best = min(tied, key=lambda k: (len(found[k]), widths[k]))
    return _in_order(belief, found[best], limits.cost)


def largest_first(belief: Belief, limits: Limits) -> list[int]:
    """Return the largest candidates that fit the budget, one after the other."""
    chosen: list[int] = []
    while (allowed := limits.allowed(chosen)).any():
        # Of runs of one cost, the one that tells most.
        best = np.lexsort((known(belief, chosen).gains(), np.where(allowed, limits.cost, -1.0)))[-1]
        chosen.append(int(best))
    return chosen


def known(belief: Belief, picks: Sequence[int]) -> Belief:
    """Return what is known after all picks."""
    if not len(picks):
        return belief
    places = np.asarray(picks, int) + 1
    columns = belief.covariance[:, places]
    whole = columns[places] + np.diag(belief.noise[places - 1] + _ROUNDING)
    told = columns @ np.linalg.solve(whole, columns.T)
    return dataclasses.replace(belief, covariance=belief.covariance - told)


def _greedy(belief: Belief, limits: Limits, per: Array, start: Sequence[int] = ()) -> list[int]:
    """Return ``start`` and the best candidate again and again, by reduced variance per ``per``."""
    chosen = list(start)
    belief = known(belief, chosen)
    while True:
        least = _LEAST * belief.width**2
        gains = np.where(limits.allowed(chosen), belief.gains(), 0.0)
        if not (gains > least).any():
            return chosen
        best = int(np.argmax(np.where(gains > least, gains / per, 0.0)))
        chosen.append(best)
        belief = belief.after(best)


def _exchanged(belief: Belief, limits: Limits, picks: list[int]) -> list[int]:
    """Return the picks after exchanging one for better ones, until none is better."""
    variance = known(belief, picks).covariance[0, 0]
    for _ in range(_ROUNDS):
        trials = []
        for place in range(len(picks)):
            rest = picks[:place] + picks[place + 1 :]
            gains = np.where(limits.allowed(rest), known(belief, rest).gains(), 0.0)
            trials.append([*rest, int(np.argmax(gains))])
        trials = [_greedy(belief, limits, limits.cost, trial) for trial in trials]
        left = [known(belief, trial).covariance[0, 0] for trial in trials]
        if not trials or min(left) > variance * (1 - _BETTER):
            return picks
        picks, variance = trials[int(np.argmin(left))], min(left)
    return picks


def _in_order(belief: Belief, picks: Sequence[int], cost: Array) -> list[int]:
    """Return the picks by reduced variance per FLOP, each after those before it."""
    left, ordered = list(picks), []
    while left:
        gains = belief.gains()[left] / cost[left]
        pick = left.pop(int(np.argmax(gains)))
        ordered.append(pick)
        belief = belief.after(pick)
    return ordered


def until_halved(belief: Belief, cost: Array, picks: Sequence[int]) -> list[int] | None:
    """Return the picks, cut or continued, that halve the interval; None if too many are needed.

    They continue by reduced variance per FLOP, whatever they cost together, and any candidate may
    be made again with another seed.
    """
    wanted, chosen = belief.width / 2, list[int]()
    if left_by_all(belief) > 0.5:
        return None
    while belief.width > wanted:
        if len(chosen) >= MOST_RUNS:
            return None
        following = len(chosen) < len(picks)
        pick = picks[len(chosen)] if following else int(np.argmax(belief.gains() / cost))
        chosen.append(pick)
        belief = belief.after(pick)
    return chosen


def left_by_all(belief: Belief) -> float:
    """Return the share of the width that is left when every candidate is run endlessly often."""
    after = belief
    for candidate in range(len(belief)):
        after = after.after(candidate, runs=_ENDLESS)
    return after.width / belief.width if belief.width > 0 else 1.0
