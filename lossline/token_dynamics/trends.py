"""Straight lines through the losses of each token over checkpoints, and their standard errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray
# Two degrees of freedom are the line's; fewer than three others leave the scatter unknown.
FEWEST_CHECKPOINTS = 5


@dataclass(frozen=True, kw_only=True)
class Trends:
    """Least-squares lines l_t = a·t + b of N tokens over checkpoints t = 0 … n.

    Attributes:
        slope: a, float64 [N]: nats per checkpoint.
        change: ΔL = a·n, float64 [N]: fitted change from the first to the last checkpoint.
        error: standard error of ``change``, float64 [N], from the token's scatter around its line.
        last: nats at the last checkpoint, float64 [N].
        checkpoints: n + 1.
        lag: correlation of neighboring residuals over all tokens, minus its value for independent
            noise. Above 0, the scatter understates the noise of a slope.
    """

    slope: Array
    change: Array
    error: Array
    last: Array
    checkpoints: int
    lag: float


def fit_trends(nats: Array) -> Trends:
    """Fit the line of each token.

    Args:
        nats: finite losses [checkpoints, N], in the order of training.

    Returns:
        The lines.

    Raises:
        ValueError: fewer than ``FEWEST_CHECKPOINTS`` checkpoints.
    """
    nats = np.asarray(nats, np.float64)
    count = len(nats)
    if count < FEWEST_CHECKPOINTS:
        raise ValueError(f"{count} checkpoints; a line needs {FEWEST_CHECKPOINTS}")
    time = np.arange(count) - (count - 1) / 2
    spread = float(time @ time)
    slope = time @ nats / spread
    residuals = nats - nats.mean(axis=0) - time[:, None] * slope
    squares = np.einsum("tn,tn->n", residuals, residuals)
    span = count - 1
    return Trends(
        slope=slope,
        change=span * slope,
        error=span * np.sqrt(squares / (count - 2) / spread),
        last=nats[-1],
        checkpoints=count,
        lag=_lag(residuals, float(squares.sum()), time / np.sqrt(spread)),
    )


def _lag(residuals: Array, squares: float, direction: Array) -> float:
    """Return the lag-1 correlation of residuals, minus its expectation for independent noise.

    Residuals of a line are correlated even then: their covariance is the projection I - 1/m - d·d'.
    """
    if not squares:
        return 0.0
    count = len(direction)
    expected = -((count - 1) / count + direction[:-1] @ direction[1:]) / (count - 2)
    found = np.einsum("tn,tn->", residuals[:-1], residuals[1:]) / squares
    return float(found - expected)
