"""Causal convolution against its definition, and its hand-written gradients against autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossline.ops.backend import compiling_for
from lossline.ops.convolution import causal_convolution


def test_equals_numpy_convolution_with_silu_and_stays_in_its_document():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 12, 3)), jnp.float32)
    w = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)), jnp.float32)
    bias = jnp.ones(3)
    got = causal_convolution(x, w, bias)
    for channel in range(3):
        z = np.convolve(x[0, :, channel], w[::-1, channel])[:12] + 1
        np.testing.assert_allclose(got[0, :, channel], z / (1 + np.exp(-z)), rtol=1e-5, atol=1e-5)
    runs = jnp.array([[0] * 5 + [1] * 7, [0] * 12])
    packed = causal_convolution(x, w, bias, runs_BxL=runs)
    for part in (slice(None, 5), slice(5, None)):
        alone = causal_convolution(x[:1, part], w, bias)[0]
        np.testing.assert_allclose(packed[0, part], alone, rtol=1e-6)
    np.testing.assert_allclose(packed[1], got[1], rtol=1e-6)


def defined(x, w, bias, runs):
    """Return the definition, computed position by position and tap by tap."""
    rows = []
    for t in range(x.shape[1]):
        y = bias
        for lag in range(min(len(w), t + 1)):
            same = 1.0 if runs is None else (runs[:, t] == runs[:, t - lag])[:, None]
            y = y + w[len(w) - 1 - lag] * x[:, t - lag] * same
        rows.append(y)
    return jax.nn.silu(jnp.stack(rows, axis=1))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length, taps", [(9, 4), (2, 4), (5, 1)])
def test_gradients_match_the_definition(length, taps, packed):
    rng = np.random.default_rng(length)
    shapes = (2, length, 3), (taps, 3), (3,)
    inputs = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    runs = jnp.asarray(np.cumsum(rng.random((2, length)) < 0.4, axis=1)) if packed else None

    def total(convolve):
        return lambda *inputs: jnp.sum(jnp.sin(convolve(*inputs)))

    ours = total(lambda x, w, bias: causal_convolution(x, w, bias, runs_BxL=runs))
    theirs = total(lambda x, w, bias: defined(x, w, bias, runs))
    got = jax.jit(jax.value_and_grad(ours, argnums=(0, 1, 2)))(*inputs)
    wanted = jax.jit(jax.value_and_grad(theirs, argnums=(0, 1, 2)))(*inputs)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
def test_bfloat16_gradients_stay_near_float32_on_every_backend(backend):
    rng = np.random.default_rng(0)
    shapes = (2, 16, 32), (4, 32), (32,)
    x, *rest = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    half = x.astype(jnp.bfloat16)

    def gradients(convolve, x):
        def total(x, w, bias):
            return jnp.sum(jnp.sin(convolve(x, w, bias).astype(jnp.float32)))

        return jax.jit(jax.grad(total, argnums=(0, 1, 2)))(x, *rest)

    wanted = gradients(lambda *inputs: defined(*inputs, None), half.astype(jnp.float32))
    with compiling_for(backend):
        got = gradients(causal_convolution, half)
    assert got[0].dtype == jnp.bfloat16
    for a, b in zip(got, wanted, strict=True):
        assert jnp.linalg.norm(a.astype(jnp.float32) - b) < 1e-2 * jnp.linalg.norm(b)
