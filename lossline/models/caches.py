"""What a layer remembers of the tokens of a text, so that the next token costs one position.

Attention keeps the keys and values of all tokens; state-space layers keep the recurrent state and
the last inputs of their convolutions. A layer's method ``continued`` reads and extends them. It
computes the same as a forward pass of the whole text.

Texts of different lengths share the positions of a batch: padding stands before the first token of
a shorter text. Attention masks it, and recurrences are not changed by it.

Letters: B texts, L new positions, C positions of a cache; others as in ``lossline.ops``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lossline.ops.convolution import causal_convolution

_MASKED = -1e30  # finite, so that the scores of padding have a softmax


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class KeyValueCache:
    """Keys and values of an attention layer.

    Attributes:
        key_BxCxGxK, value_BxCxGxK: keys, rotated, and values.
        valid_BxC: False for padding and for positions that are not filled yet.
        filled: number of positions that are filled.
    """

    key_BxCxGxK: jax.Array
    value_BxCxGxK: jax.Array
    valid_BxC: jax.Array
    filled: jax.Array

    def extended(
        self, key_BxLxGxK: jax.Array, value_BxLxGxK: jax.Array, valid_BxL: jax.Array
    ) -> KeyValueCache:
        """Return the cache with the next positions."""
        at = self.filled
        return KeyValueCache(
            key_BxCxGxK=lax.dynamic_update_slice_in_dim(self.key_BxCxGxK, key_BxLxGxK, at, 1),
            value_BxCxGxK=lax.dynamic_update_slice_in_dim(self.value_BxCxGxK, value_BxLxGxK, at, 1),
            valid_BxC=lax.dynamic_update_slice_in_dim(self.valid_BxC, valid_BxL, at, 1),
            filled=at + key_BxLxGxK.shape[1],
        )

    def attend(self, q_BxLxHxK: jax.Array, window: int | jax.Array | None = None) -> jax.Array:
        """Return attention of the newest positions to the last positions up to their own.

        Args:
            q_BxLxHxK: queries of the newest positions.
            window: number of positions that a query attends to, its own included; None: all.

        Scores and softmax are float32; the result has the dtype of the queries.
        """
        B, L, H, K = q_BxLxHxK.shape
        C, G = self.key_BxCxGxK.shape[1:3]
        q_BxLxGxMxK = q_BxLxHxK.reshape(B, L, G, H // G, K)
        scores_BxGxMxLxC = jnp.einsum(
            "blgmk,bcgk->bgmlc",
            q_BxLxGxMxK,
            self.key_BxCxGxK,
            preferred_element_type=jnp.float32,
        ) / math.sqrt(K)
        own_L = self.filled - L + jnp.arange(L)
        away_LxC = own_L[:, None] - jnp.arange(C)
        near_LxC = away_LxC >= 0 if window is None else (away_LxC >= 0) & (away_LxC < window)
        allowed_BxLxC = near_LxC & self.valid_BxC[:, None]
        scores_BxGxMxLxC = jnp.where(allowed_BxLxC[:, None, None], scores_BxGxMxLxC, _MASKED)
        weights_BxGxMxLxC = jax.nn.softmax(scores_BxGxMxLxC, axis=-1).astype(q_BxLxHxK.dtype)
        out_BxLxGxMxK = jnp.einsum(
            "bgmlc,bcgk->blgmk",
            weights_BxGxMxLxC,
            self.value_BxCxGxK,
            preferred_element_type=jnp.float32,
        )
        return out_BxLxGxMxK.reshape(B, L, H, K).astype(q_BxLxHxK.dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class RecurrentCache:
    """State of a state-space layer.

    Attributes:
        inputs: the last inputs of each convolution, [B, taps - 1, channels].
        state: recurrent state, float32; its shape is that of the recurrence.
    """

    inputs: tuple[jax.Array, ...]
    state: jax.Array


def empty_caches(blocks: Any, times: int, *, rows: int, length: int) -> Any:
    """Return the caches of all blocks before the first token.

    Args:
        blocks: the stacked blocks of a model.
        times: number of blocks.
        rows: number of texts.
        length: longest text, in tokens.

    Returns:
        The cache of a block, whose arrays have a leading axis of blocks.
    """
    cache = blocks.empty_cache(rows, length)
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (times, *x.shape)), cache)


def convolved_further(
    x_BxLxE: jax.Array,
    past_BxPxE: jax.Array,
    w_WxE: jax.Array,
    bias_E: jax.Array,
    valid_BxL: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Continue ``causal_convolution`` after the inputs ``past``.

    Returns:
        The outputs at the new positions, and the last inputs.
    """
    x_BxLxE = jnp.where(valid_BxL[:, :, None], x_BxLxE, 0)
    whole = jnp.concatenate([past_BxPxE, x_BxLxE], axis=1)
    past = past_BxPxE.shape[1]
    out = causal_convolution(whole, w_WxE, bias_E)[:, past:]
    return out, whole[:, whole.shape[1] - past :]


def continued_scan(
    u_BxLxE: jax.Array,
    dt_BxLxE: jax.Array,
    a_NxE: jax.Array,
    b_BxLxN: jax.Array,
    c_BxLxN: jax.Array,
    state_BxNxE: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Continue the recurrence of ``ops.selective_scan`` from a state, in float32.

    Returns:
        y [B, L, E], and the state after the last position.
    """

    def step(h_BxNxE: jax.Array, inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        u_BxE, dt_BxE, b_BxN, c_BxN = inputs
        added_BxNxE = (dt_BxE * u_BxE)[:, None] * b_BxN[:, :, None]
        h_BxNxE = jnp.exp(dt_BxE[:, None] * a_NxE) * h_BxNxE + added_BxNxE
        return h_BxNxE, jnp.sum(h_BxNxE * c_BxN[:, :, None], axis=1)

    return _over_positions(step, state_BxNxE, u_BxLxE, dt_BxLxE, b_BxLxN, c_BxLxN)


def continued_duality(
    x_BxLxHxP: jax.Array,
    dt_BxLxH: jax.Array,
    a_H: jax.Array,
    b_BxLxGxN: jax.Array,
    c_BxLxGxN: jax.Array,
    skip_H: jax.Array,
    state_BxHxPxN: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Continue the recurrence of ``ops.state_space_duality`` from a state, in float32.

    Returns:
        y [B, L, H, P], and the state after the last position.
    """
    heads = x_BxLxHxP.shape[2] // b_BxLxGxN.shape[2]
    b_BxLxHxN, c_BxLxHxN = (jnp.repeat(m, heads, axis=2) for m in (b_BxLxGxN, c_BxLxGxN))

    def step(h_BxHxPxN: jax.Array, inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        x_BxHxP, dt_BxH, b_BxHxN, c_BxHxN = inputs
        added = (dt_BxH[:, :, None] * x_BxHxP)[..., None] * b_BxHxN[:, :, None]
        h_BxHxPxN = jnp.exp(dt_BxH * a_H)[..., None, None] * h_BxHxPxN + added
        return h_BxHxPxN, jnp.sum(h_BxHxPxN * c_BxHxN[:, :, None], axis=3)

    y, state = _over_positions(step, state_BxHxPxN, x_BxLxHxP, dt_BxLxH, b_BxLxHxN, c_BxLxHxN)
    return y + skip_H[:, None] * x_BxLxHxP.astype(jnp.float32), state


def _over_positions(step: Any, state: jax.Array, *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Run a recurrence over the second axis of its inputs; return outputs and the last state."""
    moved = tuple(x.astype(jnp.float32).swapaxes(0, 1) for x in inputs)
    state, y = lax.scan(step, state, moved)
    return y.swapaxes(0, 1), state
