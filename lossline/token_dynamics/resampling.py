"""Intervals of shares and means by a bootstrap over documents.

Tokens of one document are alike, so a bootstrap over tokens would give intervals that are too
narrow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

Array = np.ndarray
_CELLS_AT_ONCE = 1 << 23  # drawn counts of documents in memory: 64 MB


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """Estimates with intervals, float64 [K] each; NaN where undefined.

    Attributes:
        value: estimates.
        low: lower ends of the intervals.
        high: upper ends.
    """

    value: Array
    low: Array
    high: Array


class DocumentBootstrap:
    """Resamples of the documents of a sample of tokens; every call uses the same resamples.

    Args:
        documents: document of each token, int [N].
        resamples: number R of resamples.
        confidence: level of the intervals.
        seed: seed of the resamples.
    """

    def __init__(self, documents: Array, *, resamples: int, confidence: float, seed: int) -> None:
        _, self._document = np.unique(documents, return_inverse=True)
        self._tokens = np.bincount(self._document)
        self._resamples, self._confidence, self._seed = resamples, confidence, seed

    def ratios(self, numerators: Array, denominators: Array) -> Estimates:
        """Return sums of numerators over sums of denominators.

        Args:
            numerators: [N, K].
            denominators: [N, K] or [N, 1].
        """
        above, drawn_above = self.sums(numerators)
        below, drawn_below = self.sums(denominators)
        return self.estimates(_ratio(above, below), _ratio(drawn_above, drawn_below))

    def sums(self, columns: Array) -> tuple[Array, Array]:
        """Return the sums of columns [N, K]: of the sample [K], and of each resample [R, K]."""
        count = len(self._tokens)
        by_document = np.stack(
            [np.bincount(self._document, column, minlength=count) for column in columns.T], axis=1
        )
        rng = np.random.default_rng(self._seed)
        block = max(1, _CELLS_AT_ONCE // count)
        drawn = [
            rng.multinomial(count, np.full(count, 1 / count), size=min(block, self._resamples - at))
            @ by_document
            for at in range(0, self._resamples, block)
        ]
        return by_document.sum(axis=0), np.concatenate(drawn)

    def estimates(self, value: Array, drawn: Array) -> Estimates:
        """Return estimates with percentile intervals, widened for few documents.

        The distance of each end is multiplied by the ratio of Student's to the normal quantile, for
        the effective number of documents (Σ tokens)² / Σ tokens². Below 2 there are no intervals.
        An interval may reach beyond possible values, such as shares below 0.

        Args:
            value: estimates [K].
            drawn: their resamples [R, K]; NaN where undefined. An estimate that is undefined in
                more than half of the resamples gets no interval.
        """
        effective = self._tokens.sum() ** 2 / (self._tokens.astype(float) ** 2).sum()
        if effective < 2:
            nothing = np.full(value.shape, np.nan)
            return Estimates(value=value, low=nothing, high=nothing)
        tail = (1 - self._confidence) / 2
        stretch = special.stdtrit(effective - 1, 1 - tail) / special.ndtri(1 - tail)
        known = np.isfinite(drawn).mean(axis=0) >= 0.5
        ends = np.full((2, *value.shape), np.nan)
        if known.any():
            ends[:, known] = np.nanquantile(drawn[:, known], (tail, 1 - tail), axis=0)
        low, high = value + stretch * (ends - value)
        return Estimates(value=value, low=np.minimum(low, value), high=np.maximum(high, value))


def _ratio(above: Array, below: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0, above / below, np.nan)
