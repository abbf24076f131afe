"""Attention: every implementation against the definition, masks, and causality by gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossline.errors import UserError
from lossline.ops import cpu_attention, segments
from lossline.ops.attention import attention
from lossline.ops.backend import compiling_for

BOUNDS = {"float32": 2e-5, "bfloat16": 3e-2}


def make_inputs(B=2, L=40, H=4, G=2, K=8, dtype="float32", seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    q = jax.random.normal(keys[0], (B, L, H, K)).astype(dtype)
    k, v = (jax.random.normal(key, (B, L, G, K)).astype(dtype) for key in keys[1:3])
    ids = jnp.sort(jax.random.randint(keys[3], (B, L), 0, 4), axis=1)
    return q, k, v, segments.runs(ids)


def value_and_gradients(implementation, q, k, v, runs):
    def total(q, k, v):
        out = attention(q, k, v, runs_BxL=runs, implementation=implementation)
        return jnp.sum(jnp.sin(out.astype(jnp.float32) * 3)), out

    (_, out), gradients = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(q, k, v)
    return out, *gradients


@pytest.mark.parametrize(
    "masked, dtype", [(False, "float32"), (True, "float32"), (True, "bfloat16")]
)
@pytest.mark.parametrize("implementation", ["xla", "blocked"])
def test_equals_reference_with_gradients(implementation, masked, dtype, monkeypatch):
    monkeypatch.setattr(cpu_attention, "BLOCK", 16)  # several blocks, the last one ragged
    q, k, v, runs = make_inputs(dtype=dtype)
    runs = runs if masked else None
    wide = [x.astype(jnp.float32) for x in (q, k, v)]
    expected = value_and_gradients("reference", *wide, runs)
    for got, want in zip(value_and_gradients(implementation, q, k, v, runs), expected, strict=True):
        assert got.dtype == dtype
        error = jnp.max(jnp.abs(got.astype(jnp.float32) - want)) / jnp.max(jnp.abs(want))
        assert error < BOUNDS[dtype]


@pytest.mark.parametrize("implementation", ["reference", "xla", "blocked"])
def test_reads_only_the_past_of_its_document(implementation, monkeypatch):
    monkeypatch.setattr(cpu_attention, "BLOCK", 4)
    q, k, v, _ = make_inputs(B=1, L=10)
    runs = jnp.array([[0, 0, 0, 1, 1, 1, 1, 1, 2, 2]])

    def at_six(k, v):
        return jnp.sum(attention(q, k, v, runs_BxL=runs, implementation=implementation)[0, 6] ** 2)

    for gradient in jax.grad(at_six, argnums=(0, 1))(k, v):
        touched = np.abs(np.asarray(gradient)).sum(axis=(0, 2, 3)) > 0
        assert list(np.flatnonzero(touched)) == [3, 4, 5, 6]


def test_refusals_name_what_exists():
    q, k, v, runs = make_inputs()
    with pytest.raises(UserError, match=r"'flash'.*on cpu choose one of reference, xla, blocked"):
        attention(q, k, v, implementation="flash")
    with pytest.raises(UserError, match="'cudnn' needs gpu, this is cpu"):
        attention(q, k, v, implementation="cudnn")
    with compiling_for("gpu"), pytest.raises(UserError, match="no document masks"):
        attention(q, k, v, runs_BxL=runs, implementation="cudnn")


def test_segments():
    ids = jnp.array([[5, 5, 2, 2, 2, 5], [1, 2, 3, 3, 3, 3]])
    assert segments.runs(ids).tolist() == [[0, 0, 1, 1, 1, 2], [0, 1, 2, 2, 2, 2]]
    assert segments.positions(ids).tolist() == [[0, 1, 0, 1, 2, 0], [0, 0, 0, 1, 2, 3]]
    assert segments.starts(ids).astype(int).tolist() == [[1, 0, 1, 0, 0, 1], [1, 1, 1, 0, 0, 0]]
