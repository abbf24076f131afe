"""Hybrid models: attention in every k-th layer, state-space layers between.

Jamba (2403.19887) and Samba (2406.07522) are similar and differ in details. With ``attention_every
= 1`` the model computes the same as a Llama of the same options; with 0 the same as a Mamba.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from flax import nnx

from lossline.errors import UserError
from lossline.models.config import FlopCounts, nearest_divisors
from lossline.models.layers import Rows
from lossline.models.mamba import MambaConfig
from lossline.models.mamba2 import Mamba2Config
from lossline.models.state_space import StateSpaceBlock, StateSpaceConfig
from lossline.models.transformer import TransformerBlock, TransformerConfig

STATE_SPACES: dict[str, type[StateSpaceConfig]] = {"mamba": MambaConfig, "mamba2": Mamba2Config}


@dataclass(frozen=True, kw_only=True)
class HybridConfig(TransformerConfig, MambaConfig, Mamba2Config):
    """Options of a hybrid: those of its transformer layers and of its state-space layers, and two
    more.

    Attributes:
        attention_every: k, a divisor of the number of layers. The last of every k layers is a
            transformer layer (attention and MLP), the others are state-space layers. 0: no
            attention.
        state_space: "mamba" or "mamba2".
    """

    attention_every: int
    state_space: str = "mamba2"
    state: int = 64

    family: ClassVar[str] = "hybrid"

    def __post_init__(self) -> None:
        self.require_choice("state_space", tuple(STATE_SPACES))
        super().__post_init__()
        every, layers = self.attention_every, self.layers
        if every < 0 or (every and layers % every):
            nearest = " or ".join(str(n) for n in nearest_divisors(max(every, 1), layers))
            raise UserError(
                f"hybrid.attention_every = {every} does not divide hybrid.layers = {layers}: set it"
                f" to {nearest} (0: no attention)"
            )

    @property
    def has_duality_layers(self) -> bool:
        """Whether the state-space layers are those of Mamba-2."""
        return self.state_space == "mamba2"

    @property
    def block_layers(self) -> int:
        """Layers in one block; blocks are stacked and scanned."""
        return max(self.attention_every, 1)

    @property
    def attention_layers(self) -> int:
        """Number of transformer layers in the whole model."""
        return self.layers // self.attention_every if self.attention_every else 0

    def make_mixer(self, key: jax.Array) -> nnx.Module:
        """Return the mixer of a state-space layer."""
        return STATE_SPACES[self.state_space].make_mixer(self, key)

    def make_block(self, key: jax.Array) -> nnx.Module:
        """Return ``block_layers`` layers with fresh parameters."""
        return HybridBlock(self, key)

    def stack_params(self) -> int:
        """Return the number of parameters in all layers and the final norm."""
        state_space = STATE_SPACES[self.state_space].layer_params(self)
        attention = TransformerConfig.layer_params(self)
        return (
            (self.layers - self.attention_layers) * state_space
            + self.attention_layers * attention
            + self.norm_params(self.width)
        )

    def stack_flops(self, context_length: int) -> FlopCounts:
        """Return the forward operations per token of all layers."""
        state_space = STATE_SPACES[self.state_space].layer_flops(self, context_length)
        attention = self.layers_flops(context_length, self.attention_layers)
        return state_space * (self.layers - self.attention_layers) + attention


class HybridBlock(nnx.Module):
    """State-space layers followed by one transformer layer.

    With ``attention_every = 0`` it is one state-space layer.
    """

    def __init__(self, config: HybridConfig, key: jax.Array) -> None:
        keys = jax.random.split(key, config.block_layers)
        state_space = keys[:-1] if config.attention_every else keys
        self.state_space = nnx.List([StateSpaceBlock(config, k) for k in state_space])
        self.transformer = TransformerBlock(config, keys[-1]) if config.attention_every else None

    def __call__(self, x_BxLxD: jax.Array, rows: Rows) -> jax.Array:
        for layer in self.state_space:
            x_BxLxD = layer(x_BxLxD, rows)
        return x_BxLxD if self.transformer is None else self.transformer(x_BxLxD, rows)

    def _layers(self) -> list[Any]:
        return [*self.state_space, *([] if self.transformer is None else [self.transformer])]

    def empty_cache(self, rows: int, length: int) -> tuple[Any, ...]:
        """Return the empty cache of each layer."""
        return tuple(layer.empty_cache(rows, length) for layer in self._layers())

    def continued(
        self, x_BxLxD: jax.Array, rows: Rows, valid_BxL: jax.Array, cache: tuple[Any, ...]
    ) -> tuple[jax.Array, tuple[Any, ...]]:
        """Return the outputs at the next tokens, and the cache of each layer with them."""
        after = []
        for layer, before in zip(self._layers(), cache, strict=True):
            x_BxLxD, kept = layer.continued(x_BxLxD, rows, valid_BxL, before)
            after.append(kept)
        return x_BxLxD, tuple(after)
