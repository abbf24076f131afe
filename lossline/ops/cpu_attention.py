"""Causal attention for XLA's CPU backend: query rows in blocks, each against the keys up to its
end.

Half of the square of scores is never computed, and the backward keeps only the log-sum-exp of each
row (as flash attention does, Dao et al. 2205.14135, without its tiling of the keys: a block of
rows fits the cache).
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

BLOCK = 128
# finite, so that exp() of a masked score minus the maximum of its row is 0 and never NaN
_MASKED = -1e30


def blocked_attention(
    q_BxLxHxK: jax.Array, k_BxLxGxK: jax.Array, v_BxLxGxK: jax.Array, runs_BxL: jax.Array | None
) -> jax.Array:
    """As ``attention.attention``; gradients by the custom rule below."""
    B, L, H, K = q_BxLxHxK.shape
    G = k_BxLxGxK.shape[2]
    q_BxGxMxLxK = q_BxLxHxK.reshape(B, L, G, H // G, K).transpose(0, 2, 3, 1, 4)
    k_BxGxLxK, v_BxGxLxK = (x.transpose(0, 2, 1, 3) for x in (k_BxLxGxK, v_BxLxGxK))
    out = _attend(q_BxGxMxLxK, k_BxGxLxK, v_BxGxLxK, runs_BxL)
    return out.transpose(0, 3, 1, 2, 4).reshape(B, L, H, K)


@jax.custom_vjp
def _attend(q: jax.Array, k: jax.Array, v: jax.Array, runs_BxL: jax.Array | None) -> jax.Array:
    return _forward(q, k, v, runs_BxL)[0]


def _forward(q: jax.Array, k: jax.Array, v: jax.Array, runs_BxL: jax.Array | None):
    outs, lses = [], []
    for begin, end in _blocks(q.shape[3]):
        scores = _scores(q, k, runs_BxL, begin, end)
        top = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        out = _einsum("bgmqs,bgsk->bgmqk", weights.astype(v.dtype), v[:, :, :end])
        outs.append((out / total).astype(q.dtype))
        lses.append(top + jnp.log(total))
    out = jnp.concatenate(outs, axis=3)
    return out, (q, k, v, runs_BxL, out, jnp.concatenate(lses, axis=3))


def _backward(residuals, g):
    q, k, v, runs_BxL, out, lse = residuals
    scale = 1 / math.sqrt(q.shape[-1])
    delta = jnp.sum(g.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)
    dqs = []
    dk = jnp.zeros(k.shape, jnp.float32)
    dv = jnp.zeros(v.shape, jnp.float32)
    for begin, end in _blocks(q.shape[3]):
        g_rows = g[:, :, :, begin:end]
        weights = jnp.exp(_scores(q, k, runs_BxL, begin, end) - lse[:, :, :, begin:end])
        dv_block = _einsum("bgmqs,bgmqk->bgsk", weights.astype(g.dtype), g_rows)
        dweights = _einsum("bgmqk,bgsk->bgmqs", g_rows, v[:, :, :end])
        dscores = (weights * (dweights - delta[:, :, :, begin:end]) * scale).astype(q.dtype)
        dqs.append(_einsum("bgmqs,bgsk->bgmqk", dscores, k[:, :, :end]).astype(q.dtype))
        dk_block = _einsum("bgmqs,bgmqk->bgsk", dscores, q[:, :, :, begin:end])
        dk = dk.at[:, :, :end].add(dk_block)
        dv = dv.at[:, :, :end].add(dv_block)
    return jnp.concatenate(dqs, axis=3), dk.astype(k.dtype), dv.astype(v.dtype), None


_attend.defvjp(_forward, _backward)

_einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(begin, min(begin + BLOCK, length)) for begin in range(0, length, BLOCK)]


def _scores(
    q: jax.Array, k: jax.Array, runs_BxL: jax.Array | None, begin: int, end: int
) -> jax.Array:
    """Masked scores of query rows begin … end against keys 0 … end; float32 [B, G, M, end - begin,
    end].
    """
    scores = _einsum("bgmqk,bgsk->bgmqs", q[:, :, :, begin:end], k[:, :, :end])
    allowed = jnp.arange(begin, end)[:, None] >= jnp.arange(end)[None, :]
    if runs_BxL is not None:
        same = runs_BxL[:, begin:end, None] == runs_BxL[:, None, :end]
        allowed = (allowed & same)[:, None, None]
    return jnp.where(allowed, scores / math.sqrt(q.shape[-1]), _MASKED)
