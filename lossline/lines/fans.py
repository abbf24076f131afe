"""How much of the spread of reweighted lines beyond their points belongs to a band.

Reweighted lines are drawn from a posterior that prefers no shape, so that they spread too far
beyond the points. Set once by nested hold-out over compute on published sweeps
(experiments/published/README.md).
"""

from __future__ import annotations

from lossline.lines.specimens import LineKind

# Lines of few runs spread only slightly too far; lines of three or more iso-FLOP budgets spread far
# too far.
_FEW_RUNS, _MANY_RUNS = 8, 24
_FAN_OF_FEW = 0.7
_FAN_OF_TEXT = 0.25
_FANS = {
    # Both axes are losses on the runs' own training sets: these lines extrapolate best.
    LineKind.TRAIN_TO_TRAIN: 0.1,
    LineKind.TRAIN_TO_TASK: 0.85,
    LineKind.VALIDATION_TO_TASK: 0.85,
}


def fan_of(kind: LineKind, runs: int) -> float:
    """Return the fan factor: 0.7 up to 8 runs, that of the kind from 24 on, linear between."""
    share = min(max((runs - _FEW_RUNS) / (_MANY_RUNS - _FEW_RUNS), 0.0), 1.0)
    return _FAN_OF_FEW + share * (_FANS.get(kind, _FAN_OF_TEXT) - _FAN_OF_FEW)
