"""Bytes that the loss and the scans send between devices, read from their compiled programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lossline.compilation import hlo
from lossline.compilation.collectives import collectives
from lossline.ops.backend import compiling_for
from lossline.ops.cross_entropy import linear_cross_entropy
from lossline.ops.selective_scan import selective_scan
from lossline.ops.state_space_duality import state_space_duality
from lossline.sharding import BATCH_AXES, MeshOptions, make_mesh

B, L, D, V = 8, 16, 32, 64
QUICK = {"xla_backend_optimization_level": 0}
MESHES = {
    "data": MeshOptions(data=8),
    "data-fsdp": MeshOptions(data=2, fsdp=4),
    "all": MeshOptions(data=2, fsdp=2, tensor=2),
    "sequence": MeshOptions(data=2, sequence=2, tensor=2),
}


def place(mesh):
    """Place hidden states by rows and the unembedding by its vocabulary, as the trainer does."""
    rng = np.random.default_rng(0)
    rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    columns = NamedSharding(mesh, PartitionSpec(None, "tensor"))
    x = rng.normal(size=(B, L, D)).astype(np.float32)
    targets = rng.integers(0, V - 3, (B, L))
    w = rng.normal(size=(D, V)).astype(np.float32)
    return jax.device_put(x, rows), jax.device_put(w, columns), jax.device_put(targets, rows)


def loss(x, w, targets, implementation="chunked"):
    result = linear_cross_entropy(
        x, w, targets, z_loss=1e-3, vocab_size=V - 3, chunk=16, implementation=implementation
    )
    return result.total + 0.1 * jnp.sum(jnp.sin(result.nats_T))


@pytest.mark.parametrize("mesh", MESHES)
def test_the_gradient_of_the_unembedding_is_reduced_once_not_per_chunk(mesh):
    mesh = make_mesh(MESHES[mesh])

    def total(x, w, targets):
        return linear_cross_entropy(x, w, targets, chunk=16).total

    with jax.set_mesh(mesh), compiling_for("tpu"):
        step = jax.jit(jax.grad(total, argnums=(0, 1)))
        compiled = step.lower(*place(mesh)).compile(compiler_options=QUICK)
    program = hlo.Program.parse(compiled.as_text())
    assert max(program.runs.values()) == 8  # the chunks are a loop
    rows = collectives(program, tuple(mesh.shape.values()), mesh.axis_names)
    shards = mesh.size // mesh.shape["tensor"]
    once = 2 * (shards - 1) / shards * 4 * D * V / mesh.shape["tensor"]
    over_batch = [row for row in rows if "tensor" not in row.axes]
    assert sum(row.wire_bytes for row in over_batch) <= once + 64  # and the total, a scalar
    # Nothing of the size of the logits is sent along the vocabulary, only numbers per token.
    along = sum(row.wire_bytes for row in rows if "tensor" in row.axes)
    assert along < 4 * B * L / shards * (D + 16)


@pytest.mark.parametrize("mesh", MESHES)
def test_sharded_loss_and_gradients_equal_the_definition(mesh):
    mesh = make_mesh(MESHES[mesh])
    with jax.set_mesh(mesh):
        found = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(*place(mesh))
    whole = [np.asarray(array) for array in place(mesh)]
    definition = lambda *arrays: loss(*arrays, implementation="reference")  # noqa: E731
    expected = jax.jit(jax.value_and_grad(definition, argnums=(0, 1)))(*whole)
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5 * np.abs(want).max())


def test_the_loop_of_the_scan_sends_nothing():
    """Gradients of the maps B and C are sums over channels, which ``tensor`` splits."""
    mesh = make_mesh(MeshOptions(data=2, tensor=4))
    N, E = 4, 16
    channels = NamedSharding(mesh, PartitionSpec(BATCH_AXES, None, "tensor"))
    whole = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    shapes = {"u": ((B, L, E), channels), "dt": ((B, L, E), channels)}
    shapes["a"] = ((N, E), NamedSharding(mesh, PartitionSpec(None, "tensor")))
    shapes |= {"b": ((B, L, N), whole), "c": ((B, L, N), whole)}
    arguments = [jax.ShapeDtypeStruct(s, jnp.float32, sharding=p) for s, p in shapes.values()]

    def total(*inputs):
        return jnp.sum(jnp.sin(selective_scan(*inputs, implementation="chunked", chunk=4)))

    with jax.set_mesh(mesh):
        step = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3, 4)))
        compiled = step.lower(*arguments).compile(compiler_options=QUICK)
    program = hlo.Program.parse(compiled.as_text())
    assert max(program.runs.values()) == 4  # the chunks are a loop
    rows = collectives(program, tuple(mesh.shape.values()), mesh.axis_names)
    over_tensor = [row for row in rows if "tensor" in row.axes]
    assert sum(row.wire_bytes for row in over_tensor) <= 2 * 2 * 3 / 4 * 4 * B / 2 * L * N
    assert {row.count for row in rows} <= {1, 2}


@pytest.mark.parametrize("packed", [False, True])
def test_the_duality_sends_only_the_gradients_of_its_maps(packed):
    """``tensor`` splits the heads, but not the maps B and C and their groups.

    Only the sums over heads in the gradients of the maps are sent, once each and outside the loop
    over chunks.
    """
    mesh = make_mesh(MeshOptions(data=2, tensor=4))
    H, P, N, chunk = 8, 4, 4, 4
    heads = NamedSharding(mesh, PartitionSpec(BATCH_AXES, None, "tensor"))
    whole = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    shapes = {"x": ((B, L, H, P), heads), "dt": ((B, L, H), heads)}
    shapes["a"] = ((H,), NamedSharding(mesh, PartitionSpec("tensor")))
    shapes |= {"b": ((B, L, 1, N), whole), "c": ((B, L, 1, N), whole), "skip": shapes["a"]}
    arguments = [jax.ShapeDtypeStruct(s, jnp.float32, sharding=p) for s, p in shapes.values()]
    keep = jax.ShapeDtypeStruct((B, L), jnp.float32, sharding=whole)

    def total(*inputs):
        *inputs, keep = inputs
        keep = keep if packed else None
        return jnp.sum(jnp.sin(state_space_duality(*inputs, keep_BxL=keep, chunk=chunk)))

    with jax.set_mesh(mesh), compiling_for("tpu"):
        step = jax.jit(jax.grad(total, argnums=range(6)))
        compiled = step.lower(*arguments, keep).compile(compiler_options=QUICK)
    program = hlo.Program.parse(compiled.as_text())
    assert max(program.runs.values()) == L // chunk  # the chunks are a loop
    rows = collectives(program, tuple(mesh.shape.values()), mesh.axis_names)
    assert all(row.count < L // chunk for row in rows)
    over_tensor = [row for row in rows if "tensor" in row.axes]
    maps = 4 * B / 2 * L * N  # bytes per device of the gradient of B, of C and of the scores
    assert sum(row.wire_bytes for row in over_tensor) <= 2 * 3 / 4 * 3 * maps
