"""The TPU's flash attention, interpreted, against the definition, on one device and sharded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossline.ops import segments, tpu_attention
from lossline.ops.attention import reference
from lossline.sharding import MeshOptions, make_mesh

B, L, K = 1, 256, 16
# In float32 the kernel sums in another order; in bfloat16 it rounds q, weights and output once.
BOUNDS = {"float32": 2e-5, "bfloat16": 2e-2}


def make_inputs(H=2, G=2, rows=B, dtype="float32"):
    keys = jax.random.split(jax.random.key(0), 5)
    q = jax.random.normal(keys[0], (rows, L, H, K)).astype(dtype)
    k, v = (jax.random.normal(key, (rows, L, G, K)).astype(dtype) for key in keys[1:3])
    ids = jnp.sort(jax.random.randint(keys[3], (rows, L), 0, 4), axis=1)
    slopes = jax.random.normal(keys[4], (rows, L, H, K))
    return q, k, v, segments.runs(ids), slopes


def value_and_gradients(call, q, k, v, slopes):
    def total(q, k, v):
        out = call(q, k, v)
        return jnp.sum(out.astype(jnp.float32) * slopes), out

    both = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))
    (_, out), gradients = both(q, k, v)
    return out, *gradients


def splash(runs):
    return lambda q, k, v: tpu_attention.splash_attention(q, k, v, runs, interpret=True)


def assert_close(found, expected, dtype="float32"):
    for got, want in zip(found, expected, strict=True):
        assert got.dtype == dtype
        error = np.abs(np.asarray(got, np.float32) - np.asarray(want)).max()
        assert error < BOUNDS[dtype] * np.abs(want).max()


@pytest.mark.parametrize(
    ("masked", "G", "dtype"),
    [(False, 2, "float32"), (True, 1, "float32"), (True, 1, "bfloat16")],
)
def test_equals_the_definition_with_gradients(monkeypatch, masked, G, dtype):
    monkeypatch.setattr(tpu_attention, "BLOCKS", (128,))  # two by two blocks, one is skipped
    q, k, v, runs, slopes = make_inputs(G=G, dtype=dtype)
    runs = runs if masked else None
    found = value_and_gradients(splash(runs), q, k, v, slopes)
    wide = (x.astype(jnp.float32) for x in (q, k, v))
    expected = value_and_gradients(lambda *x: reference(*x, runs_BxL=runs), *wide, slopes)
    assert_close(found, expected, dtype)


@pytest.mark.parametrize(
    ("options", "H", "G"),
    [
        (MeshOptions(data=2, fsdp=2, tensor=2), 4, 2),
        (MeshOptions(data=1, fsdp=2, tensor=4), 4, 2),  # two devices share a key/value head
        (MeshOptions(data=1, fsdp=2, tensor=4), 2, 1),  # all heads on every device
        (MeshOptions(data=2, sequence=2, tensor=2), 4, 2),
    ],
)
def test_sharded_equals_the_definition_with_gradients(options, H, G):
    q, k, v, runs, slopes = make_inputs(H=H, G=G, rows=4)
    with jax.set_mesh(make_mesh(options)):
        found = value_and_gradients(splash(runs), q, k, v, slopes)
    expected = value_and_gradients(lambda *x: reference(*x, runs_BxL=runs), q, k, v, slopes)
    assert_close(found, expected)


def test_the_share_of_blocks_counts_those_on_and_under_the_diagonal():
    for name, grid in (
        ("splash_mha_fwd_residuals", (2, 8, 4, 4)),
        ("splash_mha_dq", (2, 8, 4, 4)),
        ("splash_mha_dkv", (2, 4, 8, 4)),
    ):
        assert tpu_attention.share_of_blocks(name, grid) == 10 / 16
    assert tpu_attention.share_of_blocks("another", (2, 8, 4, 4)) == 1
