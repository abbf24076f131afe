"""Causal depthwise convolution over the length, as state-space layers use it."""

from __future__ import annotations

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
    dtype = x_BxLxE.dtype
    W, L = w_WxE.shape[0], x_BxLxE.shape[1]
    # float32 inside: XLA CPU rounds every bfloat16 elementwise result, at ten times the cost
    x_BxLxE, w_WxE = x_BxLxE.astype(jnp.float32), w_WxE.astype(jnp.float32)
    y_BxLxE = x_BxLxE * w_WxE[W - 1]
    padded = jnp.pad(x_BxLxE, ((0, 0), (W - 1, 0), (0, 0)))  # once: each pad is a copy
    for lag in range(1, W):
        past_BxLxE = padded[:, W - 1 - lag : W - 1 - lag + L]
        if runs_BxL is not None:
            past_runs = jnp.pad(runs_BxL, ((0, 0), (lag, 0)), constant_values=-1)[:, :L]
            past_BxLxE = jnp.where((runs_BxL == past_runs)[:, :, None], past_BxLxE, 0)
        y_BxLxE = y_BxLxE + past_BxLxE * w_WxE[W - 1 - lag]
    if bias_E is not None:
        y_BxLxE = y_BxLxE + bias_E.astype(jnp.float32)
    return y_BxLxE.astype(dtype)
