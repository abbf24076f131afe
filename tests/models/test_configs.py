"""Errors for bad options of a model, and published sizes."""

import pytest

from lossline.errors import UserError
from lossline.models import (
    GPTConfig,
    LlamaConfig,
    Mamba2Config,
    MambaConfig,
    config_from_dict,
)
from lossline.options.identity import fingerprint, identity

SHAPE = dict(vocab_size=61, width=96, layers=2, context_length=32)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            dict(heads=5),
            r"llama.heads = 5 does not divide llama.width = 96: set heads to 4 or 6, or width to",
        ),
        (
            dict(heads=8, kv_heads=3),
            r"llama.kv_heads = 3 .* llama.heads = 8: set kv_heads to 2 or 4",
        ),
        # Proposed numbers work with the other options: an even part of each head rotates, and the
        # heads divide the width.
        (dict(heads=3, width=128), r"set heads to 2 or 4, or width to 126$"),
        (dict(heads=3, width=10), r"set heads to 1 or 5, or width to 12$"),
        (dict(heads=2, kv_heads=3, width=128), r"llama.heads = 2: set kv_heads to 2$"),
        # With head_width given, the heads need not divide the width of the model.
        (dict(heads=5, head_width=8, kv_heads=3), "heads = 5: set kv_heads to 1 or 5, or heads to"),
        (dict(heads=5, head_width=0), "llama.head_width is 0: it must be at least 1"),
        (
            dict(heads=5, head_width=7),
            r"7 of the 7 channels of a head would rotate \(head_width 7, rope_fraction 1.0\)",
        ),
        (dict(heads=4, rope_theta=float("inf")), "rope_theta is inf: it must be positive and fin"),
        (dict(heads=4, norm_eps=float("nan")), "norm_eps is nan: it must be finite"),
        (dict(heads=0), "llama.heads is 0: it must be at least 1"),
        (dict(heads=4, layers=0), "llama.layers is 0"),
        (dict(heads=4, remat="some"), "llama.remat is 'some': choose one of none, full, dots"),
        (dict(heads=4, activation_dtype="int8"), "choose one of bfloat16, float32"),
        (dict(heads=32), "3 of the 3 channels of a head would rotate"),
        (dict(heads=4, rope_theta=0.0), "llama.rope_theta is 0.0: it must be positive"),
        (dict(heads=4, rope_scaling=-8.0), "llama.rope_scaling is -8.0: it must be positive"),
        (dict(heads=4, rope_low=4.0), r"llama.rope_low = 4.0 and rope_high = 4.0: the first"),
        (dict(heads=4, norm_eps=-1e-5), "llama.norm_eps is -1e-05: it must be finite and at"),
        (dict(heads=4, init_std=0.0), "llama.init_std is 0.0: it must be positive"),
        (dict(heads=4, biases="all"), "llama.biases is 'all': choose False, True or 'qkv'"),
        (dict(heads=4, window=0), "llama.window is 0: it must be at least 1"),
        (dict(heads=4, full_every=2), "llama.full_every = 2 needs llama.window"),
        (dict(heads=4, window=8, full_every=1), "full_every is 1: it must be at least 2, or None"),
        (dict(heads=4, unrotated_every=2, positions="learned"), "needs llama.positions = 'rotary'"),
        (dict(heads=4, post_norm="out"), "llama.post_norm is 'out': choose False, True or 'both'"),
        (dict(heads=4, post_norm="both", parallel=True), "post_norm cannot both be set"),
        (
            dict(heads=4, norm_offset=1.0, norm="layer"),
            "norm_offset = 1.0 needs llama.norm = 'rms'",
        ),
        (dict(heads=4, norm_offset=float("inf")), "norm_offset is inf: it must be finite"),
        (dict(heads=4, embedding_scale="4"), "embedding_scale is '4': choose 'sqrt_width' or None"),
        (dict(heads=4, score_width=0), "llama.score_width is 0: it must be at least 1"),
        (dict(heads=4, window=8, window_theta=9.0), "window_theta = 9.0 needs llama.full_every"),
        (
            dict(heads=4, window=8, full_every=2, window_theta=9.0, positions="learned"),
            "llama.window_theta = 9.0 needs llama.positions = 'rotary'",
        ),
        (
            dict(heads=4, window=8, full_every=2, window_theta=0.0),
            "llama.window_theta is 0.0: it must be positive",
        ),
        (dict(heads=4, rope_scaling_kind="yarn"), "kind is 'yarn': choose 'linear' or None"),
        (
            dict(heads=4, rope_scaling_kind="linear"),
            "'linear' needs llama.rope_scaling: the factor",
        ),
        (dict(heads=4, qk_norm="all"), "llama.qk_norm is 'all': choose one of none, head, width"),
    ],
)
def test_bad_options_give_an_error_with_a_fix(options, message):
    with pytest.raises(UserError, match=message):
        LlamaConfig(**{**SHAPE, "mlp_width": 64, **options})


def test_an_unset_head_width_does_not_change_the_run_identity():
    """Run directories from before this option existed are still found and resumed."""
    config = LlamaConfig(**SHAPE, heads=4, mlp_width=64)
    known = identity(config)
    assert "head_width" not in known
    assert config_from_dict(known) == config
    wide = LlamaConfig(**SHAPE, heads=4, mlp_width=64, head_width=32)
    assert identity(wide) == {**known, "head_width": 32}
    assert fingerprint(wide) != fingerprint(config)


LATER = {
    "window": 8,
    "unrotated_every": 4,
    "norm_offset": 1.0,
    "embedding_scale": "sqrt_width",
    "score_width": 16,
}


@pytest.mark.parametrize("name, value", LATER.items())
def test_unset_options_of_layers_change_neither_identity_nor_written_form(name, value):
    config = LlamaConfig(**SHAPE, heads=4, mlp_width=64)
    for form in (identity(config), config.to_dict()):
        assert not {*LATER, "full_every", "window_theta", "rope_scaling_kind"} & set(form)
    other = LlamaConfig(**SHAPE, heads=4, mlp_width=64, **{name: value})
    assert identity(other) == {**identity(config), name: value}
    assert other.to_dict() == {**config.to_dict(), name: value}
    assert config_from_dict(other.to_dict()) == other


def test_a_window_counts_the_pairs_that_are_used():
    config = LlamaConfig(**SHAPE, heads=4, mlp_width=64)  # 2 layers, 24 channels per head
    windowed = LlamaConfig(**SHAPE, heads=4, mlp_width=64, window=8)
    half = LlamaConfig(**SHAPE, heads=4, mlp_width=64, window=8, full_every=2)
    assert windowed.flop_counts(8) == config.flop_counts(8)
    per_key = 2 * 2 * 4 * 24
    saved = config.flop_counts(32).matmul - windowed.flop_counts(32).matmul
    assert saved == 2 * per_key * (32 - 8)
    assert config.flop_counts(32).matmul - half.flop_counts(32).matmul == saved / 2
    left_out = windowed.flops_per_token(32) - windowed.causal_flops_per_token(32)
    assert left_out == pytest.approx(3 * 2 * per_key * (7 * 8 / 2) / 32)


def test_bad_mamba2_options_give_an_error():
    shape = {**SHAPE, "state": 8}
    for options, message in (
        (dict(head_channels=80), r"mamba2.head_channels = 80 does not divide mamba2.inner = 192"),
        (dict(head_channels=40, map_groups=3), r"inner = 192: set head_channels to 32 or 64$"),
        (dict(head_channels=32, map_groups=4), r"map_groups = 4 does not divide"),
        (dict(head_channels=0), "mamba2.head_channels is 0"),
        (dict(scan_chunk=0), "mamba2.scan_chunk is 0"),
        (dict(decay_min=0.0), "mamba2.decay_min = 0.0 and mamba2.decay_max = 16.0: the first"),
        (dict(dt_max=1e-4), "mamba2.dt_min = 0.001 and mamba2.dt_max = 0.0001: the first"),
    ):
        with pytest.raises(UserError, match=message):
            Mamba2Config(**shape, **options)


def test_an_unknown_class_or_option_is_refused():
    with pytest.raises(UserError, match="'RWKVConfig': choose one of LlamaConfig"):
        config_from_dict({"__class__": "RWKVConfig"})
    with pytest.raises(UserError, match="MambaConfig has no option heads; it has"):
        config_from_dict({"__class__": "MambaConfig", **SHAPE, "heads": 3})


def llama(width, layers, heads, mlp_width, vocab_size, **options):
    return LlamaConfig(
        width=width,
        layers=layers,
        heads=heads,
        mlp_width=mlp_width,
        vocab_size=vocab_size,
        context_length=2048,
        **options,
    )


def qwen3(width, layers, heads, mlp_width, **options):
    wide = dict(head_width=128, kv_heads=8, qk_norm="head")
    return llama(width, layers, heads, mlp_width, 151936, **wide, **options)


@pytest.mark.parametrize(
    "config, total",
    [
        # Touvron et al. 2302.13971 (the released weights' size) and TinyLlama 2401.02385
        (llama(4096, 32, 32, 11008, 32000), 6_738_415_616),
        (llama(2048, 22, 32, 5632, 32000, kv_heads=4), 1_100_048_384),
        # LLMs on the Line's grid, vocabulary of 128,256
        (llama(256, 4, 8, 768, 128256), 69.08e6),
        (llama(512, 8, 8, 1536, 128256), 158.61e6),
        (llama(1024, 12, 8, 2816, 128256), 416.83e6),
        # Qwen 3 0.6B, 4B and 32B (2505.09388): heads of 128 channels at any width
        (
            qwen3(1024, 28, 16, 3072, tie_embeddings=True),
            596_049_920,
        ),
        (
            qwen3(2560, 36, 32, 9728, tie_embeddings=True),
            4_022_468_096,
        ),
        (
            qwen3(5120, 64, 64, 25600),
            32_762_123_264,
        ),
        # GPT-2 small (HF gpt2) and Pythia-160M
        (
            GPTConfig(
                width=768,
                layers=12,
                heads=12,
                mlp_width=3072,
                vocab_size=50257,
                context_length=1024,
                biases=True,
                tie_embeddings=True,
            ),
            124_439_808,
        ),
        (
            GPTConfig(
                width=768,
                layers=12,
                heads=12,
                mlp_width=3072,
                vocab_size=50304,
                context_length=2048,
                biases=True,
                positions="rotary",
                rope_fraction=0.25,
                parallel=True,
            ),
            162_322_944,
        ),
        # state-spaces/mamba-130m: tied, vocabulary padded to 50,280
        (
            MambaConfig(
                width=768, layers=24, vocab_size=50280, context_length=2048, tie_embeddings=True
            ),
            129_135_360,
        ),
        # state-spaces/mamba2-130m: tied, vocabulary padded to 50,288
        (
            Mamba2Config(
                width=768, layers=24, vocab_size=50288, context_length=2048, tie_embeddings=True
            ),
            128_989_632,
        ),
    ],
)
def test_parameter_counts_match_published_sizes(config, total):
    exact = isinstance(total, int)
    assert config.num_params().total == pytest.approx(total, abs=0 if exact else 5e3)


def test_pythia_160m_has_the_published_count_without_embeddings():
    config = GPTConfig(
        width=768,
        layers=12,
        heads=12,
        mlp_width=3072,
        vocab_size=50304,
        context_length=2048,
        biases=True,
        positions="rotary",
    )
    assert config.num_params().non_embedding == 85_056_000
