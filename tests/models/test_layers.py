"""Pieces shared by the families, in the compiled program."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lossline.models.layers import Rows, rotary_tables, rotate
from lossline.models.mamba import MambaConfig
from lossline.ops.backend import compiling_for


def angles(length):
    return jnp.arange(length)[None], jnp.asarray([1.0, 0.1, 0.01, 0.001])


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what XLA does on a CPU")
def test_rotary_tables_are_computed_once_however_many_layers_rotate():
    def rotated(x):
        tables = rotary_tables(*angles(x.shape[1]))
        for _ in range(4):
            x = jnp.tanh(rotate(x, tables))
        return jnp.sum(x)

    compiled = jax.jit(jax.grad(rotated)).lower(jnp.ones((2, 64, 3, 8))).compile().as_text()
    assert len(re.findall(r" cosine\(", compiled)) == 1


def test_rotary_tables_are_the_same_whatever_they_are_compiled_for():
    positions, frequencies = angles(32)
    here = rotary_tables(positions, frequencies)
    with compiling_for("tpu"):
        there = rotary_tables(positions, frequencies)
    for a, b in zip(here, there, strict=True):
        assert a.shape == b.shape == (1, 32, 1, 4)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what XLA does on a CPU")
def test_mambas_backward_convolves_only_when_the_gradient_is_there():
    """XLA's CPU scheduler would do it with the forward, and hold its five arrays through both
    scans.
    """
    B, L = 2, 256
    config = MambaConfig(vocab_size=64, width=64, layers=1, context_length=L)
    graph, state = nnx.split(config.make_mixer(jax.random.key(0)))

    def loss(state, x):
        return jnp.sum(jnp.sin(nnx.merge(graph, state)(x, Rows())))

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(state, jnp.ones((B, L, 64))).compile()
    array = 4 * B * L * config.inner
    assert compiled.memory_analysis().temp_size_in_bytes < 17 * array  # 14.7; else 19.7
