"""Sizes and FLOPs of the papers' models (gin_configs/models) against those that the papers print.

Exact counts are compared where they are known; elsewhere the printed digits are compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import jax
import pytest

from lossline.cli.configuration import build_options
from lossline.models import ModelConfig, abstract_state
from lossline.train import load

MODELS = Path(__file__).resolve().parents[2] / "gin_configs" / "models"
RUN = ("train.store = 'unread'", "train.batch_size = 1", "train.steps = 100")


def model_of(name: str, **bindings: int) -> ModelConfig:
    """Return the model of a file in gin_configs/models; ``__`` in a binding stands for the dot."""
    lines = [f"{key.replace('__', '.')} = {value}" for key, value in bindings.items()]
    return build_options(
        "train", load(), gin_files=[MODELS / f"{name}.gin"], bindings=[*RUN, *lines]
    ).model


def half_unit(printed: str) -> float:
    """Return half a unit of the last printed digit."""
    digits, _, exponent = printed.partition("e")
    return 0.5 * 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))


def assert_printed(value: float, printed: str, unit: float = 1.0) -> None:
    """Check that ``value``, in ``unit``, rounds to the printed number."""
    assert value / unit == pytest.approx(float(printed), abs=half_unit(printed) * (1 + 1e-9))


# --- exact counts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, total, non_embedding",
    [
        ("llama/7b", 6_738_415_616, 6_476_271_616),
        ("tinyllama/1b1", 1_100_048_384, 968_976_384),
        ("pythia/160m", 162_322_944, 85_056_000),
    ],
)
def test_counts_match_released_weights(name, total, non_embedding):
    counts = model_of(name).num_params()
    assert (counts.total, counts.non_embedding) == (total, non_embedding)


def rung(n: int) -> ModelConfig:
    return model_of("kempner/ladder", depth=n, width=64 * n, mlp_width=256 * n)


def forward_flops_of_olmo(config: ModelConfig) -> float:
    """Return the forward FLOPs per sequence as OLMo's code counts them.

    They are two per parameter, embeddings included, and the full square of attention.
    """
    length = config.context_length
    attention = config.stack_flops(length).matmul - config.stack_flops(0).matmul
    return length * (2 * config.num_params().total + attention)


def test_every_model_of_the_published_ladder_matches(published_data):
    pandas = pytest.importorskip("pandas")
    columns = ["n_layers", "d_model", "params", "flops"]
    rungs = pandas.read_csv(published_data / "kempner_sweep.csv")[columns].drop_duplicates()
    assert len(rungs) == 24
    for row in rungs.itertuples():
        config = rung(int(row.n_layers))
        assert config.width == row.d_model
        assert config.num_params().total == row.params
        assert forward_flops_of_olmo(config) == row.flops


def test_ladder_counts_match_a_formula_by_hand():
    # OLMo's layer: 12 d² in matrices, four scales of d (two norms, queries, keys); one final norm.
    for n in (4, 16, 32):
        d = 64 * n
        counts = rung(n).num_params()
        assert counts.non_embedding == n * (12 * d * d + 4 * d) + d
        assert counts.total == counts.non_embedding + 2 * 32_000 * d


def test_the_extrapolated_3b3_model_matches():
    params = model_of("kempner/3b3").num_params().total
    assert_printed(params, "3.31", 1e9)
    # C = 6 N D with both embeddings: 1e21 FLOPs are 50.35e9 tokens, 96,040 steps of 1024 × 512.
    assert_printed(1e21 / (6 * params), "5.035e10")
    assert int(1e21 / (6 * params) / (1024 * 512)) == 96_040


# --- printed digits ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, layers, total, non_embedding",
    [
        ("llama_d256", 4, "69.08", "3.4"),
        ("llama_d256", 8, "72.49", "6.8"),
        ("llama_d256", 12, "75.90", "10.2"),
        ("llama_d512", 4, "144.97", "13.6"),
        ("llama_d512", 8, "158.61", "27.3"),
        ("llama_d512", 12, "172.24", "40.9"),
        ("llama_d1024", 4, "314.06", "51.4"),
        ("llama_d1024", 8, "365.45", "102.8"),
        ("llama_d1024", 12, "416.83", "154.2"),
    ],
)
def test_llama_sizes_match_llms_on_the_line(name, layers, total, non_embedding):
    counts = model_of(f"llm_line/{name}", llama__layers=layers).num_params()
    assert_printed(counts.total, total, 1e6)
    assert_printed(counts.non_embedding, non_embedding, 1e6)


@pytest.mark.parametrize("layers, total", [(17, "321"), (20, "360"), (25, "424")])
def test_llama_sizes_with_gpt2_tokens_match_llms_on_the_line(layers, total):
    config = model_of("llm_line/llama_gpt2_tokens", llama__layers=layers)
    assert_printed(config.num_params().total, total, 1e6)


@pytest.mark.parametrize(
    "width, layers, named",
    [
        (256, 8, 69),
        (256, 16, 73),
        (256, 24, 76),
        (512, 8, 145),
        (512, 16, 158),
        (512, 24, 172),
        (1024, 8, 315),
        (1024, 16, 367),
        (1024, 24, 420),
    ],
)
def test_mamba_sizes_match_llms_on_the_line(width, layers, named):
    # The names truncate, like the name "416M" of the Llama with 416.83M.
    config = model_of(f"llm_line/mamba_d{width}", mamba2__layers=layers)
    assert (config.inner_heads, config.state, config.conv) == (16, 128, 2)
    assert config.num_params().total // 10**6 == named


@pytest.mark.parametrize("layers, named", [(15, 315), (19, 367), (24, 420)])
def test_mamba_sizes_with_gpt2_tokens_are_near_their_names(layers, named):
    # Their names are those of the Mambas with Llama 3's tokenizer, which are 2% to 3% larger.
    config = model_of("llm_line/mamba_gpt2_tokens", mamba2__layers=layers)
    assert (config.inner_heads, config.state, config.conv) == (16, 128, 2)
    assert 0.965 < config.num_params().total / (named * 1e6) < 0.985


@pytest.mark.parametrize("name, total", [("gpt_d512", "174"), ("gpt_d1024", "424")])
def test_gpt_sizes_match_llms_on_the_line(name, total):
    assert_printed(model_of(f"llm_line/{name}").num_params().total, total, 1e6)


# --- FLP's Table 1 -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampled:
    """A row of FLP's Table 1: name, tokens, and FLOPs without embeddings, as printed."""

    name: str
    size: str  # in billions
    tokens: str
    flops: str


FLP = (
    Sampled("43m", "0.043", "8.02e9", "3.705e17"),
    Sampled("64m", "0.064", "1.171e10", "1.184e18"),
    Sampled("89m", "0.089", "1.618e10", "3.036e18"),
    Sampled("120m", "0.12", "2.180e10", "6.819e18"),
    Sampled("150m", "0.15", "2.885e10", "1.396e19"),
    Sampled("200m", "0.2", "3.721e10", "2.634e19"),
    Sampled("250m", "0.25", "4.756e10", "4.718e19"),
    Sampled("320m", "0.32", "5.967e10", "8.016e19"),
    Sampled("500m", "0.5", "9.050e10", "2.060e20"),
    Sampled("720m", "0.72", "1.320e11", "4.703e20"),
    Sampled("1b", "1", "1.855e11", "9.759e20"),
    Sampled("3b", "3", "5.568e11", "9.632e21"),
    Sampled("7b", "7", "1.258e12", "5.092e22"),
    Sampled("13b", "13", "1.258e12", "9.896e22"),
)


def flops_of_flp(config: ModelConfig) -> float:
    """Return the training operations per token that reproduce Table 1.

    They are 6 for each parameter outside the embeddings, norms included, and attention over half
    the square of 2,048 positions. ``flops_per_token`` differs by the unembedding, the other half of
    the square and the norms.
    """
    attention = config.stack_flops(2048).matmul - config.stack_flops(0).matmul
    return 6 * config.num_params().non_embedding + 3 * attention / 2


@pytest.mark.parametrize("row", FLP, ids=lambda row: row.name)
def test_flops_match_table_1_of_flp(row):
    # The tolerance is only the rounding of the two printed numbers, 1e-4 to 9e-4. It is small
    # enough to rule out 2,000 positions in every row, and counts without norms in three rows.
    config = model_of(f"flp/{row.name}")
    tokens, flops = float(row.tokens), float(row.flops)
    rounding = half_unit(row.tokens) / tokens + half_unit(row.flops) / flops
    assert flops_of_flp(config) * tokens == pytest.approx(flops, rel=rounding)


@pytest.mark.parametrize("row", FLP, ids=lambda row: row.name)
def test_sizes_match_the_names_of_flp(row):
    # Allow one unit of the last digit, not half a unit: some names truncate (43.95M is "43M",
    # 259.9M is ".25B"), others round (119.9M is ".12B"). A vocabulary of 32,000 does not fit.
    total = model_of(f"flp/{row.name}").num_params().total
    assert total / 1e9 == pytest.approx(float(row.size), abs=2 * half_unit(row.size))


def test_flp_needs_a_vocabulary_of_about_50000_tokens():
    # Table 1 gives no vocabulary. With about 50,000 tokens, its models up to 7B have the same
    # ratio of training tokens to parameters within 0.8%; with 32,000 it varies from 187 to 268.
    ratios = [
        float(row.tokens) / model_of(f"flp/{row.name}").num_params().total
        for row in FLP
        if row.name != "13b"
    ]
    assert max(ratios) / min(ratios) < 1.008


# --- files and modules ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["llama/7b", "tinyllama/1b1", "pythia/160m", "kempner/3b3", "llm_line/gpt_d512"]
)
def test_modules_have_as_many_parameters_as_counted(name):
    config = model_of(name)
    leaves = jax.tree.leaves(abstract_state(config)[1])
    assert sum(math.prod(leaf.shape) for leaf in leaves) == config.num_params().total
