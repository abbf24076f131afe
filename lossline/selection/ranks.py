"""Standings: how many models a model stands above, minus how many it stands below.

The standing of model k in a column is t_k = Σ_l sign(x_k − x_l). Its midrank is (t_k + n + 1) / 2,
so standings are centered midranks, doubled: whole numbers also where models are tied.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

_BLOCK = 200  # columns; their keys stay in the second-level cache


def standings(values: Array) -> Array:
    """Return the standings of each column of values (n, d) without NaN, whole numbers (n, d)."""
    models, columns = values.shape
    dtype = np.int8 if models <= 127 else np.int16 if models <= 2**15 else np.int32
    found = np.empty(values.shape, dtype)
    if not found.size:
        return found
    keys, gaps = np.empty((2, min(_BLOCK, columns), models), np.int64)
    for start in range(0, columns, _BLOCK):
        block = values[:, start : start + _BLOCK]
        width = block.shape[1]
        _stand(block, found[:, start : start + _BLOCK], keys[:width], gaps[:width, 1:])
    return found


def _stand(values: Array, out: Array, keys: Array, gaps: Array) -> None:
    """Write the standings of one block (n, w), with memory for keys (w, n) and gaps (w, n - 1).

    The order of floats is the order of their bits as integers, once those of negative numbers are
    flipped. The lowest bits are replaced by the value's place in the block, so that one plain sort,
    several times as fast as an argsort, says where each rank goes. Columns with values that agree
    in nearly all other bits are sorted exactly.
    """
    models, width = values.shape
    low = np.int64((1 << (models * width).bit_length()) - 1)
    np.add(values.T, 0.0, out=keys.view(np.float64))  # + 0.0 turns -0.0 into 0.0
    if keys.min() < 0:
        keys ^= (keys >> 63) & np.int64(2**63 - 1)
    keys &= ~low
    keys |= np.arange(models) * width + np.arange(width)[:, None]
    keys.sort(axis=1)
    close = np.subtract(keys[:, 1:], keys[:, :-1], out=gaps) <= low
    keys &= low
    places = np.empty(models * width, out.dtype)
    places[keys.reshape(-1)] = np.tile(np.arange(1 - models, models, 2).astype(out.dtype), width)
    out[:] = places.reshape(models, width)
    if close.any():
        tied = close.any(axis=1)
        out[:, tied] = _with_ties(values[:, tied])


def _with_ties(values: Array) -> Array:
    """Return standings (n, w) by an exact sort; tied models share one."""
    columns = np.ascontiguousarray(values.T)
    models = columns.shape[1]
    order = np.argsort(columns, axis=1)
    ordered = np.take_along_axis(columns, order, axis=1)
    new = np.ones(ordered.shape, bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    places = np.arange(models)
    below = np.maximum.accumulate(np.where(new, places, 0), axis=1)
    last = np.ones(ordered.shape, bool)
    last[:, :-1] = new[:, 1:]
    ends = np.where(last, places + 1, models)[:, ::-1]
    upto = np.minimum.accumulate(ends, axis=1)[:, ::-1]
    found = np.empty(ordered.shape, int)
    np.put_along_axis(found, order, below + upto - models, axis=1)
    return found.T


def as_floats(standing: Array) -> Array:
    """Return standings (n, d) as floats that hold sums of n products of two of them exactly."""
    return standing.astype(np.float32 if len(standing) <= 256 else np.float64)
