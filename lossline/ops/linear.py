"""Linear maps of the last axis, in the form that the target backend runs fast."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from lossline.ops import cpu_matmul
from lossline.ops.backend import target_backend


def linear(x: jax.Array, w_DxF: jax.Array) -> jax.Array:
    """Return ``x @ w``. Products accumulate in float32 on every backend.

    Args:
        x: [..., D] in the activation dtype.
        w_DxF: weights in any dtype.

    Returns:
        [..., F] in the dtype of x.
    """
    w_DxF = w_DxF.astype(x.dtype)
    if target_backend() == "cpu":
        return cpu_matmul.matmul(x, w_DxF)
    # GPUs and TPUs accumulate in float32 without an explicit float32 result.
    return lax.dot_general(x, w_DxF, (((x.ndim - 1,), (0,)), ((), ())))


def linear_many(x: jax.Array, weights: Sequence[jax.Array]) -> list[jax.Array]:
    """Return ``[x @ w for w in weights]``.

    On CPU it is one product with the weights side by side, which is faster there.
    """
    if target_backend() != "cpu":
        return [linear(x, w) for w in weights]
    widths = [w.shape[1] for w in weights]
    joined = linear(x, jnp.concatenate([w.astype(x.dtype) for w in weights], axis=1))
    return list(lax.split(joined, widths, axis=x.ndim - 1))


def mean_of_last(x: jax.Array) -> jax.Array:
    """Return the mean over the last axis of a float32 array, [..., 1].

    On CPU it is a product with a column of 1/n: XLA's fusion of a sum there first expands every
    factor to the whole shape.
    """
    if target_backend() != "cpu":
        return jnp.mean(x, axis=-1, keepdims=True)
    column = jnp.full((x.shape[-1], 1), 1 / x.shape[-1], x.dtype)
    dimensions = (((x.ndim - 1,), (0,)), ((), ()))
    return lax.dot_general(x, column, dimensions, precision=lax.Precision.HIGHEST)
