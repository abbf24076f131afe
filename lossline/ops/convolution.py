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
        x_BxLxE: any float dtype; w_WxE and bias_E are cast to it.
        runs_BxL: index of the document at each position; taps that would reach into another
            document read 0.

    Returns:
        [B, L, E] in x's dtype.
    """
    W = w_WxE.shape[0]
    w_WxE = w_WxE.astype(x_BxLxE.dtype)
    y_BxLxE = x_BxLxE * w_WxE[W - 1]
    for lag in range(1, W):
        past = jnp.pad(x_BxLxE, ((0, 0), (lag, 0), (0, 0)))[:, : x_BxLxE.shape[1]]
        if runs_BxL is not None:
            same = (
                runs_BxL
                == jnp.pad(runs_BxL, ((0, 0), (lag, 0)), constant_values=-1)[:, : runs_BxL.shape[1]]
            )
            past = jnp.where(same[:, :, None], past, 0)
        y_BxLxE = y_BxLxE + past * w_WxE[W - 1 - lag]
    return y_BxLxE if bias_E is None else y_BxLxE + bias_E.astype(x_BxLxE.dtype)
