"""Parts that the families share, checked in the compiled program."""

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


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="tests XLA's CPU compiler")
def test_rotary_tables_are_computed_once_for_all_layers():
    def rotated(x):
        tables = rotary_tables(*angles(x.shape[1]))
        for _ in range(4):
            x = jnp.tanh(rotate(x, tables))
        return jnp.sum(x)

    compiled = jax.jit(jax.grad(rotated)).lower(jnp.ones((2, 64, 3, 8))).compile().as_text()
    assert len(re.findall(r" cosine\(", compiled)) == 1


def test_rotary_tables_are_the_same_on_cpu_and_tpu():
    positions, frequencies = angles(32)
    here = rotary_tables(positions, frequencies)
    with compiling_for("tpu"):
        there = rotary_tables(positions, frequencies)
    for a, b in zip(here, there, strict=True):
        assert a.shape == b.shape == (1, 32, 1, 4)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="tests XLA's CPU compiler")
def test_mamba_repeats_its_convolution_only_in_the_backward_pass():
    """XLA's CPU scheduler would repeat it in the forward pass and keep its five arrays through both
    scans.
    """
    B, L = 2, 256
    config = MambaConfig(vocab_size=64, width=64, layers=1, context_length=L)
    graph, state = nnx.split(config.make_mixer(jax.random.key(0)))

    def loss(state, x):
        return jnp.sum(jnp.sin(nnx.merge(graph, state)(x, Rows())))

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(state, jnp.ones((B, L, 64))).compile()
    array = 4 * B * L * config.inner
    # 14.7 arrays; 19.7 if the convolution is repeated early.
    assert compiled.memory_analysis().temp_size_in_bytes < 17 * array


@pytest.mark.parametrize("packed", [False, True])
def test_no_mask_for_all_heads_is_moved_out_of_the_layer_loop(packed):
    """JAX computes before the loop what does not depend on the layer; every layer then reads it."""
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
            shapes = [x.aval.shape for x in equation.invars]  # inputs of one layer are stacked
            held.extend(math.prod(s) for s in shapes if s[:1] != (config.layers,))

    total(jax.make_jaxpr(jax.grad(loss))(state, jnp.ones((B, L, 64))), note)
    assert held and max(held) < B * (L // Q) * heads * Q * Q
