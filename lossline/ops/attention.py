"""Causal self-attention with grouped key/value heads and document masks.

Values of ``implementation``:

- "reference": the definition in float32, autodiff gradients; keeps all [L, L] scores.
- "xla": ``jax.nn.dot_product_attention`` compiled by XLA; keeps the scores; any backend.
- "blocked": CPU. Blocks of query rows against the keys up to their end; the backward pass
  recomputes the scores.
- "cudnn": NVIDIA GPU. Flash attention through cuDNN, half precision; keeps no scores. Documents are
  a mask [B, 1, L, L] in that precision, shared by all heads.
- "splash": TPU. The Pallas flash kernel of ``ops.tpu_attention``, mapped over the mesh.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lossline.errors import UserError
from lossline.ops import cpu_attention, tpu_attention
from lossline.ops.backend import BACKENDS, choose, target_backend

IMPLEMENTATIONS = {
    "reference": BACKENDS,
    "xla": BACKENDS,
    "blocked": ("cpu",),
    "cudnn": ("gpu",),
    "splash": ("tpu",),
}
WINDOWED = ("reference", "xla")
CUDNN_HEAD_MULTIPLE = 8
CUDNN_HEAD_DIM = 128  # Hopper allows 256, but ahead-of-time compilation may not know the card
# Elements of the queries on one device. With more, cuDNN 9.27 returns wrong gradients.
CUDNN_ELEMENTS = 2**31


def attention(
    q_BxLxHxK: jax.Array,
    k_BxLxGxK: jax.Array,
    v_BxLxGxK: jax.Array,
    *,
    runs_BxL: jax.Array | None = None,
    window: int | jax.Array | None = None,
    implementation: str = "auto",
) -> jax.Array:
    """Return ``softmax(q kᵀ / √K + mask) v``; query head h reads key/value head ``h // (H/G)``.

    Args:
        q_BxLxHxK, k_BxLxGxK, v_BxLxGxK: queries, keys and values of one dtype; G divides H.
        runs_BxL: index of the document at each position (``segments.runs``); positions of other
            documents are masked.
        window: number of positions that a query attends to, its own and those before; None: all.
            Only "reference" and "xla" have windows; "auto" is then "xla".
        implementation: one of ``IMPLEMENTATIONS``, or "auto": the choice of ``preferred``.

    Returns:
        [B, L, H, K] in the dtype of q. Scores and softmax are float32.

    Raises:
        UserError: the backend does not have the implementation, or the implementation does not
            support these shapes or this dtype.
    """
    if implementation == "auto":
        shape, dtype = q_BxLxHxK.shape, q_BxLxHxK.dtype
        implementation = preferred(shape, dtype) if window is None else "xla"
    implementation = choose("attention", implementation, IMPLEMENTATIONS)
    if (reason := obstacle(implementation, q_BxLxHxK.shape, q_BxLxHxK.dtype)) is not None:
        raise UserError(
            f"attention: implementation {implementation!r} {reason}; or set"
            f" attention_implementation to 'xla'"
        )
    if window is not None and implementation not in WINDOWED:
        raise UserError(
            f"attention: implementation {implementation!r} has no window; set"
            f" attention_implementation to 'auto', or the model's window to None"
        )
    q_BxLxHxK, k_BxLxGxK, v_BxLxGxK = _gather_keys(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK)
    if implementation == "reference":
        return reference(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, runs_BxL=runs_BxL, window=window)
    if implementation == "blocked":
        return cpu_attention.blocked_attention(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, runs_BxL)
    if implementation == "splash":
        return tpu_attention.splash_attention(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, runs_BxL)
    mask = None if runs_BxL is None else _same_run(runs_BxL)[:, None]  # one mask for all heads
    if window is not None:
        near = _is_near(q_BxLxHxK.shape[1], window)[None, None]
        mask = near if mask is None else mask & near
    library: Literal["cudnn", "xla"] = "cudnn" if implementation == "cudnn" else "xla"
    return jax.nn.dot_product_attention(
        q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, mask=mask, is_causal=True, implementation=library
    )


def preferred(q_shape: tuple[int, ...], dtype: jnp.dtype) -> str:
    """Return the implementation that "auto" stands for.

    It is "blocked" on CPU, "cudnn" on GPU and "splash" on TPU; "xla" where there is an
    ``obstacle``.
    """
    flash = {"cpu": "blocked", "gpu": "cudnn", "tpu": "splash"}[target_backend()]
    return "xla" if obstacle(flash, q_shape, dtype) else flash


def obstacle(implementation: str, q_shape: tuple[int, ...], dtype: jnp.dtype) -> str | None:
    """Return why an implementation cannot take these queries, and the nearest that it can take.

    Args:
        implementation: one of ``IMPLEMENTATIONS``.
        q_shape: shape of the queries, [B, L, H, K].
        dtype: dtype of the queries.

    Returns:
        The end of an error message, or None if there is no obstacle.
    """
    if implementation == "splash":
        return tpu_attention.obstacle(q_shape, dtype)
    if implementation != "cudnn":
        return None
    if dtype not in (jnp.bfloat16, jnp.float16):
        return f"takes bfloat16 or float16, not {dtype}; set activation_dtype to 'bfloat16'"
    if _sequence_shards() > 1:
        return "cannot split the length; set mesh sequence = 1"
    head_dim = q_shape[3]
    if head_dim % CUDNN_HEAD_MULTIPLE or head_dim > CUDNN_HEAD_DIM:
        near = min(CUDNN_HEAD_DIM, -(-head_dim // CUDNN_HEAD_MULTIPLE) * CUDNN_HEAD_MULTIPLE)
        return (
            f"takes heads whose width is a multiple of {CUDNN_HEAD_MULTIPLE} up to"
            f" {CUDNN_HEAD_DIM}, not {head_dim}; nearest: {near}"
        )
    if q_shape[1] % 2:
        return f"takes even lengths, not {q_shape[1]}; nearest: {q_shape[1] + 1}"
    if math.prod(q_shape) // max(1, jax.sharding.get_abstract_mesh().size) > CUDNN_ELEMENTS:
        return (
            f"gives wrong gradients above {CUDNN_ELEMENTS:,} elements of queries per device; use"
            f" microbatches"
        )
    return None


def reference(
    q_BxLxHxK: jax.Array,
    k_BxLxGxK: jax.Array,
    v_BxLxGxK: jax.Array,
    *,
    runs_BxL: jax.Array | None = None,
    window: int | jax.Array | None = None,
) -> jax.Array:
    """Return attention by its definition, in float32."""
    B, L, H, K = q_BxLxHxK.shape
    G = k_BxLxGxK.shape[2]
    q_BxLxGxMxK = q_BxLxHxK.reshape(B, L, G, H // G, K).astype(jnp.float32)
    k_BxLxGxK = k_BxLxGxK.astype(jnp.float32)
    scores = jnp.einsum("blgmk,bsgk->bgmls", q_BxLxGxMxK, k_BxLxGxK) / math.sqrt(K)
    allowed = jnp.tril(jnp.ones((L, L), bool))[None]
    if runs_BxL is not None:
        allowed = allowed & _same_run(runs_BxL)
    if window is not None:
        allowed = allowed & _is_near(L, window)
    # Every row allows its own position, so no row of scores is all -inf.
    weights = jax.nn.softmax(jnp.where(allowed[:, None, None], scores, -jnp.inf), axis=-1)
    out = jnp.einsum("bgmls,bsgk->blgmk", weights, v_BxLxGxK.astype(jnp.float32))
    return out.reshape(B, L, H, K).astype(q_BxLxHxK.dtype)


def _sequence_shards() -> int:
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape.get("sequence", 1)


def _gather_keys(
    q_BxLxHxK: jax.Array, k_BxLxGxK: jax.Array, v_BxLxGxK: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Shard queries along the length, and gather keys and values of the whole row.

    Nothing changes unless mesh axis ``sequence`` splits the length.
    """
    if _sequence_shards() == 1:
        return q_BxLxHxK, k_BxLxGxK, v_BxLxGxK
    free = PartitionSpec.UNCONSTRAINED
    constrain = jax.lax.with_sharding_constraint
    q_BxLxHxK = constrain(q_BxLxHxK, PartitionSpec(free, "sequence", free, free))
    whole = PartitionSpec(free, None, free, free)
    return q_BxLxHxK, constrain(k_BxLxGxK, whole), constrain(v_BxLxGxK, whole)


def _is_near(length: int, window: int | jax.Array) -> jax.Array:
    """Return whether a query (row) has a key (column) less than ``window`` positions back."""
    positions = jnp.arange(length)
    return positions[:, None] - positions[None, :] < window


def _same_run(runs_BxL: jax.Array) -> jax.Array:
    return runs_BxL[:, :, None] == runs_BxL[:, None, :]
