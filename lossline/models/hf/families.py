"""The model types that can be read and written: their options, and the names of their tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lossline.errors import UserError
from lossline.models.config import ModelConfig
from lossline.models.hf.layout import Tensor, tensor
from lossline.models.llama import LlamaConfig
from lossline.models.mamba import MambaConfig


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model type.

    Attributes:
        model_type: as in config.json.
        architecture: the class that transformers loads it with.
        config: class of our configuration.
        from_hf: config.json -> options of ours.
        to_hf: ours -> entries of config.json beside the common ones.
        tensors: all tensors of a configuration.
        ignored: names of buffers that follow from the configuration and carry nothing.
    """

    model_type: str
    architecture: str
    config: type[ModelConfig]
    from_hf: Callable[[Mapping[str, Any]], dict[str, Any]]
    to_hf: Callable[[Any], dict[str, Any]]
    tensors: Callable[[Any], list[Tensor]]
    ignored: str = r"$^"


def family_of(config: ModelConfig) -> Family:
    """The family that writes a configuration of ours.

    Raises:
        UserError: none does.
    """
    for family in FAMILIES.values():
        if type(config) is family.config:
            return family
    raise UserError(
        f"models of family {config.family} have no Hugging Face form here; those that have: "
        f"{', '.join(FAMILIES)}"
    )


def config_from_hf(tree: Mapping[str, Any], *, where: str, param_dtype: str) -> ModelConfig:
    """Our configuration for a config.json.

    Args:
        tree: its content.
        where: its path, for messages.
        param_dtype: of our parameters.

    Raises:
        UserError: a model type or an option that we do not have.
    """
    model_type = tree.get("model_type")
    if model_type not in FAMILIES:
        raise UserError(
            f"{where}: model_type {model_type!r} is not supported; these are: {', '.join(FAMILIES)}"
        )
    family = FAMILIES[model_type]
    try:
        options = family.from_hf(_Entries(tree, where))
    except KeyError as error:
        raise UserError(
            f"{where}: has no entry {error.args[0]!r}, which a {model_type} needs; "
            "complete the file as its model's source has it"
        ) from None
    return family.config(**options, param_dtype=param_dtype)


class _Entries(dict[str, Any]):
    """config.json, which refuses what our models cannot compute."""

    def __init__(self, tree: Mapping[str, Any], where: str) -> None:
        super().__init__(tree)
        self._where = where

    def require(self, name: str, *allowed: Any) -> None:
        """The first of ``allowed`` is also what an absent entry means."""
        value = self.get(name, allowed[0])
        if value not in allowed:
            raise UserError(
                f"{self._where}: {name} = {value!r} is not supported; only "
                f"{' or '.join(repr(choice) for choice in allowed)} is"
            )


# --- Llama ---------------------------------------------------------------------------------------


def _llama_from_hf(tree: _Entries) -> dict[str, Any]:
    tree.require("hidden_act", "silu")
    tree.require("attention_bias", False)
    tree.require("mlp_bias", False)
    # transformers 5 moved rope_theta and rope_scaling into rope_parameters
    rope = tree.get("rope_parameters") or {}
    scaling = tree.get("rope_scaling") or {key: v for key, v in rope.items() if key != "rope_theta"}
    if scaling and scaling.get("rope_type", scaling.get("type")) != "default":
        raise UserError(f"{tree._where}: rope scaling {scaling} is not supported; only none is")
    width, heads = tree["hidden_size"], tree["num_attention_heads"]
    tree.require("head_dim", width // heads, None)
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
    }


def _llama_to_hf(config: LlamaConfig) -> dict[str, Any]:
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
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": config.context_length,
    }


def _llama_tensors(config: LlamaConfig) -> list[Tensor]:
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


# --- Mamba ---------------------------------------------------------------------------------------


def _mamba_from_hf(tree: _Entries) -> dict[str, Any]:
    tree.require("hidden_act", "silu")
    tree.require("use_bias", False)
    tree.require("use_conv_bias", True)
    width = tree["hidden_size"]
    inner = tree.get("intermediate_size") or tree.get("expand", 2) * width
    if inner % width:
        raise UserError(
            f"{tree._where}: intermediate_size {inner} is no multiple of hidden_size {width}; "
            "only whole multiples are supported"
        )
    rank = tree.get("time_step_rank", "auto")
    return {
        "vocab_size": tree["vocab_size"],
        "width": width,
        "layers": tree["num_hidden_layers"],
        "expand": inner // width,
        "state": tree.get("state_size", 16),
        "conv": tree.get("conv_kernel", 4),
        "dt_rank": None if rank == "auto" else rank,
        "norm_eps": tree.get("layer_norm_epsilon", 1e-5),
        # A recurrent model has no longest context; this is the one that the public ones were
        # trained with.
        "context_length": tree.get("max_position_embeddings", 2048),
        "tie_embeddings": tree.get("tie_word_embeddings", True),
    }


def _mamba_to_hf(config: MambaConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "intermediate_size": config.inner,
        "expand": config.expand,
        "num_hidden_layers": config.layers,
        "state_size": config.state,
        "conv_kernel": config.conv,
        "time_step_rank": config.step_rank,
        "time_step_min": config.dt_min,
        "time_step_max": config.dt_max,
        "layer_norm_epsilon": config.norm_eps,
        "hidden_act": "silu",
        "use_bias": False,
        "use_conv_bias": True,
        "residual_in_fp32": True,
        "max_position_embeddings": config.context_length,
    }


def _mamba_tensors(config: MambaConfig) -> list[Tensor]:
    layer = "backbone.layers.{layer}."
    mixer, ours = layer + "mixer.", "blocks/mixer/"
    tensors = [
        tensor("backbone.embeddings.weight", ("embedding", "V D -> V D")),
        tensor(layer + "norm.weight", ("blocks/norm/scale", "D -> D")),
        tensor(
            mixer + "in_proj.weight",
            (ours + "in_x", "D E -> E D"),
            (ours + "in_gate", "D E -> E D"),
        ),
        tensor(mixer + "conv1d.weight", (ours + "conv", "C E -> E 1 C")),
        tensor(mixer + "conv1d.bias", (ours + "conv_bias", "E -> E")),
        tensor(
            mixer + "x_proj.weight",
            (ours + "step_down", "E R -> R E"),
            (ours + "input_map", "E N -> N E"),
            (ours + "output_map", "E N -> N E"),
        ),
        tensor(mixer + "dt_proj.weight", (ours + "step_up", "R E -> E R")),
        tensor(mixer + "dt_proj.bias", (ours + "step_bias", "E -> E")),
        tensor(mixer + "A_log", (ours + "log_decay", "N E -> E N")),
        tensor(mixer + "D", (ours + "skip", "E -> E")),
        tensor(mixer + "out_proj.weight", (ours + "out", "E D -> D E")),
        tensor("backbone.norm_f.weight", ("final_norm/scale", "D -> D")),
    ]
    if not config.tie_embeddings:
        tensors.append(tensor("lm_head.weight", ("unembed", "D V -> V D")))
    return tensors


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(
            model_type="llama",
            architecture="LlamaForCausalLM",
            config=LlamaConfig,
            from_hf=_llama_from_hf,  # type: ignore[arg-type]
            to_hf=_llama_to_hf,
            tensors=_llama_tensors,
            ignored=r"rotary_emb\.inv_freq$",
        ),
        Family(
            model_type="mamba",
            architecture="MambaForCausalLM",
            config=MambaConfig,
            from_hf=_mamba_from_hf,  # type: ignore[arg-type]
            to_hf=_mamba_to_hf,
            tensors=_mamba_tensors,
        ),
    )
}


def is_ignored(family: Family, config: ModelConfig, name: str) -> bool:
    """Whether a tensor of a folder carries nothing: a buffer, or the head of tied embeddings."""
    tied = config.tie_embeddings and name == "lm_head.weight"
    return tied or re.search(family.ignored, name) is not None
