"""Laws of N, D and the shares. They bear shares of 0.

Logarithms of N and D are relative to the fitted runs' geometric means. Positive parameters are
searched as logarithms.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from lossline.mixtures.compute_laws import log_sum
from lossline.mixtures.laws import Columns, Law, Parameters, parameters

Array = np.ndarray

_FAINT = 1e-6  # a ridge that only keeps the solver's matrix regular
# Exponents of N and D of Hoffmann et al. (arXiv 2203.15556) as refitted by arXiv 2404.10102; on
# other corpora they were found between 0.2 and 0.5.
_ALPHA, _BETA, _DOUBT = float(np.log(0.35)), float(np.log(0.37)), 0.3
_TERMS = (
    ("log E", -0.3, _FAINT),
    ("log A", -2.0, _FAINT),
    ("log alpha", _ALPHA, _FAINT, _DOUBT),
    ("log B", -2.0, _FAINT),
    ("log beta", _BETA, _FAINT),
)


def _of(name: str, components: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{name}[{component}]" for component in components)


def _scale_terms(theta: Array, columns: Columns) -> tuple[list[Array], list[Array]]:
    """Return log E, log A N^-alpha, log B D^-beta, each (R, M), and d terms / d exponents."""
    steep_n, steep_t = (np.exp(theta[:, i, None]) for i in (2, 4))
    by_n, by_t = -steep_n * columns.n, -steep_t * columns.t
    level = np.broadcast_to(theta[:, 0, None], by_n.shape)
    return [level, theta[:, 1, None] + by_n, theta[:, 3, None] + by_t], [by_n, by_t]


def _stack(columns: list[Array], jacobian_of_shares: Array) -> Array:
    """Return the Jacobian (R, P, M) of the five scale parameters, then those of the shares."""
    return np.concatenate([np.stack(columns, axis=1), jacobian_of_shares], axis=1)


@dataclasses.dataclass(frozen=True)
class Exponential(Law):
    """The exponential law of data mixing, with terms in N and D.

    Source: Ye et al., arXiv 2403.16952 (L = c + k exp(t . w) at one scale); the terms in N and D
    are those of Hoffmann et al., arXiv 2203.15556.
    """

    name = "exponential"
    equation = "L = E + exp(k + sum_k t_k w_k) + A N^-alpha + B D^-beta"
    source = "Ye et al., arXiv 2403.16952, with the terms of arXiv 2203.15556"

    def parameters(self, components: tuple[str, ...]) -> Parameters:
        """Return log E, log A, log alpha, log B, log beta and t_k (which contain k)."""
        return parameters(*_TERMS, (_of("t", components), -1.0, _FAINT))

    def log_loss(self, theta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return log loss (R, M) and its Jacobian (R, 5 + K, M)."""
        terms, (by_n, by_t) = _scale_terms(theta, columns)
        value, part = log_sum(np.stack([*terms, theta[:, 5:] @ columns.shares.T], axis=1))
        scale = [part[:, 0], part[:, 1], part[:, 1] * by_n, part[:, 2], part[:, 2] * by_t]
        return value, _stack(scale, part[:, 3, None] * columns.shares.T)


@dataclasses.dataclass(frozen=True)
class Additive(Law):
    """Additive law of optimal data mixtures: an exponent per component.

    Source: Shukor et al., arXiv 2507.09404, additive law.
    """

    name = "additive"
    equation = "L = E + 1 / sum_k C_k w_k^gamma_k + A N^-alpha + B D^-beta"
    source = "Shukor et al., arXiv 2507.09404, additive law"

    def parameters(self, components: tuple[str, ...]) -> Parameters:
        """Return the five of N and D, log C_k and log gamma_k."""
        own = (_of("log C", components), 1.0, _FAINT), (_of("log gamma", components), -0.7, _FAINT)
        return parameters(*_TERMS, *own)

    def log_loss(self, theta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return log loss (R, M) and its Jacobian (R, 5 + 2 K, M)."""
        terms, (by_n, by_t) = _scale_terms(theta, columns)
        mixed, slope = _inverse_sum(theta[:, 5:], columns)
        value, part = log_sum(np.stack([*terms, mixed], axis=1))
        scale = [part[:, 0], part[:, 1], part[:, 1] * by_n, part[:, 2], part[:, 2] * by_t]
        return value, _stack(scale, part[:, 3, None] * slope)


@dataclasses.dataclass(frozen=True)
class Joint(Law):
    """Joint law of optimal data mixtures: the terms in N and D depend on the mixture as well.

    Source: Shukor et al., arXiv 2507.09404, joint law. The factors A and B are in the sums.
    """

    name = "joint"
    equation = (
        "L = E + 1 / sum_k C_k w_k^gamma_k + (sum_k F_k w_k)^f N^-alpha + (sum_k G_k w_k)^g D^-beta"
    )
    source = "Shukor et al., arXiv 2507.09404, joint law"

    def parameters(self, components: tuple[str, ...]) -> Parameters:
        """Return the additive law's, then log F_k, f, log G_k and g."""
        ridge = 1e-5  # F and f, G and g can hardly be told apart
        return parameters(
            *_TERMS,
            (_of("log C", components), 1.0, ridge),
            (_of("log gamma", components), -0.7, ridge),
            (_of("log F", components), 0.0, ridge),
            ("f", 0.2, ridge),
            (_of("log G", components), 0.0, ridge),
            ("g", 0.2, ridge),
        )

    def log_loss(self, theta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return log loss (R, M) and its Jacobian (R, 7 + 4 K, M)."""
        count = columns.shares.shape[1]
        terms, (by_n, by_t) = _scale_terms(theta, columns)
        mixed, slope = _inverse_sum(theta[:, 5 : 5 + 2 * count], columns)
        slopes = [slope]
        for place, first in ((1, 5 + 2 * count), (2, 6 + 3 * count)):
            weights, power = theta[:, first : first + count], theta[:, first + count, None]
            total, part = log_weighted(weights, columns)
            terms[place] = terms[place] + power * total
            slopes.append(np.concatenate([power[:, None] * part, total[:, None]], axis=1))
        value, part = log_sum(np.stack([*terms, mixed], axis=1))
        scale = [part[:, 0], part[:, 1], part[:, 1] * by_n, part[:, 2], part[:, 2] * by_t]
        shares = [part[:, i, None] * s for i, s in zip((3, 1, 2), slopes, strict=True)]
        return value, _stack(scale, np.concatenate(shares, axis=1))


@dataclasses.dataclass(frozen=True)
class Separable(Law):
    """Our law: a factor of the mixture times a factor of N and D.

    The loss of a domain falls as a power of the effective share sum_k v_k w_k of text that helps it
    (v_k is how much text of component k is worth), corrected by an exponential of the shares. The
    factor of N and D has the three terms of Hoffmann et al.; larger models can gain more from
    tokens (N^gamma), which checkpoints at a constant learning rate show. Shares of 0 are harmless:
    v_k > 0 leaves the sum positive.

    The form and the ridge were chosen on the rows of ``mixtures_slimpajama.csv`` that
    ``experiments/published`` fits (122M and 310M), by predicting late tokens from early ones,
    unseen mixtures, both at once, and most of 310M from 122M; the larger models took no part.
    """

    name = "separable"
    equation = (
        "L = exp(sum_k p_k (w_k - 1/K)) (sum_k v_k w_k)^-q (E + A N^-alpha + B N^gamma D^-beta)"
    )
    source = "this project"

    def parameters(self, components: tuple[str, ...]) -> Parameters:
        """Return the five of N and D, gamma, log q, p_k and log v_k."""
        return parameters(
            ("log E", -0.3, _FAINT),
            ("log A", -2.0, _FAINT),
            ("log alpha", _ALPHA, 1e-3, _DOUBT),
            ("log B", -2.0, _FAINT),
            ("log beta", _BETA, 1e-4),
            ("gamma", 0.0, 1e-4),
            ("log q", float(np.log(0.1)), 1e-3),
            (_of("p", components), 0.0, 1e-2),
            (_of("log v", components), 0.0, 1e-4),
        )

    def log_loss(self, theta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return log loss (R, M) and its Jacobian (R, 7 + 2 K, M)."""
        count = columns.shares.shape[1]
        terms, (by_n, by_t) = _scale_terms(theta, columns)
        terms[2] = terms[2] + theta[:, 5, None] * columns.n
        value, part = log_sum(np.stack(terms, axis=1))
        effective, worth = log_weighted(theta[:, 7 + count :], columns)
        power = np.exp(theta[:, 6, None])
        uneven = (columns.shares - 1 / count).T
        value = value + theta[:, 7 : 7 + count] @ uneven - power * effective
        scale = [part[:, 0], part[:, 1], part[:, 1] * by_n, part[:, 2], part[:, 2] * by_t]
        scale += [part[:, 2] * columns.n, -power * effective]
        shares = [np.broadcast_to(uneven, worth.shape), -power[:, None] * worth]
        return value, _stack(scale, np.concatenate(shares, axis=1))


def log_weighted(log_weights: Array, columns: Columns) -> tuple[Array, Array]:
    """Return log sum_k exp(x_k) w_k (R, M) for x (R, K), and each component's part (R, K, M)."""
    top = log_weights.max(axis=1, keepdims=True)
    parts = np.exp(log_weights - top)[:, :, None] * columns.shares.T
    total = parts.sum(axis=1)
    return np.log(total) + top, parts / total[:, None]


def _inverse_sum(theta: Array, columns: Columns) -> tuple[Array, Array]:
    """Return -log sum_k C_k w_k^gamma_k (R, M), and its Jacobian in log C, log gamma."""
    count = columns.shares.shape[1]
    power = np.exp(theta[:, count:])[:, :, None] * columns.logs.T
    parts = np.exp(theta[:, :count, None] + power) * (columns.shares.T > 0)
    total = parts.sum(axis=1)
    share = parts / total[:, None]
    return -np.log(total), -np.concatenate([share, share * power], axis=1)
