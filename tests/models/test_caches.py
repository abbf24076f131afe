"""Continuing from a cache, token by token or in parts, computes what the whole text computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lossline import models
from lossline.models.caches import empty_caches
from models.families import GEMMA

SHAPE = {
    "vocab_size": 61,
    "width": 32,
    "layers": 2,
    "context_length": 24,
    "activation_dtype": "float32",
}
HEADS = {"heads": 4, "mlp_width": 48}
CONFIGS = {
    "llama": models.LlamaConfig(**SHAPE, **HEADS, kv_heads=2, qk_norm="head"),
    "llama-unlike-layers": models.LlamaConfig(
        **SHAPE, **HEADS, biases="qkv", window=5, full_every=2, unrotated_every=2
    ),
    "llama-gemma": models.LlamaConfig(
        **SHAPE, **HEADS, **GEMMA, kv_heads=2, rope_scaling=8.0, full_every=2
    ),
    "mamba": models.MambaConfig(**SHAPE),
    "mamba2": models.Mamba2Config(**SHAPE, state=16, head_channels=16, map_groups=2),
    "hybrid": models.HybridConfig(
        **SHAPE, **HEADS, attention_every=2, state=16, head_channels=16, post_norm=True,
        positions="learned",
    ),
}  # fmt: skip
LENGTHS = (15, 9, 1)
PARTS = (13, 1, 1)  # a prompt, then tokens one by one


def random_state(config):
    """Return random parameters, without compiling an initialization."""
    graph, state = models.abstract_state(config)
    rng = np.random.default_rng(1)
    return graph, jax.tree.map(lambda p: jnp.asarray(rng.normal(0, 0.3, p.shape), p.dtype), state)


@pytest.mark.parametrize("family", CONFIGS)
def test_continuing_from_a_cache_equals_the_forward_pass_of_the_whole_text(family):
    config = CONFIGS[family]
    graph, state = random_state(config)
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, config.vocab_size, n) for n in LENGTHS]
    whole = max(LENGTHS)
    tokens, valid, positions, alone = (np.zeros((len(texts), whole), np.int32) for _ in range(4))
    for row, text in enumerate(texts):
        tokens[row, whole - len(text) :] = text
        valid[row, whole - len(text) :] = 1
        positions[row, whole - len(text) :] = np.arange(len(text))
        alone[row, : len(text)] = text

    @jax.jit
    def continued(state, caches, tokens, valid, positions):
        model = nnx.merge(graph, state)
        hidden, caches = model.continued(tokens, valid, positions, caches)
        return jax.nn.log_softmax(hidden @ model.unembedding()), caches

    @jax.jit
    def forward(state, tokens):
        return jax.nn.log_softmax(nnx.merge(graph, state)(tokens))

    blocks = nnx.merge(graph, state).blocks
    caches = empty_caches(blocks, config.blocks, rows=len(texts), length=whole + 2)
    got, start = [], 0
    for part in PARTS:
        piece = slice(start, start + part)
        out, caches = continued(
            state, caches, tokens[:, piece], valid[:, piece].astype(bool), positions[:, piece]
        )
        got.append(out)
        start += part
    got, expected = np.concatenate(got, axis=1), np.asarray(forward(state, alone))
    for row, text in enumerate(texts):
        np.testing.assert_allclose(
            got[row, whole - len(text) :], expected[row, : len(text)], atol=1e-4, rtol=0
        )
