"""How far predictions are to be doubted beyond what reweighting the runs shows, by kind of line.

An interval adds three things: how the line moves when runs are reweighed, the runs' scatter about
it, and a share of the part of y that is extrapolated, because no law holds exactly. Left as they
come, these do not add up to 90% on runs that were held out: lines that are reweighed and drawn from
a posterior that leans to no shape fan out too far beyond the points, and new runs, larger ones
above all, scatter more than those fitted. The factors below were set once for all by nested
hold-out over compute on published sweeps; experiments/published/README.md has the table.
"""

from __future__ import annotations

import dataclasses

from lossline.errors import UserError
from lossline.lines.specimens import LineKind

__all__ = ["Doubt", "doubt_of"]

# Lines of few runs fan out little further than they should; those of three iso-FLOP budgets or more
# do.
_FEW_RUNS, _MANY_RUNS = 8, 24
_FAN_OF_FEW = 0.7


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doubt:
    """Factors of an interval.

    Attributes:
      fan: of how much further the reweighed lines lie apart beyond the points than at their end,
        where there are many runs; `fan_of` says what it is for few.
      scatter: of the fitted runs' scatter, for a run that was not fitted.
      form: standard deviation of the extrapolated part of y, relative to that part.
    """

    fan: float = 0.25
    scatter: float = 1.5
    form: float = 0.05

    def __post_init__(self) -> None:
        if min(self.fan, self.scatter, self.form) < 0:
            raise UserError("Doubt: fan, scatter and form must not be negative")

    def fan_of(self, runs: int) -> float:
        """The factor for a line of so many runs: 0.7 up to 8 of them, `fan` from 24 on, linear
        between."""
        share = min(max((runs - _FEW_RUNS) / (_MANY_RUNS - _FEW_RUNS), 0.0), 1.0)
        return _FAN_OF_FEW + share * (self.fan - _FAN_OF_FEW)


_TEXT = Doubt()
# Both axes are measured alike, each on its own training set: these lines hold best.
_TRAIN = Doubt(fan=0.1, scatter=1.5, form=0.025)
_TASK = Doubt(fan=0.85, scatter=1.25, form=0.14)
_BY_KIND = {
    LineKind.TRAIN_TO_TRAIN: _TRAIN,
    LineKind.TRAIN_TO_TASK: _TASK,
    LineKind.VALIDATION_TO_TASK: _TASK,
}


def doubt_of(kind: LineKind) -> Doubt:
    """The factors for a kind of line."""
    return _BY_KIND.get(kind, _TEXT)
