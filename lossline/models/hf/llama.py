"""Llama, and what else is written as model_type "llama" (TinyLlama, SmolLM, Llama 2 and 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lossline.errors import UserError
from lossline.models.hf.family import Entries, Family
from lossline.models.hf.layout import Tensor, tensor
from lossline.models.llama import LlamaConfig


def _from_hf(tree: Entries) -> dict[str, Any]:
    tree.require("hidden_act", "silu")
    tree.require("attention_bias", False)
    tree.require("mlp_bias", False)
    width, heads = tree["hidden_size"], tree["num_attention_heads"]
    tree.require("head_dim", width // heads, None)
    # transformers 5 moved rope_theta and rope_scaling into rope_parameters
    rope = tree.get("rope_parameters") or {}
    return {
        "vocab_size": tree["vocab_size"],
        "width": width,
        "layers": tree["num_hidden_layers"],
        "heads": heads,
        "kv_heads": tree.get("num_key_value_heads") or heads,
        "mlp_width": tree["intermediate_size"],
        "context_length": tree["max_position_embeddings"],
        "rope_theta": float(tree.get("rope_theta") or rope.get("rope_theta") or 1e4),
        "norm_eps": tree["rms_norm_eps"],
        "tie_embeddings": tree.get("tie_word_embeddings", False),
        **_scaling_from_hf(tree, tree.get("rope_scaling") or rope),
    }


def _scaling_from_hf(tree: Entries, scaling: Mapping[str, Any]) -> dict[str, Any]:
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return {}
    if kind != "llama3":
        raise UserError(
            f"{tree.where}: rope scaling of type {kind!r} is not supported; only 'llama3' is"
        )
    return {
        "rope_scaling": float(scaling["factor"]),
        "rope_low": float(scaling["low_freq_factor"]),
        "rope_high": float(scaling["high_freq_factor"]),
        "rope_original": scaling["original_max_position_embeddings"],
    }


def _scaling_to_hf(config: LlamaConfig) -> dict[str, Any] | None:
    if config.rope_scaling == 1.0:
        return None
    return {
        "rope_type": "llama3",
        "factor": config.rope_scaling,
        "low_freq_factor": config.rope_low,
        "high_freq_factor": config.rope_high,
        "original_max_position_embeddings": config.rope_original,
    }


def _to_hf(config: LlamaConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.groups,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": _scaling_to_hf(config),
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": config.context_length,
    }


def _tensors(config: LlamaConfig) -> list[Tensor]:
    layer = "model.layers.{layer}."
    tensors = [
        tensor("model.embed_tokens.weight", ("embedding", "V D -> V D")),
        tensor(layer + "input_layernorm.weight", ("blocks/attention_norm/scale", "D -> D")),
        tensor(layer + "self_attn.q_proj.weight", ("blocks/attention/query", "D H K -> (H K) D")),
        tensor(layer + "self_attn.k_proj.weight", ("blocks/attention/key", "D G K -> (G K) D")),
        tensor(layer + "self_attn.v_proj.weight", ("blocks/attention/value", "D G K -> (G K) D")),
        tensor(layer + "self_attn.o_proj.weight", ("blocks/attention/out", "H K D -> D (H K)")),
        tensor(layer + "post_attention_layernorm.weight", ("blocks/mlp_norm/scale", "D -> D")),
        tensor(layer + "mlp.gate_proj.weight", ("blocks/mlp/gate", "D F -> F D")),
        tensor(layer + "mlp.up_proj.weight", ("blocks/mlp/up", "D F -> F D")),
        tensor(layer + "mlp.down_proj.weight", ("blocks/mlp/down", "F D -> D F")),
        tensor("model.norm.weight", ("final_norm/scale", "D -> D")),
    ]
    if not config.tie_embeddings:
        tensors.append(tensor("lm_head.weight", ("unembed", "D V -> V D")))
    return tensors


def _is_plain(config: LlamaConfig) -> bool:
    return (
        config.mlp == "swiglu"
        and config.norm == "rms"
        and config.positions == "rotary"
        and config.rope_fraction == 1.0
        and config.qk_norm == "none"
        and not (config.biases or config.parallel)
    )


LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    config=LlamaConfig,
    from_hf=_from_hf,
    to_hf=_to_hf,
    tensors=_tensors,
    writes=_is_plain,
    prefix="model.",
    ignored=r"rotary_emb\.inv_freq$",
)
