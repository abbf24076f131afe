"""Tests for every family: counts, causality, document masks, equivalent computations."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lossline import models
from lossline.ops.backend import compiling_for
from lossline.ops.cross_entropy import linear_cross_entropy
from models.families import CONFIGS, make_model

every_family = pytest.mark.parametrize("name", list(CONFIGS))


def make_tokens(config, rows=2, length=None):
    shape = (rows, length or config.context_length)
    return jax.random.randint(jax.random.key(7), shape, 0, config.vocab_size)


def loss_and_gradients(config, state, graph, tokens, segment_ids=None):
    def loss(state):
        model = nnx.merge(graph, state)
        x_BxLxD = model.hidden(tokens, segment_ids)
        ce = linear_cross_entropy(x_BxLxD, model.unembedding(), tokens, z_loss=1e-2)
        return ce.total / tokens.size

    return jax.jit(jax.value_and_grad(loss))(state)


def windowless(config):
    """Return the configuration without a window, of which only the used pairs are counted."""
    if getattr(config, "window", None) is None:
        return config
    return dataclasses.replace(config, window=None, full_every=None, window_theta=None)


def assert_trees_close(got, wanted, bound):
    # Some gradients are 0 except for rounding (bias of a key): compare them on the scale of the
    # whole tree.
    least = 1e-3 * max(float(jnp.max(jnp.abs(b))) for b in jax.tree.leaves(wanted))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        scale = jnp.maximum(jnp.max(jnp.abs(b)), least)
        assert jnp.max(jnp.abs(a.astype(jnp.float32) - b)) <= bound * scale


@every_family
def test_parameters_are_counted_exactly(name):
    config = CONFIGS[name]
    _, state = models.abstract_state(config)
    padding = (config.padded_vocab_size - config.vocab_size) * config.width
    padding *= 1 if config.tie_embeddings else 2
    counts = config.num_params()
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == counts.total + padding
    embeddings = {"embedding", "unembed", "position_embedding"}
    flat = nnx.to_flat_state(state)
    inner = sum(leaf.size for path, leaf in flat if not embeddings & set(path))
    assert inner == counts.non_embedding


@every_family
def test_every_parameter_axis_has_a_logical_name(name):
    _, state = models.abstract_state(CONFIGS[name])
    axes = dict(nnx.to_flat_state(models.logical_axes(state)))
    for path, leaf in nnx.to_flat_state(state):
        assert len(axes[path]) == len(leaf.shape)
        assert (axes[path][0] == "layers") == (path[0] == "blocks")


@every_family
def test_matrix_products_are_counted_exactly(name):
    config = windowless(dataclasses.replace(CONFIGS[name], vocab_multiple=1))
    if hasattr(config, "attention_implementation"):
        config = dataclasses.replace(config, attention_implementation="reference")
    if hasattr(config, "scan_implementation"):
        config = dataclasses.replace(config, scan_implementation="sequential")
    graph, state = models.abstract_state(dataclasses.replace(config, scan_layers=False))
    tokens = jax.ShapeDtypeStruct((2, config.context_length), jnp.int32)
    with compiling_for("tpu"):  # on CPU some sums are written as matrix products
        jaxpr = jax.make_jaxpr(lambda s, t: nnx.merge(graph, s)(t))(state, tokens)
    counted = dot_flops(jaxpr.jaxpr) / (2 * config.context_length)
    assert counted == config.flop_counts().matmul
    assert config.flops_per_token() == 3 * (config.flop_counts().matmul + config.flop_counts().scan)


@every_family
def test_causal_flops_exclude_pairs_above_the_diagonal(name):
    config, length = windowless(CONFIGS[name]), 24
    layers = getattr(config, "attention_layers", config.layers if hasattr(config, "heads") else 0)
    later = sum(1 for query in range(length) for key in range(length) if key > query)
    # Scores and values, 2 per multiply-add, once forward and twice backward.
    left_out = 3 * 2 * 2 * layers * later * config.heads * config.head_dim if layers else 0
    difference = config.flops_per_token(length) - config.causal_flops_per_token(length)
    assert difference * length == pytest.approx(left_out, rel=1e-9)


def dot_flops(jaxpr):
    """Return the operations of all matrix products of a jaxpr and its inner functions."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            size = np.prod([left[axis] for axis in contracted])
            total += 2 * size * np.prod(equation.outvars[0].aval.shape)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += dot_flops(inner)
    return total


@every_family
def test_hidden_states_have_no_gradient_from_future_tokens(name):
    config = CONFIGS[name]
    graph, state = make_model(config)

    def hidden(table, state):
        model = nnx.merge(graph, state)
        model.embedding = nnx.Param(table)
        return jnp.sum(jnp.sin(model.hidden(tokens)[0, 5]))

    # Every position has its own token, so the gradient of a table row belongs to one position.
    tokens = jnp.arange(10)[None]
    gradient = jax.jit(jax.grad(hidden))(nnx.merge(graph, state).embedding[...], state)
    touched = np.abs(np.asarray(gradient)).sum(axis=1) > 0
    assert list(np.flatnonzero(touched)) == [0, 1, 2, 3, 4, 5]


@every_family
def test_packed_documents_have_the_logits_of_separate_rows(name):
    config = CONFIGS[name]
    graph, state = make_model(config)
    tokens = make_tokens(config, rows=1)
    lengths = (7, 1, 16)
    ids = jnp.repeat(jnp.array([3, 9, 3]), jnp.array(lengths), total_repeat_length=24)[None]
    logits = jax.jit(lambda state, tokens, ids=None: nnx.merge(graph, state)(tokens, ids))
    call = functools.partial(logits, state)
    packed = call(tokens, ids)
    begin = 0
    for length in lengths:
        alone = call(tokens[:, begin : begin + length])
        np.testing.assert_allclose(packed[:, begin : begin + length], alone, rtol=1e-4, atol=2e-5)
        begin += length
    assert not np.allclose(packed[:, 8:], call(tokens)[:, 8:], atol=1e-3)


@every_family
def test_scan_unroll_and_remat_give_the_same_gradients(name):
    config = CONFIGS[name]
    graph, state = make_model(config)
    tokens = make_tokens(config)
    ids = (jnp.arange(24) // 9)[None].repeat(2, axis=0)
    expected = loss_and_gradients(config, state, graph, tokens, ids)
    variants = [{"scan_layers": False}, {"remat": "full"}, {"remat": "dots", "scan_layers": False}]
    for options in variants:
        variant = dataclasses.replace(config, **options)
        other_graph, _ = models.abstract_state(variant)
        got = loss_and_gradients(variant, state, other_graph, tokens, ids)
        assert_trees_close(got, expected, 2e-5)


@every_family
def test_config_round_trips_through_its_dictionary(name):
    config = CONFIGS[name]
    assert models.config_from_dict(config.to_dict()) == config
