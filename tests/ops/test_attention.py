"""Attention: every implementation against the definition; masks; causality by gradient."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossline.errors import UserError
from lossline.ops import cpu_attention, segments
from lossline.ops.attention import attention, preferred
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

    both = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))
    (_, out), gradients = both(q, k, v)
    return out, *gradients


@pytest.mark.parametrize(
    "masked, dtype", [(False, "float32"), (True, "float32"), (True, "bfloat16")]
)
@pytest.mark.parametrize("implementation", ["xla", "blocked"])
def test_equals_reference_with_gradients(implementation, masked, dtype, monkeypatch):
    monkeypatch.setattr(cpu_attention, "BLOCK", 16)  # several blocks, the last one incomplete
    q, k, v, runs = make_inputs(dtype=dtype)
    runs = runs if masked else None
    wide = [x.astype(jnp.float32) for x in (q, k, v)]
    expected = value_and_gradients("reference", *wide, runs)
    for got, want in zip(value_and_gradients(implementation, q, k, v, runs), expected, strict=True):
        assert got.dtype == dtype
        error = jnp.max(jnp.abs(got.astype(jnp.float32) - want)) / jnp.max(jnp.abs(want))
        assert error < BOUNDS[dtype]


@pytest.mark.parametrize("implementation", ["reference", "xla", "blocked"])
def test_gradient_reaches_only_past_positions_of_the_same_document(implementation, monkeypatch):
    monkeypatch.setattr(cpu_attention, "BLOCK", 4)
    q, k, v, _ = make_inputs(B=1, L=10)
    runs = jnp.array([[0, 0, 0, 1, 1, 1, 1, 1, 2, 2]])

    def at_six(k, v):
        return jnp.sum(attention(q, k, v, runs_BxL=runs, implementation=implementation)[0, 6] ** 2)

    for gradient in jax.jit(jax.grad(at_six, argnums=(0, 1)))(k, v):
        touched = np.abs(np.asarray(gradient)).sum(axis=(0, 2, 3)) > 0
        assert list(np.flatnonzero(touched)) == [3, 4, 5, 6]


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_a_window_ends_at_its_number_of_positions(implementation):
    q, k, v, _ = make_inputs(B=1, L=10)
    runs = jnp.array([[0, 0, 0, 1, 1, 1, 1, 1, 2, 2]])

    def at(position, k, v, window):
        out = attention(q, k, v, runs_BxL=runs, window=window, implementation=implementation)
        return jnp.sum(out[0, position] ** 2)

    gradients = jax.jit(jax.grad(at, argnums=1), static_argnums=0)
    for position, window, seen in ((6, 3, [4, 5, 6]), (6, 9, [3, 4, 5, 6]), (1, 1, [1])):
        for given in (window, jnp.int32(window)):  # known when compiling, or not
            touched = np.abs(np.asarray(gradients(position, k, v * 2, given))).sum((0, 2, 3)) > 0
            if window > 1:  # a single key has weight 1 whatever it is
                assert list(np.flatnonzero(touched)) == seen


def test_an_implementation_without_windows_is_refused_and_avoided_by_auto():
    q, k, v, _ = make_inputs()
    with pytest.raises(UserError, match="'blocked' has no window; set attention_implementation"):
        attention(q, k, v, window=4, implementation="blocked")
    wanted = attention(q, k, v, window=4, implementation="reference")
    np.testing.assert_allclose(attention(q, k, v, window=4), wanted, rtol=1e-5, atol=1e-5)


def test_an_unavailable_implementation_is_refused_with_the_available_ones():
    q, k, v, _ = make_inputs()
    with pytest.raises(UserError, match=r"'flash'.*on cpu choose one of reference, xla, blocked"):
        attention(q, k, v, implementation="flash")
    with pytest.raises(UserError, match="'cudnn' needs gpu, but this is cpu"):
        attention(q, k, v, implementation="cudnn")
    with pytest.raises(UserError, match="'splash' needs tpu, but this is cpu"):
        attention(q, k, v, implementation="splash")


@pytest.mark.parametrize(
    ("backend", "shape", "dtype", "words"),
    [
        ("gpu", (2, 40, 4, 8), "float32", "takes bfloat16 or float16, not float32"),
        ("gpu", (2, 40, 4, 12), "bfloat16", "multiple of 8 up to 128, not 12; nearest: 16"),
        ("gpu", (2, 40, 4, 160), "bfloat16", "up to 128, not 160; nearest: 128"),
        ("gpu", (2, 41, 4, 8), "bfloat16", "even lengths, not 41; nearest: 42"),
        (
            "tpu",
            (2, 300, 4, 64),
            "bfloat16",
            "multiples of 128, not 300; nearest: 256 or 384",
        ),
        ("tpu", (2, 40, 4, 64), "bfloat16", "not 40; nearest: 128"),
        ("tpu", (2, 256, 4, 20), "float32", "multiple of 8, not 20; nearest: 16 or 24"),
        ("tpu", (2, 256, 4, 64), "float16", "bfloat16 or float32, not float16"),
    ],
)
def test_unsupported_shapes_are_refused_by_flash_kernels_and_avoided_by_auto(
    backend, shape, dtype, words
):
    flash = {"gpu": "cudnn", "tpu": "splash"}[backend]
    x = jnp.zeros(shape, dtype)
    with compiling_for(backend):
        with pytest.raises(UserError, match=re.escape(words)) as mistake:
            attention(x, x, x, implementation=flash)
        assert "set attention_implementation to 'xla'" in str(mistake.value)
        assert "\n" not in str(mistake.value)
        assert preferred(shape, x.dtype) == "xla"


def test_flash_kernels_are_the_default_for_supported_shapes():
    shape, dtype = (2, 256, 4, 64), jnp.dtype("bfloat16")
    for backend, expected in (("cpu", "blocked"), ("gpu", "cudnn"), ("tpu", "splash")):
        with compiling_for(backend):
            assert preferred(shape, dtype) == expected


def test_segment_ids_give_runs_positions_and_starts():
    ids = jnp.array([[5, 5, 2, 2, 2, 5], [1, 2, 3, 3, 3, 3]])
    assert segments.runs(ids).tolist() == [[0, 0, 1, 1, 1, 2], [0, 1, 2, 2, 2, 2]]
    assert segments.positions(ids).tolist() == [[0, 1, 0, 1, 2, 0], [0, 0, 0, 1, 2, 3]]
    assert segments.starts(ids).astype(int).tolist() == [[1, 0, 1, 0, 0, 1], [1, 1, 1, 0, 0, 0]]
