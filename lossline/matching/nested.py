"""Nested models of all runs: the share of the spread about one line that each factor explains."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lossline.matching.groups import TREND_FROM, Design

_DEGREE = 3  # of the polynomial that is the one line for all runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shares:
    """Variance that a factor explains in addition to all other factors.

    Attributes:
        share: as a share of the squared distances from one line for all runs; NaN where the factor
            is an alias of the others.
        partial_r2: as a share of what the other factors leave unexplained; NaN in the same case.
        spread: root mean square distance of the runs from one line for all, in the unit of y.
    """

    share: float
    partial_r2: float
    spread: float


def nested_shares(plan: Design, points: pd.DataFrame, factors: Sequence[str]) -> dict[str, Shares]:
    """Return the share of variance of each factor.

    Least squares of y on one polynomial line, plus an offset and a tilt per level of each factor.
    Every run has the same total weight.

    Args:
        plan: facts of the runs.
        points: index (run_id, step), columns x and y (M,).
        factors: factors of the model.

    Returns:
        Factor -> shares; empty with fewer than 3 runs or a single x.
    """
    run = np.asarray(points.index.get_level_values(0), dtype=str)
    x, y = points.to_numpy(float).T
    if len(np.unique(run)) < 3 or np.ptp(x) == 0:
        return {}
    _, number, count = np.unique(run, return_inverse=True, return_counts=True)
    weight = 1.0 / np.sqrt(count[number])
    u = 2.0 * (x - x.min()) / np.ptp(x) - 1.0
    line = np.polynomial.legendre.legvander(u, min(_DEGREE, len(np.unique(x)) - 1))
    blocks = {factor: _columns(plan, factor, run, u) for factor in factors}
    whole = _unexplained(np.column_stack([line, *blocks.values()]), y, weight)
    alone = _unexplained(line, y, weight)
    shares = {}
    for factor in factors:
        rest = [block for name, block in blocks.items() if name != factor]
        without = _unexplained(np.column_stack([line, *rest]), y, weight)
        gained = max(without[0] - whole[0], 0.0)
        # An alias adds no rank: its columns are combinations of the other factors' columns.
        aliased = without[1] == whole[1] or alone[0] <= 0 or without[0] <= 0
        shares[factor] = Shares(
            share=float("nan") if aliased else gained / alone[0],
            partial_r2=float("nan") if aliased else gained / without[0],
            spread=float(np.sqrt(alone[0] / len(count))),
        )
    return shares


def _columns(plan: Design, factor: str, run: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Columns of a factor: an offset and a tilt for every level but the first.

    A number with many levels has one offset and one tilt, in its logarithm.
    """
    levels = plan.levels(factor)
    names, place = np.unique(run, return_inverse=True)
    values = plan.trend_of(factor) if len(levels) >= TREND_FROM else None
    if values is not None and (values > 0).all():
        number = np.log(values)[names].to_numpy(float)[place]
        offsets = ((number - number.mean()) / max(float(np.ptp(number)), 1e-300))[:, None]
    else:
        level = plan.runs[factor][names].to_numpy()[place]
        offsets = np.stack([(level == name).astype(float) for name in levels[1:]], axis=1)
    return np.column_stack([offsets, offsets * u[:, None]])


def _unexplained(columns: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[float, int]:
    """Weighted residual sum of squares, and the rank of the columns."""
    coefficients, _, rank, _ = np.linalg.lstsq(columns * weight[:, None], y * weight, rcond=1e-9)
    return float(np.sum((weight * (y - columns @ coefficients)) ** 2)), int(rank)
