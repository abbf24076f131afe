"""Calibration factors that widen or narrow prediction intervals, by kind of line.

An interval adds three parts: how far the line moves when runs are reweighted, the scatter of the
runs about it, and a share of the extrapolated part of y, because no law holds exactly. Without
factors these parts do not cover 90% of held-out runs. Reweighted lines, drawn from a posterior that
prefers no shape, spread too far beyond the points. New runs, above all larger ones, scatter more
than the fitted ones. The factors were set once for all, by nested hold-out over compute on
published sweeps; experiments/published/README.md has the table.
"""

from __future__ import annotations

import dataclasses

from lossline.errors import UserError
from lossline.lines.specimens import LineKind

# Lines of few runs spread only slightly too far; lines of three or more iso-FLOP budgets spread far
# too far.
_FEW_RUNS, _MANY_RUNS = 8, 24
_FAN_OF_FEW = 0.7


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """Factors of an interval.

    Attributes:
        fan: factor of the extra spread of the reweighted lines beyond the points, for lines of many
            runs (``fan_of``).
        scatter: scatter of a new run over the scatter of the fitted runs.
        form: standard deviation of the extrapolated part of y, relative to that part.
    """

    fan: float = 0.25
    scatter: float = 1.5
    form: float = 0.05

    def __post_init__(self) -> None:
        if min(self.fan, self.scatter, self.form) < 0:
            raise UserError("Calibration: fan, scatter and form must be at least 0.")

    def fan_of(self, runs: int) -> float:
        """Return the fan factor: 0.7 up to 8 runs, ``fan`` from 24 on, linear between."""
        share = min(max((runs - _FEW_RUNS) / (_MANY_RUNS - _FEW_RUNS), 0.0), 1.0)
        return _FAN_OF_FEW + share * (self.fan - _FAN_OF_FEW)


_TEXT = Calibration()
# Both axes are losses on the runs' own training sets: these lines extrapolate best.
_TRAIN = Calibration(fan=0.1, scatter=1.5, form=0.025)
_TASK = Calibration(fan=0.85, scatter=1.25, form=0.14)
_BY_KIND = {
    LineKind.TRAIN_TO_TRAIN: _TRAIN,
    LineKind.TRAIN_TO_TASK: _TASK,
    LineKind.VALIDATION_TO_TASK: _TASK,
}


def calibration_of(kind: LineKind) -> Calibration:
    """Return the factors for a kind of line."""
    return _BY_KIND.get(kind, _TEXT)
