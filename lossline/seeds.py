"""Seeds: which numbers they may be, and a JAX key that depends on all their bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lossline.errors import UserError

if TYPE_CHECKING:
    import jax

# The loss table holds a run's seed as a signed 64-bit integer.
LARGEST = 2**63 - 1


def check_seed(seed: object, name: str) -> None:
    """Refuses what is no seed.

    Args:
        seed: what was given.
        name: the option it was given for.

    Raises:
        UserError: not a whole number from 0 to ``LARGEST``.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= LARGEST:
        raise UserError(f"{name} = {seed!r}: must be a whole number from 0 to 2^63 - 1 ({LARGEST})")


def random_key(seed: int) -> jax.Array:
    """The JAX key of a seed: ``jax.random.key(seed)`` below 2^32, where that takes all its bits.

    Above, ``jax.random.key`` drops the upper 32 bits unless JAX runs with 64-bit types; this is the
    key that it makes with them.
    """
    import jax
    import jax.numpy as jnp

    words = jnp.array([seed >> 32, seed & 0xFFFFFFFF], jnp.uint32)
    return jax.random.wrap_key_data(words, impl="threefry2x32")
