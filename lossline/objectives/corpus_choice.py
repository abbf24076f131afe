"""Choose tokens once over the corpus by reference scores: smallest loss, smallest entropy, or both.

Source: Rho-1 (arXiv:2404.07965), section on self-reference. A float16 has few values, so one pass
counts the tokens of each value, and the counts give the exact threshold without a sort.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from lossline.stores.token_scores import ReferenceScore, TokenScores

_PATTERNS = 1 << 15  # bit patterns of float16 without the sign; their order is that of the values
_INFINITY = 0x7C00  # pattern of infinity; those of NaN are larger


def choose(
    share: Fraction,
    quantities: Sequence[ReferenceScore],
    scores: Sequence[TokenScores],
    weights: Sequence[int],
) -> list[np.ndarray]:
    """Return the chosen tokens of each store as bits, so that ``share`` of the training is chosen.

    A token of a mixture counts as often as training sees it: by the share of its store, divided by
    the store's scored tokens. Of a single store exactly ⌊share · scored tokens⌋ are chosen. Equal
    scores are chosen by position; those of a mixture in the same proportion in each store.

    With two quantities a token ranks by the worse of its two ranks. The chosen tokens are then the
    intersection of two first parts of equal size.

    Args:
        share: share of the scored tokens to choose.
        quantities: one quantity, or two for their intersection. The smallest values are chosen.
        scores: token scores of each store.
        weights: whole-number share of the training rows of each store.

    Returns:
        One uint8 [⌈tokens / 8⌉] for each store, as ``numpy.packbits``.
    """
    levels = _levels(quantities, scores, weights)
    counts = [_level_counts(item, quantities, levels) for item in scores]
    threshold, taken = _threshold(share, counts, _masses(counts, weights))
    return [
        _bits(item, quantities, levels, threshold, limit)
        for item, limit in zip(scores, taken, strict=True)
    ]


def _levels(
    quantities: Sequence[ReferenceScore], scores: Sequence[TokenScores], weights: Sequence[int]
) -> list[np.ndarray]:
    """Return the level of each float16 pattern, int64 [patterns], for each quantity.

    A token's level is the largest level of its quantities; tokens of small levels are chosen first.
    """
    patterns = np.arange(_PATTERNS)
    if len(quantities) == 1:
        return [patterns]
    ranks = []
    for quantity in quantities:
        counts = [_level_counts(item, [quantity], [patterns]) for item in scores]
        mass = _mass(counts, _masses(counts, weights))
        ranks.append(np.cumsum(mass) - mass)  # mass of the smaller scores
    order = np.unique(np.concatenate(ranks), return_inverse=True)[1]
    return list(order.reshape(len(quantities), _PATTERNS))


def _masses(counts: Sequence[np.ndarray], weights: Sequence[int]) -> list[int]:
    """Return how often training sees a token of each store, as integers without rounding."""
    scored = [max(1, int(count.sum())) for count in counts]
    whole = math.lcm(*scored)
    return [weight * whole // tokens for weight, tokens in zip(weights, scored, strict=True)]


def _mass(counts: Sequence[np.ndarray], masses: Sequence[int]) -> np.ndarray:
    """Return the mass of all tokens of each level, Python integers [levels]."""
    # Python integers, because a mass can exceed int64 for a mixture of many stores.
    each = [count.astype(object) * mass for count, mass in zip(counts, masses, strict=True)]
    return np.sum(each, axis=0)


def _threshold(
    share: Fraction, counts: Sequence[np.ndarray], masses: Sequence[int]
) -> tuple[int, list[int]]:
    """Return the level at which the choice ends, and how many tokens of it each store gives.

    All tokens of smaller levels are chosen.
    """
    mass = _mass(counts, masses)
    upto = np.cumsum(mass)
    wanted = share * upto[-1]
    level = int(np.searchsorted(upto, wanted, side="right"))
    if level == len(mass):
        return level, [0] * len(counts)
    part = (wanted - (upto[level] - mass[level])) / mass[level]
    return level, [int(part * int(count[level])) for count in counts]


def _level_counts(
    scores: TokenScores, quantities: Sequence[ReferenceScore], levels: Sequence[np.ndarray]
) -> np.ndarray:
    """Return the number of scored tokens of each level, int64 [levels]."""
    size = 1 + max(int(level.max()) for level in levels)
    total = np.zeros(size, np.int64)
    for level, scored in _blocks(scores, quantities, levels):
        total += np.bincount(level[scored], minlength=size)
    return total


def _bits(
    scores: TokenScores,
    quantities: Sequence[ReferenceScore],
    levels: Sequence[np.ndarray],
    threshold: int,
    limit: int,
) -> np.ndarray:
    """Return the tokens below the threshold and the first ``limit`` tokens at it, packed."""
    packed = []
    for level, scored in _blocks(scores, quantities, levels):
        equal = scored & (level == threshold)
        within = np.cumsum(equal) <= limit
        limit -= min(limit, int(equal.sum()))
        packed.append(np.packbits((scored & (level < threshold)) | (equal & within)))
    return np.concatenate(packed)


def _blocks(
    scores: TokenScores, quantities: Sequence[ReferenceScore], levels: Sequence[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, block by block, the level of each token and whether it has finite scores."""
    read = [scores.whole(quantity.value) for quantity in quantities]
    for blocks in zip(*read, strict=True):
        # Rounding can make a loss or an entropy of 0 slightly negative.
        patterns = [
            np.maximum(block, np.float16(0)).view(np.uint16) & 0x7FFF for _, block in blocks
        ]
        scored = np.logical_and.reduce([pattern < _INFINITY for pattern in patterns])
        level = np.maximum.reduce(
            [table[pattern] for table, pattern in zip(levels, patterns, strict=True)]
        )
        yield level, scored
