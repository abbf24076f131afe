"""Compare methods of prediction on the losses that all of them answered.

Medians over different losses cannot be compared: a method that fails on the hard runs would look
best. Nats per token and bits per byte are never in one median.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd

LINE = "line"
# Columns that identify one held-out loss: the run, and the axes of the line that predicts it.
CASE = ("run_id", "x_set", "y_set")
# A method is compared with the others if it answers at least this share of the line's cases. Else
# it is compared with the line alone, on the cases that both answered.
_KEPT = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """The methods on the held-out losses of one unit.

    Attributes:
        unit: "loss" (nats per token) or "bits_per_byte".
        cases: number of held-out losses that any method answered.
        answered: how many of these each method answered, the line first.
        rows: predictions of the compared methods, each on the same ``common`` cases.
        apart: for each method that answered too few of the line's cases: its predictions, and the
            line's, where both answered.
    """

    unit: str
    cases: int
    answered: Mapping[str, int]
    rows: pd.DataFrame
    apart: Mapping[str, pd.DataFrame]

    @property
    def common(self) -> int:
        """Number of cases that every compared method answered."""
        return len(self.rows[[*CASE]].drop_duplicates())

    @property
    def methods(self) -> list[str]:
        """The compared methods, the line first."""
        return [name for name in self.answered if name in set(self.rows["method"])]

    @property
    def missing(self) -> dict[str, int]:
        """Number of unanswered cases of each method that is not in ``apart``."""
        beside = {name: n for name, n in self.answered.items() if name not in self.apart}
        lacks = {name: self.cases - count for name, count in beside.items()}
        return {name: count for name, count in lacks.items() if count}


def compare(heldout: pd.DataFrame) -> list[Comparison]:
    """Return one comparison per unit, in order of appearance.

    Args:
        heldout: predictions as in ``TableFit.heldout``. A row without a finite relative error
            counts as no answer.
    """
    if heldout.empty:
        return []
    finite = heldout[np.isfinite(heldout["relative_error"].to_numpy(float))]
    return [_of_unit(str(unit), rows) for unit, rows in finite.groupby("unit", sort=False)]


def _of_unit(unit: str, rows: pd.DataFrame) -> Comparison:
    case = rows.groupby([*CASE], sort=False, dropna=False).ngroup().to_numpy()
    method = rows["method"].to_numpy(str)
    cases = cases_of_methods(case, method, LINE)
    compared, common = answered_by_all(cases)
    first, *others = [name for name in cases if cases[name]]
    apart = {}
    for name in others:
        if name not in compared:
            both = np.isin(case, list(cases[name] & cases[first]))
            apart[name] = rows[both & np.isin(method, [first, name])]
    return Comparison(
        unit=unit,
        cases=len(set(case)),
        answered={name: len(cases[name]) for name in cases},
        rows=rows[np.isin(method, compared) & np.isin(case, list(common))],
        apart=apart,
    )


def cases_of_methods(case: np.ndarray, method: np.ndarray, first: str) -> dict[str, set[int]]:
    """Return the cases that each method answered: ``first`` first, then by their number.

    Args:
        case: number of the case of each answer.
        method: name of the method of each answer.
        first: method that the others are compared with.
    """
    cases = {str(name): set(case[method == name]) for name in dict.fromkeys([first, *method])}
    order = sorted(cases, key=lambda name: (name != first, -len(cases[name]), name))
    return {name: cases[name] for name in order}


def answered_by_all(cases: Mapping[str, set[int]]) -> tuple[list[str], set[int]]:
    """Return the methods to compare, and the cases that all of them answered.

    A method that answered less than half of the first method's cases is not compared.

    Args:
        cases: from ``cases_of_methods``.
    """
    first, *others = [name for name in cases if cases[name]]
    compared, common = [first], cases[first]
    for name in others:
        if len(common & cases[name]) >= _KEPT * len(cases[first]):
            common = common & cases[name]
            compared.append(name)
    return compared, common
