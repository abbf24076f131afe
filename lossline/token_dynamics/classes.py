"""Four classes of tokens by the change of their loss, and two rules for what a change is.

Source: arXiv 2404.07965, equation 6. The classes are named by the loss at the start and at the end
of training, high (H) or low (L).
"""

from __future__ import annotations

import enum

import numpy as np
from scipy import special  # scipy.stats takes half a second to import

from lossline.token_dynamics.options import AnalysisOptions
from lossline.token_dynamics.trends import Trends

Array = np.ndarray

CLASSES = ("H→H", "L→H", "H→L", "L→L")
STAYS_HIGH, RISES, FALLS, STAYS_LOW = range(len(CLASSES))
# Shares of the paper: TinyLlama 1.1B on OpenWebMath, 320,000 validation tokens.
PUBLISHED_SHARES = (0.11, 0.12, 0.26, 0.51)


class Rule(enum.Enum):
    """When the loss of a token has changed.

    FIXED: the fitted change is larger than a number of nats that is the same for all tokens.
    NOISE: the fitted change is larger than the token's own fluctuation explains.
    """

    FIXED = "fixed"
    NOISE = "noise"


def threshold_of(rule: Rule, trends: Trends, options: AnalysisOptions) -> Array:
    """Return the change above which each token has moved, float64 [N].

    Under ``Rule.NOISE`` it is the two-sided critical value of Student's t with (checkpoints - 2)
    degrees of freedom, times the standard error of the token's change. If losses scatter
    independently and normally around a constant, ``options.false_positives`` of the tokens exceed
    it, whatever the size of each token's noise.

    Args:
        rule: the rule.
        trends: lines of the tokens.
        options: ``threshold`` and ``false_positives``.
    """
    if rule is Rule.FIXED:
        return np.full(trends.change.shape, float(options.threshold))
    critical = special.stdtrit(trends.checkpoints - 2, 1 - options.false_positives / 2)
    return critical * trends.error


def classify(trends: Trends, threshold: Array) -> Array:
    """Return the class of each token, int8 [N]: its place in ``CLASSES``.

    A token whose loss changed by at most its threshold is L→L if its loss at the last checkpoint is
    at most the mean loss of all tokens at this checkpoint, otherwise H→H.

    Args:
        trends: lines of the tokens.
        threshold: ``threshold_of`` a rule, float64 [N].
    """
    low = trends.last <= trends.last.mean()
    stays = np.where(low, STAYS_LOW, STAYS_HIGH)
    moves = np.where(trends.change < 0, FALLS, RISES)
    return np.where(np.abs(trends.change) > threshold, moves, stays).astype(np.int8)
