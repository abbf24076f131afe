"""MLPs of transformer layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from lossline.models.config import ModelConfig
from lossline.models.layers import gated, gelu_gated, like, product
from lossline.ops.linear import linear, linear_many

MLPS = ("swiglu", "geglu_tanh", "gelu", "gelu_tanh")
GATED_MLPS = ("swiglu", "geglu_tanh")


def make_mlp(
    config: ModelConfig, key: jax.Array, *, kind: str, hidden: int, biases: bool
) -> GatedMLP | GELU:
    """Return the MLP of a layer with fresh parameters.

    Args:
        config: configuration of the model.
        key: random key.
        kind: one of ``MLPS``.
        hidden: hidden width.
        biases: whether the matrices have biases.
    """
    if kind in GATED_MLPS:
        return GatedMLP(config, key, hidden=hidden, biases=biases, by_silu=kind == "swiglu")
    return GELU(config, key, hidden=hidden, biases=biases, approximate=kind == "gelu_tanh")


class GatedMLP(nnx.Module):
    """Gated MLP: ``(act(x gate) · (x up)) down`` with silu or gelu (Shazeer, 2002.05202)."""

    def __init__(
        self, config: ModelConfig, key: jax.Array, *, hidden: int, biases: bool, by_silu: bool
    ) -> None:
        D, F = config.width, hidden
        keys = jax.random.split(key, 3)
        self.biases = biases
        self.by_silu = by_silu
        self.gate = config.matrix(keys[0], (D, F), "embed", "mlp")
        self.up = config.matrix(keys[1], (D, F), "embed", "mlp")
        self.down = config.matrix(keys[2], (F, D), "mlp", "embed", output=True)
        if self.biases:
            self.gate_bias = config.vector(F, "mlp")
            self.up_bias = config.vector(F, "mlp")
            self.down_bias = config.vector(D, "norm")

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        gate_BxLxF, up_BxLxF = (
            product(x) for x in linear_many(x_BxLxD, [self.gate[...], self.up[...]])
        )
        if self.biases:
            gate_BxLxF = gate_BxLxF + like(self.gate_bias, gate_BxLxF)
            up_BxLxF = up_BxLxF + like(self.up_bias, up_BxLxF)
        hidden_BxLxF = (gated if self.by_silu else gelu_gated)(up_BxLxF, gate_BxLxF)
        out_BxLxD = product(linear(hidden_BxLxF, self.down[...]))
        return out_BxLxD + like(self.down_bias, out_BxLxD) if self.biases else out_BxLxD


class GELU(nnx.Module):
    """MLP: ``gelu(x up) down`` (Hendrycks & Gimpel, 1606.08415), with the activation in float32."""

    def __init__(
        self, config: ModelConfig, key: jax.Array, *, hidden: int, biases: bool, approximate: bool
    ) -> None:
        D, F = config.width, hidden
        keys = jax.random.split(key, 2)
        self.biases = biases
        self.approximate = approximate
        self.up = config.matrix(keys[0], (D, F), "embed", "mlp")
        self.down = config.matrix(keys[1], (F, D), "mlp", "embed", output=True)
        if self.biases:
            self.up_bias = config.vector(F, "mlp")
            self.down_bias = config.vector(D, "norm")

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        hidden_BxLxF = product(linear(x_BxLxD, self.up[...])).astype(jnp.float32)
        if self.biases:
            hidden_BxLxF = hidden_BxLxF + like(self.up_bias, hidden_BxLxF)
        hidden_BxLxF = jax.nn.gelu(hidden_BxLxF, approximate=self.approximate)
        out_BxLxD = product(linear(hidden_BxLxF.astype(x_BxLxD.dtype), self.down[...]))
        return out_BxLxD + like(self.down_bias, out_BxLxD) if self.biases else out_BxLxD
