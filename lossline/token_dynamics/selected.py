"""Which tokens a selection by excess loss would train on at each checkpoint."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

Array = np.ndarray


def selected_tokens(excess: Array, share: float) -> Array:
    """Return the tokens with the largest excess loss at each checkpoint, bool [checkpoints, N].

    ⌊share · N⌋ tokens of each checkpoint, at least one; of equal ones the earlier is taken. The
    selection is over the sample as a whole, as a training's is over its batch. The share counts as
    its decimal notation: 0.29 of 100 tokens are 29.

    Args:
        excess: loss minus the reference's loss, [checkpoints, N].
        share: share to select, in (0, 1].
    """
    count = max(1, math.floor(Fraction(str(share)) * excess.shape[1]))
    chosen = np.zeros(excess.shape, bool)
    for row, values in zip(chosen, excess, strict=True):
        row[np.argsort(-values, kind="stable")[:count]] = True
    return chosen
