"""GPT-2 and GPT-NeoX (Pythia): two tensor layouts of lossline's GPT."""

from __future__ import annotations

from typing import Any

from lossline.conversion.family import Entries, Family
from lossline.conversion.layout import Tensor, tensor
from lossline.conversion.rotary import kind_of, number_of, rotation
from lossline.errors import UserError
from lossline.models.gpt import GPTConfig

# Other names that transformers reads for GPT-2. They take precedence over GPT-2's own names.
_GPT2_ALIASES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
}


def _gpt2_from_hf(tree: Entries) -> dict[str, Any]:
    tree.require("activation_function", "gelu_new", "gelu_pytorch_tanh")
    tree.require("scale_attn_weights", True)
    tree.require("scale_attn_by_inverse_layer_idx", False)
    tree.require("add_cross_attention", False)
    for name, alias in _GPT2_ALIASES.items():
        tree.require_same(alias, tree.whole(name), name)
    return {
        "vocab_size": tree.whole("vocab_size"),
        "width": tree.whole("n_embd"),
        "layers": tree.whole("n_layer"),
        "heads": tree.whole("n_head"),
        "mlp_width": tree.whole("n_inner", 4 * tree.whole("n_embd")),
        "context_length": tree.whole("n_positions"),
        "norm_eps": tree.number("layer_norm_epsilon", 1e-5),
        "tie_embeddings": tree.flag("tie_word_embeddings", True),
        "mlp": "gelu_tanh",
        "biases": True,
    }


def _gpt2_to_hf(config: GPTConfig) -> dict[str, Any]:
    return {
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.mlp_width,
        "n_positions": config.context_length,
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": "gelu_new",
    }


def _gpt2_tensors(config: GPTConfig) -> list[Tensor]:
    layer = "transformer.h.{layer}."
    attention, mlp = layer + "attn.", layer + "mlp."
    # GPT-2's linear layers are "Conv1D": stored as input by output, like lossline's.
    tensors = [
        tensor("transformer.wte.weight", ("embedding", "V D -> V D")),
        tensor("transformer.wpe.weight", ("position_embedding", "P D -> P D")),
        *_norm(layer + "ln_1", "blocks/attention_norm"),
        tensor(
            attention + "c_attn.weight",
            *((f"blocks/attention/{name}", "D H K -> D (H K)") for name in _QKV),
            axis=1,
        ),
        tensor(
            attention + "c_attn.bias",
            *((f"blocks/attention/{name}_bias", "E -> E") for name in _QKV),
        ),
        tensor(attention + "c_proj.weight", ("blocks/attention/out", "H K D -> (H K) D")),
        tensor(attention + "c_proj.bias", ("blocks/attention/out_bias", "D -> D")),
        *_norm(layer + "ln_2", "blocks/mlp_norm"),
        tensor(mlp + "c_fc.weight", ("blocks/mlp/up", "D F -> D F")),
        tensor(mlp + "c_fc.bias", ("blocks/mlp/up_bias", "F -> F")),
        tensor(mlp + "c_proj.weight", ("blocks/mlp/down", "F D -> F D")),
        tensor(mlp + "c_proj.bias", ("blocks/mlp/down_bias", "D -> D")),
        *_norm("transformer.ln_f", "final_norm"),
    ]
    if not config.tie_embeddings:
        tensors.append(tensor("lm_head.weight", ("unembed", "D V -> V D")))
    return tensors


def _neox_from_hf(tree: Entries) -> dict[str, Any]:
    tree.require("hidden_act", "gelu")
    tree.require("attention_bias", True)
    rope = rotation(tree)
    if kind_of(rope) != "default":
        raise UserError(
            f"{tree.where}: rope scaling is not supported for gpt_neox; use a model without it"
        )
    return {
        "vocab_size": tree.whole("vocab_size"),
        "width": tree.whole("hidden_size"),
        "layers": tree.whole("num_hidden_layers"),
        "heads": tree.whole("num_attention_heads"),
        "mlp_width": tree.whole("intermediate_size"),
        "context_length": tree.whole("max_position_embeddings"),
        "norm_eps": tree.number("layer_norm_eps", 1e-5),
        "tie_embeddings": tree.flag("tie_word_embeddings", False),
        "mlp": "gelu",
        "biases": True,
        "positions": "rotary",
        "rope_theta": number_of(tree, rope, "rotary_emb_base", "rope_theta", 1e4),
        "rope_fraction": number_of(tree, rope, "rotary_pct", "partial_rotary_factor", 0.25),
        "parallel": tree.flag("use_parallel_residual", True),
    }


def _neox_to_hf(config: GPTConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.context_length,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": "gelu",
        "attention_bias": True,
        "rotary_emb_base": config.rope_theta,
        "rotary_pct": config.rope_fraction,
        "use_parallel_residual": config.parallel,
    }


def _neox_tensors(config: GPTConfig) -> list[Tensor]:
    layer = "gpt_neox.layers.{layer}."
    attention, mlp = layer + "attention.", layer + "mlp."
    tensors = [
        tensor("gpt_neox.embed_in.weight", ("embedding", "V D -> V D")),
        *_norm(layer + "input_layernorm", "blocks/attention_norm"),
        tensor(
            attention + "query_key_value.weight",
            *((f"blocks/attention/{name}", "D H K -> (H K) D") for name in _QKV),
            heads=config.heads,
        ),
        tensor(
            attention + "query_key_value.bias",
            *((f"blocks/attention/{name}_bias", "E -> E") for name in _QKV),
            heads=config.heads,
        ),
        tensor(attention + "dense.weight", ("blocks/attention/out", "H K D -> D (H K)")),
        tensor(attention + "dense.bias", ("blocks/attention/out_bias", "D -> D")),
        *_norm(layer + "post_attention_layernorm", "blocks/mlp_norm"),
        tensor(mlp + "dense_h_to_4h.weight", ("blocks/mlp/up", "D F -> F D")),
        tensor(mlp + "dense_h_to_4h.bias", ("blocks/mlp/up_bias", "F -> F")),
        tensor(mlp + "dense_4h_to_h.weight", ("blocks/mlp/down", "F D -> D F")),
        tensor(mlp + "dense_4h_to_h.bias", ("blocks/mlp/down_bias", "D -> D")),
        *_norm("gpt_neox.final_layer_norm", "final_norm"),
    ]
    if not config.tie_embeddings:
        tensors.append(tensor("embed_out.weight", ("unembed", "D V -> V D")))
    return tensors


_QKV = ("query", "key", "value")


def _norm(theirs: str, ours: str) -> tuple[Tensor, Tensor]:
    return (
        tensor(theirs + ".weight", (ours + "/scale", "D -> D")),
        tensor(theirs + ".bias", (ours + "/bias", "D -> D")),
    )


def _is_gpt(config: GPTConfig) -> bool:
    """Return whether the options that GPT-2 and GPT-NeoX share are set as in both."""
    return (
        config.norm == "layer"
        and config.norm_bias
        and config.biases is True
        and config.window is None
        and config.unrotated_every is None
        and config.qk_norm == "none"
        and config.embedding_scale is None
        and config.score_width is None
        and config.groups == config.heads
        and config.head_dim * config.heads == config.width
        and not config.post_norm
    )


def _is_gpt2(config: GPTConfig) -> bool:
    alike = config.mlp == "gelu_tanh" and config.positions == "learned" and not config.parallel
    return _is_gpt(config) and alike


def _is_neox(config: GPTConfig) -> bool:
    alike = config.mlp == "gelu" and config.positions == "rotary" and config.rope_scaling == 1.0
    return _is_gpt(config) and alike


GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    config=GPTConfig,
    from_hf=_gpt2_from_hf,
    to_hf=_gpt2_to_hf,
    tensors=_gpt2_tensors,
    writes=_is_gpt2,
    prefix="transformer.",
    ignored=r"\.attn\.(masked_)?bias$",
)
GPT_NEOX = Family(
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    config=GPTConfig,
    from_hf=_neox_from_hf,
    to_hf=_neox_to_hf,
    tensors=_neox_tensors,
    writes=_is_neox,
    prefix="gpt_neox.",
    ignored=r"\.attention\.((masked_)?bias|rotary_emb\.inv_freq)$",
)
