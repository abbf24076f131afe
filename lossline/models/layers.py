"""Parts that several families share: initializers, norms, rotary positions, the stack of blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from lossline.ops.backend import target_backend
from lossline.ops.linear import mean_of_last
from lossline.ops.tpu_attention import RESIDUALS

ModuleType = TypeVar("ModuleType", bound=nnx.Module)

PRODUCT = "product"  # checkpoint_name of every matrix product that remat = "dots" keeps


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Facts about the rows of a batch that a block receives in addition to the activations.

    Attributes:
        positions_BxL: position of each token in its document; None: 0 … L-1.
        runs_BxL: index of the document at each position; None: every row is one document.
        keep_BxL: 0 where a document begins, 1 elsewhere, float32; None if ``runs_BxL`` is None.
        rotary: cosines and sines, each [B or 1, L, 1, K/2]; None if no layer uses them.
        near_rotary: those of layers with a window, where they differ; None: ``rotary``.
        block: number of the block, from 0, int32; None if all blocks are alike.
    """

    positions_BxL: jax.Array | None = None
    runs_BxL: jax.Array | None = None
    keep_BxL: jax.Array | None = None
    rotary: tuple[jax.Array, jax.Array] | None = None
    near_rotary: tuple[jax.Array, jax.Array] | None = None
    block: jax.Array | None = None


def parameter(value: jax.Array, *axes: str) -> nnx.Param:
    """Return a parameter that carries the logical names of its axes.

    Raises:
        ValueError: the number of names differs from the number of axes.
    """
    if len(axes) != value.ndim:
        raise ValueError(f"{len(axes)} axis names {axes} for an array of shape {value.shape}")
    return nnx.Param(value, logical_axes=axes)


def truncated_normal(key: jax.Array, shape: tuple[int, ...], std: float, dtype: str) -> jax.Array:
    """Return normal values cut at 3 ``std``, as the initializers of Llama and OLMo do."""
    return (std * jax.random.truncated_normal(key, -3.0, 3.0, shape, jnp.float32)).astype(dtype)


class RMSNorm(nnx.Module):
    """RMSNorm: ``x / sqrt(mean(x²) + eps) · (offset + scale)`` over the last axis, in float32.

    Source: Zhang & Sennrich, 1910.07467; the offset is Gemma's. A fresh norm multiplies by 1.
    """

    def __init__(
        self, width: int, *, eps: float, dtype: str, scale: bool = True, offset: float = 0.0
    ) -> None:
        self.scale = parameter(jnp.full(width, 1 - offset, dtype), "norm") if scale else None
        self.eps = eps
        self.offset = offset

    def __call__(self, x: jax.Array) -> jax.Array:
        scale = None if self.scale is None else self.scale[...]
        if scale is not None and self.offset:
            scale = scale.astype(jnp.float32) + self.offset
        return _rms_norm(x, scale, self.eps)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rms_norm(x: jax.Array, scale: jax.Array | None, eps: float) -> jax.Array:
    return _rms_norm_forward(x, scale, eps)[0]


def _rms_norm_forward(x, scale, eps):
    x32 = x.astype(jnp.float32)
    root = jax.lax.rsqrt(mean_of_last(x32 * x32) + eps)
    normed = x32 * root if scale is None else x32 * root * scale.astype(jnp.float32)
    return normed.astype(x.dtype), (x, scale, root)


def _rms_norm_backward(eps, residuals, g):
    """Compute the gradients by hand: autodiff keeps float32 copies of x and adds one gradient
    twice.
    """
    x, scale, root = residuals
    normed, g32 = x.astype(jnp.float32) * root, g.astype(jnp.float32)
    dnormed = g32 if scale is None else g32 * scale.astype(jnp.float32)
    # The norm does not change when x is scaled: remove the part of the gradient along normed.
    along = mean_of_last(dnormed * normed)
    dx = (root * (dnormed - normed * along)).astype(x.dtype)
    if scale is None:
        return dx, None
    return dx, jnp.sum(g32 * normed, axis=tuple(range(x.ndim - 1))).astype(scale.dtype)


_rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


class LayerNorm(nnx.Module):
    """LayerNorm: ``(x - mean) / sqrt(variance + eps) · scale + bias`` over the last axis, in
    float32.

    Source: Ba et al., 1607.06450.
    """

    def __init__(
        self, width: int, *, eps: float, dtype: str, bias: bool, scale: bool = True
    ) -> None:
        self.scale = parameter(jnp.ones(width, dtype), "norm") if scale else None
        self.bias = parameter(jnp.zeros(width, dtype), "norm") if bias else None
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        centered = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        variance = jnp.mean(centered * centered, axis=-1, keepdims=True)
        normed = centered * jax.lax.rsqrt(variance + self.eps)
        if self.scale is not None:
            normed = normed * self.scale[...].astype(jnp.float32)
        if self.bias is not None:
            normed = normed + self.bias[...].astype(jnp.float32)
        return normed.astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def gated_rms_norm(
    x: jax.Array, gate: jax.Array, scale: jax.Array, groups: int, eps: float
) -> jax.Array:
    """Apply the gated norm of Mamba-2: RMSNorm of ``x · silu(gate)``, times ``scale``.

    The last axis is split into ``groups`` equal parts, and each part is normed separately. The work
    is in float32 and is rounded once, to the dtype of ``gate``.
    """
    return _gated_rms_norm_forward(x, gate, scale, groups, eps)[0]


def _gated_rms_norm_forward(x, gate, scale, groups, eps):
    gated, _ = _silu_gated(x, gate, groups)
    root = jax.lax.rsqrt(mean_of_last(gated * gated) + eps)
    normed = (gated * root).reshape(x.shape) * scale.astype(jnp.float32)
    return normed.astype(gate.dtype), (x, gate, scale, root)


def _gated_rms_norm_backward(groups, eps, residuals, g):
    """Compute the gradients from the inputs: autodiff keeps three more float32 arrays of their
    size.
    """
    x, gate, scale, root = residuals
    gated, (x32, gate32, sigmoid) = _silu_gated(x, gate, groups)
    normed, g32 = gated * root, g.astype(jnp.float32)
    dnormed = (g32 * scale.astype(jnp.float32)).reshape(normed.shape)
    dgated = root * (dnormed - normed * mean_of_last(dnormed * normed))
    dx = (dgated * gate32 * sigmoid).reshape(x.shape).astype(x.dtype)
    # silu'(g) = σ(g) (1 + g (1 - σ(g)))
    dgate = dgated * x32 * sigmoid * (1 + gate32 * (1 - sigmoid))
    dscale = jnp.sum(g32 * normed.reshape(g32.shape), axis=tuple(range(g32.ndim - 1)))
    return dx, dgate.reshape(x.shape).astype(gate.dtype), dscale.astype(scale.dtype)


def _silu_gated(x, gate, groups):
    parts = (*x.shape[:-1], groups, x.shape[-1] // groups)
    x32, gate32 = (array.astype(jnp.float32).reshape(parts) for array in (x, gate))
    sigmoid = jax.nn.sigmoid(gate32)
    return x32 * gate32 * sigmoid, (x32, gate32, sigmoid)


gated_rms_norm.defvjp(_gated_rms_norm_forward, _gated_rms_norm_backward)


def rotary_tables(positions_BxL: jax.Array, frequencies: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return cosines and sines, each [B, L, 1, K/2], in float32.

    Args:
        positions_BxL: position of each token.
        frequencies: angular frequencies [K/2] in radians per position.
    """
    angles = positions_BxL[:, :, None, None].astype(jnp.float32) * frequencies
    if target_backend() != "cpu":
        return jnp.cos(angles), jnp.sin(angles)
    # XLA CPU recomputes an elementwise function in every fusion that reads it (7% of a step), even
    # behind an optimization_barrier. It does not recompute the result of a loop.
    cos, sin = jax.lax.map(lambda x: (jnp.cos(x), jnp.sin(x)), angles.swapaxes(0, 1))
    return cos.swapaxes(0, 1), sin.swapaxes(0, 1)


def rotate(x_BxLxHxK: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Apply rotary position embeddings to the first R channels of each head.

    The tables hold R/2 angles. Channel i is rotated together with channel i + R/2. Source: Su et
    al., 2104.09864.
    """
    cos, sin = tables
    half = cos.shape[-1]
    x32 = x_BxLxHxK.astype(jnp.float32)
    first, second = x32[..., :half], x32[..., half : 2 * half]
    turned = [first * cos - second * sin, second * cos + first * sin]
    if 2 * half < x32.shape[-1]:
        turned.append(x32[..., 2 * half :])
    return jnp.concatenate(turned, axis=-1).astype(x_BxLxHxK.dtype)


@jax.custom_vjp
def gated(x: jax.Array, gate: jax.Array) -> jax.Array:
    """Return ``x · silu(gate)``, computed in float32 and rounded once."""
    gate32 = gate.astype(jnp.float32)
    return (x.astype(jnp.float32) * gate32 * jax.nn.sigmoid(gate32)).astype(x.dtype)


def _gated_backward(residuals, g):
    """Compute the gradients from the inputs: autodiff keeps three more float32 arrays of their
    size.
    """
    x, gate = residuals
    g32, x32, gate32 = (array.astype(jnp.float32) for array in (g, x, gate))
    sigmoid = jax.nn.sigmoid(gate32)
    dgate = g32 * x32 * sigmoid * (1 + gate32 * (1 - sigmoid))
    return (g32 * gate32 * sigmoid).astype(x.dtype), dgate.astype(gate.dtype)


gated.defvjp(lambda x, gate: (gated(x, gate), (x, gate)), _gated_backward)


@jax.custom_vjp
def gelu_gated(x: jax.Array, gate: jax.Array) -> jax.Array:
    """Return ``x · gelu(gate)`` with the tanh approximation, computed in float32 and rounded
    once.
    """
    return _gelu_gated(x, gate)


def _gelu_gated(x: jax.Array, gate: jax.Array) -> jax.Array:
    activated = jax.nn.gelu(gate.astype(jnp.float32), approximate=True)
    return (x.astype(jnp.float32) * activated).astype(x.dtype)


# The gradients are computed from the inputs: autodiff keeps float32 arrays of their size.
gelu_gated.defvjp(
    lambda x, gate: (_gelu_gated(x, gate), (x, gate)),
    lambda residuals, g: jax.vjp(_gelu_gated, *residuals)[1](g),
)


def like(bias: nnx.Param, x: jax.Array) -> jax.Array:
    """Return the bias in the dtype of x, shaped like the last axis of x, or the last two."""
    last = x.shape[-2:] if x.ndim == 4 else x.shape[-1:]
    return bias[...].astype(x.dtype).reshape(last)


def product(x: jax.Array) -> jax.Array:
    """Mark the result of a matrix product as one that remat may keep for the backward pass."""
    return checkpoint_name(x, PRODUCT)


def stacked(make: Callable[[jax.Array], ModuleType], key: jax.Array, times: int) -> ModuleType:
    """Return ``times`` fresh modules as one, whose parameters have a leading axis "layers"."""
    graph, _ = nnx.split(nnx.eval_shape(lambda: make(key)))
    state = jax.vmap(lambda key: nnx.state(make(key)))(jax.random.split(key, times))
    module = nnx.merge(graph, state)
    for _, variable in nnx.to_flat_state(nnx.state(module)):
        axes = ("layers", *variable.get_metadata("logical_axes"))
        variable.set_metadata("logical_axes", axes)
    return module


def run_stack(
    stack: nnx.Module,
    x_BxLxD: jax.Array,
    rows: Rows,
    *,
    scan: bool,
    remat: str,
    numbered: bool = False,
) -> jax.Array:
    """Apply the stacked blocks one after the other, in a loop or unrolled.

    Args:
        stack: blocks with stacked parameters.
        x_BxLxD: activations.
        rows: facts about the rows.
        scan: compile one block and loop it.
        remat: what the backward pass recomputes.
        numbered: tell each block its number, in ``rows.block``.
    """
    graph, state = nnx.split(stack)

    def apply(x: jax.Array, block_state: nnx.State, rows: Rows) -> jax.Array:
        return nnx.merge(graph, block_state)(x, rows)

    if remat != "none":
        apply = jax.checkpoint(apply, policy=_remat_policy(remat), prevent_cse=not scan)
    count = jax.tree.leaves(state)[0].shape[0]
    numbers = jnp.arange(count, dtype=jnp.int32) if numbered else None

    def step(x: jax.Array, one: tuple[nnx.State, jax.Array | None]) -> tuple[jax.Array, None]:
        return apply(x, one[0], dataclasses.replace(rows, block=one[1])), None

    if scan:
        return jax.lax.scan(step, x_BxLxD, (state, numbers))[0]
    for number, block_state in enumerate(_unstack(state)):
        x_BxLxD, _ = step(x_BxLxD, (block_state, None if numbers is None else numbers[number]))
    return x_BxLxD


def _unstack(state: nnx.State) -> list[nnx.State]:
    leaves, tree = jax.tree.flatten(state)
    blocks = leaves[0].shape[0]
    # The gradient of lax.split is one concatenation; the gradient of indexing is a padded sum per
    # block.
    parts = [jax.lax.split(leaf, (1,) * blocks) for leaf in leaves]
    return [
        jax.tree.unflatten(tree, [part[i].reshape(part[i].shape[1:]) for part in parts])
        for i in range(blocks)
    ]


def _remat_policy(remat: str) -> Callable | None:
    policies = jax.checkpoint_policies
    if remat == "dots":
        return policies.save_only_these_names(PRODUCT, RESIDUALS)
    if remat == "offload":
        return policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=[PRODUCT],
            offload_src="device",
            offload_dst="pinned_host",
        )
    return None


jax.tree_util.register_dataclass(
    Rows, data_fields=[f.name for f in dataclasses.fields(Rows)], meta_fields=[]
)
