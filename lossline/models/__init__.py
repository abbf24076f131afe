"""Model families: small frozen configurations, Flax NNX modules, exact counts.

Build a module once, split it into graph definition and state, and jit pure functions of the state::

    config = LlamaConfig(
        vocab_size=4096, width=128, layers=4, heads=4, mlp_width=384, context_length=256
    )
    graph, state = nnx.split(build(config, key=jax.random.key(0)))

    @jax.jit
    def logits(state, tokens_BxL):
        return nnx.merge(graph, state)(tokens_BxL)

Model code uses no data, gin or files. ``lossline.ops`` defines the axis letters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from lossline.errors import UserError
from lossline.models.config import FlopCounts, ModelConfig, ParamCounts
from lossline.models.gpt import GPTConfig
from lossline.models.hybrid import HybridConfig
from lossline.models.language_model import LanguageModel
from lossline.models.llama import LlamaConfig
from lossline.models.mamba import MambaConfig
from lossline.models.mamba2 import Mamba2Config

__all__ = [
    "CONFIGS",
    "FlopCounts",
    "GPTConfig",
    "HybridConfig",
    "LanguageModel",
    "LlamaConfig",
    "Mamba2Config",
    "MambaConfig",
    "ModelConfig",
    "ParamCounts",
    "abstract_state",
    "build",
    "config_from_dict",
    "logical_axes",
]

CONFIGS: dict[str, type[ModelConfig]] = {
    config.__name__: config
    for config in (LlamaConfig, GPTConfig, MambaConfig, Mamba2Config, HybridConfig)
}


def build(config: ModelConfig, *, key: jax.Array) -> LanguageModel:
    """Return a model with fresh parameters; the same key gives the same values on any backend and
    mesh.
    """
    return LanguageModel(config, key=key)


def abstract_state(config: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """Return the graph definition and a state of shapes and dtypes; allocate no parameter."""
    return nnx.split(nnx.eval_shape(lambda: build(config, key=jax.random.key(0))))


def logical_axes(state: nnx.State) -> nnx.State:
    """Return the same tree with each parameter replaced by the tuple of its logical axis names.

    The leaves of the result are tuples: pass ``is_leaf=lambda x: isinstance(x, tuple)`` to
    ``jax.tree`` functions.
    """
    axes = [
        (path, variable.get_metadata("logical_axes")) for path, variable in nnx.to_flat_state(state)
    ]
    return nnx.from_flat_state(axes)


def config_from_dict(tree: Mapping[str, Any]) -> ModelConfig:
    """Rebuild a configuration from the output of ``ModelConfig.to_dict``.

    Options that are missing get their defaults.

    Raises:
        UserError: the class or an option is unknown.
    """
    name = tree.get("__class__")
    if name not in CONFIGS:
        raise UserError(
            f"unknown class of model configuration {name!r}: choose one of {', '.join(CONFIGS)}"
        )
    options = {key: value for key, value in tree.items() if key != "__class__"}
    known = {field.name for field in dataclasses.fields(CONFIGS[name])}
    if unknown := sorted(set(options) - known):
        raise UserError(
            f"{name} has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}"
        )
    return CONFIGS[name](**options)
