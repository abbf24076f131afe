"""Cross-entropy: chunked against the definition: values, gradients, ties, padding, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossline.ops.cross_entropy import linear_cross_entropy, linear_token_values

T, D, V = 30, 8, 50


def make_inputs(dtype="float32", shape=(T,)):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(*shape, D)), dtype)
    w = jnp.asarray(rng.normal(size=(D, V)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, V - 3, shape), jnp.int32)
    weights = jnp.asarray(rng.integers(0, 3, shape), jnp.float32)
    return x, w, targets, weights


@pytest.mark.parametrize(
    "shape, chunk, vocab_size, dtype, bound",
    [
        ((T,), 7, None, "float32", 1e-5),
        ((3, 10), 7, V - 3, "float32", 1e-5),
        ((3, 10), 1000, None, "float32", 1e-5),
        ((3, 10), 7, V - 3, "bfloat16", 2e-2),
    ],
)
def test_equals_reference_with_gradients(shape, chunk, vocab_size, dtype, bound):
    x, w, targets, weights = make_inputs(dtype, shape)

    def measure(x, w, weights, implementation):
        return linear_cross_entropy(
            x,
            w,
            targets,
            weights_T=weights,
            z_loss=1e-2,
            vocab_size=vocab_size,
            implementation=implementation,
            chunk=chunk,
        )

    measured = jax.jit(measure, static_argnums=3)
    got = measured(x, w, weights, "chunked")
    want = measured(x.astype(jnp.float32), w, weights, "reference")
    assert got.nats_T.shape == got.correct_T.shape == got.logsumexp_T.shape == shape
    assert got.nats_T.dtype == jnp.float32 and got.correct_T.dtype == bool
    for name in ("total", "nats_T", "logsumexp_T"):
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=bound, atol=bound)
    if dtype == "float32":
        assert (got.correct_T == want.correct_T).all()

    # Differentiate total (gradients from the forward pass), per-token outputs, and both together.
    slopes = jnp.linspace(-1, 1, targets.size).reshape(shape)
    objectives = (
        lambda ce: ce.total,
        lambda ce: jnp.sum(slopes * ce.nats_T) + jnp.sum(ce.logsumexp_T**2),
        lambda ce: 0.3 * ce.total + jnp.sum(slopes * ce.nats_T),
    )
    for objective in objectives:
        gradients = [
            jax.jit(jax.grad(lambda *a, i=i, o=objective: o(measure(*a, i)), argnums=(0, 1, 2)))(
                y, w, weights
            )
            for i, y in (("chunked", x), ("reference", x.astype(jnp.float32)))
        ]
        for got, want in zip(*gradients, strict=True):
            got = got.astype(jnp.float32)
            assert jnp.max(jnp.abs(got - want)) <= bound * jnp.max(jnp.abs(want)) + 1e-7


def test_per_token_losses_match_numpy():
    x, w, targets, _ = make_inputs()
    logits = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(T), targets]
    got = linear_cross_entropy(x, w, targets, chunk=8)
    np.testing.assert_allclose(got.nats_T, expected, rtol=1e-5)
    np.testing.assert_allclose(got.total, expected.sum(), rtol=1e-5)
    assert got.correct_T.tolist() == (logits.argmax(axis=1) == np.asarray(targets)).tolist()


def test_only_the_first_of_equal_logits_counts_as_correct():
    x, w = jnp.ones((3, D)), jnp.zeros((D, V))
    got = linear_cross_entropy(x, w, jnp.array([0, 1, V - 1]))
    assert got.correct_T.tolist() == [True, False, False]
    np.testing.assert_allclose(got.nats_T, np.log(V), rtol=1e-6)


def test_tokens_with_weight_zero_change_nothing():
    x, w, targets, _ = make_inputs()
    weights = jnp.ones(T).at[20:].set(0)

    def total(x, w, targets, weights):
        return linear_cross_entropy(x, w, targets, weights_T=weights, z_loss=0.1, chunk=7).total

    both = jax.jit(jax.value_and_grad(total, argnums=1))
    whole = both(x, w, targets.at[20:].set(0), weights)
    part = both(x[:20], w, targets[:20], weights[:20])
    np.testing.assert_allclose(whole[0], part[0], rtol=1e-5)
    np.testing.assert_allclose(whole[1], part[1], atol=1e-4)


def test_chunked_never_stores_all_logits():
    x, w = jnp.ones((4096, 16)), jnp.ones((16, 1024))
    targets = jnp.zeros(4096, jnp.int32)

    def compiled(implementation):
        def total(x, w):
            return linear_cross_entropy(
                x, w, targets, implementation=implementation, chunk=256
            ).total

        lowered = jax.jit(jax.grad(total, argnums=(0, 1))).lower(x, w)
        return lowered.compile()

    logits = 4 * 4096 * 1024
    assert compiled("chunked").memory_analysis().temp_size_in_bytes < logits / 4
    assert compiled("reference").memory_analysis().temp_size_in_bytes > logits


@pytest.mark.parametrize("dtype, bound", [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize(
    "shape, chunk, vocab_size",
    [((T,), 7, None), ((3, 10), 7, V - 3), ((3, 10), 1000, V - 3)],
)
def test_token_values_equal_the_definition(shape, chunk, vocab_size, dtype, bound):
    x, w, targets, _ = make_inputs(dtype, shape)
    got = jax.jit(lambda x: linear_token_values(x, w, targets, vocab_size=vocab_size, chunk=chunk))(
        x
    )
    want = linear_token_values(
        x.astype(jnp.float32), w, targets, vocab_size=vocab_size, implementation="reference"
    )
    assert got.entropy_T.shape == got.nats_T.shape == shape
    assert got.entropy_T.dtype == got.nats_T.dtype == jnp.float32
    np.testing.assert_allclose(got.nats_T, want.nats_T, rtol=bound, atol=bound)
    np.testing.assert_allclose(got.entropy_T, want.entropy_T, rtol=bound, atol=bound)
    same = linear_cross_entropy(x, w, targets, vocab_size=vocab_size, chunk=chunk)
    np.testing.assert_allclose(got.nats_T, same.nats_T, rtol=1e-6)


@pytest.mark.parametrize(
    "logits, entropy",
    [
        ([0.0, 0.0, 0.0, 0.0, 5.0], np.log(4)),  # the last column is padding
        ([1e4, 0.0, -1e4, -3e38, 0.0], 0.0),  # probabilities underflow to 0
        ([-np.inf, 2.0, 2.0, -np.inf, 0.0], np.log(2)),
    ],
)
def test_entropy_is_safe_where_probabilities_are_zero(logits, entropy):
    w = jnp.asarray([logits], jnp.float32)
    got = linear_token_values(jnp.ones((1, 1)), w, jnp.zeros(1, jnp.int32), vocab_size=4)
    np.testing.assert_allclose(got.entropy_T, [entropy], rtol=1e-6)
    assert (np.asarray(got.entropy_T) >= 0).all()


def test_token_values_keep_only_a_chunk_of_the_logits():
    tokens, width, vocab = 4096, 8, 4096
    arguments = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (
            ((tokens, width), jnp.float32),
            ((width, vocab), jnp.float32),
            ((tokens,), jnp.int32),
        )
    ]
    compiled = jax.jit(lambda *a: linear_token_values(*a, chunk=128)).lower(*arguments).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * tokens * vocab / 4
