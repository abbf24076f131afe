"""Seeds: their allowed range, and a JAX key that uses all their bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lossline.errors import UserError

if TYPE_CHECKING:
    import jax

# The loss table stores a run's seed as a signed 64-bit integer.
LARGEST = 2**63 - 1


def check_seed(seed: object, name: str) -> None:
    """Check a seed.

    Args:
        seed: value as given.
        name: option that it was given for.

    Raises:
        UserError: not a whole number from 0 to ``LARGEST``.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= LARGEST:
        raise UserError(f"{name} = {seed!r}: must be a whole number from 0 to 2^63 - 1 ({LARGEST})")


def random_key(seed: int) -> jax.Array:
    """Return the JAX key of a seed, which depends on all 63 bits.

    Below 2^32 it equals ``jax.random.key(seed)``. Above, ``jax.random.key`` drops the upper 32 bits
    unless JAX uses 64-bit types; this key equals the one that JAX makes with 64-bit types.
    """
    import jax
    import jax.numpy as jnp

    words = jnp.array([seed >> 32, seed & 0xFFFFFFFF], jnp.uint32)
    return jax.random.wrap_key_data(words, impl="threefry2x32")
