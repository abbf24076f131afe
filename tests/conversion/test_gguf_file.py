"""GGUF files, written here by the package ``gguf`` as llama.cpp's converter writes them."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from lossline.conversion import read_model
from lossline.conversion.gguf_file import read_gguf
from lossline.conversion.runs import convert
from lossline.errors import UserError
from lossline.runs.run_directory import RunDirectory

from .numpy_models import LLAMA, llama_shapes
from .test_runs import reading

gguf = pytest.importorskip("gguf")

# Rows of whole blocks of 32 values, as quantization needs them.
TREE = LLAMA | {"vocab_size": 259, "hidden_size": 32, "intermediate_size": 64}
NAMES = {
    "embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.": "blk.",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attn_output",
    "self_attn.": "attn_",
    "mlp.": "ffn_",
    "_proj": "",
    "model.": "",
}


def permuted(weights, heads):
    """``LlamaModel.permute`` of llama.cpp's convert_hf_to_gguf.py."""
    halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def tensors_of(tree):
    rng = np.random.default_rng(0)
    shapes = llama_shapes(tree)
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def write_gguf(path, tree, tensors, *, kind="F32", architecture="llama", **metadata):
    """Write matrices in a kind of ``gguf``, norms in float32, as the converter does."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(tree["max_position_embeddings"])
    writer.add_embedding_length(tree["hidden_size"])
    writer.add_block_count(tree["num_hidden_layers"])
    writer.add_feed_forward_length(tree["intermediate_size"])
    writer.add_head_count(tree["num_attention_heads"])
    writer.add_head_count_kv(tree["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(tree["rms_norm_eps"])
    writer.add_rope_freq_base(tree["rope_theta"])
    writer.add_rope_dimension_count(tree["hidden_size"] // tree["num_attention_heads"])
    for name, value in metadata.items():
        writer.add_float32(f"llama.{name}", value)
    for name, array in tensors.items():
        if "q_proj" in name or "k_proj" in name:
            side = "attention" if "q_proj" in name else "key_value"
            array = permuted(array, tree[f"num_{side}_heads"])
        for theirs, there in NAMES.items():
            name = name.replace(theirs, there)
        stored = gguf.GGMLQuantizationType["F32" if array.ndim == 1 else kind]
        writer.add_tensor(name, gguf.quants.quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rounded(array, kind):
    if array.ndim == 1:
        return array
    stored = gguf.GGMLQuantizationType[kind]
    return gguf.quants.dequantize(gguf.quants.quantize(array, stored), stored)


def write_folder(path, tree, tensors):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(tree))
    save_file(tensors, path / "model.safetensors")
    return path


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_gguf_file_gives_the_model_of_the_folder_with_its_values(tmp_path, kind, tied):
    tree = TREE | {"tie_word_embeddings": tied}
    tensors = tensors_of(tree)
    write_gguf(tmp_path / "model.gguf", tree, tensors, kind=kind)
    # Blocks are within rows, so that permuted rows are quantized as the others.
    values = {name: rounded(array, kind) for name, array in tensors.items()}
    config, params = read_gguf(tmp_path / "model.gguf")
    expected = read_model(write_folder(tmp_path / "hf", tree, values))
    assert config == expected[0]
    jax.tree.map(np.testing.assert_array_equal, params, expected[1])


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_scaling_of_llama_3_is_recognized_by_its_divisors(tmp_path, factor):
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    tree, tensors = TREE | {"rope_theta": 5e5, "rope_scaling": scaling}, tensors_of(TREE)
    config, _ = read_model(write_folder(tmp_path / "hf", tree, tensors))
    plain = 5e5 ** -(np.arange(0, 8, 2) / 8)
    divisors = (plain / np.asarray(config.rotary_frequencies())).astype(np.float32)
    write_gguf(tmp_path / "model.gguf", tree, tensors | {"rope_freqs.weight": divisors})
    assert read_gguf(tmp_path / "model.gguf")[0] == config
    write_gguf(tmp_path / "other.gguf", tree, tensors | {"rope_freqs.weight": divisors * 3})
    with pytest.raises(UserError, match=r"other.gguf: rope_freqs.weight is not the scaling"):
        read_gguf(tmp_path / "other.gguf")


def test_a_gguf_file_becomes_a_run(tmp_path):
    write_gguf(tmp_path / "model.gguf", TREE, tensors_of(TREE), kind="Q8_0")
    with pytest.raises(UserError, match=r"has no tokenizer.json; set convert.vocabulary"):
        convert(reading(tmp_path / "model.gguf", tmp_path / "run", vocabulary=None))
    convert(reading(tmp_path / "model.gguf", tmp_path / "run"))
    assert RunDirectory.open(tmp_path / "run").checkpoint_steps() == [10]


def test_files_of_other_models_are_refused(tmp_path):
    tensors, path = tensors_of(TREE), tmp_path / "model.gguf"

    def refused(match, tensors=tensors, **changes):
        write_gguf(path, TREE, tensors, **changes)
        with pytest.raises(UserError, match=rf"model.gguf.*{match}"):
            read_gguf(path)

    refused("architecture 'qwen2' is not supported", architecture="qwen2")
    bias = np.ones(32, np.float32)
    refused(
        r"also has 1 tensors: blk.0.attn_q.bias; only models of Llama type",
        tensors | {"blk.0.attn_q.bias": bias},
    )
    refused(
        "misses 1 tensors: output_norm.weight",
        {name: array for name, array in tensors.items() if name != "model.norm.weight"},
    )
    refused("a window of attention", **{"attention.sliding_window": 4.0})
    refused("partial_rotary_factor = 0.5", **{"rope.dimension_count": 4.0})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="is not a complete GGUF file"):
        read_gguf(path)
    path.write_bytes(b"GGUX" + bytes(40))
    with pytest.raises(UserError, match="is not a complete GGUF file"):
        read_gguf(path)
