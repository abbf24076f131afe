"""Coefficients of resamples of the models, for all resamples, benchmarks and domains at once.

A resample gives each model a weight m_k: how often it was drawn, or a share. The estimators of
``lossline.selection.estimators`` with weights, n = Σ m_k and t_k = Σ_l m_l sgn(x_k - x_l), s_k the
same of y:

    product    Σ m x y / n
    sign       2 Σ m s x / P        with P = n² - Σ m², the ordered pairs of different models
    sign_cdf   Σ m s t / (n P)
    sign_sign  Σ_kl m_k m_l sgn(x_k - x_l) sgn(y_k - y_l) / P
    spearmanr  Σ m s t / sqrt(Σ m s² Σ m t²)
    gamma      sign_cdf times N² (N - 1), N the number of models

With weights of 1 these are the estimators themselves. Nothing is sorted again: t of all resamples
is the product of the weights and the signs of all pairs of models, which has ties and repeated
models right.
"""

from __future__ import annotations

import numpy as np

from lossline.selection.estimators import pairs_of_ranks

Array = np.ndarray

_BLOCK_BYTES = 48 * 2**20  # of t, float32
_DISTINCT = 1e-6  # share of the pairs that must be of different models, else there is no estimate


def resampled(losses: Array, errors: Array, weights: Array, name: str) -> Array:
    """Return coefficients (R, B, D), float32; NaN where a resample does not determine one.

    Args:
        losses: (n, D) without missing cells.
        errors: (n, B) without missing cells.
        weights: weights of the models (R, n), 0 or more.
        name: estimator.
    """
    return Resamples(errors, weights).of(losses, name)


class Resamples:
    """Weights of the models and standings by the errors, shared by all domains.

    Args:
        errors: (n, B) without missing cells.
        weights: (R, n).
    """

    def __init__(self, errors: Array, weights: Array) -> None:
        """Compute the standings of the errors in each resample."""
        self._weights = weights.astype(np.float32)
        self._errors = errors
        self._signs = _pair_signs(errors)  # (n, n, B)
        self._standings = np.tensordot(self._weights, self._signs, axes=1)  # (R, n, B)
        self._size = weights.sum(axis=1)
        pairs = self._size**2 - (weights**2).sum(axis=1)
        self._pairs = np.where(pairs > _DISTINCT * self._size**2, pairs, np.nan)

    def of(self, losses: Array, name: str) -> Array:
        """Return coefficients (R, B, D) of losses (n, D), float32."""
        resamples, models = self._weights.shape
        benchmarks, domains = self._errors.shape[1], losses.shape[1]
        found = np.empty((resamples, benchmarks, domains), np.float32)
        block = max(1, _BLOCK_BYTES // (4 * resamples * models))
        for start in range(0, domains, block):
            columns = slice(start, start + block)
            found[:, :, columns] = getattr(self, f"_{name}")(losses[:, columns])
        return found

    def _product(self, losses: Array) -> Array:
        weighted = self._weights[:, :, None] * self._errors[None]
        return self._over_models(weighted, losses) / self._size[:, None, None]

    def _sign(self, losses: Array) -> Array:
        centered = losses - losses.mean(axis=0)
        return self._over_models(self._by_errors(), centered) * (2 / self._pairs)[:, None, None]

    def _sign_cdf(self, losses: Array) -> Array:
        total = self._by_errors().transpose(0, 2, 1) @ self._losses_standings(losses)
        return total / (self._size * self._pairs)[:, None, None]

    def _gamma(self, losses: Array) -> Array:
        return self._sign_cdf(losses) * pairs_of_ranks(len(losses))

    def _spearmanr(self, losses: Array) -> Array:
        standings = self._losses_standings(losses)
        total = self._by_errors().transpose(0, 2, 1) @ standings
        of_losses = self._weights[:, None, :] @ np.square(standings, out=standings)  # (R, 1, D)
        of_errors = self._weights[:, None, :] @ self._standings**2  # (R, 1, B)
        squares = of_errors.transpose(0, 2, 1) * of_losses
        return total / np.sqrt(np.where(squares > 0, squares, np.nan))

    def _sign_sign(self, losses: Array) -> Array:
        signs = _pair_signs(losses)
        models, _, domains = signs.shape
        found = np.empty((len(self._weights), self._errors.shape[1], domains), np.float32)
        for benchmark in range(found.shape[1]):
            concordant = signs * self._signs[:, :, benchmark, None]
            per_model = self._weights @ concordant.reshape(models, -1)
            per_model = per_model.reshape(-1, models, domains)
            found[:, benchmark] = (self._weights[:, None, :] @ per_model)[:, 0]
        return found / self._pairs[:, None, None]

    def _by_errors(self) -> Array:
        """Return m_k s_k, (R, n, B)."""
        return self._weights[:, :, None] * self._standings

    def _losses_standings(self, losses: Array) -> Array:
        """Return t_k, (R, n, D)."""
        signs = _pair_signs(losses)
        models, _, domains = signs.shape
        return (self._weights @ signs.reshape(models, -1)).reshape(-1, models, domains)

    def _over_models(self, weighted: Array, losses: Array) -> Array:
        """Return Σ_k a_rkb x_kj, (R, B, D)."""
        return np.tensordot(weighted.transpose(0, 2, 1), losses.astype(np.float32), axes=1)


def _pair_signs(values: Array) -> Array:
    """Return sgn(v_k - v_l) of columns (n, C) at [l, k, column], float32."""
    return np.sign(values[None] - values[:, None]).astype(np.float32)
