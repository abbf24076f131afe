"""Causal depthwise convolution over the length, as state-space layers use it."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp


def causal_convolution(
    x_BxLxE: jax.Array,
    w_WxE: jax.Array,
    bias_E: jax.Array | None = None,
    *,
    runs_BxL: jax.Array | None = None,
) -> jax.Array:
    """``y[t] = bias + Σ_j w[j] x[t - (W-1) + j]``: the last tap reads the present.

    Args:
        x_BxLxE: any float dtype; taps, bias and sums are float32.
        runs_BxL: index of the document at each position; taps that would reach into another
            document read 0.

    Returns:
        [B, L, E] in x's dtype.
    """
    y_BxLxE = _convolve(x_BxLxE, w_WxE.astype(jnp.float32), runs_BxL)
    if bias_E is not None:
        y_BxLxE = y_BxLxE + bias_E.astype(jnp.float32)
    return y_BxLxE.astype(x_BxLxE.dtype)


@jax.custom_vjp
def _convolve(x_BxLxE: jax.Array, w_WxE: jax.Array, runs_BxL: jax.Array | None) -> jax.Array:
    """In float32: XLA CPU rounds every bfloat16 elementwise result, at ten times the cost."""
    return _weigh(w_WxE, _shifted(x_BxLxE, w_WxE, runs_BxL))


def _forward(x_BxLxE, w_WxE, runs_BxL):
    return _convolve(x_BxLxE, w_WxE, runs_BxL), (x_BxLxE, w_WxE, runs_BxL)


def _backward(residuals, g_BxLxE):
    """Written out: autodiff keeps a padded copy of x and pads one gradient per tap."""
    x_BxLxE, w_WxE, runs_BxL = residuals
    dx_BxLxE = _weigh(w_WxE, _shifted(g_BxLxE, w_WxE, runs_BxL, back=True))
    pasts = _shifted(x_BxLxE, w_WxE, runs_BxL)
    dw_WxE = jnp.stack([jnp.sum(g_BxLxE * past, axis=(0, 1)) for past in pasts][::-1])
    return dx_BxLxE.astype(x_BxLxE.dtype), dw_WxE, None


_convolve.defvjp(_forward, _backward)


def _weigh(w_WxE: jax.Array, shifted: Iterator[jax.Array]) -> jax.Array:
    """Σ over lags of tap times shifted array, [B, L, E]."""
    lags = zip(w_WxE[::-1], shifted, strict=True)
    return functools.reduce(jnp.add, (x_BxLxE * w_E for w_E, x_BxLxE in lags))


def _shifted(x_BxLxE, w_WxE, runs_BxL, *, back: bool = False) -> Iterator[jax.Array]:
    """For each lag 0 … W-1: what lies ``lag`` positions before each position (``back``: after it)
    in the same document, in float32; 0 where there is none.
    """
    W, L = w_WxE.shape[0], x_BxLxE.shape[1]
    pads = (0, W - 1) if back else (W - 1, 0)
    x_BxLxE = x_BxLxE.astype(jnp.float32)
    padded = jnp.pad(x_BxLxE, ((0, 0), pads, (0, 0)))  # once: each pad is a copy
    runs = None if runs_BxL is None else jnp.pad(runs_BxL, ((0, 0), pads), constant_values=-1)
    yield x_BxLxE
    for lag in range(1, W):
        begin = lag if back else W - 1 - lag
        neighbour_BxLxE = padded[:, begin : begin + L]
        if runs is not None:
            same = runs_BxL == runs[:, begin : begin + L]
            neighbour_BxLxE = jnp.where(same[:, :, None], neighbour_BxLxE, 0)
        yield neighbour_BxLxE
