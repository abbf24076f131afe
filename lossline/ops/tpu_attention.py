"""Flash attention on TPU: JAX's Pallas kernel "splash", mapped over the current mesh.

The kernel (jax.experimental.pallas.ops.tpu) skips the blocks above the diagonal, reads document
indices block by block, and never stores the scores. XLA cannot partition a Pallas kernel, so this
file maps it by hand: rows over the batch axes, heads over ``tensor``, queries over ``sequence``
against all keys.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

LANES = 128
BLOCKS = (512, 256, 128)  # queries and keys per block: the largest that divides the length
HEAD_MULTIPLE = 8
RESIDUALS = "attention"  # checkpoint_name of output and logsumexp, which the backward pass reads


def obstacle(q_shape: tuple[int, ...], dtype: jnp.dtype) -> str | None:
    """Return why the kernel cannot take these queries, and the nearest shape that works.

    Args:
        q_shape: shape of the queries, [B, L, H, K].
        dtype: dtype of the queries.

    Returns:
        The end of an error message, or None if there is no obstacle.
    """
    _, length, _, head_dim = q_shape
    shards = _size(jax.sharding.get_abstract_mesh(), "sequence")
    if dtype not in (jnp.bfloat16, jnp.float32):
        return f"takes bfloat16 or float32, not {dtype}"
    if length % (LANES * shards):
        unit = LANES * shards
        below = f"{length // unit * unit} or " if length > unit else ""
        by = "" if shards == 1 else f" ({LANES} × mesh sequence = {shards})"
        return (
            f"takes lengths that are multiples of {unit}{by}, not {length}; nearest: {below}"
            f"{-(-length // unit) * unit}"
        )
    if head_dim % HEAD_MULTIPLE:
        near = head_dim // HEAD_MULTIPLE * HEAD_MULTIPLE
        smaller = f"{near} or " if near else ""
        return (
            f"takes heads whose width is a multiple of {HEAD_MULTIPLE}, not {head_dim}; nearest: "
            f"{smaller}{near + HEAD_MULTIPLE}"
        )
    return None


def splash_attention(
    q_BxLxHxK: jax.Array,
    k_BxLxGxK: jax.Array,
    v_BxLxGxK: jax.Array,
    runs_BxL: jax.Array | None = None,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Return causal attention as ``ops.attention.attention`` does, for shapes that ``obstacle``
    allows.

    Args:
        q_BxLxHxK, k_BxLxGxK, v_BxLxGxK: queries, keys and values of one dtype; G divides H.
        runs_BxL: index of the document at each position.
        interpret: interpret the kernel step by step on any backend, for tests.
    """
    _, L, H, K = q_BxLxHxK.shape
    mesh = jax.sharding.get_abstract_mesh()
    q_BxLxHxK = (q_BxLxHxK.astype(jnp.float32) * K**-0.5).astype(q_BxLxHxK.dtype)
    if mesh.empty or mesh.size == 1:
        kernel = _kernel(L, H, 1, interpret)
        return _rows(kernel, q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, runs_BxL)
    tensor, sequence = _size(mesh, "tensor"), _size(mesh, "sequence")
    G = k_BxLxGxK.shape[2]
    split_heads = "tensor" if H % tensor == 0 else None
    split_groups = split_heads if G % tensor == 0 else None
    kernel = _kernel(L, H // tensor if split_heads else H, sequence, interpret)

    def shard(kernel, q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, runs_BxL=None):
        # If tensor splits heads but not groups, repeat the group of each head of this device.
        if split_heads and not split_groups:
            own = jax.lax.axis_index("tensor") * (H // tensor) + jnp.arange(H // tensor)
            k_BxLxGxK, v_BxLxGxK = (x[:, :, own // (H // G)] for x in (k_BxLxGxK, v_BxLxGxK))
        return _rows(kernel, q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, runs_BxL)

    batch = tuple(axis for axis in ("data", "fsdp") if axis in mesh.shape)
    queries = "sequence" if sequence > 1 else None
    q_spec = PartitionSpec(batch, queries, split_heads)
    k_spec = PartitionSpec(batch, None, split_groups)
    kernel_spec = kernel.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(None, queries)))
    runs = () if runs_BxL is None else (runs_BxL,)
    mapped = jax.shard_map(
        shard,
        mesh=mesh,
        in_specs=(kernel_spec, q_spec, k_spec, k_spec, *(PartitionSpec(batch) for _ in runs)),
        out_specs=q_spec,
        check_vma=False,
    )
    return mapped(kernel, q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, *runs)


def share_of_blocks(kernel_name: str, grid: tuple[int, ...]) -> float:
    """Return the share of a kernel's grid steps that compute: blocks on and under the diagonal.

    Kernels with other names have share 1.
    """
    if not kernel_name.startswith("splash_mha"):
        return 1.0
    keys = grid[-3] if "dkv" in kernel_name else grid[-1]  # dkv: grid (keys, heads, queries)
    return 0.5 * (1 + 1 / keys)


def _kernel(length: int, heads: int, shards: int, interpret: bool) -> Any:
    splash = _library()
    block = next(size for size in BLOCKS if length // shards % size == 0)
    mask = splash.CausalMask((length, length), shard_count=shards)
    return splash.make_splash_mha(
        splash.MultiHeadMask([mask] * heads),
        block_sizes=splash.BlockSizes(
            block_q=block,
            block_kv=block,
            block_kv_compute=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_kv_dkv_compute=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        head_shards=1,
        q_seq_shards=shards,
        residual_checkpoint_name=RESIDUALS,
        interpret=interpret,
    )


def _rows(
    kernel: Any,
    q_BxLxHxK: jax.Array,
    k_BxLxGxK: jax.Array,
    v_BxLxGxK: jax.Array,
    runs_BxL: jax.Array | None,
) -> jax.Array:
    """Apply the kernel, which takes [H, L, K], to each row of a batch."""
    q, k, v = (x.swapaxes(1, 2) for x in (q_BxLxHxK, k_BxLxGxK, v_BxLxGxK))
    if runs_BxL is None:
        return jax.vmap(kernel)(q, k, v).swapaxes(1, 2)
    L = q_BxLxHxK.shape[1]
    own = runs_BxL
    if runs_BxL.shape[1] != L:  # the queries are only the share of this device
        begin = jax.lax.axis_index("sequence") * L
        own = jax.lax.dynamic_slice_in_dim(runs_BxL, begin, L, axis=1)
    segments = _library().SegmentIds(q=own, kv=runs_BxL)
    return jax.vmap(kernel)(q, k, v, segments).swapaxes(1, 2)


def _library() -> Any:
    """Import the kernel late, because the import takes 0.25 s and other backends do not need it."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    return splash


def _size(mesh: AbstractMesh, axis: str) -> int:
    return 1 if mesh.empty else mesh.shape.get(axis, 1)
