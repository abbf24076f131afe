"""Selective scan: chunked against sequential: gradients, resets, drift, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossline.errors import UserError
from lossline.ops.backend import compiling_for
from lossline.ops.selective_scan import selective_scan, sequential


def make_inputs(B=2, L=37, E=6, N=4, seed=0):
    rng = np.random.default_rng(seed)
    u, dt = rng.normal(size=(B, L, E)), rng.uniform(0.01, 0.5, size=(B, L, E))
    a = -rng.uniform(0.5, 4, size=(N, E))
    b, c = rng.normal(size=(2, B, L, N))
    return tuple(jnp.asarray(x, jnp.float32) for x in (u, dt, a, b, c))


def run(inputs, **options):
    return jax.jit(lambda *inputs: selective_scan(*inputs, **options))(*inputs)


def gradients(inputs, **options):
    def total(*inputs):
        return jnp.sum(jnp.sin(selective_scan(*inputs, **options)))

    return jax.jit(jax.grad(total, argnums=(0, 1, 2, 3, 4)))(*inputs)


@pytest.mark.parametrize("length, chunk", [(37, 8), (5, 16), (32, 1)])
@pytest.mark.parametrize("resets", [False, True])
def test_chunked_equals_sequential_with_gradients(length, chunk, resets):
    inputs = make_inputs(L=length)
    keep = None
    if resets:
        keep = jnp.asarray(np.random.default_rng(1).random((2, length)) > 0.2, jnp.float32)
    expected = run(inputs, keep_BxL=keep, implementation="sequential")
    got = run(inputs, keep_BxL=keep, chunk=chunk)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    wanted = gradients(inputs, keep_BxL=keep, implementation="sequential")
    for got, want in zip(gradients(inputs, keep_BxL=keep, chunk=chunk), wanted, strict=True):
        assert jnp.max(jnp.abs(got - want)) < 1e-5 * jnp.max(jnp.abs(want))


def test_one_row_equals_sequential_with_gradients():
    """On CPU a single row runs as two rows of half the channels."""
    inputs = make_inputs(B=1, L=11)
    keep = jnp.ones((1, 11)).at[0, 5].set(0)
    got = run(inputs, keep_BxL=keep, chunk=4)
    expected = run(inputs, keep_BxL=keep, implementation="sequential")
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    wanted = gradients(inputs, keep_BxL=keep, implementation="sequential")
    for got, want in zip(gradients(inputs, keep_BxL=keep, chunk=4), wanted, strict=True):
        assert jnp.max(jnp.abs(got - want)) < 1e-5 * jnp.max(jnp.abs(want))


def test_equals_the_recurrence_in_numpy():
    inputs = make_inputs(B=1, L=9)
    got = run(inputs)[0]
    u, dt, a, b, c = (np.asarray(x, np.float64) for x in inputs)
    h = np.zeros(a.shape)
    for t in range(9):
        h = np.exp(dt[0, t] * a) * h + np.outer(b[0, t], dt[0, t] * u[0, t])
        np.testing.assert_allclose(got[t], c[0, t] @ h, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", ["sequential", "chunked"])
def test_a_reset_removes_the_influence_of_earlier_positions(implementation):
    inputs = make_inputs(B=1, L=20)
    keep = jnp.ones((1, 20)).at[0, 12].set(0)
    whole = run(inputs, keep_BxL=keep, implementation=implementation, chunk=8)
    u, dt, a, b, c = inputs
    inputs = u[:, 12:], dt[:, 12:], a, b[:, 12:], c[:, 12:]
    tail = run(inputs, implementation=implementation)
    np.testing.assert_allclose(whole[:, 12:], tail, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", ["sequential", "chunked"])
def test_drift_from_float64_over_32768_positions(implementation):
    inputs = make_inputs(B=1, L=32768, E=4, N=4)
    # Slow decay: the state depends on hundreds of positions.
    u, dt, a, b, c = inputs
    inputs = (u, dt * 0.02, a, b, c)
    with jax.enable_x64():
        exact = jax.jit(sequential)(
            *(jnp.asarray(np.asarray(x), jnp.float64) for x in inputs), jnp.ones((1, 32768))
        )
        exact = np.asarray(exact)
    got = np.asarray(run(inputs, implementation=implementation))
    drift = np.max(np.abs(got - exact), axis=(0, 2)) / np.max(np.abs(exact))
    assert drift.max() < 1e-5
    # The drift does not grow along the sequence.
    assert drift[-4096:].max() < 5 * drift[:4096].max() + 1e-7


def test_auto_on_tpu_is_the_kernel_if_it_takes_the_shapes(monkeypatch):
    def kernel(*inputs):
        raise InterruptedError

    monkeypatch.setattr("lossline.ops.tpu_selective_scan.selective_scan", kernel)
    with compiling_for("tpu"):
        with pytest.raises(InterruptedError):
            selective_scan(*make_inputs(E=128, N=8))
        assert selective_scan(*make_inputs()).shape == (2, 37, 6)
        with pytest.raises(UserError, match="'pallas' takes a multiple of 128 channels, not 6"):
            selective_scan(*make_inputs(), implementation="pallas")
    words = "'pallas' needs gpu or tpu, but this is cpu; choose one of sequential, chunked"
    with compiling_for("cpu"), pytest.raises(UserError, match=words):
        selective_scan(*make_inputs(E=128, N=8), implementation="pallas")


def test_auto_on_gpu_is_not_the_kernel(monkeypatch):
    def kernel(*inputs):
        raise InterruptedError

    monkeypatch.setattr("lossline.ops.gpu_selective_scan.selective_scan", kernel)
    inputs = make_inputs(E=128, N=8)
    with compiling_for("gpu"):
        with pytest.raises(InterruptedError):
            selective_scan(*inputs, implementation="pallas")
        assert selective_scan(*inputs).shape == inputs[0].shape


def test_chunked_never_stores_the_states_of_all_positions():
    B, L, E, N = 2, 512, 8, 16
    inputs = make_inputs(B=B, L=L, E=E, N=N)

    def peak_temporaries(**options):
        compiled = jax.jit(lambda *x: gradients(x, **options)).lower(*inputs).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    all_states = 4 * B * L * E * N
    assert peak_temporaries(chunk=8) < all_states
    assert peak_temporaries(implementation="sequential") > 2 * all_states
