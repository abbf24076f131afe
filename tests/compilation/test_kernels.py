"""Bytes and operations of Pallas kernels, counted from traced functions."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.experimental import pallas as pl

from lossline import models
from lossline.compilation import hlo
from lossline.compilation.flops import matmul_flops, total
from lossline.compilation.kernels import kernel_bytes
from lossline.models import LlamaConfig
from lossline.ops import tpu_attention
from lossline.ops.backend import compiling_for
from lossline.sharding import MeshOptions, make_mesh


def multiply(x, w):
    """Multiply [M, K] × [K, N] in blocks of 8 × 16 over grid (M/8, N/16)."""

    def kernel(x_ref, w_ref, out_ref):
        out_ref[...] = jnp.dot(x_ref[...], w_ref[...])

    M, K, N = *x.shape, w.shape[1]
    return pl.pallas_call(
        kernel,
        grid=(M // 8, N // 16),
        in_specs=[
            pl.BlockSpec((8, K), lambda i, j: (i, 0)),
            pl.BlockSpec((K, 16), lambda i, j: (0, j)),
        ],
        out_specs=pl.BlockSpec((8, 16), lambda i, j: (i, j)),
        out_shape=jax.ShapeDtypeStruct((M, N), x.dtype),
    )(x, w)


def test_a_block_is_copied_as_often_as_its_index_changes():
    M, K, N = 32, 24, 64
    x, w = jnp.zeros((M, K)), jnp.zeros((K, N))
    once = 4 * (M * K + (M // 8) * K * N + M * N)  # w is copied for every row of blocks

    def five_times(x, w):
        return jax.lax.scan(lambda _, __: (multiply(x, w), None), multiply(x, w), length=4)[0]

    assert kernel_bytes(jax.make_jaxpr(multiply)(x, w)) == once
    assert kernel_bytes(jax.make_jaxpr(five_times)(x, w)) == 5 * once
    assert matmul_flops(jax.make_jaxpr(five_times)(x, w)) == 5 * 2 * M * K * N


@pytest.mark.parametrize("sharded", [False, True])
def test_flash_attention_counts_the_blocks_under_the_diagonal(sharded):
    B, L, H, G, K = 8, 1024, 4, 2, 64
    q, k = jnp.zeros((B, L, H, K), jnp.bfloat16), jnp.zeros((B, L, G, K), jnp.bfloat16)
    mesh = make_mesh(MeshOptions(data=4, tensor=2))
    with jax.set_mesh(mesh if sharded else jax.make_mesh((), ())):
        jaxpr = jax.make_jaxpr(tpu_attention.splash_attention)(q, k, k)
    share = 3 / 4  # three of two by two blocks
    assert matmul_flops(jaxpr) == share * 2 * 2 * B * H * L * L * K
    queries_and_output = 2 * 2 * B * L * H * K
    keys_and_values = 2 * 2 * B * H * share * 2 * L * K  # for each of two blocks of queries
    moved = kernel_bytes(jaxpr)
    # Document positions for the blocks of every head, and the accumulators of each device.
    scratch = 4 * L * 128 * B * H + 8 * 3 * 4 * 512 * 128 * B
    assert queries_and_output + keys_and_values < moved
    assert moved < queries_and_output + keys_and_values + scratch


def test_memory_traffic_leaves_out_pallas_kernels():
    text = """\
HloModule jit_run

ENTRY %main.1 (a.0: f32[8,64]) -> f32[8,64] {
  %a.0 = f32[8,64]{1,0:T(8,128)} parameter(0)
  %k.0 = f32[8,64]{1,0:T(8,128)} custom-call(%a.0), custom_call_target="tpu_custom_call"
  ROOT %n.0 = f32[8,64]{1,0:T(8,128)} negate(%k.0)
}
"""
    assert hlo.memory_traffic(hlo.Program.parse(text)) == 2 * 4 * 8 * 64


@pytest.mark.parametrize(
    ("remat", "forwards"), [("none", 1), ("dots", 1), ("offload", 2), ("full", 2)]
)
def test_work_that_remat_saved_is_counted_once(remat, forwards):
    model = LlamaConfig(
        vocab_size=64, width=16, layers=2, heads=2, mlp_width=32, context_length=128, remat=remat
    )
    graph, state = models.abstract_state(model)
    tokens = jax.ShapeDtypeStruct((2, 128), jnp.int32)

    def loss(state, tokens):
        return jnp.sum(nnx.merge(graph, state).hidden(tokens).astype(jnp.float32))

    with compiling_for("tpu"):
        jaxpr = jax.make_jaxpr(jax.grad(loss))(state, tokens)
    calls = total(jaxpr, lambda e: 1.0 if e.primitive.name == "pallas_call" else None)
    # Two more kernels compute the gradients by queries and by keys.
    assert calls == model.layers * (forwards + 2)
