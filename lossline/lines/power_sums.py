"""Weighted sums over runs of the power ((x - E_x) / (middle - E_x))^kappa at many shapes.

A shape is a pair (E_x, kappa). Least squares at a shape needs the sums of the power times itself,
times y and times the other columns. They are made once per run, because all points of a run have
one weight in every reweighting.

With many points even the powers themselves are too many. They are smooth functions of x, of which
about twenty span all shapes to 11 digits (``PowerSpan``). The sums of the products of these few
functions then give those of every shape, so that the points are visited once and not once per
shape.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.polynomial import chebyshev

from lossline.lines.run_errors import RunErrors

Array = np.ndarray

# Shapes x points that are computed together: their arrays stay in a core's cache.
_CHUNK_ELEMENTS = 60_000
# With at least this many points, and this many of each run, the powers are spanned.
_MANY_POINTS, _POINTS_OF_RUN = 2000, 4
# Nodes in x that determine a power; a power of the grid is known to rounding from half of them.
_NODES = 64
# Functions whose share in all powers is smaller than this are left out.
_NEGLIGIBLE = 1e-11
# Shapes from which the functions are found: E_x / min x by ln kappa.
_SHARES, _LOG_KAPPAS = 24, 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sums:
    """Sums of products of the power, weighted, at G shapes for S weightings.

    With paired shapes, shape s belongs to weighting s only, and the axis G is missing.

    Attributes:
        rest: with each of the Q other columns, each (G, S).
        square: with itself (G, S).
        y: with y (G, S).
    """

    rest: Sequence[Array]
    square: Array
    y: Array


class Powers:
    """The power at the M points of a sample, with the columns that it is multiplied with.

    Args:
        x: losses (M,).
        middle: x at which the power is 1.
        errors: the errors of the points, whose shared part is taken out.
        size: size of y (M,) that all columns are relative to.
        weight: weights of the points (M,).
        rest: the other columns (Q, M), relative and without shared errors.
        y: losses (M,), likewise.
        span: functions that span the powers; None computes each power at each point.
    """

    def __init__(
        self, x: Array, *, middle: float, errors: RunErrors, size: Array, weight: Array,
        rest: Array, y: Array, span: PowerSpan | None = None,
    ) -> None:  # fmt: skip
        self._x, self._middle, self._span = x, middle, span
        self._errors, self._size, self._weight = errors, size, weight
        self._rows = np.stack([*rest, y]) * weight
        if span is not None:
            self._linear, self._square = self._of_span(span)

    def at(self, E_x: Array, log_kappa: Array) -> Callable[..., Sums]:
        """Return a function that gives the sums at shapes (G,) for weightings (S, R) of the runs.

        Args:
            E_x: irreducible loss of each shape.
            log_kappa: ln kappa of each shape.
        """
        if self._span is None:
            columns = self._columns(E_x, log_kappa)

            def sums(weights: Array, *, paired: bool = False) -> Sums:
                def product(column: Array) -> Array:
                    return np.sum(column * weights, -1) if paired else column @ weights.T

                *rest, y, square = map(product, columns)
                return Sums(rest=rest, square=square, y=y)

            return sums

        share = power(self._span.nodes, E_x, log_kappa, self._middle) @ self._span.projection
        first, second = np.triu_indices(share.shape[1])
        shares = share[:, first] * share[:, second]

        def spanned(weights: Array, *, paired: bool = False) -> Sums:
            def product(share: Array, of_functions: Array) -> Array:
                found = of_functions @ weights.T
                return np.vecdot(share, found.T) if paired else share @ found

            *rest, y = (product(share, one) for one in self._linear)
            return Sums(rest=rest, square=product(shares, self._square), y=y)

        return spanned

    def _columns(self, E_x: Array, log_kappa: Array) -> Array:
        """Return the products with the Q other columns, y and itself (Q + 2, G, R)."""
        products = np.empty((len(self._rows) + 1, len(E_x), self._errors.n_runs))
        size = max(1, _CHUNK_ELEMENTS // len(self._x))
        for start in range(0, len(E_x), size):
            part = slice(start, start + size)
            z = self._white(power(self._x, E_x[part], log_kappa[part], self._middle))
            for row, product in zip((*self._rows, z * self._weight), products, strict=True):
                product[part] = self._errors.sums(z * row)
        return products

    def _of_span(self, span: PowerSpan) -> tuple[list[Array], Array]:
        """Return the sums of the functions with each row, each (F, R), and with each other.

        The latter are (F (F + 1) / 2, R): those of different functions count twice.
        """
        z = self._white(span.functions.copy())
        with_rows = [self._errors.sums(z * row) for row in self._rows]
        twice = 2 * z
        square = []
        for i, one in enumerate(z * self._weight):
            square += [self._errors.sums(one * z[i])[None], self._errors.sums(one * twice[i + 1 :])]
        return with_rows, np.concatenate(square)

    def _white(self, rows: Array) -> Array:
        """Return rows (..., M) relative to the size of y, without the errors that runs share."""
        return self._errors.taken_out(rows / self._size)


def power(x: Array, E_x: Array, log_kappa: Array, middle: float) -> Array:
    """Return ((x - E_x) / (middle - E_x))^kappa (G, M) at x (M,) for shapes (G,)."""
    # A grid has few distinct E_x: one logarithm for each of them, then one large array in place.
    shifts, which = np.unique(E_x, return_inverse=True)
    gap = (x - shifts[:, None]) / (middle - shifts)[:, None]
    found = np.log(np.maximum(gap, 1e-12))[which]
    found *= np.exp(log_kappa)[:, None]
    return np.exp(found, out=found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerSpan:
    """F functions of x that span the powers of all shapes.

    A power is the sum of ``functions`` with shares ``power(nodes) @ projection``.

    Attributes:
        nodes: x (N,) at which a power determines its shares.
        projection: from a power at the nodes to its shares (N, F).
        functions: the functions at the points (F, M).
    """

    nodes: Array
    projection: Array
    functions: Array


def span_of(
    x: Array, *, runs: int, highest: float, log_kappa: tuple[float, float]
) -> PowerSpan | None:
    """Return functions that span the powers, or None where computing each power costs no more.

    With the logarithm of x - E_x at the highest E_x as coordinate, every power is smooth, so that
    its values at Chebyshev nodes determine it; the singular vectors of a dense sample of shapes are
    the functions.

    Args:
        x: losses (M,).
        runs: number of runs.
        highest: largest E_x / min x of any shape.
        log_kappa: smallest and largest ln kappa.
    """
    if len(x) < max(_MANY_POINTS, _POINTS_OF_RUN * runs):
        return None
    return _span(x.tobytes(), highest, log_kappa)


@functools.lru_cache(maxsize=16)
def _span(points: bytes, highest: float, log_kappa: tuple[float, float]) -> PowerSpan:
    """Return the functions for the bytes of x: lines to many sets have the same points."""
    x = np.frombuffer(points)
    low, high = float(x.min()), float(x.max())
    start, end = np.log(1 - highest), np.log(high / low - highest)
    unit = chebyshev.chebpts1(_NODES)
    nodes = low * (highest + np.exp(start + (end - start) * (unit + 1) / 2))
    shares = 1 - np.geomspace(1 - highest, 1, _SHARES)
    sample = np.meshgrid(low * shares, np.linspace(*log_kappa, _LOG_KAPPAS))
    powers = power(nodes, sample[0].ravel(), sample[1].ravel(), float(np.median(x)))
    powers /= powers.max(axis=1, keepdims=True)
    _, size, vectors = np.linalg.svd(powers, full_matrices=False)
    kept = vectors[size > _NEGLIGIBLE * size[0]]
    # Chebyshev interpolation between the nodes.
    series = np.linalg.solve(chebyshev.chebvander(unit, _NODES - 1), kept.T)
    place = 2 * (np.log(x / low - highest) - start) / (end - start) - 1
    functions = series.T @ chebyshev.chebvander(place, _NODES - 1).T
    return PowerSpan(nodes=nodes, projection=kept.T, functions=functions)
