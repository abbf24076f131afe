"""Hugging Face folders: the function that the tensors define, the same bytes back, and errors."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from lossline import models
from lossline.conversion import read_config, read_model, write_model
from lossline.conversion.layout import Layout
from lossline.errors import UserError

from .logits import logits_of
from .numpy_models import MODELS


def tensors_of(name, config, *, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    shapes = MODELS[name][1](config)
    return {
        key: (rng.normal(0, 0.4, shape) + (len(shape) == 1)).astype(dtype)
        for key, shape in shapes.items()
    }


def make_folder(path, name, *, dtype=np.float32, shards=1, **changes):
    config = MODELS[name][0] | changes
    tensors = tensors_of(name, config, dtype=dtype)
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, path / "model.safetensors")
    else:
        where = {}
        for i in range(shards):
            part = dict(list(tensors.items())[i::shards])
            save_file(part, path / f"part-{i}.safetensors")
            where |= dict.fromkeys(part, f"part-{i}.safetensors")
        index = {"metadata": {}, "weight_map": where}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tensors, config


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("tied", [False, True])
def test_a_folder_gives_the_logits_that_its_tensors_define(tmp_path, name, tied):
    tensors, tree = make_folder(tmp_path / "hf", name, shards=2, tie_word_embeddings=tied)
    config, params = read_model(tmp_path / "hf")
    assert config == read_config(tmp_path / "hf")
    assert config.num_params().total == sum(a.size for a in tensors.values())
    tokens = np.random.default_rng(1).integers(0, 30, 19)
    expected = MODELS[name][2](tensors, tree, tokens)
    np.testing.assert_allclose(logits_of(config, params, tokens), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
def test_round_trip_gives_the_same_bytes(tmp_path, name, dtype):
    tensors, tree = make_folder(tmp_path / "hf", name, dtype=dtype)
    config, params = read_model(tmp_path / "hf")
    write_model(tmp_path / "back", config, params, dtype=np.dtype(dtype).name)
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert set(back) == set(tensors)
    for key, array in tensors.items():
        assert back[key].dtype == array.dtype and back[key].tobytes() == array.tobytes(), key
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {key: written[key] for key in tree if key in written} == {
        key: tree[key] for key in tree if key in written
    }
    again, params_again = read_model(tmp_path / "back")
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, params_again, params)


def test_a_model_written_in_shards_is_read_unchanged(tmp_path):
    tensors, _ = make_folder(tmp_path / "hf", "llama")
    config, params = read_model(tmp_path / "hf")
    write_model(tmp_path / "back", config, params, shard_bytes=3000)
    index = json.loads((tmp_path / "back" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 3 and files[0].endswith(f"-of-{len(files):05d}.safetensors")
    assert index["metadata"]["total_size"] == sum(a.nbytes for a in tensors.values())
    assert all((tmp_path / "back" / file).stat().st_size < 6000 for file in files)
    jax.tree.map(np.testing.assert_array_equal, read_model(tmp_path / "back")[1], params)


def test_vocabulary_padding_is_not_written(tmp_path):
    make_folder(tmp_path / "hf", "llama")
    config, _ = read_model(tmp_path / "hf")
    padded = dataclasses.replace(config, vocab_multiple=64)
    shapes = nnx.to_pure_dict(models.abstract_state(padded)[1])
    params = jax.tree.map(lambda p: np.random.default_rng(0).normal(size=p.shape), shapes)
    write_model(tmp_path / "back", padded, params, dtype="float32")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back["model.embed_tokens.weight"].shape == back["lm_head.weight"].shape == (30, 16)
    _, cut = read_model(tmp_path / "back")
    np.testing.assert_array_equal(cut["unembed"], params["unembed"].astype("float32")[:, :30])


def test_buffers_and_a_tied_head_are_ignored(tmp_path):
    tensors, _ = make_folder(tmp_path / "hf", "llama", tie_word_embeddings=True)
    extra = {
        "lm_head.weight": tensors["model.embed_tokens.weight"],
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32),
    }
    save_file(tensors | extra, tmp_path / "hf" / "model.safetensors")
    read_model(tmp_path / "hf")


@pytest.mark.parametrize(("name", "head"), [("llama", "lm_head"), ("gpt_neox", "embed_out")])
def test_tied_embeddings_with_a_different_head_are_refused(tmp_path, name, head):
    """transformers 5 uses the head, transformers 4 the embeddings."""
    tensors, _ = make_folder(tmp_path / "hf", name, tie_word_embeddings=True)
    other = {f"{head}.weight": np.ones((30, 16), np.float32)}
    save_file(tensors | other, tmp_path / "hf" / "model.safetensors")
    with pytest.raises(UserError, match=rf"{head}.weight differs from the embeddings, but"):
        read_model(tmp_path / "hf")


def test_a_value_too_large_for_the_dtype_is_refused(tmp_path):
    make_folder(tmp_path / "hf", "llama")
    config, params = read_model(tmp_path / "hf")
    params["blocks"]["mlp"]["up"][1, 0, 0] = -7e4  # layer 1; float16 ends at 65,504
    with pytest.raises(
        UserError, match=r"up_proj.weight has a value of 7e\+04, too large for float16"
    ):
        write_model(tmp_path / "back", config, params, dtype="float16")
    assert not list(tmp_path.glob("*back*"))
    write_model(tmp_path / "back", config, params, dtype="bfloat16")


def test_ignored_buffers_do_not_affect_the_dtype(tmp_path):
    # The published Pythias are float16 with masks of type bool or uint8.
    tensors, _ = make_folder(tmp_path / "hf", "gpt_neox", dtype=ml_dtypes.bfloat16)
    layer = "gpt_neox.layers.0.attention."
    buffers = {
        layer + "bias": np.tril(np.ones((1, 1, 4, 4), bool)),
        layer + "masked_bias": np.array(-1e9, np.float32),
        layer + "rotary_emb.inv_freq": np.ones(1, np.float32),
        "gpt_neox.layers.1.attention.bias": np.ones((1, 1, 4, 4), np.uint8),
    }
    expected = read_model(tmp_path / "hf")[1]
    save_file(tensors | buffers, tmp_path / "hf" / "model.safetensors")
    config, params = read_model(tmp_path / "hf")
    assert config.param_dtype == "bfloat16"
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_quantized_weights_are_refused_for_every_requested_dtype(tmp_path):
    tensors, _ = make_folder(tmp_path / "hf", "llama")
    tensors["model.norm.weight"] = np.ones(16, np.int8)
    save_file(tensors, tmp_path / "hf" / "model.safetensors")
    with pytest.raises(UserError, match="tensors of dtype I8"):
        read_model(tmp_path / "hf", param_dtype="float32")


def test_a_folder_is_written_completely_or_not_at_all(tmp_path, monkeypatch):
    make_folder(tmp_path / "hf", "llama")
    config, params = read_model(tmp_path / "hf")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lossline.conversion.folder.write_json", full)
    with pytest.raises(OSError, match="No space"):
        write_model(tmp_path / "deep" / "back", config, params)
    assert not list((tmp_path / "deep").iterdir())
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="link already exists"):
        write_model(tmp_path / "link", config, params)


def test_a_sequential_gpt_neox_gives_the_right_logits(tmp_path):
    tensors, tree = make_folder(tmp_path / "hf", "gpt_neox", use_parallel_residual=False)
    config, params = read_model(tmp_path / "hf")
    tokens = np.random.default_rng(1).integers(0, 30, 19)
    expected = MODELS["gpt_neox"][2](tensors, tree, tokens)
    np.testing.assert_allclose(logits_of(config, params, tokens), expected, rtol=2e-4, atol=2e-4)


def test_scaled_rotary_positions_are_read_and_written(tmp_path):
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 12,
    }
    make_folder(tmp_path / "hf", "llama", rope_scaling=scaling)
    config, params = read_model(tmp_path / "hf")
    assert (config.rope_scaling, config.rope_high, config.rope_original) == (8.0, 4.0, 12)
    write_model(tmp_path / "back", config, params)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["rope_scaling"] == scaling
    linear = {"rope_type": "linear", "factor": 4.0}
    make_folder(tmp_path / "linear", "llama", rope_scaling=linear)
    config, params = read_model(tmp_path / "linear")
    assert (config.rope_scaling, config.rope_scaling_kind) == (4.0, "linear")
    write_model(tmp_path / "again", config, params)
    assert json.loads((tmp_path / "again" / "config.json").read_text())["rope_scaling"] == linear


def test_rotary_positions_are_read_from_every_place(tmp_path):
    """Transformers 4 and 5 write the same model differently, and some files have both forms."""

    def read(name, folder, **changes):
        make_folder(tmp_path / folder, name, **changes)
        return read_config(tmp_path / folder)

    scaling = LLAMA3 | {ORIGINAL: 12}
    sections = {
        "full_attention": {"rope_theta": 500.0, "rope_type": "linear", "factor": 4.0},
        "sliding_attention": {"rope_theta": 100.0, "rope_type": "default"},
    }
    none = dict.fromkeys(("rope_theta", "rope_scaling", "rope_local_base_freq"))
    assert read("gemma3_text", "gemma4") == read(
        "gemma3_text", "gemma5", rope_parameters=sections, **none
    )
    config = read("llama", "4", rope_theta=500, rope_scaling=scaling)
    assert (config.rope_theta, config.rope_scaling, config.rope_original) == (500, 8, 12)
    whole = scaling | {"rope_theta": 500.0, "partial_rotary_factor": 1.0}
    assert read("llama", "5", rope_theta=None, rope_parameters=whole) == config
    assert (
        read("llama", "both", rope_theta=500, rope_scaling=whole, rope_parameters=whole) == config
    )
    assert read("llama", "phi", rope_theta=500, rope_scaling=LLAMA3, **{ORIGINAL: 12}) == config
    names = ("rotary_emb_base", "rotary_pct")
    config = read("gpt_neox", "neox4", **dict(zip(names, (500, 0.5), strict=True)))
    assert (config.rope_theta, config.rope_fraction) == (500, 0.5)
    whole = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}
    assert read("gpt_neox", "neox5", rope_parameters=whole, **dict.fromkeys(names)) == config


def test_tensors_without_the_prefix_are_found(tmp_path):
    # The first published form of GPT-2, with buffers that follow from its shape.
    tensors, _ = make_folder(tmp_path / "hf", "gpt2", tie_word_embeddings=True)
    expected = read_model(tmp_path / "hf")[1]
    bare = {name.removeprefix("transformer."): array for name, array in tensors.items()}
    buffers = {
        f"h.{i}.attn.{n}": np.ones(2, np.float32) for i in range(3) for n in ("bias", "masked_bias")
    }
    save_file(bare | buffers, tmp_path / "hf" / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, read_model(tmp_path / "hf")[1], expected)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama", {"qk_norm": "width"}),
        ("olmo", {"norm_eps": 1e-6}),
        ("qwen3", {"biases": True}),
        ("llama", {"window": 5, "unrotated_every": 2}),
        ("qwen2", {"window": 5}),
        ("olmo3", {"rope_scaling": 8.0}),
        ("llama", {"embedding_scale": "sqrt_width"}),
        ("gemma3_text", {"norm_offset": 0.5}),
        ("gemma3_text", {"window_theta": None}),  # its layers with a window are never scaled
        ("gemma3_text", {"heads": 6}),  # transformers opens none
        ("gpt2", {"score_width": 5}),
        ("gpt2", {"window": 5}),
        ("gpt2", {"mlp": "gelu"}),
        ("gpt2", {"head_width": 8}),
        ("gpt_neox", {"head_width": 4}),
        ("gpt2", {"biases": False}),
        ("gpt_neox", {"qk_norm": "width"}),
        ("mamba", {"norm": "layer"}),
        ("mamba2", {"norm_scale": False}),
    ],
)
def test_a_model_without_a_hugging_face_form_is_refused(tmp_path, name, change):
    make_folder(tmp_path / "hf", name)
    config = dataclasses.replace(read_config(tmp_path / "hf"), **change)
    with pytest.raises(UserError, match="has no Hugging Face form"):
        write_model(tmp_path / "back", config, {})
    assert not (tmp_path / "back").exists()


def test_a_llama_whose_heads_do_not_divide_the_width_is_written_as_a_mistral(tmp_path):
    """transformers opens no such Llama; a Mistral without a window is the same function."""
    make_folder(tmp_path / "hf", "mistral", head_dim=8, num_attention_heads=6, sliding_window=None)
    config, params = read_model(tmp_path / "hf")
    write_model(tmp_path / "back", config, params)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["model_type"] == "mistral"


def test_patterns_of_layers_are_read_where_config_json_gives_none(tmp_path):
    def read(name, *absent, **changes):
        tree = {k: v for k, v in (MODELS[name][0] | changes).items() if k not in absent}
        (tmp_path / "config.json").write_text(json.dumps(tree))
        return read_config(tmp_path)

    assert read("mistral", "sliding_window").window == 4096
    assert read("mistral", sliding_window=None).window is None
    pattern = ("no_rope_layers", "no_rope_layer_interval")
    assert read("smollm3", *pattern).unrotated_every == 4
    assert read("smollm3", *pattern, num_hidden_layers=3).unrotated_every is None
    gemma = read("gemma3_text", "sliding_window_pattern")
    assert (gemma.full_every, gemma.rope_theta, gemma.rope_scaling) == (None, 100.0, 1.0)
    assert read("gemma3_text", sliding_window_pattern=5).full_every == 5
    olmo3 = read("olmo3", "layer_types", "rope_parameters", rope_theta=5e5)
    assert (olmo3.window, olmo3.full_every) == (5, 4)
    assert read("olmo3", layer_types=["full_attention"] * 5).window is None


@pytest.mark.parametrize("name", ["llama", "qwen3", "olmo", "olmo2"])
def test_head_width_is_set_only_if_it_differs_from_the_default(tmp_path, name):
    def read(**changes):
        (tmp_path / "config.json").write_text(json.dumps(MODELS[name][0] | changes))
        return read_config(tmp_path)

    config = read(head_dim=4)  # 16 / 4, the default
    assert config.head_width is None
    wide = read(head_dim=10)
    assert (wide.head_width, wide.head_dim) == (10, 10)
    assert wide == dataclasses.replace(config, head_width=10)


def test_layouts_convert_in_both_directions():
    layout = Layout("D H K -> (H K) D")
    ours = np.arange(24).reshape(2, 3, 4)
    theirs = layout.to_theirs(ours)
    assert theirs.shape == layout.their_shape(ours.shape) == (12, 2)
    assert theirs[4 * 2 + 1, 1] == ours[1, 2, 1]
    np.testing.assert_array_equal(layout.to_ours(theirs, ours.shape), ours)
    with pytest.raises(ValueError, match="has different axes"):
        Layout("A B -> A C").to_theirs(np.ones((1, 2)))


ENTRIES = [
    ("llama", {"hidden_size": "16"}, "hidden_size = '16' must be a whole number"),
    ("llama", {"hidden_size": 16.0}, "hidden_size = 16.0 must be a whole number"),
    ("llama", {"hidden_size": None}, "has no entry 'hidden_size'"),
    ("llama", {"num_attention_heads": 0}, "num_attention_heads = 0 must be a whole number"),
    ("llama", {"num_attention_heads": 5}, "config.json: llama.heads = 5 does not divide"),
    ("llama", {"head_dim": 6.0}, "head_dim = 6.0 must be a whole number"),
    (
        "llama",
        {"head_dim": 7},
        r"7 of the 7 channels of a head would rotate \(head_width 7, rope_fr",
    ),
    ("qwen3", {"head_dim": None}, "has no entry 'head_dim'"),
    ("llama", {"rms_norm_eps": "1e-5"}, "rms_norm_eps = '1e-5' must be a number"),
    ("llama", {"tie_word_embeddings": "false"}, "must be true or false"),
    ("llama", {"rope_scaling": "llama3"}, "rope_scaling = 'llama3' must be an object"),
    ("llama", {"rope_scaling": {"rope_type": "llama3"}}, "has no entry 'factor'"),
    ("llama", {"rope_theta": -1.0}, "rope_theta = -1.0 must be a number"),
    ("llama", {"rope_theta": 0}, "llama.rope_theta is 0.0: it must be positive"),
    ("llama", {"model_type": ["llama"]}, r"model_type \['llama'\] is not supported"),
    ("gpt_neox", {"rotary_pct": 0.0}, "0 of the 8 channels of a head would rotate"),
    ("gpt_neox", {"rope_scaling": {"type": "linear"}}, "rope scaling is not supported"),
    ("mamba", {"time_step_rank": "full"}, "time_step_rank = 'full' must be a whole number"),
    ("mamba", {"intermediate_size": 24}, "size 24 is not a multiple of hidden_size 16"),
    ("mamba2", {"n_groups": 0}, "n_groups = 0 must be a whole number"),
    ("mamba2", {"expand": float("inf")}, "expand = inf must be a number"),
]


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ORIGINAL = "original_max_position_embeddings"
# Entries that change the function that transformers computes. If two entries give the same
# quantity, transformers 4 and 5 differ in which one they read.
OTHER_FUNCTIONS = [
    ("llama", {"is_causal": False}, "is_causal = False is not supported"),
    ("mamba", {"per_layer_config": {"1": {"layer_norm_epsilon": 0.1}}}, "per_layer_config = "),
    ("gpt2", {"quantization_config": {"load_in_8bit": True}}, "quantization_config = "),
    (
        "llama",
        {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 500.0}},
        "rope_theta = 10000.0, but rope_theta of the rotary positions = 500.0",
    ),
    ("llama", {"rope_theta": 1e4, "rope_scaling": {"rope_theta": 500.0}}, "positions = 500.0"),
    (
        "llama",
        {"rope_scaling": LLAMA3, "rope_parameters": {"rope_type": "default"}},
        "but rope_parameters = {'rope_type': 'default'}",
    ),
    (
        "llama",
        {"rope_scaling": LLAMA3 | {ORIGINAL: 16}, ORIGINAL: 32},
        f"{ORIGINAL} = 32, but {ORIGINAL} of the rotary positions = 16",
    ),
    ("olmo2", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5 is not supported"),
    ("llama", {"rope_scaling": LLAMA3 | {"partial_rotary_factor": 0.5}}, "factor = 0.5"),
    (
        "qwen3",
        {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
        r"per type of layer \(full_attention\) are not supported",
    ),
    ("qwen3", {"layer_types": ["full_attention"] + 2 * ["sliding_attention"]}, "layer_types = "),
    ("qwen2", {"use_sliding_window": True}, "use_sliding_window = True is not supported"),
    ("smollm3", {"no_rope_layers": [0, 1, 1, 0, 1]}, "no_rope_layers is not supported, since"),
    ("olmo3", {"layer_types": ["full_attention"] * 2 + 3 * ["odd"]}, "layer_types has others"),
    ("olmo3", {"rope_parameters": None}, "rope_theta = 500.0 is not supported; the only"),
    (
        "olmo3",
        {"rope_parameters": {"full_attention": {"rope_theta": 1e4}, "sliding_attention": {}}},
        r"per type of layer \(full_attention, sliding_attention\)",
    ),
    ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0 is not"),
    ("gemma3_text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0 is not"),
    ("gemma3_text", {"use_bidirectional_attention": True}, "bidirectional_attention = True is not"),
    ("gemma3_text", {"hidden_activation": "gelu"}, "hidden_activation = 'gelu' is not supported"),
    ("gemma3_text", {"query_pre_attn_scalar": 8.5}, "query_pre_attn_scalar = 8.5 must be a whole"),
    (
        "gemma3_text",
        {"rope_parameters": {"rope_theta": 5e5}},
        "rope_parameters has rope_theta, but",
    ),
    (
        "gemma3_text",
        {"rope_parameters": {"sliding_attention": LLAMA3}},
        "type 'llama3' in layers with a window is not supported",
    ),
    (
        "gemma3_text",
        {"rope_parameters": {"sliding_attention": {"rope_theta": 5.0}}},
        "rope_local_base_freq = 100.0, but rope_theta of the rotary positions = 5.0",
    ),
    ("gpt_neox", {"rope_parameters": {"type": "linear", "factor": 2.0}}, "rope scaling is not"),
    (
        "gpt_neox",
        {"rotary_emb_base": 100, "rope_parameters": {"rope_theta": 500.0}},
        "rotary_emb_base = 100, but rope_theta of the rotary positions = 500.0",
    ),
    (
        "gpt_neox",
        {"rotary_pct": 1.0, "rope_parameters": {"partial_rotary_factor": 0.5}},
        "rotary_pct = 1.0, but partial_rotary_factor of the rotary positions = 0.5",
    ),
    ("gpt2", {"num_attention_heads": 2}, "num_attention_heads = 2, but n_head = 4"),
]


@pytest.mark.parametrize(("name", "change", "said"), ENTRIES + OTHER_FUNCTIONS)
def test_unsupported_config_entries_are_refused_by_name(tmp_path, name, change, said):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(MODELS[name][0] | change))
    with pytest.raises(UserError, match=said) as mistake:
        read_config(tmp_path)
    assert str(mistake.value).startswith(f"{path}: ")


@pytest.mark.parametrize("text", ["[]", "null", "3"])
def test_json_that_is_not_an_object_is_refused(tmp_path, text):
    make_folder(tmp_path / "hf", "llama", shards=2)
    (tmp_path / "hf" / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match=r"index.json is not a JSON object"):
        read_model(tmp_path / "hf")
    (tmp_path / "hf" / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config.json is not a JSON object"):
        read_model(tmp_path / "hf")


@pytest.mark.parametrize("index", [{}, {"weight_map": ["a"]}, {"weight_map": {"a": 1}}])
def test_an_index_without_a_map_is_refused(tmp_path, index):
    make_folder(tmp_path / "hf", "llama", shards=2)
    (tmp_path / "hf" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="has no weight_map of tensors to files"):
        read_model(tmp_path / "hf")


def test_two_sets_of_weights_are_refused(tmp_path):
    """It is not clear which of them is meant. An index that lists only the single file is fine."""
    tensors, _ = make_folder(tmp_path / "hf", "llama", shards=2)
    save_file(tensors, tmp_path / "hf" / "model.safetensors")
    with pytest.raises(
        UserError, match=r"two sets of weights: model.safetensors, .* 2 files listed"
    ):
        read_model(tmp_path / "hf")
    index = {"weight_map": dict.fromkeys(tensors, "model.safetensors")}
    (tmp_path / "hf" / "model.safetensors.index.json").write_text(json.dumps(index))
    read_model(tmp_path / "hf")


def test_every_bad_folder_gives_an_error_that_names_the_cause(tmp_path):
    def refused(match, change, *, name="llama", **changes):
        folder = tmp_path / f"case{len(list(tmp_path.iterdir()))}"
        tensors, _ = make_folder(folder, name, **changes)
        change(folder, tensors)
        with pytest.raises(UserError, match=match):
            read_model(folder)

    def saved(tensors):
        return lambda folder, all_: save_file(
            {k: v for k, v in (all_ | tensors).items() if v is not None},
            folder / "model.safetensors",
        )

    def leave(folder, tensors):
        pass

    wide = {"head_dim": 16}

    def pickled(folder, tensors):
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    refused("missing 1 tensors: model.norm.weight", saved({"model.norm.weight": None}))
    refused("unexpected 1 tensors: odd", saved({"odd": np.ones(2, np.float32)}))
    wrong = np.ones((3, 16), np.float32)
    refused(
        r"q_proj.weight has shape \(3, 16\)",
        saved({"model.layers.0.self_attn.q_proj.weight": wrong}),
    )
    refused("only pytorch_model.bin, which may be pickles", pickled)
    refused("tensors of dtype I8", saved({"model.norm.weight": np.ones(16, np.int8)}))
    refused(
        "not a complete safetensors file",
        lambda folder, _: (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0half"),
    )
    refused("config.json is not JSON", lambda f, _: (f / "config.json").write_text("{"))
    refused("config.json is missing", lambda f, _: (f / "config.json").unlink())
    refused(
        "part-1.safetensors, listed", lambda f, _: (f / "part-1.safetensors").unlink(), shards=3
    )
    refused(
        "model_type 't5' is not supported; supported: llama, mistral, qwen2, qwen3",
        leave,
        model_type="t5",
    )
    refused("rope scaling", leave, rope_scaling={"type": "yarn", "factor": 2.0})
    refused("attention_bias = True is not supported", leave, attention_bias=True)
    refused("use_bias = True", leave, name="mamba", use_bias=True)
    refused("time_step_limit = ", leave, name="mamba2", time_step_limit=[0.01, 1.0])
    refused("num_heads 3 times head_dim 6 is not expand 2", leave, name="mamba2", num_heads=3)
    refused("clip_qkv = 8.0", leave, name="olmo", clip_qkv=8.0)
    refused(
        r"k_proj.weight has shape \(8, 16\), but config.json needs \(32, 16\)",
        lambda f, _: (f / "config.json").write_text(json.dumps(MODELS["llama"][0] | wide)),
    )
    refused(
        "has no entry 'hidden_size'",
        lambda f, _: (f / "config.json").write_text('{"model_type": "llama"}'),
    )
    refused(
        "has 30 tensors: lm_head.weight, .* in more than one file",
        lambda f, tensors: [save_file(tensors, f / f"part-{i}.safetensors") for i in (0, 1)],
        shards=2,
    )
    with pytest.raises(UserError, match="does not exist"):
        read_model(tmp_path / "nowhere")
    make_folder(tmp_path / "good", "llama")
    config, params = read_model(tmp_path / "good")
    with pytest.raises(UserError, match="already exists"):
        write_model(tmp_path / "good", config, params)
