"""Mamba-2 (Dao & Gu, 2405.21060): one decay per head, so that the scan becomes matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from lossline.models.caches import RecurrentCache, continued_duality, convolved_further
from lossline.models.config import FlopCounts
from lossline.models.layers import Rows, gated_rms_norm, parameter, product
from lossline.models.state_space import StateSpaceConfig, fresh_step_bias
from lossline.ops.convolution import causal_convolution
from lossline.ops.linear import linear, linear_many
from lossline.ops.state_space_duality import state_space_duality

_CONVOLVED = ("x", "input_map", "output_map")  # what the short convolutions read


@dataclass(frozen=True, kw_only=True)
class Mamba2Config(StateSpaceConfig):
    """Options of a Mamba-2 model: those of ``StateSpaceConfig`` and these.

    Attributes:
        head_channels: inner channels of a head; must divide the inner width.
        map_groups: groups of heads that share input and output maps (B and C); must divide the
            number of heads.
        decay_min, decay_max: limits of the fresh decay rates -A, which are uniform between them.
    """

    state: int = 128
    head_channels: int = 64
    map_groups: int = 1
    decay_min: float = 1.0
    decay_max: float = 16.0

    family: ClassVar[str] = "mamba2"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.has_duality_layers:
            for name in ("head_channels", "map_groups"):
                self.require_positive(name)
            self.require_divides(
                "head_channels", "inner", lambda small, large: large // small % self.map_groups == 0
            )
            self.require_divides("map_groups", "inner_heads")
            self.require_interval("decay_min", "decay_max")

    @property
    def has_duality_layers(self) -> bool:
        """Whether the model uses the options of this class (a hybrid may have Mamba-1 layers
        instead).
        """
        return True

    @property
    def inner_heads(self) -> int:
        """Heads of the state-space layer."""
        return self.inner // self.head_channels

    @property
    def map_width(self) -> int:
        """Channels of the input maps of all groups; the output maps have the same number."""
        return self.map_groups * self.state

    def make_mixer(self, key: jax.Array) -> nnx.Module:
        """Return a Mamba-2 mixer with fresh parameters."""
        return Mamba2Mixer(self, key)

    def layer_matrix_params(self) -> int:
        """Return the number of elements in the weight matrices (those of matrix products) of one
        layer.
        """
        D, E = self.width, self.inner
        return D * (2 * E + 2 * self.map_width + self.inner_heads) + E * D

    def layer_params(self) -> int:
        """Return the number of parameters of one layer.

        They are the matrices, the convolutions and their biases, step bias, A and skip of each
        head, and both norms.
        """
        E = self.inner
        vectors = (self.conv + 1) * (E + 2 * self.map_width) + 3 * self.inner_heads + E
        return Mamba2Config.layer_matrix_params(self) + vectors + self.norm_params(self.width)

    def layer_flops(self, context_length: int) -> FlopCounts:
        """Return the forward operations per token of one layer.

        The recurrence takes 2 multiply-adds and the decay per state element. Operations that an
        implementation in chunks adds are not counted, because they depend on the size of the
        chunks.
        """
        scan = self.inner * (5 * self.state + 2) + 2 * self.conv * (self.inner + 2 * self.map_width)
        return FlopCounts(matmul=2 * Mamba2Config.layer_matrix_params(self), scan=scan)


class Mamba2Mixer(nnx.Module):
    """Mixer of a Mamba-2 layer: one input projection, the scan, a gated norm and the output
    projection.

    Source: Dao & Gu, 2405.21060, figure 6 (right).
    """

    def __init__(self, config: Mamba2Config, key: jax.Array) -> None:
        D, E, H, GN = config.width, config.inner, config.inner_heads, config.map_width
        keys = iter(jax.random.split(key, 11))
        self.config = config
        self.in_x = config.matrix(next(keys), (D, E), "embed", "inner")
        self.in_gate = config.matrix(next(keys), (D, E), "embed", "inner")
        self.in_input_map = config.matrix(next(keys), (D, GN), "embed", "state")
        self.in_output_map = config.matrix(next(keys), (D, GN), "embed", "state")
        self.in_step = config.matrix(next(keys), (D, H), "embed", "inner_heads")
        for name, width, axis in (
            ("x", E, "inner"),
            ("input_map", GN, "state"),
            ("output_map", GN, "state"),
        ):
            taps = config.matrix(next(keys), (config.conv, width), "conv", axis)
            setattr(self, f"conv_{name}", taps)
            setattr(self, f"conv_{name}_bias", config.vector(width, axis))
        step_bias = fresh_step_bias(next(keys), config, H)
        self.step_bias = parameter(step_bias.astype(config.param_dtype), "inner_heads")
        rates = jax.random.uniform(
            next(keys), (H,), minval=config.decay_min, maxval=config.decay_max
        )
        self.log_decay = parameter(jnp.log(rates).astype(config.param_dtype), "inner_heads")
        self.skip = parameter(jnp.ones(H, config.param_dtype), "inner_heads")
        self.norm = parameter(jnp.ones(E, config.param_dtype), "inner")
        self.out = config.matrix(next(keys), (E, D), "inner", "embed", output=True)

    def __call__(self, x_BxLxD: jax.Array, rows: Rows) -> jax.Array:
        x, gate_BxLxE, b, c, step_BxLxH = self._projected(x_BxLxD)
        x = self._convolved("x", x, rows)
        b, c = self._convolved("input_map", b, rows), self._convolved("output_map", c, rows)
        return self._gated(self.state_space(x, step_BxLxH, b, c, rows), gate_BxLxE)

    def empty_cache(self, rows: int) -> RecurrentCache:
        """Return the state before the first token."""
        config = self.config
        widths = (config.inner, config.map_width, config.map_width)
        shape = (rows, config.inner_heads, config.head_channels, config.state)
        return RecurrentCache(
            inputs=tuple(jnp.zeros((rows, config.conv - 1, w), config.dtype) for w in widths),
            state=jnp.zeros(shape, jnp.float32),
        )

    def continued(
        self, x_BxLxD: jax.Array, valid_BxL: jax.Array, cache: RecurrentCache
    ) -> tuple[jax.Array, RecurrentCache]:
        """Return the outputs at the next tokens, and the state after them."""
        x, gate_BxLxE, b, c, step_BxLxH = self._projected(x_BxLxD)
        (x, b, c), pasts = zip(
            *(
                convolved_further(inputs, past, *self._taps(name), valid_BxL)
                for name, inputs, past in zip(_CONVOLVED, (x, b, c), cache.inputs, strict=True)
            ),
            strict=True,
        )
        inputs, dt_BxLxH, a_H, b_BxLxGxN, c_BxLxGxN, skip_H = self._maps(x, step_BxLxH, b, c)
        dt_BxLxH = jnp.where(valid_BxL[:, :, None], dt_BxLxH, 0)  # padding leaves the state alone
        y_BxLxHxP, state = continued_duality(
            inputs, dt_BxLxH, a_H, b_BxLxGxN, c_BxLxGxN, skip_H, cache.state
        )
        y_BxLxE = y_BxLxHxP.reshape(x.shape).astype(x.dtype)
        return self._gated(y_BxLxE, gate_BxLxE), RecurrentCache(inputs=pasts, state=state)

    def _projected(self, x_BxLxD: jax.Array) -> Iterator[jax.Array]:
        """Return inputs, gate, input maps, output maps and step sizes."""
        weights = [self.in_x, self.in_gate, self.in_input_map, self.in_output_map, self.in_step]
        return (product(y) for y in linear_many(x_BxLxD, [w[...] for w in weights]))

    def _gated(self, y_BxLxE: jax.Array, gate_BxLxE: jax.Array) -> jax.Array:
        normed_BxLxE = gated_rms_norm(
            y_BxLxE, gate_BxLxE, self.norm[...], self.config.map_groups, self.config.norm_eps
        )
        return product(linear(normed_BxLxE, self.out[...]))

    def _taps(self, name: str) -> tuple[jax.Array, jax.Array]:
        return getattr(self, f"conv_{name}")[...], getattr(self, f"conv_{name}_bias")[...]

    def _convolved(self, name: str, x: jax.Array, rows: Rows) -> jax.Array:
        return causal_convolution(x, *self._taps(name), runs_BxL=rows.runs_BxL)

    def state_space(
        self, x_BxLxE: jax.Array, step_BxLxH: jax.Array, b: jax.Array, c: jax.Array, rows: Rows
    ) -> jax.Array:
        """Apply the recurrence and the skip.

        Args:
            x_BxLxE: convolved inputs.
            step_BxLxH: step sizes before the bias and softplus.
            b, c: input and output maps, [B, L, G·N].
            rows: where documents begin.

        Returns:
            [B, L, E] in the dtype of ``x_BxLxE``.
        """
        y_BxLxHxP = state_space_duality(
            *self._maps(x_BxLxE, step_BxLxH, b, c),
            keep_BxL=rows.keep_BxL,
            implementation=self.config.scan_implementation,
            chunk=self.config.scan_chunk,
        )
        return y_BxLxHxP.reshape(x_BxLxE.shape)

    def _maps(
        self, x_BxLxE: jax.Array, step_BxLxH: jax.Array, b: jax.Array, c: jax.Array
    ) -> tuple[jax.Array, ...]:
        """Return inputs, step sizes, decay rates, maps and skip of the recurrence, by head."""
        config, (B, L, _) = self.config, x_BxLxE.shape
        step_bias = self.step_bias[...].astype(jnp.float32)
        b_BxLxGxN, c_BxLxGxN = (m.reshape(B, L, config.map_groups, config.state) for m in (b, c))
        return (
            x_BxLxE.reshape(B, L, config.inner_heads, config.head_channels),
            jax.nn.softplus(step_BxLxH.astype(jnp.float32) + step_bias),
            -jnp.exp(self.log_decay[...].astype(jnp.float32)),
            b_BxLxGxN,
            c_BxLxGxN,
            self.skip[...].astype(jnp.float32),
        )
