"""How the next token is chosen from the model's probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from lossline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How the next token is chosen.

    Attributes:
        temperature: logits are divided by it before the draw; 0: the most probable token (greedy).
        top_k: draw only from this many most probable tokens; 0: from all.
        top_p: draw only from the most probable tokens that together have this probability
            (Holtzman et al., 1904.09751); 1: from all. It is applied after ``top_k``.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UserError(
                f"temperature = {self.temperature}: must be finite and at least 0 (0: greedy)"
            )
        if self.top_k < 0:
            raise UserError(f"top_k = {self.top_k}: must be at least 0 (0: all tokens)")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p = {self.top_p}: must be above 0 and at most 1")


def draw(logits_BxV: jax.Array, keys_B: jax.Array, drawing: Drawing) -> jax.Array:
    """Return one token id for each row, int32 [B].

    Args:
        logits_BxV: float32 logits.
        keys_B: a random key for each row.
        drawing: how to choose.
    """
    if drawing.temperature == 0:
        return jnp.argmax(logits_BxV, axis=-1).astype(jnp.int32)
    kept_BxV = narrowed(logits_BxV / drawing.temperature, drawing)
    return jax.vmap(jax.random.categorical)(keys_B, kept_BxV).astype(jnp.int32)


def narrowed(logits_BxV: jax.Array, drawing: Drawing) -> jax.Array:
    """Return the logits with -inf for the tokens that ``top_k`` and ``top_p`` leave out."""
    if drawing.top_k:
        count = min(drawing.top_k, logits_BxV.shape[-1])
        least_Bx1 = jax.lax.top_k(logits_BxV, count)[0][:, -1:]
        logits_BxV = jnp.where(logits_BxV < least_Bx1, -jnp.inf, logits_BxV)
    if drawing.top_p < 1:
        order_BxV = jnp.argsort(logits_BxV, axis=-1, descending=True)
        sorted_BxV = jax.nn.softmax(jnp.take_along_axis(logits_BxV, order_BxV, axis=-1), axis=-1)
        # A token is left out if those before it already have the probability; the first never is.
        out_BxV = jnp.cumsum(sorted_BxV, axis=-1) - sorted_BxV >= drawing.top_p
        back_BxV = jnp.argsort(order_BxV, axis=-1)
        out_BxV = jnp.take_along_axis(out_BxV, back_BxV, axis=-1)
        logits_BxV = jnp.where(out_BxV, -jnp.inf, logits_BxV)
    return logits_BxV
