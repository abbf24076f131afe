"""The model types that can be read and written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lossline.conversion.family import Entries, Family
from lossline.conversion.gpt import GPT2, GPT_NEOX
from lossline.conversion.llama import LLAMA, OLMO, OLMO2, QWEN3
from lossline.conversion.mamba import MAMBA
from lossline.conversion.mamba2 import MAMBA2
from lossline.errors import UserError
from lossline.models.config import ModelConfig

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (LLAMA, QWEN3, OLMO, OLMO2, GPT2, GPT_NEOX, MAMBA, MAMBA2)
}
HEADS = frozenset({"lm_head.weight", "embed_out.weight"})  # what may be tied to the embeddings


def family_of(config: ModelConfig) -> Family:
    """The family that writes a configuration of ours.

    Raises:
        UserError: none does.
    """
    for family in FAMILIES.values():
        if type(config) is family.config and family.writes(config):
            return family
    raise UserError(
        f"this {config.family} has no Hugging Face form here (its options are those of none of "
        f"{', '.join(FAMILIES)})"
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
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UserError(
            f"{where}: model_type {model_type!r} is not supported; these are: {', '.join(FAMILIES)}"
        )
    family, entries = FAMILIES[model_type], Entries(tree, where)
    # what transformers reads for every model type
    entries.require("is_causal", True, None)
    entries.require("per_layer_config", None, {})
    entries.require("quantization_config", None, {})
    try:
        options = family.from_hf(entries)
    except KeyError as error:
        raise UserError(
            f"{where}: has no entry {error.args[0]!r}, which a {model_type} needs; "
            "complete the file as its model's source has it"
        ) from None
    try:
        return family.config(**options, param_dtype=param_dtype)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def is_ignored(family: Family, config: ModelConfig, name: str) -> bool:
    """Whether a tensor of a folder carries nothing: a buffer, or the head of tied embeddings."""
    return (config.tie_embeddings and name in HEADS) or re.search(family.ignored, name) is not None
