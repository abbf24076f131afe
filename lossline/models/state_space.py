"""Parts that state-space families share: options, the layer around a mixer, fresh step sizes."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lossline.models.caches import RecurrentCache
from lossline.models.config import FlopCounts, ModelConfig
from lossline.models.layers import Rows


@dataclass(frozen=True, kw_only=True)
class StateSpaceConfig(ModelConfig):
    """Options of state-space layers.

    Attributes:
        expand: inner width as a multiple of the width.
        state: state size N of each inner channel.
        conv: taps of the causal convolution.
        dt_min, dt_max: limits of the fresh step sizes, which are log-uniform between them.
        scan_implementation: one of the ``IMPLEMENTATIONS`` of the layer's module in
            ``lossline.ops``, or "auto".
        scan_chunk: positions per chunk; None: the default of the backend.
    """

    expand: int = 2
    state: int
    conv: int = 4
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    scan_implementation: str = "auto"
    scan_chunk: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("expand", "state", "conv"):
            self.require_positive(name)
        if self.scan_chunk is not None:
            self.require_positive("scan_chunk")
        self.require_interval("dt_min", "dt_max")

    @property
    def inner(self) -> int:
        """Channels of the state-space layer."""
        return self.expand * self.width

    @abstractmethod
    def make_mixer(self, key: jax.Array) -> nnx.Module:
        """Return the module that mixes positions, to be called as ``mixer(x_BxLxD, rows)``."""

    @abstractmethod
    def layer_matrix_params(self) -> int:
        """Return the number of elements in the weight matrices (those of matrix products) of one
        layer.
        """

    @abstractmethod
    def layer_params(self) -> int:
        """Return the number of parameters of one layer."""

    @abstractmethod
    def layer_flops(self, context_length: int) -> FlopCounts:
        """Return the forward operations per token of one layer, the same for any context length."""

    def make_block(self, key: jax.Array) -> nnx.Module:
        """Return one layer with fresh parameters."""
        return StateSpaceBlock(self, key)

    def stack_params(self) -> int:
        """Return the number of parameters in all layers and the final norm."""
        return self.layers * self.layer_params() + self.norm_params(self.width)

    def stack_flops(self, context_length: int) -> FlopCounts:
        """Return the forward operations per token of all layers."""
        return self.layer_flops(context_length) * self.layers


class StateSpaceBlock(nnx.Module):
    """One state-space layer: norm, then mixer, added to the residual stream."""

    def __init__(self, config: StateSpaceConfig, key: jax.Array) -> None:
        self.norm = config.make_norm(config.width)
        self.mixer: Any = config.make_mixer(key)

    def __call__(self, x_BxLxD: jax.Array, rows: Rows) -> jax.Array:
        return x_BxLxD + self.mixer(self.norm(x_BxLxD), rows)

    def empty_cache(self, rows: int, length: int) -> RecurrentCache:
        """Return a cache of no tokens; its size does not depend on the length of the texts."""
        del length
        return self.mixer.empty_cache(rows)

    def continued(
        self, x_BxLxD: jax.Array, rows: Rows, valid_BxL: jax.Array, cache: RecurrentCache
    ) -> tuple[jax.Array, RecurrentCache]:
        """Return the outputs at the next tokens, and the cache with them."""
        del rows
        mixed_BxLxD, cache = self.mixer.continued(self.norm(x_BxLxD), valid_BxL, cache)
        return x_BxLxD + mixed_BxLxD, cache


def fresh_step_bias(key: jax.Array, config: StateSpaceConfig, size: int) -> jax.Array:
    """Return the inverse softplus of log-uniform step sizes, [size]."""
    low, high = math.log(config.dt_min), math.log(config.dt_max)
    dt = jnp.exp(jax.random.uniform(key, (size,), minval=low, maxval=high))
    return dt + jnp.log(-jnp.expm1(-dt))  # log(exp(dt) - 1), without overflow or cancellation
