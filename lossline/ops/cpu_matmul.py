"""Matrix products for XLA's CPU backend. ``lossline.ops.linear`` uses them only on CPU.

Two cases are slow there (measured with jax 0.10.2 to 0.12):

- The gradient of ``x @ w`` with a three-dimensional x is a ``dot_general`` over two leading
  dimensions. XLA CPU runs it 5 to 100 times slower than a plain matrix product.
- A bfloat16 product with a transposed left side uses a kernel without bfloat16 instructions.

Therefore the weight gradient is computed on two-dimensional views and accumulated in float32. For
bfloat16, a layout constraint makes XLA store the transpose (AMD Zen 5).

A processor without bfloat16 instructions (Intel Ice Lake) multiplies bfloat16 at most at half the
speed of float32. There the operands are converted to float32 first. Products of bfloat16 numbers
are exact in float32, so only the order of the sums changes.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

BFLOAT16_INSTRUCTIONS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_FACTS = Path("/proc/cpuinfo")


@cache
def has_bfloat16_instructions() -> bool:
    """Return whether the processor multiplies bfloat16 numbers; False if /proc/cpuinfo does not
    tell.
    """
    if not _FACTS.is_file():
        return False
    for line in _FACTS.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, words = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return not BFLOAT16_INSTRUCTIONS.isdisjoint(words.split())
    return False


def contract(a: jax.Array, b: jax.Array, dimensions: lax.DotDimensionNumbers) -> jax.Array:
    """Return ``lax.dot_general`` in float32, computed in the dtype that this processor multiplies
    fast.
    """
    if jnp.bfloat16 in (a.dtype, b.dtype) and not has_bfloat16_instructions():
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


@jax.custom_vjp
def matmul(x: jax.Array, w_DxF: jax.Array) -> jax.Array:
    """Return ``x @ w``, accumulated in float32.

    Args:
        x: [..., D] in the dtype of w.
        w_DxF: weights.

    Returns:
        [..., F] in the dtype of x.
    """
    return _contract_last(x, w_DxF, 0).astype(x.dtype)


def weight_gradient(x_TxD: jax.Array, g_TxF: jax.Array) -> jax.Array:
    """Return ``x.T @ g`` in float32, in the form that XLA CPU runs fast for the dtype of x."""
    if x_TxD.dtype == jnp.bfloat16 and has_bfloat16_instructions():
        # Store x.T in row-major order: without the constraint XLA folds the transpose into the dot
        # and does not use the bfloat16 kernel.
        x_DxT = with_layout_constraint(x_TxD.T, Layout((0, 1)))
        return lax.dot(x_DxT, g_TxF, preferred_element_type=jnp.float32)
    return contract(x_TxD, g_TxF, (((0,), (0,)), ((), ())))


def _contract_last(x: jax.Array, w: jax.Array, w_axis: int) -> jax.Array:
    return contract(x, w, (((x.ndim - 1,), (w_axis,)), ((), ())))


def _forward(x: jax.Array, w_DxF: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return matmul(x, w_DxF), (x, w_DxF)


def _backward(residuals: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w_DxF = residuals
    g = g.astype(x.dtype)
    dx = _contract_last(g, w_DxF, 1).astype(x.dtype)
    dw = weight_gradient(x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1]))
    return dx, dw.astype(w_DxF.dtype)


matmul.defvjp(_forward, _backward)
