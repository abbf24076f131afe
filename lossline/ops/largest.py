"""Choose the largest of many scores exactly, without a sort and without gathering them.

A sort of a sharded array gathers all of it on every device. Here each device only counts its own
elements, 32 times, and the devices add one integer per count. Used to select the tokens of a global
batch that are trained on (Rho-1, arXiv:2404.07965, equations 4 and 5).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def select_largest(
    scores: jax.Array,
    candidates: jax.Array,
    count: jax.Array,
    *,
    per_row: bool = False,
    over: str | None = None,
    first: jax.Array | int = 0,
) -> jax.Array:
    """Return which elements are the ``count`` candidates with the largest scores.

    Of equal scores, those at the smaller global position (row · L + column) are chosen first; -0.0
    equals 0.0. So the result equals a stable sort and does not depend on the sharding. Call it with
    any sharding of [B, L] under ``jit``, where XLA adds the counts of all devices, or under
    ``shard_map``. No gradient flows through it.

    Args:
        scores: float32 [B, L]; any value, also NaN, where ``candidates`` is False.
        candidates: bool [B, L], the elements that may be chosen.
        count: int32 scalar, or [B] with ``per_row``: how many to choose. If there are fewer
            candidates, all of them are chosen.
        per_row: choose ``count`` elements of each row instead of the whole array.
        over: the axis of ``shard_map`` that splits the rows; None: this array is the whole one.
        first: under ``shard_map``, the global position of the first local element. All positions
            must be below 2³¹.

    Returns:
        bool [B, L].
    """

    def number(chosen: jax.Array) -> jax.Array:
        local = jnp.sum(chosen, axis=1 if per_row else None, dtype=jnp.int32)
        return local if over is None or per_row else lax.psum(local, over)

    keys = _ordered_keys(lax.stop_gradient(scores), candidates)
    # The largest threshold that `count` elements reach is the key of the last one to choose.
    threshold = _largest(lambda key: number(keys >= key[..., None]) >= count, count)[..., None]
    above, equal = keys > threshold, candidates & (keys == threshold)
    missing = count - number(above)  # to be chosen among the equal ones

    def end_among_equal() -> jax.Array:
        positions = _positions(scores.shape, first)
        end = _largest(lambda end: number(equal & (positions < end[..., None])) <= missing, count)
        return equal & (positions < end[..., None])

    too_many = jnp.any(number(equal) > missing)
    return above | lax.cond(too_many, end_among_equal, lambda: equal)


def _ordered_keys(scores: jax.Array, candidates: jax.Array) -> jax.Array:
    """Return uint32 keys in the order of float32 scores; 0 for what is not a candidate."""
    bits = lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.uint32)
    sign = jnp.uint32(1 << 31)
    bits = jnp.where(bits == sign, 0, bits)  # -0.0 = 0.0
    keys = jnp.where(bits >= sign, ~bits, bits | sign)
    return jnp.where(candidates, jnp.maximum(keys, 1), 0)


def _positions(shape: tuple[int, ...], first: jax.Array | int) -> jax.Array:
    row, column = (lax.broadcasted_iota(jnp.uint32, shape, axis) for axis in (0, 1))
    return row * shape[1] + column + jnp.asarray(first).astype(jnp.uint32)


def _largest(holds: Callable[[jax.Array], jax.Array], like: jax.Array) -> jax.Array:
    """Return the largest uint32 for which ``holds``, by one bit per step from the highest.

    ``holds`` must be true for 0 and for every number below one for which it is true. ``like`` gives
    the shape: each element is searched by itself.
    """

    def step(index: jax.Array, found: jax.Array) -> jax.Array:
        tried = found | (jnp.uint32(1 << 31) >> index.astype(jnp.uint32))
        return jnp.where(holds(tried), tried, found)

    return lax.fori_loop(0, 32, step, jnp.zeros_like(like, jnp.uint32))
