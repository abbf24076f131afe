"""Mamba-1, in the form of the folders ``state-spaces/mamba-*-hf``."""

from __future__ import annotations

from typing import Any

from lossline.conversion.family import Entries, Family
from lossline.conversion.layout import Tensor, tensor
from lossline.errors import UserError
from lossline.models.mamba import MambaConfig
from lossline.models.state_space import StateSpaceConfig


def _from_hf(tree: Entries) -> dict[str, Any]:
    tree.require("hidden_act", "silu")
    tree.require("use_bias", False)
    tree.require("use_conv_bias", True)
    width = tree.whole("hidden_size")
    inner = tree.number("intermediate_size", tree.number("expand", 2) * width)
    if not inner or inner % width:
        raise UserError(
            f"{tree.where}: intermediate_size {inner:g} is not a multiple of hidden_size {width}; "
            "only whole multiples are supported"
        )
    automatic = tree.get("time_step_rank", "auto") == "auto"
    return {
        "vocab_size": tree.whole("vocab_size"),
        "width": width,
        "layers": tree.whole("num_hidden_layers"),
        "expand": int(inner) // width,
        "state": tree.whole("state_size", 16),
        "conv": tree.whole("conv_kernel", 4),
        "dt_rank": None if automatic else tree.whole("time_step_rank"),
        "norm_eps": tree.number("layer_norm_epsilon", 1e-5),
        # A recurrent model has no maximum context; the public ones were trained with 2048.
        "context_length": tree.whole("max_position_embeddings", 2048),
        "tie_embeddings": tree.flag("tie_word_embeddings", True),
    }


def _to_hf(config: MambaConfig) -> dict[str, Any]:
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


MIXER = "backbone.layers.{layer}.mixer."


def all_tensors(config: StateSpaceConfig, mixer: list[Tensor]) -> list[Tensor]:
    """Return the tensors of a mixer (they differ between the Mambas) and those around it."""
    tensors = [
        tensor("backbone.embeddings.weight", ("embedding", "V D -> V D")),
        tensor("backbone.layers.{layer}.norm.weight", ("blocks/norm/scale", "D -> D")),
        *mixer,
        tensor("backbone.norm_f.weight", ("final_norm/scale", "D -> D")),
    ]
    if not config.tie_embeddings:
        tensors.append(tensor("lm_head.weight", ("unembed", "D V -> V D")))
    return tensors


def has_rms_norms(config: StateSpaceConfig) -> bool:
    """Return whether the norms are those of every Mamba.

    A folder does not record its norms: with others, tensors would have the same names or be absent.
    """
    return config.norm == "rms" and config.norm_scale


def _mixer() -> list[Tensor]:
    ours = "blocks/mixer/"
    return [
        tensor(
            MIXER + "in_proj.weight",
            (ours + "in_x", "D E -> E D"),
            (ours + "in_gate", "D E -> E D"),
        ),
        tensor(MIXER + "conv1d.weight", (ours + "conv", "C E -> E 1 C")),
        tensor(MIXER + "conv1d.bias", (ours + "conv_bias", "E -> E")),
        tensor(
            MIXER + "x_proj.weight",
            (ours + "step_down", "E R -> R E"),
            (ours + "input_map", "E N -> N E"),
            (ours + "output_map", "E N -> N E"),
        ),
        tensor(MIXER + "dt_proj.weight", (ours + "step_up", "R E -> E R")),
        tensor(MIXER + "dt_proj.bias", (ours + "step_bias", "E -> E")),
        tensor(MIXER + "A_log", (ours + "log_decay", "N E -> E N")),
        tensor(MIXER + "D", (ours + "skip", "E -> E")),
        tensor(MIXER + "out_proj.weight", (ours + "out", "E D -> D E")),
    ]


MAMBA = Family(
    model_type="mamba",
    architecture="MambaForCausalLM",
    config=MambaConfig,
    from_hf=_from_hf,
    to_hf=_to_hf,
    tensors=lambda config: all_tensors(config, _mixer()),
    writes=has_rms_norms,
    prefix="backbone.",
)
