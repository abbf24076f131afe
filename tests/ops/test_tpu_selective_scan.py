"""The TPU's selective scan, interpreted, against the sequential definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossline.ops import tpu_selective_scan
from lossline.ops.selective_scan import sequential
from lossline.sharding import MeshOptions, make_mesh


def make_inputs(B=1, L=200, E=128, N=8, seed=0):
    rng = np.random.default_rng(seed)
    u, dt = rng.normal(size=(B, L, E)), rng.uniform(0.01, 0.5, size=(B, L, E))
    a = -rng.uniform(0.5, 4, size=(N, E))
    b, c = rng.normal(size=(2, B, L, N))
    keep = rng.random((B, L)) > 0.05
    slopes = rng.normal(size=(B, L, E))
    return tuple(jnp.asarray(x, jnp.float32) for x in (u, dt, a, b, c, keep, slopes))


def value_and_gradients(scan, u, dt, a, b, c, keep, slopes):
    def total(u, dt, a, b, c):
        y = scan(u, dt, a, b, c, keep)
        return jnp.sum(y * slopes), y

    both = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2, 3, 4), has_aux=True))
    (_, y), gradients = both(u, dt, a, b, c)
    return y, *gradients


def kernel(*inputs):
    return tpu_selective_scan.selective_scan(*inputs, interpret=True)


def assert_close(found, expected, bound=1e-5):
    for got, want in zip(found, expected, strict=True):
        assert got.shape == want.shape
        assert np.abs(np.asarray(got) - np.asarray(want)).max() < bound * np.abs(want).max()


@pytest.mark.parametrize("N", [8, 16])
def test_equals_sequential_with_gradients_over_chunks_and_resets(N):
    inputs = make_inputs(N=N)  # two chunks, the second one incomplete
    assert_close(value_and_gradients(kernel, *inputs), value_and_gradients(sequential, *inputs))


def test_drift_from_float64_over_32768_positions():
    u, dt, a, b, c, keep, _ = make_inputs(L=32768)
    dt, keep = dt * 0.02, jnp.ones_like(keep)  # the state depends on hundreds of positions
    got = np.asarray(jax.jit(kernel)(u, dt, a, b, c, keep), np.float64)[0]
    wide = [np.asarray(x, np.float64) for x in (u[0], dt[0], a, b[0], c[0])]
    drift = np.abs(got - exact_scan(*wide)).max(axis=1) / np.abs(got).max()
    assert drift.max() < 1e-5
    assert drift[-4096:].max() < 5 * drift[:4096].max() + 1e-7  # it does not grow


def exact_scan(u_LxE, dt_LxE, a_NxE, b_LxN, c_LxN):
    """Run the recurrence position by position in float64."""
    h_NxE, y_LxE = np.zeros_like(a_NxE), np.empty_like(u_LxE)
    for t in range(len(u_LxE)):
        h_NxE = np.exp(dt_LxE[t] * a_NxE) * h_NxE + np.outer(b_LxN[t], dt_LxE[t] * u_LxE[t])
        y_LxE[t] = c_LxN[t] @ h_NxE
    return y_LxE


def test_bfloat16_inputs_over_several_blocks(monkeypatch):
    monkeypatch.setattr(tpu_selective_scan, "BLOCKS", (128,))
    u, *rest = make_inputs(L=128, E=256)
    half = u.astype(jnp.bfloat16)
    found = value_and_gradients(kernel, half, *rest)
    expected = value_and_gradients(sequential, half.astype(jnp.float32), *rest)
    assert found[0].dtype == jnp.float32 and found[1].dtype == jnp.bfloat16
    assert_close(found[:1] + found[2:], expected[:1] + expected[2:])
    assert_close(found[1:2], expected[1:2], bound=2**-8)


def test_sharded_equals_sequential():
    inputs = make_inputs(B=4, L=128, E=256)
    with jax.set_mesh(make_mesh(MeshOptions(data=2, fsdp=2, tensor=2))):
        found = value_and_gradients(kernel, *inputs)
    assert_close(found, value_and_gradients(sequential, *inputs))


@pytest.mark.parametrize(
    ("channels", "states", "words"),
    [
        (512, 16, None),
        (96, 16, "multiple of 128 channels, not 96; nearest: 128"),
        (300, 16, "nearest: 256 or 384"),
        (512, 4, "multiple of 8, not 4; nearest: 8"),
        (512, 12, "nearest: 8 or 16"),
    ],
)
def test_unsupported_sizes_are_named(channels, states, words):
    reason = tpu_selective_scan.obstacle(channels, states)
    assert reason is None if words is None else words in reason
