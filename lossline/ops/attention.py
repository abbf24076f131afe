"""Causal self-attention with grouped key/value heads and document masks.

``implementation``:
    "reference"  the definition in float32, autodiff gradients, all [L, L] scores held.
    "xla"        ``jax.nn.dot_product_attention`` compiled by XLA (scores held; any backend).
    "blocked"    CPU: blocks of query rows against the keys before them, recomputed in the backward.
    "cudnn"      NVIDIA GPU: flash attention through cuDNN; half precision, no document masks.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp

from lossline.errors import UserError
from lossline.ops import cpu_attention
from lossline.ops.backend import BACKENDS, choose, target_backend

IMPLEMENTATIONS = {
    "reference": BACKENDS,
    "xla": BACKENDS,
    "blocked": ("cpu",),
    "cudnn": ("gpu",),
}


def attention(
    q_BxLxHxK: jax.Array,
    k_BxLxGxK: jax.Array,
    v_BxLxGxK: jax.Array,
    *,
    runs_BxL: jax.Array | None = None,
    implementation: str = "auto",
) -> jax.Array:
    """``softmax(q kᵀ / √K + mask) v``; query head h reads key/value head ``h // (H/G)``.

    Args:
        q_BxLxHxK, k_BxLxGxK, v_BxLxGxK: one dtype; G divides H.
        runs_BxL: index of the document at each position (``segments.runs``); positions of other
            documents are masked.
        implementation: one of ``IMPLEMENTATIONS``, or "auto" for ``preferred``'s choice.

    Returns:
        [B, L, H, K] in q's dtype; scores and softmax in float32.

    Raises:
        UserError: the backend lacks the implementation, or the implementation lacks document masks.
    """
    if implementation == "auto":
        implementation = preferred(q_BxLxHxK.dtype, masked=runs_BxL is not None)
    implementation = choose("attention", implementation, IMPLEMENTATIONS)
    if implementation == "reference":
        return reference(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, runs_BxL=runs_BxL)
    if implementation == "blocked":
        return cpu_attention.blocked_attention(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, runs_BxL)
    if implementation == "cudnn" and runs_BxL is not None:
        raise UserError(
            "attention: implementation 'cudnn' has no document masks; train without segment ids"
            " or set attention_implementation to 'xla'"
        )
    mask = None if runs_BxL is None else _same_run(runs_BxL)[:, None]
    library: Literal["cudnn", "xla"] = "cudnn" if implementation == "cudnn" else "xla"
    return jax.nn.dot_product_attention(
        q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, mask=mask, is_causal=True, implementation=library
    )


def preferred(dtype: jnp.dtype, *, masked: bool) -> str:
    """The implementation that "auto" stands for: "blocked" on CPU, "cudnn" on GPU where it can,
    else "xla".
    """
    backend = target_backend()
    if backend == "cpu":
        return "blocked"
    half = dtype in (jnp.bfloat16, jnp.float16)
    return "cudnn" if backend == "gpu" and half and not masked else "xla"


def reference(
    q_BxLxHxK: jax.Array,
    k_BxLxGxK: jax.Array,
    v_BxLxGxK: jax.Array,
    *,
    runs_BxL: jax.Array | None = None,
) -> jax.Array:
    """The definition, in float32."""
    B, L, H, K = q_BxLxHxK.shape
    G = k_BxLxGxK.shape[2]
    q_BxLxGxMxK = q_BxLxHxK.reshape(B, L, G, H // G, K).astype(jnp.float32)
    k_BxLxGxK = k_BxLxGxK.astype(jnp.float32)
    scores = jnp.einsum("blgmk,bsgk->bgmls", q_BxLxGxMxK, k_BxLxGxK) / math.sqrt(K)
    allowed = jnp.tril(jnp.ones((L, L), bool))[None]
    if runs_BxL is not None:
        allowed = allowed & _same_run(runs_BxL)
    weights = jax.nn.softmax(jnp.where(allowed[:, None, None], scores, -jnp.inf), axis=-1)
    out = jnp.einsum("bgmls,bsgk->blgmk", weights, v_BxLxGxK.astype(jnp.float32))
    return out.reshape(B, L, H, K).astype(q_BxLxHxK.dtype)


def _same_run(runs_BxL: jax.Array) -> jax.Array:
    return runs_BxL[:, :, None] == runs_BxL[:, None, :]
