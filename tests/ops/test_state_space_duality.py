"""State-space duality: chunked against sequential: gradients, resets, drift, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossline.errors import UserError
from lossline.ops.backend import compiling_for
from lossline.ops.state_space_duality import sequential, state_space_duality


def make_inputs(B=2, L=37, H=4, P=3, G=2, N=5, seed=0):
    rng = np.random.default_rng(seed)
    x, dt = rng.normal(size=(B, L, H, P)), rng.uniform(0.01, 0.5, size=(B, L, H))
    a = -rng.uniform(0.5, 4, size=H)
    b, c = rng.normal(size=(2, B, L, G, N))
    skip = rng.normal(size=H)
    return tuple(jnp.asarray(v, jnp.float32) for v in (x, dt, a, b, c, skip))


def run(inputs, **options):
    return jax.jit(lambda *inputs: state_space_duality(*inputs, **options))(*inputs)


def gradients(inputs, **options):
    def total(*inputs):
        return jnp.sum(jnp.sin(state_space_duality(*inputs, **options)))

    return jax.jit(jax.grad(total, argnums=range(6)))(*inputs)


@pytest.mark.parametrize("length, chunk", [(37, 8), (5, 16), (32, 1), (64, 32)])
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


@pytest.mark.parametrize("implementation", ["sequential", "chunked"])
def test_equals_the_recurrence_in_numpy(implementation):
    inputs = make_inputs(B=1, L=9)
    x, dt, a, b, c, skip = (np.asarray(v, np.float64) for v in inputs)
    got = run(inputs, implementation=implementation, chunk=4)
    for head in range(4):
        h = np.zeros((3, 5))
        for t in range(9):
            decay, group = np.exp(dt[0, t, head] * a[head]), head // 2
            h = decay * h + np.outer(dt[0, t, head] * x[0, t, head], b[0, t, group])
            want = h @ c[0, t, group] + skip[head] * x[0, t, head]
            np.testing.assert_allclose(got[0, t, head], want, rtol=1e-5, atol=1e-6)


def test_no_value_or_gradient_crosses_a_reset():
    inputs = make_inputs(B=1, L=20)
    keep = jnp.ones((1, 20)).at[0, 11].set(0)

    def tail(*inputs):
        return jnp.sum(jnp.sin(state_space_duality(*inputs, keep_BxL=keep, chunk=8)[:, 11:]))

    value, got = jax.jit(jax.value_and_grad(tail, argnums=(0, 1, 3, 4)))(*inputs)
    x, dt, a, b, c, skip = inputs
    alone = run((x[:, 11:], dt[:, 11:], a, b[:, 11:], c[:, 11:], skip), chunk=8)
    np.testing.assert_allclose(value, jnp.sum(jnp.sin(alone)), rtol=1e-5)
    for gradient in got:
        assert not np.any(np.asarray(gradient[:, :11]))  # exactly 0
        assert np.any(np.asarray(gradient[:, 11:]))


def test_no_gradient_comes_from_future_positions():
    inputs = make_inputs(B=1, L=20)

    def at_position_9(*inputs):
        return jnp.sum(jnp.sin(state_space_duality(*inputs, chunk=8)[:, 9]))

    for gradient in jax.jit(jax.grad(at_position_9, argnums=(0, 1, 3, 4)))(*inputs):
        assert not np.any(np.asarray(gradient[:, 10:]))
        assert np.any(np.asarray(gradient[:, 9]))


def test_gradients_are_finite_if_the_decay_underflows():
    x, dt, *others = make_inputs()
    inputs = (x, dt * 1e4, *others)
    assert np.isfinite(run(inputs, chunk=8)).all()
    for gradient in gradients(inputs, chunk=8):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("implementation", ["sequential", "chunked"])
def test_drift_from_float64_over_32768_positions(implementation):
    # Slow decay: the state depends on hundreds of positions.
    x, dt, *others = make_inputs(B=1, L=32768, H=2, P=2, G=1, N=4)
    inputs = (x, dt * 0.02, *others)
    with jax.enable_x64():
        exact = jax.jit(sequential)(
            *(jnp.asarray(np.asarray(v), jnp.float64) for v in inputs), jnp.ones((1, 32768))
        )
        exact = np.asarray(exact)
    got = np.asarray(run(inputs, implementation=implementation))
    drift = np.max(np.abs(got - exact), axis=(0, 2, 3)) / np.max(np.abs(exact))
    assert drift.max() < 1e-5
    # The drift does not grow along the sequence.
    assert drift[-4096:].max() < 5 * drift[:4096].max() + 1e-7


@pytest.mark.parametrize("backend", ["gpu", "tpu"])
def test_bfloat16_products_stay_near_float32(backend):
    inputs = make_inputs(L=256, P=64, G=1, N=64)
    exact, wanted = run(inputs, implementation="sequential"), gradients(inputs)
    x, dt, a, b, c, skip = inputs
    half = (x.astype(jnp.bfloat16), dt, a, *(m.astype(jnp.bfloat16) for m in (b, c)), skip)
    with compiling_for(backend):  # on these backends, products are in the dtype of x
        got, slopes = run(half, chunk=64), gradients(half, chunk=64)
    assert got.dtype == jnp.bfloat16
    assert 1e-4 < jnp.linalg.norm(got - exact) / jnp.linalg.norm(exact) < 1e-2
    for slope, want in zip(slopes, wanted, strict=True):
        assert jnp.linalg.norm(slope - want) < 0.05 * jnp.linalg.norm(want)


def test_the_square_tensors_of_a_chunk_are_not_stored():
    B, L, H, Q = 2, 512, 4, 64
    inputs = make_inputs(B=B, L=L, H=H)
    both = jax.jit(lambda *v: jax.vjp(lambda *v: state_space_duality(*v, chunk=Q), *v))
    _, backward = both(*inputs)
    kept = max(leaf.size for leaf in jax.tree.leaves(backward))
    assert kept < B * L * Q  # one [Q, Q] tensor per chunk and row


def test_groups_must_divide_the_heads():
    with pytest.raises(UserError, match="3 groups of maps do not divide 4 heads"):
        state_space_duality(*make_inputs(H=4, G=3))
