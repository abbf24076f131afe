"""Linear maps: the CPU form equals plain products with gradients, and is used only on CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossline.errors import UserError
from lossline.ops import cpu_matmul
from lossline.ops.backend import compiling_for
from lossline.ops.linear import linear, linear_many


def make_inputs(dtype):
    x = jax.random.normal(jax.random.key(0), (2, 5, 8)).astype(dtype)
    w = jax.random.normal(jax.random.key(1), (8, 6))
    return x, w


@pytest.mark.parametrize("instructions", [True, False], ids=["bf16 CPU", "no bf16 CPU"])
@pytest.mark.parametrize("dtype, bound", [("float32", 1e-6), ("bfloat16", 2e-2)])
def test_value_and_gradients_equal_a_plain_product(dtype, bound, instructions, monkeypatch):
    monkeypatch.setattr(cpu_matmul, "has_bfloat16_instructions", lambda: instructions)
    x, w = make_inputs(dtype)

    def total(x, w, product):
        return jnp.sum(jnp.sin(product(x, w).astype(jnp.float32)))

    got = jax.value_and_grad(total, argnums=(0, 1))(x, w, linear)
    want = jax.value_and_grad(total, argnums=(0, 1))(x.astype(jnp.float32), w, jnp.matmul)
    assert got[1][0].dtype == dtype and got[1][1].dtype == jnp.float32
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert jnp.max(jnp.abs(a.astype(jnp.float32) - b)) <= bound * jnp.max(jnp.abs(b))


def test_linear_many_equals_single_products():
    x, w = make_inputs("float32")
    weights = [w[:, :2], w[:, 2:3], w[:, 3:]]
    for got, part in zip(linear_many(x, weights), weights, strict=True):
        np.testing.assert_allclose(got, x @ part, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["gpu", "tpu"])
def test_other_backends_do_not_use_the_cpu_form(backend):
    x, w = make_inputs("bfloat16")

    def jaxpr():
        return str(jax.make_jaxpr(lambda x, w: linear_many(x, [w, w]))(x, w))

    assert "custom_vjp" in jaxpr()
    with compiling_for(backend):
        assert "custom_vjp" not in jaxpr() and "layout" not in jaxpr()


@pytest.mark.parametrize(
    "facts, expected",
    [
        ("model name\t: X\nflags\t\t: fma avx512f avx512_bf16\n", True),
        ("flags\t\t: fma avx512f avx512_bf16_like\n", False),
        ("Features\t: asimd bf16\n", True),
        ("flags\t\t:\n", False),
    ],
)
def test_bfloat16_instructions_are_read_from_the_processor(facts, expected, tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    file.write_text(facts)
    monkeypatch.setattr(cpu_matmul, "_FACTS", file)
    assert cpu_matmul.has_bfloat16_instructions.__wrapped__() is expected


def test_an_unknown_backend_is_refused():
    with pytest.raises(UserError, match="choose one of cpu, gpu, tpu"), compiling_for("npu"):
        pass
