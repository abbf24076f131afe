"""Mamba (Gu & Dao, 2312.00752): a stack of selective state-space layers; no attention, no MLP."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from lossline.models.caches import RecurrentCache, continued_scan, convolved_further
from lossline.models.config import FlopCounts
from lossline.models.layers import (
    Rows,
    gated,
    parameter,
    product,
)
from lossline.models.state_space import StateSpaceConfig, fresh_step_bias
from lossline.ops.convolution import causal_convolution
from lossline.ops.linear import linear, linear_many
from lossline.ops.selective_scan import selective_scan


@dataclass(frozen=True, kw_only=True)
class MambaConfig(StateSpaceConfig):
    """Options of a Mamba (Mamba-1) model: those of ``StateSpaceConfig`` and one more.

    Attributes:
        dt_rank: rank of the step-size projection; None: width / 16, rounded up.
    """

    state: int = 16
    dt_rank: int | None = None

    family: ClassVar[str] = "mamba"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dt_rank is not None:
            self.require_positive("dt_rank")

    @property
    def step_rank(self) -> int:
        """Rank of the step-size projection."""
        return math.ceil(self.width / 16) if self.dt_rank is None else self.dt_rank

    def make_mixer(self, key: jax.Array) -> nnx.Module:
        """Return a Mamba-1 mixer with fresh parameters."""
        return MambaMixer(self, key)

    def layer_matrix_params(self) -> int:
        """Return the number of elements in the weight matrices (those of matrix products) of one
        layer.
        """
        D, E, N, R = self.width, self.inner, self.state, self.step_rank
        return 2 * D * E + E * (R + 2 * N) + R * E + E * D

    def layer_params(self) -> int:
        """Return the number of parameters of one layer.

        They are the matrices, the convolution and its bias, step bias, A, skip and norm.
        """
        E = self.inner
        vectors = self.conv * E + E + E + self.state * E + E
        return MambaConfig.layer_matrix_params(self) + vectors + self.norm_params(self.width)

    def layer_flops(self, context_length: int) -> FlopCounts:
        """Return the forward operations per token of one layer.

        The recurrence takes 7 operations per state element: dt·A, exp, ·h, ·B, +, ·C, Σ.
        """
        scan = self.inner * (7 * self.state + 2 * self.conv + 2)
        return FlopCounts(matmul=2 * MambaConfig.layer_matrix_params(self), scan=scan)


class MambaMixer(nnx.Module):
    """Mixer of a Mamba layer: convolution, selective scan and gate between two projections.

    Source: Gu & Dao, 2312.00752, figure 3.
    """

    def __init__(self, config: MambaConfig, key: jax.Array) -> None:
        D, E, N, R = config.width, config.inner, config.state, config.step_rank
        keys = iter(jax.random.split(key, 9))
        self.config = config
        self.in_x = config.matrix(next(keys), (D, E), "embed", "inner")
        self.in_gate = config.matrix(next(keys), (D, E), "embed", "inner")
        self.conv = config.matrix(next(keys), (config.conv, E), "conv", "inner")
        self.conv_bias = config.vector(E, "inner")
        self.step_down = config.matrix(next(keys), (E, R), "inner", "dt_rank")
        self.input_map = config.matrix(next(keys), (E, N), "inner", "state")
        self.output_map = config.matrix(next(keys), (E, N), "inner", "state")
        self.step_up = config.matrix(next(keys), (R, E), "dt_rank", "inner")
        step_bias = fresh_step_bias(next(keys), config, E)
        self.step_bias = parameter(step_bias.astype(config.param_dtype), "inner")
        rates = jnp.log(jnp.arange(1.0, N + 1))[:, None]  # S4D-real: A[n] = -n
        log_decay = jnp.broadcast_to(rates, (N, E)).astype(config.param_dtype)
        self.log_decay = parameter(log_decay, "state", "inner")
        self.skip = parameter(jnp.ones(E, config.param_dtype), "inner")
        self.out = config.matrix(next(keys), (E, D), "inner", "embed", output=True)

    def __call__(self, x_BxLxD: jax.Array, rows: Rows) -> jax.Array:
        inner_BxLxE, gate_BxLxE = (
            product(x) for x in linear_many(x_BxLxD, [self.in_x[...], self.in_gate[...]])
        )
        u_BxLxE = causal_convolution(
            inner_BxLxE, self.conv[...], self.conv_bias[...], runs_BxL=rows.runs_BxL
        )
        y_BxLxE = self.state_space(u_BxLxE, rows)
        return product(linear(gated(y_BxLxE, gate_BxLxE), self.out[...]))

    def state_space(self, u_BxLxE: jax.Array, rows: Rows) -> jax.Array:
        """Apply the selective scan, with step sizes and maps computed from its input, and the skip.

        The result has the dtype of ``u_BxLxE``.
        """
        y_BxLxE = selective_scan(
            u_BxLxE,
            *self._maps(u_BxLxE),
            keep_BxL=rows.keep_BxL,
            implementation=self.config.scan_implementation,
            chunk=self.config.scan_chunk,
        )
        return self._with_skip(y_BxLxE, u_BxLxE)

    def empty_cache(self, rows: int) -> RecurrentCache:
        """Return the state before the first token."""
        config = self.config
        return RecurrentCache(
            inputs=(jnp.zeros((rows, config.conv - 1, config.inner), config.dtype),),
            state=jnp.zeros((rows, config.state, config.inner), jnp.float32),
        )

    def continued(
        self, x_BxLxD: jax.Array, valid_BxL: jax.Array, cache: RecurrentCache
    ) -> tuple[jax.Array, RecurrentCache]:
        """Return the outputs at the next tokens, and the state after them."""
        inner_BxLxE, gate_BxLxE = linear_many(x_BxLxD, [self.in_x[...], self.in_gate[...]])
        u_BxLxE, past = convolved_further(
            inner_BxLxE, cache.inputs[0], self.conv[...], self.conv_bias[...], valid_BxL
        )
        dt_BxLxE, a_NxE, b_BxLxN, c_BxLxN = self._maps(u_BxLxE)
        dt_BxLxE = jnp.where(valid_BxL[:, :, None], dt_BxLxE, 0)  # padding leaves the state alone
        y_BxLxE, state = continued_scan(u_BxLxE, dt_BxLxE, a_NxE, b_BxLxN, c_BxLxN, cache.state)
        y_BxLxE = self._with_skip(y_BxLxE, u_BxLxE)
        out_BxLxD = linear(gated(y_BxLxE, gate_BxLxE), self.out[...])
        return out_BxLxD, RecurrentCache(inputs=(past,), state=state)

    def _maps(self, u_BxLxE: jax.Array) -> tuple[jax.Array, ...]:
        """Return step sizes, decay rates, input maps and output maps of the scan."""
        maps = [self.step_down[...], self.input_map[...], self.output_map[...]]
        step_BxLxR, b_BxLxN, c_BxLxN = (product(x) for x in linear_many(u_BxLxE, maps))
        dt_BxLxE = product(linear(step_BxLxR, self.step_up[...])).astype(jnp.float32)
        dt_BxLxE = jax.nn.softplus(dt_BxLxE + self.step_bias[...].astype(jnp.float32))
        return dt_BxLxE, -jnp.exp(self.log_decay[...].astype(jnp.float32)), b_BxLxN, c_BxLxN

    def _with_skip(self, y_BxLxE: jax.Array, u_BxLxE: jax.Array) -> jax.Array:
        skip_E = self.skip[...].astype(jnp.float32)
        return (y_BxLxE + skip_E * u_BxLxE.astype(jnp.float32)).astype(u_BxLxE.dtype)
