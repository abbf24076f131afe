"""DSIR: importance weights of pages from hashed unigrams and bigrams.

Source: Xie et al., "Data Selection for Language Models via Importance Resampling", NeurIPS 2023,
and its package data-selection 1.0.3 (``HashedNgramDSIR``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lossline.pages.hashing import chunks, hash_ngrams

_SMOOTHING = 1e-8


@dataclass(frozen=True)
class ImportanceWeights:
    """Log-ratio of two bags of hashed n-grams.

    Attributes:
        log_ratio: float64 [buckets]: log((p_target + 1e-8) / (p_raw + 1e-8)).
        longest: words of the longest n-gram.
    """

    log_ratio: np.ndarray
    longest: int

    @classmethod
    def fit(
        cls, target: Sequence[str], raw: Sequence[str], *, buckets: int, longest: int
    ) -> ImportanceWeights:
        """Fit the two bags; each needs at least one word."""
        bags = [bucket_counts(texts, buckets=buckets, longest=longest) for texts in (target, raw)]
        return cls.of_counts(*bags, longest=longest)

    @classmethod
    def of_counts(cls, target: np.ndarray, raw: np.ndarray, *, longest: int) -> ImportanceWeights:
        """Fit two bags by their ``bucket_counts``."""
        shares = [counts / counts.sum() for counts in (target, raw)]
        return cls(np.log(shares[0] + _SMOOTHING) - np.log(shares[1] + _SMOOTHING), longest)

    def score(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return log importance weight (float64 [texts]) and words (int64 [texts]) of each text."""
        scores, words = [np.empty(0)], [np.empty(0, np.int64)]
        for chunk in chunks(texts):
            grams = hash_ngrams(chunk, self.longest)
            scores.append(
                np.sum(
                    [
                        # bincount adds in order, so that a score does not depend on other texts.
                        np.bincount(
                            part.rows, self.log_ratio[part.buckets(len(self.log_ratio))], len(chunk)
                        )
                        for part in grams
                    ],
                    axis=0,
                )
            )
            words.append(grams[0].counts)
        return np.concatenate(scores), np.concatenate(words)


def bucket_counts(texts: Sequence[str], *, buckets: int, longest: int) -> np.ndarray:
    """Count the n-grams of all texts by bucket: int64 [buckets]."""
    counts = np.zeros(buckets, np.int64)
    for chunk in chunks(texts):
        for grams in hash_ngrams(chunk, longest):
            counts += np.bincount(grams.buckets(buckets), minlength=buckets)
    return counts
