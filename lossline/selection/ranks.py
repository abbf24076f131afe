"""Standings: how many models a model stands above, minus how many it stands below.

The standing of model k in a column is t_k = Σ_l sign(x_k − x_l). Its midrank is (t_k + n + 1) / 2,
so standings are centered midranks, doubled: whole numbers also where models are tied.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

_BLOCK = 512  # columns; their keys stay in the second-level cache


def standings(values: Array) -> Array:
    """Return the standings of each column of values (n, d) without NaN, whole numbers (n, d)."""
    dtype = np.int8 if len(values) <= 127 else np.int16 if len(values) <= 2**15 else np.int32
    found = np.empty(values.shape, dtype)
    for start in range(0, values.shape[1], _BLOCK):
        _stand(values[:, start : start + _BLOCK], found[:, start : start + _BLOCK])
    return found


def _stand(values: Array, out: Array) -> None:
    """Write the standings of one block (n, w)."""
    models, width = values.shape
    if models == 0 or width == 0:
        return
    keys, bits = _sorted_keys(values)
    order = keys & ((1 << bits) - 1)  # the model at each place, (w, n)
    place = np.arange(1 - models, models, 2).astype(out.dtype)
    block = np.empty((models, width), out.dtype)
    order *= width
    order += np.arange(width)[:, None]
    block.reshape(-1)[order.reshape(-1)] = np.tile(place, width)
    keys >>= bits
    close = (keys[:, 1:] == keys[:, :-1]).any(axis=1)
    if close.any():
        block[:, close] = _with_ties(values[:, close])
    out[:] = block


def _sorted_keys(values: Array) -> tuple[Array, int]:
    """Return sorted integers (w, n) that hold value and model, and the bits of the model.

    The order of floats is the order of their bits as integers, once those of negative numbers are
    flipped. The lowest bits are replaced by the model, so that one plain sort, several times as
    fast as an argsort, gives the order. Values that agree in all other bits are sorted out later.
    """
    models = len(values)
    bits = max(1, (models - 1).bit_length())
    keys = np.add(values.T, 0.0, order="C").view(np.int64)  # + 0.0 turns -0.0 into 0.0
    if keys.min() < 0:
        keys ^= (keys >> 63) & np.int64(2**63 - 1)
    keys &= ~np.int64((1 << bits) - 1)
    keys |= np.arange(models)
    keys.sort(axis=1)
    return keys, bits


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
