"""Mamba-2, in the form of transformers (state-spaces/mamba2-* converted, Mamba-Codestral)."""

from __future__ import annotations

from typing import Any

from lossline.conversion.family import Entries, Family
from lossline.conversion.layout import Tensor, tensor
from lossline.conversion.mamba import MIXER, all_tensors, has_rms_norms
from lossline.errors import UserError
from lossline.models.mamba2 import Mamba2Config

# Limits of the step sizes that limit nothing. The last is how transformers 5 writes infinity.
_NO_LIMITS = (None, [0.0, float("inf")], [0.0, {"__float__": "Infinity"}])


def _from_hf(tree: Entries) -> dict[str, Any]:
    tree.require("hidden_act", "silu")
    tree.require("use_bias", False)
    tree.require("use_conv_bias", True)
    tree.require("time_step_limit", *_NO_LIMITS)
    width, expand = tree.whole("hidden_size"), tree.number("expand", 2)
    heads, channels = tree.whole("num_heads"), tree.whole("head_dim")
    if expand != int(expand) or heads * channels != expand * width:
        raise UserError(
            f"{tree.where}: num_heads {heads} times head_dim {channels} is not expand {expand:g}"
            f" times hidden_size {width}, with a whole expand; other sizes are not supported"
        )
    return {
        "vocab_size": tree.whole("vocab_size"),
        "width": width,
        "layers": tree.whole("num_hidden_layers"),
        "expand": int(expand),
        "state": tree.whole("state_size"),
        "conv": tree.whole("conv_kernel", 4),
        "head_channels": channels,
        "map_groups": tree.whole("n_groups"),
        "norm_eps": tree.number("layer_norm_epsilon", 1e-5),
        # A recurrent model has no maximum context; the public ones were trained with 2048.
        "context_length": tree.whole("max_position_embeddings", 2048),
        "tie_embeddings": tree.flag("tie_word_embeddings", False),
    }


def _to_hf(config: Mamba2Config) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "expand": config.expand,
        "num_hidden_layers": config.layers,
        "num_heads": config.inner_heads,
        "head_dim": config.head_channels,
        "state_size": config.state,
        "n_groups": config.map_groups,
        "conv_kernel": config.conv,
        "time_step_min": config.dt_min,
        "time_step_max": config.dt_max,
        "layer_norm_epsilon": config.norm_eps,
        "hidden_act": "silu",
        "use_bias": False,
        "use_conv_bias": True,
        "residual_in_fp32": True,
        "max_position_embeddings": config.context_length,
    }


def _mixer() -> list[Tensor]:
    ours, parts = "blocks/mixer/", ("x", "input_map", "output_map")
    return [
        tensor(
            MIXER + "in_proj.weight",
            *((ours + f"in_{part}", "D E -> E D") for part in ("gate", *parts, "step")),
        ),
        tensor(
            MIXER + "conv1d.weight", *((ours + f"conv_{part}", "C E -> E 1 C") for part in parts)
        ),
        tensor(MIXER + "conv1d.bias", *((ours + f"conv_{part}_bias", "E -> E") for part in parts)),
        tensor(MIXER + "dt_bias", (ours + "step_bias", "H -> H")),
        tensor(MIXER + "A_log", (ours + "log_decay", "H -> H")),
        tensor(MIXER + "D", (ours + "skip", "H -> H")),
        tensor(MIXER + "norm.weight", (ours + "norm", "E -> E")),
        tensor(MIXER + "out_proj.weight", (ours + "out", "E D -> D E")),
    ]


MAMBA2 = Family(
    model_type="mamba2",
    architecture="Mamba2ForCausalLM",
    config=Mamba2Config,
    from_hf=_from_hf,
    to_hf=_to_hf,
    tensors=lambda config: all_tensors(config, _mixer()),
    writes=has_rms_norms,
    prefix="backbone.",
)
