"""Measure how well a classifier tells held-out pages apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

THRESHOLD = 0.5  # probability from which on a page counts as predicted "included"


def quality(probabilities: np.ndarray, included: np.ndarray) -> dict[str, Any]:
    """Return counts, precision, recall, F1 and AUC of predictions.

    All pages weigh the same. A ratio without pages to compute it from is None.

    Args:
        probabilities: float64 [pages]: P(included).
        included: bool [pages]: the true class.
    """
    predicted = probabilities >= THRESHOLD
    hits = int((predicted & included).sum())
    false_hits = int((predicted & ~included).sum())
    misses = int((~predicted & included).sum())
    return {
        "pages": len(included),
        "included": int(included.sum()),
        "true_positives": hits,
        "false_positives": false_hits,
        "false_negatives": misses,
        "true_negatives": int((~predicted & ~included).sum()),
        "precision": _ratio(hits, hits + false_hits),
        "recall": _ratio(hits, hits + misses),
        "f1": _ratio(2 * hits, 2 * hits + false_hits + misses),
        "auc": _auc(probabilities, included),
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _auc(scores: np.ndarray, included: np.ndarray) -> float | None:
    """Return the share of pairs (included, excluded) in the right order; ties count half."""
    above, below = int(included.sum()), int((~included).sum())
    if not above or not below:
        return None
    ranks = pd.Series(scores).rank().to_numpy()
    return float((ranks[included].sum() - above * (above + 1) / 2) / (above * below))
