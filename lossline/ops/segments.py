"""Boundaries of documents that are packed into one row.

``segment_ids`` [B, L] name the document of each position. A document is a run of equal ids. An id
that occurs again later in the row is another document, for attention and for state-space layers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def starts(segment_ids_BxL: jax.Array) -> jax.Array:
    """Return True where a document begins (always at position 0); bool [B, L]."""
    changed = segment_ids_BxL[:, 1:] != segment_ids_BxL[:, :-1]
    return jnp.pad(changed, ((0, 0), (1, 0)), constant_values=True)


def runs(segment_ids_BxL: jax.Array) -> jax.Array:
    """Return the number of the document at each position, 0, 1, 2, … in each row; int32 [B, L]."""
    return jnp.cumsum(starts(segment_ids_BxL), axis=1, dtype=jnp.int32) - 1


def positions(segment_ids_BxL: jax.Array) -> jax.Array:
    """Return positions counted from the beginning of each document; int32 [B, L]."""
    index_BxL = lax.broadcasted_iota(jnp.int32, segment_ids_BxL.shape, 1)
    begin_BxL = lax.cummax(jnp.where(starts(segment_ids_BxL), index_BxL, 0), axis=1)
    return index_BxL - begin_BxL
