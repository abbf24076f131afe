"""Gemma 3: text models, and the text part of models that also read images.

It has norms before and after attention and MLP, whose scales are stored less 1, scaled embeddings,
a gated MLP with GELU, and windows in five of six layers, with their own base of rotary positions.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from lossline.conversion.family import Entries, Family
from lossline.conversion.layout import Tensor
from lossline.conversion.llama import (
    LAYER_TYPES,
    QK_NORMS,
    common_from_hf,
    has_options,
    layer_types,
    matrices,
    normed_to_hf,
    norms,
    windows_from_hf,
)
from lossline.conversion.rotary import kind_of, number_of
from lossline.errors import UserError
from lossline.models.llama import LlamaConfig

_ACTIVATION = "gelu_pytorch_tanh"
# What transformers uses where config.json says nothing: published files are that short.
_DEFAULTS = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
}
_THETA, _WINDOW_THETA = 1e6, 1e4
# Options of rotary positions that layers with a window do not have.
_FULL_ONLY = ("rope_scaling", "rope_scaling_kind", "rope_low", "rope_high", "rope_original")
_NORMS = {
    "attention_norm": "input_layernorm",
    "attended_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_out_norm": "post_feedforward_layernorm",
    **QK_NORMS,
}
_OPTIONS = {
    "mlp": "geglu_tanh",
    "post_norm": "both",
    "norm_offset": 1.0,
    "embedding_scale": "sqrt_width",
    "qk_norm": "head",
}


def _text_from_hf(tree: Entries) -> dict[str, Any]:
    tree.require("hidden_activation", _ACTIVATION)
    tree.require("attn_logit_softcapping", None)
    tree.require("final_logit_softcapping", None)
    tree.require("use_bidirectional_attention", False, None)
    full, near = _rotations(tree)
    known = {**_DEFAULTS, **tree, "rope_scaling": dict(full), "rope_parameters": None}
    known.pop("hidden_act", None)  # transformers reads hidden_activation
    known = Entries(known, tree.where)
    options = common_from_hf(known, theta=_THETA, tied=True, layered=True)
    options |= windows_from_hf(
        known, options["layers"], every=tree.whole("sliding_window_pattern", 6)
    )
    near_theta = number_of(tree, near, "rope_local_base_freq", "rope_theta", _WINDOW_THETA)
    if "window" in options and options["full_every"] is None:
        options = {name: value for name, value in options.items() if name not in _FULL_ONLY}
        options["rope_theta"] = near_theta
    elif "window" in options and ("rope_scaling" in options or near_theta != options["rope_theta"]):
        options["window_theta"] = near_theta
    divisor, own = known.whole("query_pre_attn_scalar", 256), known.whole("head_dim")
    return {
        **options,
        **_OPTIONS,
        "norm_eps": known.number("rms_norm_eps"),
        "score_width": None if divisor == own else divisor,
    }


def _rotations(tree: Entries) -> tuple[Entries, Entries]:
    """Return the rotary positions of layers without a window and with one.

    Transformers 4 writes a base for each and one scaling, which the layers with a window do not
    have; transformers 5 writes a section for each.
    """
    parameters, scaling = tree.section("rope_parameters"), tree.section("rope_scaling")
    if others := sorted(set(parameters) - set(LAYER_TYPES)):
        raise UserError(
            f"{tree.where}: rope_parameters has {', '.join(others)}, but a Gemma 3 has only "
            f"sections {' and '.join(LAYER_TYPES)} there; download the file again"
        )
    full, near = (parameters.section(name) for name in LAYER_TYPES)
    if scaling and full:
        tree.require_same("rope_scaling", dict(full), f"{LAYER_TYPES[0]} of rope_parameters")
    if kind_of(near) != "default":
        raise UserError(
            f"{tree.where}: rope scaling of type {kind_of(near)!r} in layers with a window is not "
            "supported; use a model without it"
        )
    near.require("partial_rotary_factor", None, 1.0)
    return full or scaling, near


def _text_to_hf(config: LlamaConfig) -> dict[str, Any]:
    entries = normed_to_hf(config)
    del entries["hidden_act"]
    return {
        **entries,
        "hidden_activation": _ACTIVATION,
        "query_pre_attn_scalar": config.score_width or config.head_dim,
        # transformers needs a window even if no layer has one.
        "sliding_window": config.window or config.context_length,
        "layer_types": layer_types(config),
        "rope_local_base_freq": config.window_theta or config.rope_theta,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "use_bidirectional_attention": False,
    }


def _writes(config: LlamaConfig) -> bool:
    patterns = ("score_width", "window", "full_every", "window_theta")
    options = {name: getattr(config, name) for name in patterns}
    # Layers with a window are never scaled, and transformers wants heads that divide the width.
    alike = config.rope_scaling != 1.0 and config.window is not None and not config.window_theta
    return (
        has_options(**_OPTIONS, **options)(config)
        and config.width % config.heads == 0
        and not alike
    )


def _text_tensors(config: LlamaConfig) -> list[Tensor]:
    return matrices(config) + norms(**_NORMS)


def _from_hf(tree: Entries) -> dict[str, Any]:
    text = tree.section("text_config")
    text.require("model_type", "gemma3_text")
    text.require("is_causal", True, None)
    text.require("per_layer_config", None, {})
    text.require("quantization_config", None, {})
    for entries in (tree, text):
        entries.require("tie_word_embeddings", True)
    return _text_from_hf(text)


def _tensors(config: LlamaConfig) -> list[Tensor]:
    return [
        dataclasses.replace(tensor, name=f"language_model.{tensor.name}")
        for tensor in _text_tensors(config)
    ]


GEMMA3_TEXT = Family(
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    config=LlamaConfig,
    from_hf=_text_from_hf,
    to_hf=_text_to_hf,
    tensors=_text_tensors,
    writes=_writes,
    prefix="model.",
)

GEMMA3 = Family(
    model_type="gemma3",
    architecture="Gemma3ForConditionalGeneration",
    config=LlamaConfig,
    from_hf=_from_hf,
    to_hf=_text_to_hf,
    tensors=_tensors,
    prefix="language_model.model.",
    other_prefixes=("model.language_model.",),
    is_only_read=True,
    # The parts that read images.
    ignored=r"^(model\.)?(vision_tower|multi_modal_projector)\.",
)
