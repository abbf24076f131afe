"""Causal attention for XLA's CPU backend, in blocks of query rows.

Each block reads only the keys up to its own end, so half of the scores are never computed. The
backward pass keeps only the log-sum-exp of each row, as flash attention does (Dao et al.,
2205.14135). Keys are not tiled, because a block of rows fits the cache.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from lossline.ops import cpu_matmul

BLOCK = 128
# Finite, so that exp(masked score - row maximum) is 0. With -inf it could be NaN.
_MASKED = -1e30


def blocked_attention(
    q_BxLxHxK: jax.Array, k_BxLxGxK: jax.Array, v_BxLxGxK: jax.Array, runs_BxL: jax.Array | None
) -> jax.Array:
    """Return causal attention as ``attention.attention`` does, with hand-written gradients."""
    B, L, H, K = q_BxLxHxK.shape
    G = k_BxLxGxK.shape[2]
    # Leading axis X = B·G: independent problems, each with M query heads on one key/value head.
    q_XxMxLxK = q_BxLxHxK.swapaxes(1, 2).reshape(B * G, H // G, L, K)
    k_XxLxK, v_XxLxK = (x.swapaxes(1, 2).reshape(B * G, L, K) for x in (k_BxLxGxK, v_BxLxGxK))
    out_XxMxLxK = _attend(q_XxMxLxK, k_XxLxK, v_XxLxK, runs_BxL)
    return out_XxMxLxK.reshape(B, H, L, K).swapaxes(1, 2)


@jax.custom_vjp
def _attend(q: jax.Array, k: jax.Array, v: jax.Array, runs_BxL: jax.Array | None) -> jax.Array:
    return _forward(q, k, v, runs_BxL)[0]


def _forward(q: jax.Array, k: jax.Array, v: jax.Array, runs_BxL: jax.Array | None):
    scale = 1 / math.sqrt(q.shape[-1])
    outs, lses = [], []
    for begin, end in _blocks(q.shape[2]):
        rows = _rows(q, begin, end)
        scores = _mask(_dot(rows, k[:, :end], 2, 2) * scale, runs_BxL, begin, end)
        # Subtract the maximum of each row, so that exp() cannot overflow.
        top = jnp.max(scores, axis=2, keepdims=True)
        weights = jnp.exp(scores - top)
        total = jnp.sum(weights, axis=2, keepdims=True)
        out = _dot(weights.astype(v.dtype), v[:, :end], 2, 1) / total
        outs.append(_unrows(out.astype(q.dtype), q.shape))
        lses.append(_unrows(top + jnp.log(total), q.shape))
    out = jnp.concatenate(outs, axis=2)
    return out, (q, k, v, runs_BxL, out, jnp.concatenate(lses, axis=2))


def _backward(residuals, g):
    """Compute the gradients from transposed scores, [keys, rows].

    In this form only one of the five matrix products has a transposed left side, which XLA CPU runs
    3 to 8 times slower.
    """
    q, k, v, runs_BxL, out, lse = residuals
    # delta = Σ_j weight_j dweight_j, the row term of softmax's gradient (2205.14135, appendix B.2).
    delta = jnp.sum(g.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)
    scale = 1 / math.sqrt(q.shape[-1])
    dqs = []
    dk = jnp.zeros(k.shape, jnp.float32)
    dv = jnp.zeros(v.shape, jnp.float32)
    for begin, end in _blocks(q.shape[2]):
        rows, g_rows = _rows(q, begin, end), _rows(g, begin, end)
        lse_rows, delta_rows = (_rows(x, begin, end).swapaxes(1, 2) for x in (lse, delta))
        scores = _dot(k[:, :end], rows, 2, 2) * scale
        weights = jnp.exp(_mask(scores, runs_BxL, begin, end, transposed=True) - lse_rows)
        dscores = weights * (_dot(v[:, :end], g_rows, 2, 2) - delta_rows) * scale
        dscores = dscores.astype(q.dtype)
        dv = dv.at[:, :end].add(_dot(weights.astype(g.dtype), g_rows, 2, 1))
        dk = dk.at[:, :end].add(_dot(dscores, rows, 2, 1))
        dqs.append(_unrows(_dot(dscores, k[:, :end], 1, 1).astype(q.dtype), q.shape))
    return jnp.concatenate(dqs, axis=2), dk.astype(k.dtype), dv.astype(v.dtype), None


_attend.defvjp(_forward, _backward)


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(begin, min(begin + BLOCK, length)) for begin in range(0, length, BLOCK)]


def _rows(x_XxMxLxK: jax.Array, begin: int, end: int) -> jax.Array:
    """Return query rows begin … end of all heads of a group, head after head: [X, M·R, K]."""
    X, _, _, K = x_XxMxLxK.shape
    return x_XxMxLxK[:, :, begin:end].reshape(X, -1, K)


def _unrows(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Reshape [X, M·R, K] to [X, M, R, K], for arrays of ``shape`` [X, M, L, …]."""
    return x.reshape(*shape[:2], -1, x.shape[-1])


def _dot(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    """Return matrix products over the leading axis, contracting the given axes, in float32."""
    return cpu_matmul.contract(a, b, (((a_axis,), (b_axis,)), ((0,), (0,))))


def _mask(
    scores: jax.Array,
    runs_BxL: jax.Array | None,
    begin: int,
    end: int,
    *,
    transposed: bool = False,
) -> jax.Array:
    """Mask the scores of query rows begin … end against keys 0 … end.

    Scores are [X, M·R, S] with S = end, or [X, S, M·R] if ``transposed``.
    """
    R, S = end - begin, end
    allowed_BxRxS = (jnp.arange(begin, end)[:, None] >= jnp.arange(S))[None]
    if runs_BxL is not None:
        allowed_BxRxS &= runs_BxL[:, begin:end, None] == runs_BxL[:, None, :S]
    B = allowed_BxRxS.shape[0]
    if transposed:
        parts = scores.reshape(B, -1, S, scores.shape[2] // R, R)
        allowed = allowed_BxRxS.swapaxes(1, 2)[:, None, :, None]
    else:
        parts = scores.reshape(B, -1, scores.shape[1] // R, R, S)
        allowed = allowed_BxRxS[:, None, None]
    return jnp.where(allowed, parts, _MASKED).reshape(scores.shape)
