"""Cut matrices with missing cells into parts that have none, so that estimators see no NaN.

Benchmarks that the same models have are one group. For each group, columns of losses are read in
blocks that stay in the processor's cache, and columns that the same models have are one part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

Array = np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Columns without missing cells.

    Attributes:
        models: rows of the matrix (n,).
        domains: columns (d,), as indices or as a slice.
        benchmarks: columns of errors (b,).
        losses: (n, d) float64.
    """

    models: Array
    domains: Array | slice
    benchmarks: Array
    losses: Array


def benchmark_groups(errors: Array) -> Iterator[tuple[Array, Array]]:
    """Yield (models, benchmarks), as indices, for benchmarks (N, B) that the same models have."""
    yield from patterns(~np.isnan(errors))


def parts(
    losses: Array, models: Array, benchmarks: Array, *, block: int, fewest: int = 2
) -> Iterator[Part]:
    """Yield columns of losses (N, D), seen by these models, in parts without missing cells.

    Columns that fewer than ``fewest`` of the models have are left out.
    """
    if len(models) < fewest:
        return
    everyone = len(models) == len(losses)
    for start in range(0, losses.shape[1], block):
        columns = slice(start, min(start + block, losses.shape[1]))
        seen = losses[:, columns] if everyone else losses[models, columns]
        seen = np.asarray(seen, float)
        missing = np.isnan(seen.sum(axis=0))  # one pass; a NaN makes the sum NaN
        if not missing.any():
            yield Part(models=models, domains=columns, benchmarks=benchmarks, losses=seen)
            continue
        for rows, chosen in patterns(~np.isnan(seen)):
            if len(rows) < fewest:
                continue
            yield Part(
                models=models[rows],
                domains=start + chosen,
                benchmarks=benchmarks,
                losses=np.ascontiguousarray(seen[np.ix_(rows, chosen)]),
            )


def patterns(known: Array) -> Iterator[tuple[Array, Array]]:
    """Yield (rows, columns), as indices, of each distinct column of a mask (N, C)."""
    packed = np.ascontiguousarray(np.packbits(known, axis=0).T)
    keys = packed.view(f"V{packed.shape[1]}").ravel()
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group))
    for start, end, example in zip(ends - np.diff(ends, prepend=0), ends, first, strict=True):
        yield np.flatnonzero(known[:, example]), order[start:end]


def constant(values: Array) -> Array:
    """Return which columns (n, d) without missing cells have one value only, (d,)."""
    if len(values) < 2:
        return np.ones(values.shape[1], bool)
    same = values[0] == values[1]  # a cheap test that nearly every other column fails
    if same.any():
        same[same] = (values[:, same] == values[0, same]).all(axis=0)
    return same
