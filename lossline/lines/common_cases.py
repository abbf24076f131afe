"""Methods of prediction, compared where all of them answer.

A median over what each method happens to answer compares different losses: the method that fails on
the hard runs would look best. Nats per token and bits per byte are never in one median.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd

__all__ = ["LINE", "Comparison", "compare"]

LINE = "line"
# One held-out loss: the run and the axes of the line that predicts it.
CASE = ("run_id", "x_set", "y_set")
# A method is compared with the others if this share of the line's cases is left with it; else it
# stands apart, beside the line on the cases of its own.
_KEPT = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """The methods on the held-out losses of one unit.

    Attributes:
      unit: "loss" or "bits_per_byte"; cases: held-out losses that any method answered.
      answered: how many of these each method answered, the line first.
      rows: predictions of the methods that are compared, each on the same `common` cases.
      apart: for each method that answered too few of the line's cases, its predictions and the
        line's where both answered.
    """

    unit: str
    cases: int
    answered: Mapping[str, int]
    rows: pd.DataFrame
    apart: Mapping[str, pd.DataFrame]

    @property
    def common(self) -> int:
        """Cases that every compared method answered."""
        return len(self.rows[[*CASE]].drop_duplicates())

    @property
    def methods(self) -> list[str]:
        """The compared methods, the line first."""
        return [name for name in self.answered if name in set(self.rows["method"])]

    @property
    def missing(self) -> dict[str, int]:
        """Cases without an answer, of the methods that have some and do not stand apart."""
        beside = {name: n for name, n in self.answered.items() if name not in self.apart}
        lacks = {name: self.cases - count for name, count in beside.items()}
        return {name: count for name, count in lacks.items() if count}


def compare(heldout: pd.DataFrame) -> list[Comparison]:
    """One comparison per unit, in order of appearance, of predictions as in
    `StudyResults.heldout`; a row whose relative error is not finite is no answer."""
    if heldout.empty:
        return []
    finite = heldout[np.isfinite(heldout["relative_error"].to_numpy(float))]
    return [_of_unit(str(unit), rows) for unit, rows in finite.groupby("unit", sort=False)]


def _of_unit(unit: str, rows: pd.DataFrame) -> Comparison:
    case = rows.groupby([*CASE], sort=False, dropna=False).ngroup().to_numpy()
    method = rows["method"].to_numpy(str)
    cases = {str(name): set(case[method == name]) for name in dict.fromkeys([LINE, *method])}
    order = sorted(cases, key=lambda name: (name != LINE, -len(cases[name]), name))
    first, *others = [name for name in order if cases[name]]
    common, compared, apart = cases[first], [first], {}
    for name in others:
        if len(common & cases[name]) >= _KEPT * len(cases[first]):
            common = common & cases[name]
            compared.append(name)
        else:
            both = np.isin(case, list(cases[name] & cases[first]))
            apart[name] = rows[both & np.isin(method, [first, name])]
    return Comparison(
        unit=unit,
        cases=len(set(case)),
        answered={name: len(cases[name]) for name in order},
        rows=rows[np.isin(method, compared) & np.isin(case, list(common))],
        apart=apart,
    )
