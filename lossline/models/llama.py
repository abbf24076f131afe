"""Llama (Touvron et al., 2302.13971): pre-norm RMSNorm, rotary positions, SwiGLU, grouped-query
heads, no biases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from lossline.models.config import FlopCounts, ModelConfig
from lossline.models.layers import (
    RMSNorm,
    Rows,
    gated,
    parameter,
    product,
    rotary_tables,
    rotate,
    truncated_normal,
)
from lossline.ops.attention import attention
from lossline.ops.linear import linear, linear_many


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(ModelConfig):
    """Options of a Llama model.

    Attributes:
        heads: query heads; they divide the width.
        kv_heads: key/value heads, which divide the query heads; None: as many.
        mlp_width: of the gated MLP.
        rope_theta: base of the rotary frequencies.
        attention_implementation: one of ``ops.attention.IMPLEMENTATIONS`` or "auto".
    """

    heads: int
    kv_heads: int | None = None
    mlp_width: int
    rope_theta: float = 1e4
    attention_implementation: str = "auto"

    family: ClassVar[str] = "llama"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("heads")
        self.require_positive("mlp_width")
        self.require_divides("heads", "width")
        if self.kv_heads is not None:
            self.require_positive("kv_heads")
            self.require_divides("kv_heads", "heads")

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.width // self.heads

    @property
    def groups(self) -> int:
        """Key/value heads."""
        return self.heads if self.kv_heads is None else self.kv_heads

    def rotary(self, positions_BxL: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Cosines and sines for the given positions."""
        exponents = jnp.arange(0, self.head_dim, 2, dtype=jnp.float32) / self.head_dim
        return rotary_tables(positions_BxL, self.rope_theta**-exponents)

    def make_block(self, key: jax.Array) -> nnx.Module:
        """One layer."""
        return LlamaBlock(self, key)

    def make_final_norm(self) -> nnx.Module:
        """RMSNorm."""
        return RMSNorm(self.width, eps=self.norm_eps, dtype=self.param_dtype)

    def layer_matrix_params(self) -> int:
        """Elements of one layer's weight matrices."""
        D, H, G, K, F = self.width, self.heads, self.groups, self.head_dim, self.mlp_width
        return D * K * (2 * H + 2 * G) + 3 * D * F

    def stack_params(self) -> int:
        """All layers and the final norm."""
        return self.layers * (self.layer_matrix_params() + 2 * self.width) + self.width

    def stack_flops(self, context_length: int) -> FlopCounts:
        """Products of matrices of all layers, the full square of scores included."""
        scores = 2 * 2 * context_length * self.heads * self.head_dim
        return FlopCounts(matmul=2 * self.layer_matrix_params() + scores) * self.layers


class LlamaBlock(nnx.Module):
    """Attention, then MLP, each added to the residual stream."""

    def __init__(self, config: LlamaConfig, key: jax.Array) -> None:
        attention_key, mlp_key = jax.random.split(key)
        self.attention_norm = config.make_final_norm()
        self.attention = SelfAttention(config, attention_key)
        self.mlp_norm = config.make_final_norm()
        self.mlp = SwiGLU(config, mlp_key)

    def __call__(self, x_BxLxD: jax.Array, rows: Rows) -> jax.Array:
        x_BxLxD = x_BxLxD + self.attention(self.attention_norm(x_BxLxD), rows)
        return x_BxLxD + self.mlp(self.mlp_norm(x_BxLxD))


class SelfAttention(nnx.Module):
    """Grouped-query causal attention (Ainslie et al., 2305.13245)."""

    def __init__(self, config: LlamaConfig, key: jax.Array) -> None:
        D, H, G, K = config.width, config.heads, config.groups, config.head_dim
        keys = jax.random.split(key, 4)

        def fresh(key: jax.Array, shape: tuple[int, ...], std: float) -> jax.Array:
            return truncated_normal(key, shape, std, config.param_dtype)

        self.config = config
        self.query = parameter(fresh(keys[0], (D, H, K), D**-0.5), "embed", "heads", "head_dim")
        self.key = parameter(fresh(keys[1], (D, G, K), D**-0.5), "embed", "kv_heads", "head_dim")
        self.value = parameter(fresh(keys[2], (D, G, K), D**-0.5), "embed", "kv_heads", "head_dim")
        out_std = (2 * config.layers * H * K) ** -0.5
        self.out = parameter(fresh(keys[3], (H, K, D), out_std), "heads", "head_dim", "embed")

    def __call__(self, x_BxLxD: jax.Array, rows: Rows) -> jax.Array:
        B, L, D = x_BxLxD.shape
        weights = [w[...].reshape(D, -1) for w in (self.query, self.key, self.value)]
        q, k, v = (
            product(x).reshape(B, L, -1, self.config.head_dim)
            for x in linear_many(x_BxLxD, weights)
        )
        out_BxLxHxK = attention(
            rotate(q, rows.rotary),
            rotate(k, rows.rotary),
            v,
            runs_BxL=rows.runs_BxL,
            implementation=self.config.attention_implementation,
        )
        return product(linear(out_BxLxHxK.reshape(B, L, -1), self.out[...].reshape(-1, D)))


class SwiGLU(nnx.Module):
    """``(silu(x gate) · (x up)) down`` (Shazeer, 2002.05202)."""

    def __init__(self, config: LlamaConfig, key: jax.Array) -> None:
        D, F = config.width, config.mlp_width
        keys = jax.random.split(key, 3)
        dtype = config.param_dtype
        self.gate = parameter(truncated_normal(keys[0], (D, F), D**-0.5, dtype), "embed", "mlp")
        self.up = parameter(truncated_normal(keys[1], (D, F), D**-0.5, dtype), "embed", "mlp")
        down_std = (2 * config.layers * F) ** -0.5
        self.down = parameter(truncated_normal(keys[2], (F, D), down_std, dtype), "mlp", "embed")

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        gate_BxLxF, up_BxLxF = linear_many(x_BxLxD, [self.gate[...], self.up[...]])
        hidden_BxLxF = gated(product(up_BxLxF), product(gate_BxLxF))
        return product(linear(hidden_BxLxF, self.down[...]))
