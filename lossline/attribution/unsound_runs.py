"""Find runs that would mislead an attribution: copies of another run, and outliers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import special

from lossline.attribution.comparison import run_residuals
from lossline.attribution.regression import MatchedPoints, Regression
from lossline.matching.groups import Design

# Two losses that agree to this relative difference are the same number, perhaps written with fewer
# digits.
_SAME = 1e-6
# Losses of two seeds often agree to the second decimal, so equal rounded losses may be a
# coincidence. This many equal decimals after the second, over all losses, are not.
_ALIKE_DECIMALS = 2
_DIGITS = 6
_LEVEL = 0.01  # level of the test "no run is an outlier", over all runs and sets
_MOST = 3  # outliers that are named


# Measured cells (checkpoint and set) of a run, as ascending numbers, and the values there.
_Measured = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outlier:
    """A run that lies far off the lines.

    Attributes:
        run: run_id.
        y_set: evaluation set on which it lies farthest off.
        distance: height above the lines, in the unit of the losses.
        studentized: the same in standard deviations of the other runs.
    """

    run: str
    y_set: str
    distance: float
    studentized: float


def copies(rows: pd.DataFrame, plan: Design) -> dict[str, str]:
    """Return the runs that are copies of another run: copy -> original.

    A copy has the same facts as the original, and each of its measurements equals that of the
    original. Two real runs of one recipe never agree in all losses. Counted as two runs, a copy
    would make run-to-run noise look smaller than it is.

    Args:
        rows: measured rows of a loss table.
        plan: facts of its runs.
    """
    value = rows["loss"].where(rows["loss"].notna(), rows["bits_per_byte"]).to_numpy(float)
    measured = rows[["run_id", "step", "eval_set"]].assign(value=value)[~np.isnan(value)]
    cell = measured.groupby(["step", "eval_set"], sort=True, observed=True).ngroup().to_numpy()
    run, names = pd.factorize(measured["run_id"])
    order = np.lexsort((cell, run))
    ends = np.cumsum(np.bincount(run, minlength=len(names)))[:-1]
    cells, values = (np.split(each[order], ends) for each in (cell, measured["value"].to_numpy()))
    of_run = dict(zip(map(str, names), zip(cells, values, strict=True), strict=True))
    found: dict[str, str] = {}
    for _, members in plan.runs.groupby(list(plan.runs.columns), dropna=False):
        # The run with most measurements is the original; a copy may hold only a part of them.
        known = [run for run in map(str, members.index) if run in of_run]
        runs = sorted(known, key=lambda run: (-len(of_run[run][0]), run))
        for first, second in itertools.combinations(runs, 2):
            if first not in found and second not in found and _agree(of_run[first], of_run[second]):
                found[second] = first
    return found


def _agree(longer: _Measured, shorter: _Measured) -> bool:
    """Return whether the longer run has all cells of the shorter, with equal values."""
    (cells, values), (of_shorter, other) = longer, shorter
    place = np.minimum(np.searchsorted(cells, of_shorter), len(cells) - 1)
    if not np.array_equal(cells[place], of_shorter):
        return False
    return (
        len(other) >= 2
        and bool(np.all(np.abs(other - values[place]) <= _SAME * np.abs(values[place])))
        and _telling_digits(other) >= _DIGITS
    )


def _telling_digits(values: np.ndarray) -> int:
    """Count the decimals, over all losses, that can distinguish two runs of one recipe.

    The first two decimals of a loss do not count, because such runs may agree in them. Of the
    decimals after them, at most four count.
    """
    for decimals in range(_ALIKE_DECIMALS, _ALIKE_DECIMALS + 4):
        if np.allclose(values, values.round(decimals), rtol=_SAME, atol=0.0):
            return (decimals - _ALIKE_DECIMALS) * len(values)
    return 4 * len(values)


def outliers(
    plan: Design, factors: Sequence[str], losses: Mapping[str, pd.DataFrame]
) -> list[Outlier]:
    """Return the runs that lie far off the lines: at most three, the farthest first.

    The model of all runs has one line, and an offset and a tilt per level of each factor. The test
    uses externally studentized residuals with Bonferroni's correction over runs and sets. Each
    outlier is removed before the search for the next one.

    Args:
        plan: facts of the runs.
        factors: factors that were tested.
        losses: y set -> losses of checkpoints (``analysis.losses_on``).
    """
    found: list[Outlier] = []
    known: dict[bytes, Regression] = {}
    while len(found) < _MOST:
        gone = {item.run for item in found}
        candidates = [
            item
            for y_set, points in losses.items()
            for item in _residuals(plan, factors, y_set, points, gone, known)
        ]
        if not candidates:
            break
        p_value, worst = min(candidates, key=lambda item: item[0])
        if p_value * len(candidates) >= _LEVEL:
            break
        found.append(worst)
    return found


def _residuals(
    plan: Design,
    factors: Sequence[str],
    y_set: str,
    points: pd.DataFrame,
    gone: set[str],
    known: dict[bytes, Regression],
) -> Iterator[tuple[float, Outlier]]:
    run = np.asarray(points.index.get_level_values(0), dtype=str)
    keep = ~np.isin(run, list(gone))
    run, (x, y) = run[keep], points.to_numpy(float)[keep].T
    names, number = np.unique(run, return_inverse=True)
    if len(names) < 4 or np.ptp(x) == 0:
        return
    given = _offsets(plan, factors, run, x)
    points_of_set = MatchedPoints(x=x, y=y, run=number, d=np.zeros(len(x)), given=given)
    found = run_residuals(points_of_set, known)
    # A run that the fit follows by itself leaves no residual to judge it by.
    judged = found.free >= 0.05
    if found.degrees < 2.0:
        return
    heights, free = found.heights[judged], found.free[judged]
    rest = (found.squares - heights**2 / free) / (found.degrees - 1.0)
    left = rest > 0
    heights, free, rest = heights[left], free[left], rest[left]
    studentized = heights / np.sqrt(rest * free)
    p_values = 2.0 * special.stdtr(found.degrees - 1.0, -np.abs(studentized))
    for name, p_value, distance, size in zip(
        names[judged][left], p_values, heights / free, studentized, strict=True
    ):
        yield (
            float(p_value),
            Outlier(
                run=str(name), y_set=y_set, distance=float(distance), studentized=float(size)
            ),
        )  # fmt: skip


def _offsets(plan: Design, factors: Sequence[str], run: np.ndarray, x: np.ndarray) -> np.ndarray:
    """An offset and a tilt for every level but the first of each factor: (M, k)."""
    u = (x - x.mean()) / np.ptp(x)
    names, number = np.unique(run, return_inverse=True)
    columns = []
    for factor in factors:
        level = plan.runs[factor][names].to_numpy()[number]
        for name in plan.levels(factor)[1:]:
            offset = (level == name).astype(float)
            columns += [offset, offset * u]
    return np.column_stack(columns) if columns else np.empty((len(x), 0))
