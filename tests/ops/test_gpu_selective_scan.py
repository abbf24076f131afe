"""The GPU's selective scan against the sequential definition, interpreted or on a GPU.

tests/compilation/test_cards.py compiles it for one GPU and for several, because the interpreter
does not support several devices.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossline.errors import UserError
from lossline.ops import gpu_selective_scan
from lossline.ops.backend import compiling_for, target_backend
from lossline.ops.selective_scan import selective_scan, sequential
from tests.ops.test_tpu_selective_scan import assert_close, make_inputs, value_and_gradients


def kernel(*inputs):
    here = target_backend() == "gpu"  # on a GPU, run the compiled kernel
    return gpu_selective_scan.selective_scan(*inputs, interpret=not here)


@pytest.mark.parametrize("N", gpu_selective_scan.STATES)
def test_equals_sequential_with_gradients_over_tiles_and_resets(N):
    L = 3 * gpu_selective_scan.TILE - 7  # one tile more than slots; the last one is incomplete
    inputs = make_inputs(L=L, N=N)
    assert_close(value_and_gradients(kernel, *inputs), value_and_gradients(sequential, *inputs))


def test_bfloat16_inputs_over_several_rows_and_blocks():
    u, *rest = make_inputs(B=2, L=10, E=256, N=4)
    half = u.astype(jnp.bfloat16)
    found = value_and_gradients(kernel, half, *rest)
    expected = value_and_gradients(sequential, half.astype(jnp.float32), *rest)
    assert found[0].dtype == jnp.float32 and found[1].dtype == jnp.bfloat16
    assert_close(found[:1] + found[2:], expected[:1] + expected[2:])
    assert_close(found[1:2], expected[1:2], bound=2**-8)


def test_no_value_or_gradient_crosses_a_document():
    u, dt, a, b, c, keep, slopes = make_inputs(L=12, N=4)
    keep = jnp.ones_like(keep).at[:, 9].set(0)
    slopes = slopes.at[:, :9].set(0)
    y, du, ddt, _, db, dc = value_and_gradients(kernel, u, dt, a, b, c, keep, slopes)
    for gradient in (du, ddt, db, dc):
        assert np.all(np.asarray(gradient[:, :9]) == 0) and np.any(np.asarray(gradient[:, 9:]))
    other = jax.jit(kernel)(u.at[:, :9].add(1), dt, a, b, c, keep)
    np.testing.assert_array_equal(other[:, 9:], y[:, 9:])
    assert np.any(np.asarray(other[:, :9]) != np.asarray(y[:, :9]))


@pytest.mark.parametrize(
    ("channels", "states", "words"),
    [
        (512, 16, None),
        (96, 16, "multiple of 128 channels, not 96; nearest: 128"),
        (512, 12, "takes a state size of 4, 8, 16, not 12"),
    ],
)
def test_unsupported_sizes_are_named(channels, states, words):
    with compiling_for("gpu"):
        reason = gpu_selective_scan.obstacle(channels, states)
    assert reason is None if words is None else words in reason


@pytest.mark.parametrize(("capability", "found"), [("8.0", "8.0"), ("gfx942", "0.0")])
def test_an_unsupported_gpu_is_named(monkeypatch, capability, found):
    class Card:
        platform, compute_capability = "gpu", capability

    monkeypatch.setattr(jax, "devices", lambda: [Card()])
    assert f"or higher, not {found}" in gpu_selective_scan.obstacle(512, 16)


def test_refusal_names_an_implementation_that_works():
    u, dt, a, b, c, _, _ = make_inputs(L=8, E=96)
    with compiling_for("gpu"), pytest.raises(UserError, match="scan_implementation to 'chunked'"):
        selective_scan(u, dt, a, b, c, implementation="pallas")
