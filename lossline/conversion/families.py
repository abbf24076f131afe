"""Model types that can be read and written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lossline.conversion.family import Entries, Family
from lossline.conversion.gemma import GEMMA3, GEMMA3_TEXT
from lossline.conversion.gpt import GPT2, GPT_NEOX
from lossline.conversion.llama import LLAMA, MISTRAL, OLMO, OLMO2, OLMO3, QWEN2, QWEN3, SMOLLM3
from lossline.conversion.mamba import MAMBA
from lossline.conversion.mamba2 import MAMBA2
from lossline.errors import UserError
from lossline.models.config import ModelConfig

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        LLAMA,
        MISTRAL,
        QWEN2,
        QWEN3,
        SMOLLM3,
        OLMO,
        OLMO2,
        OLMO3,
        GEMMA3_TEXT,
        GEMMA3,
        GPT2,
        GPT_NEOX,
        MAMBA,
        MAMBA2,
    )
}
HEADS = frozenset({"lm_head.weight", "embed_out.weight"})  # tensors that may be tied to embeddings


def family_of(config: ModelConfig) -> Family:
    """Return the family that can write a configuration of lossline.

    Raises:
        UserError: no family can write it.
    """
    written = [family for family in FAMILIES.values() if not family.is_only_read]
    for family in written:
        if type(config) is family.config and family.writes(config):
            return family
    raise UserError(
        f"this {config.family} has no Hugging Face form: its options fit none of the model types "
        f"that can be written. Those are {', '.join(family.model_type for family in written)}"
    )


def config_from_hf(tree: Mapping[str, Any], *, where: str, param_dtype: str) -> ModelConfig:
    """Return lossline's configuration for a config.json.

    Args:
        tree: content of config.json.
        where: path of config.json, for messages.
        param_dtype: dtype of lossline's parameters.

    Raises:
        UserError: a model type or an option is not supported.
    """
    model_type = tree.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UserError(
            f"{where}: model_type {model_type!r} is not supported; supported: {', '.join(FAMILIES)}"
        )
    family, entries = FAMILIES[model_type], Entries(tree, where)
    # transformers reads these entries for every model type, so none of them may be ignored.
    entries.require("is_causal", True, None)
    entries.require("per_layer_config", None, {})
    entries.require("quantization_config", None, {})
    try:
        options = family.from_hf(entries)
    except KeyError as error:
        raise UserError(
            f"{where}: has no entry {error.args[0]!r}, which a {model_type} needs; "
            "download the file again or add the entry"
        ) from None
    try:
        return family.config(**options, param_dtype=param_dtype)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def is_ignored(family: Family, config: ModelConfig, name: str) -> bool:
    """Return whether a tensor can be ignored: a buffer, or the output head of tied embeddings."""
    return (config.tie_embeddings and name in HEADS) or re.search(family.ignored, name) is not None
