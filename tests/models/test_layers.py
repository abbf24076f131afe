"""Pieces shared by the families, in the compiled program."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lossline.compilation.flops import total
from lossline.models.layers import Rows, rotary_tables, rotate, run_stack, stacked
from lossline.models.mamba import MambaConfig
from lossline.models.mamba2 import Mamba2Config
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


@pytest.mark.parametrize("packed", [False, True])
def test_no_mask_of_all_heads_is_lifted_out_of_the_loop_over_layers(packed):
    """JAX computes what depends on no layer before the loop; each layer reads it from memory."""
    B, L, Q, heads = 3, 64, 32, 16
    config = Mamba2Config(
        vocab_size=64, width=64, layers=2, head_channels=8, scan_chunk=Q, context_length=L
    )
    graph, state = nnx.split(stacked(config.make_block, jax.random.key(0), config.layers))
    runs = jnp.zeros((B, L), jnp.int32) if packed else None
    keep = jnp.ones((B, L), jnp.float32) if packed else None
    rows = Rows(runs_BxL=runs, keep_BxL=keep)

    def loss(state, x):
        return jnp.sum(run_stack(nnx.merge(graph, state), x, rows, scan=True, remat="none"))

    held = []

    def note(equation):
        if equation.primitive.name == "scan" and equation.params["length"] == config.layers:
            shapes = [x.aval.shape for x in equation.invars]  # a layer's own are stacked
            held.extend(math.prod(s) for s in shapes if s[:1] != (config.layers,))

    total(jax.make_jaxpr(jax.grad(loss))(state, jnp.ones((B, L, 64))), note)
    assert held and max(held) < B * (L // Q) * heads * Q * Q
