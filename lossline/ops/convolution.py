"""Causal depthwise convolution over the length and its SiLU, as state-space layers use them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp

from lossline.ops.backend import target_backend


def causal_convolution(
    x_BxLxE: jax.Array,
    w_WxE: jax.Array,
    bias_E: jax.Array,
    *,
    runs_BxL: jax.Array | None = None,
) -> jax.Array:
    """``silu(bias + Σ_j w[j] x[t - (W-1) + j])``: the last tap reads the present.

    The backward keeps x alone and convolves again.

    Args:
        x_BxLxE: any float dtype; taps, bias, sums and activation are float32.
        runs_BxL: index of the document at each position; taps that would reach into another
            document read 0.

    Returns:
        [B, L, E] in x's dtype.
    """
    return _convolve(x_BxLxE, w_WxE.astype(jnp.float32), bias_E.astype(jnp.float32), runs_BxL)


@jax.custom_vjp
def _convolve(x_BxLxE, w_WxE, bias_E, runs_BxL) -> jax.Array:
    # in float32: XLA CPU rounds every bfloat16 elementwise result, at ten times the cost
    z_BxLxE = _weigh(w_WxE, _shifted(x_BxLxE, w_WxE, runs_BxL)) + bias_E
    return (z_BxLxE * jax.nn.sigmoid(z_BxLxE)).astype(x_BxLxE.dtype)


def _forward(x_BxLxE, w_WxE, bias_E, runs_BxL):
    return _convolve(x_BxLxE, w_WxE, bias_E, runs_BxL), (x_BxLxE, w_WxE, bias_E, runs_BxL)


def _backward(residuals, g_BxLxE):
    """Written out: autodiff keeps five arrays more, and pads one gradient per tap."""
    x_BxLxE, w_WxE, bias_E, runs_BxL = residuals
    pasts = list(_shifted(x_BxLxE, w_WxE, runs_BxL, border=_border(x_BxLxE, w_WxE, g_BxLxE)))
    z_BxLxE = _weigh(w_WxE, pasts) + bias_E
    sigmoid = jax.nn.sigmoid(z_BxLxE)
    dz_BxLxE = g_BxLxE.astype(jnp.float32) * sigmoid * (1 + z_BxLxE * (1 - sigmoid))
    if target_backend() != "cpu":  # it goes through HBM, and is read five times
        dz_BxLxE = dz_BxLxE.astype(x_BxLxE.dtype)
    if target_backend() == "gpu":  # where XLA would store what was not rounded yet
        dz_BxLxE = jax.lax.optimization_barrier(dz_BxLxE)
    dz32_BxLxE = dz_BxLxE.astype(jnp.float32)
    dx_BxLxE = _weigh(w_WxE, _shifted(dz_BxLxE, w_WxE, runs_BxL, back=True))
    dw_WxE = jnp.stack([jnp.sum(dz32_BxLxE * past, axis=(0, 1)) for past in pasts][::-1])
    return dx_BxLxE.astype(x_BxLxE.dtype), dw_WxE, jnp.sum(dz32_BxLxE, axis=(0, 1)), None


_convolve.defvjp(_forward, _backward)


def _border(x_BxLxE, w_WxE, g_BxLxE) -> jax.Array | None:
    """On CPU, zeros before each row that are not known before g is. XLA schedules what depends on x
    alone as soon as x is there: it would convolve again at once, and hold all of it until here.
    """
    if target_backend() != "cpu":
        return None
    B, _, E = x_BxLxE.shape
    zeros_Bx1xE = jnp.where(g_BxLxE[:, :1] > 0, 0.0, -0.0).astype(x_BxLxE.dtype)
    return jnp.broadcast_to(zeros_Bx1xE, (B, w_WxE.shape[0] - 1, E))


def _weigh(w_WxE: jax.Array, shifted: Iterable[jax.Array]) -> jax.Array:
    """Σ over lags of tap times shifted array, [B, L, E]."""
    lags = zip(w_WxE[::-1], shifted, strict=True)
    return functools.reduce(jnp.add, (x_BxLxE * w_E for w_E, x_BxLxE in lags))


def _shifted(x_BxLxE, w_WxE, runs_BxL, *, back=False, border=None) -> Iterator[jax.Array]:
    """For each lag 0 … W-1: what lies ``lag`` positions before each position (``back``: after it)
    in the same document, in float32; 0 where there is none.

    ``border``: the W-1 zeros before each row, if they are to be these.
    """
    W, L = w_WxE.shape[0], x_BxLxE.shape[1]
    pads = (0, W - 1) if back else (W - 1, 0)
    if border is None:
        padded = jnp.pad(x_BxLxE, ((0, 0), pads, (0, 0)))  # once: each pad is a copy
    else:
        padded = jnp.concatenate([border, x_BxLxE], axis=1)
    runs = None if runs_BxL is None else jnp.pad(runs_BxL, ((0, 0), pads), constant_values=-1)
    yield x_BxLxE.astype(jnp.float32)
    for lag in range(1, W):
        begin = lag if back else W - 1 - lag
        neighbour_BxLxE = padded[:, begin : begin + L].astype(jnp.float32)
        if runs is not None:
            same = runs_BxL == runs[:, begin : begin + L]
            neighbour_BxLxE = jnp.where(same[:, :, None], neighbour_BxLxE, 0)
        yield neighbour_BxLxE
