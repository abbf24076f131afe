"""Small models of every family, for tests that hold for all families."""

import functools

import jax
from flax import nnx

from lossline import models
from lossline.models import GPTConfig, HybridConfig, LlamaConfig, Mamba2Config, MambaConfig

SHAPE = dict(vocab_size=61, width=16, layers=3, context_length=24, activation_dtype="float32")
HEADS = dict(heads=4, mlp_width=24)
# Options of Gemma 3, except for the pattern of its layers.
GEMMA = dict(
    mlp="geglu_tanh",
    post_norm="both",
    norm_offset=1.0,
    embedding_scale="sqrt_width",
    qk_norm="head",
    score_width=7,
    rope_scaling_kind="linear",
    window=5,
    window_theta=100.0,
)

CONFIGS = {
    "llama": LlamaConfig(**SHAPE, **HEADS, kv_heads=2),
    "llama-variants": LlamaConfig(
        **SHAPE, **HEADS, qk_norm="head", tie_embeddings=True, rope_scaling=8.0, rope_original=64
    ),
    "llama-wide-heads": LlamaConfig(
        **SHAPE, heads=6, head_width=4, kv_heads=2, mlp_width=24, qk_norm="head"
    ),
    "llama-unlike-layers": LlamaConfig(
        **SHAPE, **HEADS, biases="qkv", window=5, full_every=2, unrotated_every=3
    ),
    "llama-gemma": LlamaConfig(
        **SHAPE, **HEADS, **GEMMA, kv_heads=2, tie_embeddings=True, rope_scaling=8.0, full_every=2
    ),
    "gpt": GPTConfig(**SHAPE, **HEADS, biases=True, mlp="gelu_tanh", tie_embeddings=True),
    "gpt-neox": GPTConfig(
        **SHAPE, **HEADS, biases=True, positions="rotary", rope_fraction=0.5, parallel=True
    ),
    "gpt-ladder": GPTConfig(
        **SHAPE, **HEADS, positions="rotary", qk_norm="width", norm_bias=False, vocab_multiple=16
    ),
    "mamba": MambaConfig(**SHAPE, state=4, scan_chunk=4),
    "mamba2": Mamba2Config(**SHAPE, state=4, head_channels=8, map_groups=2, scan_chunk=8),
    "hybrid": HybridConfig(
        **{**SHAPE, "layers": 4}, **HEADS, attention_every=2, state=4, head_channels=8, scan_chunk=8
    ),
    "hybrid-mamba1": HybridConfig(
        **SHAPE, **HEADS, attention_every=3, state_space="mamba", state=4, scan_chunk=4
    ),
}


@functools.cache
def make_model(config):
    """Return the graph and random parameters.

    Parameters that start as ones or zeros are changed too, so that every parameter affects the
    result.
    """
    graph, _ = models.abstract_state(config)

    @jax.jit
    def parameters():
        leaves, tree = jax.tree.flatten(nnx.state(models.build(config, key=jax.random.key(0))))
        keys = jax.random.split(jax.random.key(1), len(leaves))
        moved = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
        return jax.tree.unflatten(tree, moved)

    return graph, parameters()
