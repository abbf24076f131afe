"""Kernel of a Gaussian process on shares, and its marginal likelihood with gradient.

A share w enters as the feature f(w) = ((w + e)^q - e^q) / q: close to a logarithm where w is far
above the offset e, linear below it, and smooth at a share of exactly 0. With features scaled by a
weight per component, the covariance of two mixtures is

    1 + slope² f·f' + amplitude² Matérn_{5/2}(|f - f'|)   (+ noise² for a run with itself).

Hyperparameters are one vector: log amplitude, log slope, log noise, log q, log e, then the log
weight of each component.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack

Array = np.ndarray

AMPLITUDE, SLOPE, NOISE, POWER, OFFSET = range(5)
SHARED = 5  # hyperparameters before the weights of the components
_JITTER = 1e-8
_HOPELESS = 1e10  # objective where the covariance has no Cholesky factor


def features(theta: Array, shares: Array) -> tuple[Array, Array, Array]:
    """Return features (T, K) of shares (T, K), and their derivatives by log q and by log e.

    The weights of the components are in the features and in both derivatives.
    """
    q, offset = np.exp(theta[[POWER, OFFSET]])
    weight = np.exp(theta[SHARED:])
    base = shares + offset
    power, zero = base**q, offset**q
    plain = (power - zero) / q
    by_q = power * np.log(base) - zero * np.log(offset) - plain
    by_offset = (power / base - zero / offset) * offset
    return plain * weight, by_q * weight, by_offset * weight


def covariance(theta: Array, left: Array, right: Array) -> Array:
    """Return the covariance (T, M) of the losses, without noise, at two sets of features."""
    matern, linear, _ = _parts(theta, left, right)
    return matern + linear + 1


def variance(theta: Array, points: Array) -> Array:
    """Return the variance (T,) of the losses before any data, without noise, at features (T, K)."""
    linear = np.exp(2 * theta[SLOPE]) * np.sum(points * points, axis=1)
    return np.exp(2 * theta[AMPLITUDE]) + linear + 1


def noisy_covariance(theta: Array, points: Array, weights: Array) -> Array:
    """Return the covariance (M, M) of measured losses; a run of weight 2 counts as two."""
    found = covariance(theta, points, points)
    found[np.diag_indices(len(found))] += np.exp(2 * theta[NOISE]) / weights + _JITTER
    return found


def precision(theta: Array, points: Array, weights: Array) -> Array:
    """Return the inverse (M, M) of the covariance of measured losses.

    Raises:
        numpy.linalg.LinAlgError: the covariance has no Cholesky factor.
    """
    return _inverse(np.linalg.cholesky(noisy_covariance(theta, points, weights)))


def misfit(theta: Array, shares: Array, values: Array, weights: Array) -> tuple[float, Array]:
    """Return the negative log marginal likelihood of ``values`` (M, J), and its gradient.

    The J columns are independent draws with one covariance. Constants are left out.
    """
    points, by_q, by_offset = features(theta, shares)
    matern, linear, steepness = _parts(theta, points, points)
    noise = np.exp(2 * theta[NOISE]) / weights
    total = matern + linear + 1
    total[np.diag_indices(len(total))] += noise + _JITTER
    factor, failed = lapack.dpotrf(total, lower=1, clean=0)
    if failed:
        return _HOPELESS, np.zeros_like(theta)
    alpha, _ = lapack.dpotrs(factor, values, lower=1)
    columns = values.shape[1]
    value = 0.5 * np.sum(values * alpha) + columns * np.sum(np.log(np.diag(factor)))

    inverse = _inverse(factor)
    outer = 0.5 * (columns * inverse - alpha @ alpha.T)  # derivative by the covariance
    near = outer * steepness
    slope = np.exp(2 * theta[SLOPE])
    by_point = 2 * (near @ points - near.sum(axis=1)[:, None] * points + slope * (outer @ points))
    gradient = np.empty_like(theta)
    gradient[AMPLITUDE] = 2 * np.sum(outer * matern)
    gradient[SLOPE] = 2 * np.sum(outer * linear)
    gradient[NOISE] = 2 * np.sum(np.diag(outer) * noise)
    gradient[POWER] = np.sum(by_point * by_q)
    gradient[OFFSET] = np.sum(by_point * by_offset)
    gradient[SHARED:] = np.sum(by_point * points, axis=0)
    return float(value), gradient


def _inverse(factor: Array) -> Array:
    """Return the inverse of a matrix from its Cholesky factor, whose upper half is ignored."""
    inverse, _ = lapack.dpotri(factor, lower=1)
    return np.tril(inverse) + np.tril(inverse, -1).T


def _parts(theta: Array, left: Array, right: Array) -> tuple[Array, Array, Array]:
    """Return the Matérn part, the linear part, and -2 times the first one's slope in |f - f'|²."""
    product = left @ right.T
    squares = np.sum(left * left, axis=1)[:, None] + np.sum(right * right, axis=1)
    distance = np.sqrt(5 * np.maximum(squares - 2 * product, 0))
    decay = np.exp(2 * theta[AMPLITUDE] - distance)
    matern = (1 + distance + distance**2 / 3) * decay
    return matern, np.exp(2 * theta[SLOPE]) * product, 5 / 3 * (1 + distance) * decay
