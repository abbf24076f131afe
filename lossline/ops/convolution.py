"""Causal depthwise convolution over the length, followed by SiLU, for state-space layers."""

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
    """Return ``silu(bias + Σ_j w[j] x[t - (W-1) + j])``; the last tap reads the current position.

    The backward pass keeps only x and computes the convolution again.

    Args:
        x_BxLxE: inputs in any float dtype; taps, bias, sums and activation are float32.
        w_WxE: taps of each channel.
        bias_E: bias of each channel.
        runs_BxL: index of the document at each position; taps read 0 in another document.

    Returns:
        [B, L, E] in the dtype of x.
    """
    return _convolve(x_BxLxE, w_WxE.astype(jnp.float32), bias_E.astype(jnp.float32), runs_BxL)


@jax.custom_vjp
def _convolve(x_BxLxE, w_WxE, bias_E, runs_BxL) -> jax.Array:
    # Compute in float32: XLA CPU rounds every bfloat16 elementwise result, which costs 10 times
    # as much.
    z_BxLxE = _weigh(w_WxE, _shifted(x_BxLxE, w_WxE, runs_BxL)) + bias_E
    return (z_BxLxE * jax.nn.sigmoid(z_BxLxE)).astype(x_BxLxE.dtype)


def _forward(x_BxLxE, w_WxE, bias_E, runs_BxL):
    return _convolve(x_BxLxE, w_WxE, bias_E, runs_BxL), (x_BxLxE, w_WxE, bias_E, runs_BxL)


def _backward(residuals, g_BxLxE):
    """Compute the gradients by hand: autodiff keeps five more arrays and pads per tap."""
    x_BxLxE, w_WxE, bias_E, runs_BxL = residuals
    pasts = list(_shifted(x_BxLxE, w_WxE, runs_BxL, border=_border(x_BxLxE, w_WxE, g_BxLxE)))
    z_BxLxE = _weigh(w_WxE, pasts) + bias_E
    sigmoid = jax.nn.sigmoid(z_BxLxE)
    dz_BxLxE = g_BxLxE.astype(jnp.float32) * sigmoid * (1 + z_BxLxE * (1 - sigmoid))
    if target_backend() != "cpu":
        # dz is written to HBM once and read five times: half the bytes if rounded before.
        dz_BxLxE = dz_BxLxE.astype(x_BxLxE.dtype)
    if target_backend() == "gpu":
        # Without the barrier XLA stores the float32 array and rounds after each read.
        dz_BxLxE = jax.lax.optimization_barrier(dz_BxLxE)
    dz32_BxLxE = dz_BxLxE.astype(jnp.float32)
    dx_BxLxE = _weigh(w_WxE, _shifted(dz_BxLxE, w_WxE, runs_BxL, back=True))
    dw_WxE = jnp.stack([jnp.sum(dz32_BxLxE * past, axis=(0, 1)) for past in pasts][::-1])
    return dx_BxLxE.astype(x_BxLxE.dtype), dw_WxE, jnp.sum(dz32_BxLxE, axis=(0, 1)), None


_convolve.defvjp(_forward, _backward)


def _border(x_BxLxE, w_WxE, g_BxLxE) -> jax.Array | None:
    """On CPU, return W-1 zeros before each row that depend on the gradient g.

    XLA schedules an operation as soon as its inputs exist. Without this dependency on g it would
    repeat the convolution during the forward pass and keep the results until here.
    """
    if target_backend() != "cpu":
        return None
    B, _, E = x_BxLxE.shape
    zeros_Bx1xE = jnp.where(g_BxLxE[:, :1] > 0, 0.0, -0.0).astype(x_BxLxE.dtype)
    return jnp.broadcast_to(zeros_Bx1xE, (B, w_WxE.shape[0] - 1, E))


def _weigh(w_WxE: jax.Array, shifted: Iterable[jax.Array]) -> jax.Array:
    """Return the sum over lags of tap times shifted array, [B, L, E]."""
    lags = zip(w_WxE[::-1], shifted, strict=True)
    return functools.reduce(jnp.add, (x_BxLxE * w_E for w_E, x_BxLxE in lags))


def _shifted(x_BxLxE, w_WxE, runs_BxL, *, back=False, border=None) -> Iterator[jax.Array]:
    """Yield for each lag 0 … W-1 the values ``lag`` positions before each position, in float32.

    Values outside the row or in another document are 0.

    Args:
        back: read ``lag`` positions after each position instead.
        border: array to use as the W-1 zeros before each row; None: make them.
    """
    W, L = w_WxE.shape[0], x_BxLxE.shape[1]
    pads = (0, W - 1) if back else (W - 1, 0)
    if border is None:
        padded = jnp.pad(x_BxLxE, ((0, 0), pads, (0, 0)))  # pad once, because each pad copies x
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
