"""Llama (TinyLlama, SmolLM, Llama 2 and 3) and related models.

Mistral has a window; Qwen 2 has biases of queries, keys and values, Qwen 3 norms of queries and
keys; SmolLM 3 has layers without positions; OLMo has norms without parameters; OLMo 2 norms
outputs, queries and keys; OLMo 3 adds a window in most layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lossline.conversion.family import Entries, Family
from lossline.conversion.layout import Tensor, tensor
from lossline.conversion.rotary import kind_of, number_of, rotation
from lossline.errors import UserError
from lossline.models.llama import LlamaConfig

LAYER_TYPES = ("full_attention", "sliding_attention")


def common_from_hf(
    tree: Entries, *, theta: float = 1e4, tied: bool = False, layered: bool = False
) -> dict[str, Any]:
    """Return the options that all these types have.

    Args:
        tree: entries of config.json.
        theta: base of the rotary positions if config.json has none.
        tied: whether embeddings are tied if config.json does not say.
        layered: whether the caller reads the types of the layers.
    """
    tree.require("hidden_act", "silu")
    tree.require("attention_bias", False)
    tree.require("mlp_bias", False)
    tree.require("use_sliding_window", False)
    width, heads = tree.whole("hidden_size"), tree.whole("num_attention_heads")
    layers, rope = tree.whole("num_hidden_layers"), rotation(tree)
    if not layered:
        tree.require("layer_types", None, ["full_attention"] * layers)
    for entries in (tree, rope):
        entries.require("partial_rotary_factor", None, 1.0)
    return {
        "vocab_size": tree.whole("vocab_size"),
        "width": width,
        "layers": layers,
        "heads": heads,
        "head_width": _head_width_from_hf(tree, width, heads),
        "kv_heads": tree.whole("num_key_value_heads", heads),
        "mlp_width": tree.whole("intermediate_size"),
        "context_length": tree.whole("max_position_embeddings"),
        "rope_theta": number_of(tree, rope, "rope_theta", "rope_theta", theta),
        "tie_embeddings": tree.flag("tie_word_embeddings", tied),
        **_scaling_from_hf(tree, rope),
    }


def _head_width_from_hf(tree: Entries, width: int, heads: int) -> int | None:
    if tree.get("head_dim") is None:
        return None
    head_width = tree.whole("head_dim")
    return None if head_width * heads == width else head_width


def _llama_from_hf(tree: Entries) -> dict[str, Any]:
    return {**common_from_hf(tree), "norm_eps": tree.number("rms_norm_eps")}


def _mistral_from_hf(tree: Entries) -> dict[str, Any]:
    # Without the entry transformers uses 4096; null means no window.
    windowed = tree.get("sliding_window", 4096) is not None
    window = tree.whole("sliding_window", 4096) if windowed else None
    return {**_llama_from_hf(tree), "window": window}


def _qwen2_from_hf(tree: Entries) -> dict[str, Any]:
    return {**_llama_from_hf(tree), "biases": "qkv"}


def _smollm3_from_hf(tree: Entries) -> dict[str, Any]:
    options = common_from_hf(tree, theta=2e6, tied=True)
    layers, interval = options["layers"], tree.whole("no_rope_layer_interval", 4)
    rotated = tree.get("no_rope_layers") or _all_but_nth(layers, interval)
    every = _period(tree, "no_rope_layers", [not turns for turns in rotated])
    return {**options, "norm_eps": tree.number("rms_norm_eps"), "unrotated_every": every}


def _qwen3_from_hf(tree: Entries) -> dict[str, Any]:
    tree.whole("head_dim")  # required: without it transformers uses 128 for any width
    return {**_llama_from_hf(tree), "qk_norm": "head"}


def _olmo_from_hf(tree: Entries) -> dict[str, Any]:
    tree.require("clip_qkv", None)
    return {**common_from_hf(tree), "norm": "layer", "norm_scale": False}


def _olmo2_from_hf(tree: Entries) -> dict[str, Any]:
    return {**_llama_from_hf(tree), "post_norm": True, "qk_norm": "width"}


def _olmo3_from_hf(tree: Entries) -> dict[str, Any]:
    theta, parameters = 5e5, tree.section("rope_parameters")
    kinds = [parameters.get(name) for name in LAYER_TYPES]
    if isinstance(kinds[0], dict) and kinds[0] == kinds[1]:
        tree = Entries({**tree, "rope_parameters": kinds[0]}, tree.where)
    elif not parameters:
        # transformers 5 gives a base beside the object only to the layers without a window.
        tree.require("rope_theta", theta, None)
    options = common_from_hf(tree, theta=theta, layered=True)
    norms = {"post_norm": True, "qk_norm": "width", "norm_eps": tree.number("rms_norm_eps", 1e-5)}
    return {**options, **norms, **windows_from_hf(tree, options["layers"], every=4)}


def windows_from_hf(tree: Entries, layers: int, *, every: int) -> dict[str, Any]:
    """Return the window, and which layers have none, from the types of the layers.

    Args:
        tree: entries of config.json.
        layers: number of layers.
        every: n: every n-th layer has no window if config.json does not say.
    """
    windowed = _all_but_nth(layers, every)
    kinds = tree.get("layer_types") or [LAYER_TYPES[has_window] for has_window in windowed]
    if not set(kinds) <= set(LAYER_TYPES):
        raise UserError(f"{tree.where}: layer_types has others than {' and '.join(LAYER_TYPES)}")
    full = [kind == LAYER_TYPES[False] for kind in kinds]
    if all(full):
        return {}
    return {
        "window": tree.whole("sliding_window", 4096),
        "full_every": _period(tree, "layer_types", full),
    }


def layer_types(config: LlamaConfig) -> list[str]:
    """Return the type of each layer, as in config.json."""
    windowed = _all_but_nth(config.layers, config.full_every)
    return [LAYER_TYPES[config.window is not None and bool(is_near)] for is_near in windowed]


def _all_but_nth(layers: int, every: int | None) -> list[int]:
    """Return 0 for every n-th layer and 1 for the others."""
    return [int(every is None or (layer + 1) % every != 0) for layer in range(layers)]


def _period(tree: Entries, name: str, chosen: list[bool]) -> int | None:
    """Return n if every n-th layer is chosen; None if no layer is."""
    if not any(chosen):
        return None
    every = chosen.index(True) + 1
    if every == 1 or chosen != [not other for other in _all_but_nth(len(chosen), every)]:
        raise UserError(
            f"{tree.where}: {name} is not supported, since it is no pattern of every n-th layer; "
            "use a model with such a pattern"
        )
    return every


def _scaling_from_hf(tree: Entries, scaling: Entries) -> dict[str, Any]:
    kind = kind_of(scaling)
    if kind == "default":
        return {}
    if kind == "linear":
        factor = scaling.number("factor")
        return {} if factor == 1.0 else {"rope_scaling": factor, "rope_scaling_kind": "linear"}
    if kind != "llama3":
        raise UserError(
            f"{tree.where}: rope scaling of type {kind!r} is not supported; supported: 'llama3', "
            "'linear'"
        )
    original = "original_max_position_embeddings"
    scaling = Entries({original: tree.get(original), **scaling}, tree.where)
    tree.require_same(original, scaling[original], f"{original} of the rotary positions")
    return {
        "rope_scaling": scaling.number("factor"),
        "rope_low": scaling.number("low_freq_factor"),
        "rope_high": scaling.number("high_freq_factor"),
        "rope_original": scaling.whole(original),
    }


def _scaling_to_hf(config: LlamaConfig) -> dict[str, Any] | None:
    if config.rope_scaling == 1.0:
        return None
    if config.rope_scaling_kind == "linear":
        return {"rope_type": "linear", "factor": config.rope_scaling}
    return {
        "rope_type": "llama3",
        "factor": config.rope_scaling,
        "low_freq_factor": config.rope_low,
        "high_freq_factor": config.rope_high,
        "original_max_position_embeddings": config.rope_original,
    }


def _common_to_hf(config: LlamaConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.groups,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "rope_scaling": _scaling_to_hf(config),
        "attention_bias": False,
        "max_position_embeddings": config.context_length,
    }


def _llama_to_hf(config: LlamaConfig) -> dict[str, Any]:
    return {**_common_to_hf(config), "rms_norm_eps": config.norm_eps, "mlp_bias": False}


def _olmo_to_hf(config: LlamaConfig) -> dict[str, Any]:
    return {**_common_to_hf(config), "clip_qkv": None}


def _mistral_to_hf(config: LlamaConfig) -> dict[str, Any]:
    return {**normed_to_hf(config), "sliding_window": config.window}


def _smollm3_to_hf(config: LlamaConfig) -> dict[str, Any]:
    return {
        **_llama_to_hf(config),
        "no_rope_layer_interval": config.unrotated_every,
        "no_rope_layers": _all_but_nth(config.layers, config.unrotated_every),
        "use_sliding_window": False,
        "sliding_window": None,
    }


def _olmo3_to_hf(config: LlamaConfig) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    return {
        **normed_to_hf(config),
        "rope_parameters": {name: rope for name in LAYER_TYPES},
        "sliding_window": config.window,
        "layer_types": layer_types(config),
    }


def normed_to_hf(config: LlamaConfig) -> dict[str, Any]:
    """Return the entries of config.json that all types with RMSNorm have."""
    return {**_common_to_hf(config), "rms_norm_eps": config.norm_eps}


def matrices(config: LlamaConfig) -> list[Tensor]:
    """Return embeddings and weight matrices."""
    layer = "model.layers.{layer}."
    tensors = [
        tensor("model.embed_tokens.weight", ("embedding", "V D -> V D")),
        tensor(layer + "self_attn.q_proj.weight", ("blocks/attention/query", "D H K -> (H K) D")),
        tensor(layer + "self_attn.k_proj.weight", ("blocks/attention/key", "D G K -> (G K) D")),
        tensor(layer + "self_attn.v_proj.weight", ("blocks/attention/value", "D G K -> (G K) D")),
        tensor(layer + "self_attn.o_proj.weight", ("blocks/attention/out", "H K D -> D (H K)")),
        tensor(layer + "mlp.gate_proj.weight", ("blocks/mlp/gate", "D F -> F D")),
        tensor(layer + "mlp.up_proj.weight", ("blocks/mlp/up", "D F -> F D")),
        tensor(layer + "mlp.down_proj.weight", ("blocks/mlp/down", "F D -> D F")),
    ]
    if not config.tie_embeddings:
        tensors.append(tensor("lm_head.weight", ("unembed", "D V -> V D")))
    return tensors


def norms(**names: str) -> list[Tensor]:
    """Return the norm scales of a block and the final norm.

    Args:
        **names: lossline's name in a block (``__`` stands for the slash) -> Hugging Face's name.
    """
    return [
        *(
            tensor(
                f"model.layers.{{layer}}.{theirs}.weight",
                (f"blocks/{ours.replace('__', '/')}/scale", "D -> D"),
            )
            for ours, theirs in names.items()
        ),
        tensor("model.norm.weight", ("final_norm/scale", "D -> D")),
    ]


def _biases() -> list[Tensor]:
    """Return the biases of queries, keys and values."""
    return [
        tensor(
            f"model.layers.{{layer}}.self_attn.{theirs}_proj.bias",
            (f"blocks/attention/{ours}_bias", "E -> E"),
        )
        for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value"))
    ]


_PRE_NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
_POST_NORMS = {
    "attention_norm": "post_attention_layernorm",
    "mlp_norm": "post_feedforward_layernorm",
}
QK_NORMS = {
    "attention__query_norm": "self_attn.q_norm",
    "attention__key_norm": "self_attn.k_norm",
}


def has_options(**wanted: Any) -> Callable[[LlamaConfig], bool]:
    """Return a function that checks for Llama's options, except for the ``wanted`` ones."""
    options = {
        "mlp": "swiglu",
        "norm": "rms",
        "norm_scale": True,
        "norm_offset": None,
        "embedding_scale": None,
        "score_width": None,
        "positions": "rotary",
        "rope_fraction": 1.0,
        "qk_norm": "none",
        "post_norm": False,
        "biases": False,
        "parallel": False,
        "unrotated_every": None,
        "window": None,
        "full_every": None,
        "window_theta": None,
        **wanted,
    }
    return lambda config: all(getattr(config, name) == value for name, value in options.items())


LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    config=LlamaConfig,
    from_hf=_llama_from_hf,
    to_hf=_llama_to_hf,
    tensors=lambda config: matrices(config) + norms(**_PRE_NORMS),
    # transformers opens a Llama only if the heads divide the width, even with head_dim given.
    writes=lambda config: has_options()(config) and config.width % config.heads == 0,
    prefix="model.",
    ignored=r"rotary_emb\.inv_freq$",
)

MISTRAL = Family(
    model_type="mistral",
    architecture="MistralForCausalLM",
    config=LlamaConfig,
    from_hf=_mistral_from_hf,
    to_hf=_mistral_to_hf,
    tensors=lambda config: matrices(config) + norms(**_PRE_NORMS),
    writes=lambda config: has_options(window=config.window)(config),
    prefix="model.",
)

QWEN2 = Family(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    config=LlamaConfig,
    from_hf=_qwen2_from_hf,
    to_hf=normed_to_hf,
    tensors=lambda config: matrices(config) + _biases() + norms(**_PRE_NORMS),
    writes=has_options(biases="qkv"),
    prefix="model.",
)

SMOLLM3 = Family(
    model_type="smollm3",
    architecture="SmolLM3ForCausalLM",
    config=LlamaConfig,
    from_hf=_smollm3_from_hf,
    to_hf=_smollm3_to_hf,
    tensors=lambda config: matrices(config) + norms(**_PRE_NORMS),
    writes=lambda config: has_options(unrotated_every=config.unrotated_every)(config),
    prefix="model.",
)

QWEN3 = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    config=LlamaConfig,
    from_hf=_qwen3_from_hf,
    to_hf=normed_to_hf,
    tensors=lambda config: matrices(config) + norms(**_PRE_NORMS, **QK_NORMS),
    writes=has_options(qk_norm="head"),
    prefix="model.",
)

OLMO = Family(
    model_type="olmo",
    architecture="OlmoForCausalLM",
    config=LlamaConfig,
    from_hf=_olmo_from_hf,
    to_hf=_olmo_to_hf,
    tensors=matrices,
    writes=lambda config: (
        has_options(norm="layer", norm_scale=False)(config) and config.norm_eps == 1e-5
    ),
    prefix="model.",
)

OLMO2 = Family(
    model_type="olmo2",
    architecture="Olmo2ForCausalLM",
    config=LlamaConfig,
    from_hf=_olmo2_from_hf,
    to_hf=normed_to_hf,
    tensors=lambda config: matrices(config) + norms(**_POST_NORMS, **QK_NORMS),
    writes=has_options(qk_norm="width", post_norm=True),
    prefix="model.",
)

OLMO3 = Family(
    model_type="olmo3",
    architecture="Olmo3ForCausalLM",
    config=LlamaConfig,
    from_hf=_olmo3_from_hf,
    to_hf=_olmo3_to_hf,
    tensors=OLMO2.tensors,
    writes=lambda config: (
        config.rope_scaling == 1.0
        and has_options(
            qk_norm="width", post_norm=True, window=config.window, full_every=config.full_every
        )(config)
    ),
    prefix="model.",
)
