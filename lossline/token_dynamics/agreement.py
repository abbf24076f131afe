"""Agreement of the classes of two runs, corrected for chance.

Source: Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological
Measurement 20(1), 1960.
"""

from __future__ import annotations

import numpy as np

from lossline.token_dynamics.classes import CLASSES
from lossline.token_dynamics.resampling import DocumentBootstrap, Estimates

Array = np.ndarray


def agreement(first: Array, second: Array, bootstrap: DocumentBootstrap) -> Estimates:
    """Return the share of tokens with equal classes, and Cohen's kappa, as estimates [2].

    Kappa is 1 for equal classes and 0 for the agreement of independent ones with the same shares;
    NaN if both give all tokens one class.

    Args:
        first: classes of the tokens, int [N].
        second: classes of the same tokens by another run or rule.
        bootstrap: resamples of their documents.
    """
    count = len(CLASSES)
    both = first.astype(int) * count + second
    columns = (both[:, None] == np.arange(count * count)).astype(np.float64)
    whole, drawn = bootstrap.sums(columns)
    return bootstrap.estimates(_agreed_and_kappa(whole), _agreed_and_kappa(drawn))


def _agreed_and_kappa(pairs: Array) -> Array:
    """Return agreement and kappa [..., 2] of counts of pairs of classes [..., classes²]."""
    count = len(CLASSES)
    table = pairs.reshape(*pairs.shape[:-1], count, count)
    table = table / table.sum(axis=(-2, -1), keepdims=True)
    agreed = np.einsum("...ii->...", table)
    chance = np.einsum("...i,...i->...", table.sum(axis=-1), table.sum(axis=-2))
    with np.errstate(divide="ignore", invalid="ignore"):
        kappa = np.where(chance < 1, (agreed - chance) / (1 - chance), np.nan)
    return np.stack([agreed, kappa], axis=-1)
