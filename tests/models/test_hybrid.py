"""Hybrids: the pure families as limits, and the position of the attention layers."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from lossline import models
from lossline.errors import UserError
from lossline.models import HybridConfig, LlamaConfig, Mamba2Config, MambaConfig
from models.families import make_model
from models.test_families import make_tokens

SHAPE = dict(vocab_size=61, width=16, layers=3, context_length=24, activation_dtype="float32")
HEADS = dict(heads=4, kv_heads=2, mlp_width=24)
WIDE_HEADS = dict(heads=6, head_width=4, kv_heads=2, mlp_width=24)
DUALITY = dict(state=4, head_channels=8, scan_chunk=8)


def option_names(config):
    return {field.name for field in dataclasses.fields(config)}


@pytest.mark.parametrize(
    "pure, hybrid, inside",
    [
        (
            LlamaConfig(**SHAPE, **HEADS),
            HybridConfig(**SHAPE, **HEADS, **DUALITY, attention_every=1),
            ("transformer",),
        ),
        (
            LlamaConfig(**SHAPE, **WIDE_HEADS),
            HybridConfig(**SHAPE, **WIDE_HEADS, **DUALITY, attention_every=1),
            ("transformer",),
        ),
        (
            Mamba2Config(**SHAPE, **DUALITY),
            HybridConfig(**SHAPE, **HEADS, **DUALITY, attention_every=0),
            ("state_space", 0),
        ),
        (
            MambaConfig(**SHAPE, state=4),
            HybridConfig(**SHAPE, **HEADS, attention_every=0, state_space="mamba", state=4),
            ("state_space", 0),
        ),
    ],
    ids=["llama", "llama-wide-heads", "mamba2", "mamba"],
)
def test_hybrid_with_only_one_kind_of_layer_equals_the_pure_family(pure, hybrid, inside):
    pure_graph, pure_state = make_model(pure)
    graph, state = models.abstract_state(hybrid)
    flat = dict(nnx.to_flat_state(pure_state))
    moved = [
        (path, flat[(path[0], *path[1 + len(inside) :]) if path[0] == "blocks" else path])
        for path, _ in nnx.to_flat_state(state)
    ]
    assert len(moved) == len(flat)
    tokens = make_tokens(pure)
    ids = (np.arange(24) // 9)[None].repeat(2, axis=0)
    logits = jax.jit(lambda graph, state: nnx.merge(graph, state)(tokens, ids), static_argnums=0)
    got = logits(graph, nnx.from_flat_state(moved))
    np.testing.assert_allclose(got, logits(pure_graph, pure_state), rtol=1e-6, atol=1e-6)
    assert hybrid.num_params() == pure.num_params()
    assert hybrid.flop_counts() == pure.flop_counts()


def test_the_last_of_every_k_layers_is_attention():
    config = HybridConfig(**{**SHAPE, "layers": 6}, **HEADS, **DUALITY, attention_every=3)
    assert (config.blocks, config.block_layers, config.attention_layers) == (2, 3, 2)
    _, state = models.abstract_state(config)
    shapes = {path: leaf.shape for path, leaf in nnx.to_flat_state(state)}
    layers = {
        path[1:3] if path[1] == "state_space" else path[1:2] for path in shapes if len(path) > 2
    }
    assert layers == {("state_space", 0), ("state_space", 1), ("transformer",)}
    assert shapes["blocks", "transformer", "attention", "query"] == (2, 16, 4, 4)


def test_flops_count_only_the_attention_layers():
    config = HybridConfig(**{**SHAPE, "layers": 6}, **HEADS, **DUALITY, attention_every=3)
    longer = config.stack_flops(200).matmul - config.stack_flops(100).matmul
    assert longer == 2 * (2 * 2 * 100 * 16)  # two layers, scores and weighted values


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(attention_every=2), "hybrid.attention_every = 2 does not divide hybrid.layers = 3"),
        (dict(attention_every=-1), "hybrid.attention_every = -1"),
        (dict(attention_every=3, state_space="s4"), "choose one of mamba, mamba2"),
        (dict(attention_every=3, head_channels=5), "hybrid.head_channels = 5 does not divide"),
        (dict(attention_every=3, map_groups=3), "hybrid.map_groups = 3 does not divide"),
        (dict(attention_every=3, heads=5), "hybrid.heads = 5 does not divide hybrid.width = 16"),
    ],
)
def test_bad_options_give_an_error(options, message):
    with pytest.raises(UserError, match=message):
        HybridConfig(**{**SHAPE, **HEADS, **DUALITY, **options})


def test_mamba2_options_are_not_checked_for_mamba1_layers():
    HybridConfig(**SHAPE, **HEADS, attention_every=3, state_space="mamba", head_channels=5)


def test_hybrid_has_the_options_of_all_its_families():
    ours = option_names(HybridConfig)
    for family in (LlamaConfig, MambaConfig, Mamba2Config):
        assert option_names(family) <= ours
