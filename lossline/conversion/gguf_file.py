"""Read a model of Llama type from a GGUF file (llama.cpp), with the package ``gguf``.

Quantized tensors become float32, as the package dequantizes them. The tokenizer in the file is not
read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lossline.conversion.families import config_from_hf
from lossline.conversion.folder import empty_parameters, fill, listed, named_tensors
from lossline.conversion.llama import LLAMA
from lossline.errors import UserError
from lossline.installing import install_extra
from lossline.models.config import ModelConfig
from lossline.models.llama import LlamaConfig

_ARCHITECTURE = "llama"
_TENSORS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_ENTRIES = {  # of config.json -> of the file, after "llama."
    "vocab_size": "vocab_size",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
_ROTARY_FACTORS = "rope_freqs.weight"
_LLAMA3_FACTORS = (8.0, 32.0)  # of Llama 3.1 and 3.2


def read_gguf(
    path: str | Path, *, param_dtype: str | None = None
) -> tuple[ModelConfig, dict[str, Any]]:
    """Return configuration and parameters of the model in a GGUF file, as ``read_model`` does.

    Args:
        path: the file.
        param_dtype: "float32" or "bfloat16"; None: float32.

    Raises:
        UserError: the package is not installed, or the file is broken or has another model.
    """
    path = Path(path)
    reader = _opened(path)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    config = config_from_hf(
        _entries(path, reader, stored), where=str(path), param_dtype=param_dtype or "float32"
    )
    assert isinstance(config, LlamaConfig)
    if _ROTARY_FACTORS in stored:
        config = _scaled(path, config, stored.pop(_ROTARY_FACTORS).data)
    places = {
        _name(name, layer): (tensor, layer) for name, tensor, layer in named_tensors(LLAMA, config)
    }
    for what, names in (("misses", places.keys() - stored), ("also has", stored.keys() - places)):
        if names:
            raise UserError(
                f"{path} {what} {listed(names)}; only models of Llama type are read, without "
                "biases and experts"
            )
    params = empty_parameters(config)
    for name, (tensor, layer) in places.items():
        values = _dequantized(path, stored[name])
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            values = _halves(values, config.head_dim)
        fill(params, tensor, layer, values, f"{path}: {name}")
    return config, params


def _opened(path: Path) -> Any:
    try:
        import gguf
    except ImportError:
        raise UserError(
            f"{path}: the package gguf is needed to read it: {install_extra('gguf')}"
        ) from None
    try:
        return gguf.GGUFReader(path)
    except (ValueError, IndexError) as error:
        raise UserError(
            f"{path} is not a complete GGUF file ({error}); download it again"
        ) from None


def _entries(path: Path, reader: Any, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of config.json for the metadata of a file."""
    field = reader.fields.get("general.architecture")
    architecture = None if field is None else field.contents()
    if architecture != _ARCHITECTURE:
        raise UserError(
            f"{path}: GGUF architecture {architecture!r} is not supported; supported: "
            f"{_ARCHITECTURE!r}"
        )
    start = f"{_ARCHITECTURE}."
    found = {
        name.removeprefix(start): _shortest(field.contents())
        for name, field in reader.fields.items()
        if name.startswith(start)
    }
    if found.get("attention.sliding_window"):
        raise UserError(f"{path}: a window of attention in a GGUF file is not supported")
    entries = {ours: found[theirs] for ours, theirs in _ENTRIES.items() if theirs in found}
    if "token_embd.weight" in stored:
        entries["vocab_size"] = int(stored["token_embd.weight"].shape[1])
    width, heads = (entries.get(name) for name in ("hidden_size", "num_attention_heads"))
    rotated = found.get("rope.dimension_count")
    if rotated is not None and width and heads:
        head_width = entries.get("head_dim", width // heads)
        entries["partial_rotary_factor"] = rotated / head_width  # other factors than 1 are refused
    kind = found.get("rope.scaling.type", "none")
    if kind != "none":
        entries["rope_scaling"] = {"rope_type": kind, "factor": found.get("rope.scaling.factor")}
    return {
        "model_type": LLAMA.model_type,
        "tie_word_embeddings": "output.weight" not in stored,
        **entries,
    }


def _shortest(value: Any) -> Any:
    """Return a number of 32 bits as the shortest decimal that gives it (1e-05)."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _scaled(path: Path, config: LlamaConfig, factors: np.ndarray) -> LlamaConfig:
    """Return the configuration with the scaling whose divisors of frequencies the file has."""
    wanted = np.asarray(config.rotary_frequencies()) / factors
    for factor in _LLAMA3_FACTORS:
        scaled = dataclasses.replace(config, rope_scaling=factor)
        if np.allclose(scaled.rotary_frequencies(), wanted, rtol=1e-4, atol=0):
            return scaled
    raise UserError(
        f"{path}: {_ROTARY_FACTORS} is not the scaling of rotary positions of Llama 3.1 or 3.2; "
        "use the Hugging Face folder of the model"
    )


def _name(name: str, layer: int | None) -> str:
    """Return the name in a GGUF file of a Hugging Face tensor."""
    start = f"model.layers.{layer}."
    stem = name.removeprefix(start).removesuffix(".weight")
    return f"{'' if layer is None else f'blk.{layer}.'}{_TENSORS[stem]}.weight"


def _dequantized(path: Path, tensor: Any) -> np.ndarray:
    """Return the values of a tensor in float32, with the axes of Hugging Face's."""
    from gguf import quants

    try:
        values = quants.dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError:
        raise UserError(
            f"{path}: {tensor.name} is of kind {tensor.tensor_type.name}, which the package gguf "
            "cannot dequantize; use another quantization of the model"
        ) from None
    return values.reshape([int(size) for size in reversed(tensor.shape)])


def _halves(pairs: np.ndarray, head_dim: int) -> np.ndarray:
    """Return rows of queries or keys in the order of Hugging Face.

    llama.cpp rotates neighbouring channels of a head together, transformers channels that are half
    a head apart.
    """
    by_pair = pairs.reshape(-1, head_dim // 2, 2, pairs.shape[-1])
    return by_pair.swapaxes(1, 2).reshape(pairs.shape)
