"""Linear maps of the last axis, in the form that the target backend runs fast."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from lossline.ops import cpu_matmul
from lossline.ops.backend import target_backend


def linear(x: jax.Array, w_DxF: jax.Array) -> jax.Array:
    """``x @ w``: x [..., D] in the activation dtype, w [D, F] in any dtype, result [..., F] in x's
    dtype.

    Products accumulate in float32 on every backend.
    """
    w_DxF = w_DxF.astype(x.dtype)
    if target_backend() == "cpu":
        return cpu_matmul.matmul(x, w_DxF)
    return lax.dot_general(x, w_DxF, (((x.ndim - 1,), (0,)), ((), ())))


def linear_many(x: jax.Array, weights: Sequence[jax.Array]) -> list[jax.Array]:
    """``[x @ w for w in weights]``; on CPU one product with the weights side by side, which is
    faster there.
    """
    if target_backend() != "cpu":
        return [linear(x, w) for w in weights]
    widths = [w.shape[1] for w in weights]
    joined = linear(x, jnp.concatenate([w.astype(x.dtype) for w in weights], axis=1))
    return list(lax.split(joined, widths, axis=x.ndim - 1))


def mean_of_last(x: jax.Array) -> jax.Array:
    """Mean over the last axis of a float32 array, [..., 1]; on CPU a product with a column of 1/n,
    because XLA's fusions of a sum there first spread every factor out to the whole shape.
    """
    if target_backend() != "cpu":
        return jnp.mean(x, axis=-1, keepdims=True)
    column = jnp.full((x.shape[-1], 1), 1 / x.shape[-1], x.dtype)
    dimensions = (((x.ndim - 1,), (0,)), ((), ()))
    return lax.dot_general(x, column, dimensions, precision=lax.Precision.HIGHEST)
