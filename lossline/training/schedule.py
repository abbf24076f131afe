"""Learning-rate schedules: functions of the step, computed on the host in float64.

They are not part of the compiled step (the rate is an argument), so runs that differ only in
schedule, learning rate or length share one compilation.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

from lossline.errors import UserError


class Schedule(Protocol):
    """A factor in [0, 1] of the peak learning rate.

    ``family`` is the run's fact "schedule".
    """

    family: ClassVar[str]

    def factor(self, k: int, steps: int) -> float:
        """Return the factor of update ``k`` (from 0) of ``steps``."""
        ...


@dataclass(frozen=True, kw_only=True)
class CosineSchedule:
    """Linear warmup, then half a cosine down to ``final`` times the peak (arXiv:1608.03983).

    Attributes:
        warmup: share of the steps spent warming up. The first update uses 1 / (number of warmup
            steps) of the peak.
        final: factor of the last update.
    """

    family: ClassVar[str] = "cosine"
    warmup: float = 0.05
    final: float = 0.1

    def __post_init__(self) -> None:
        _require_share("cosine.warmup", self.warmup)
        _require_share("cosine.final", self.final)

    def factor(self, k: int, steps: int) -> float:
        """Return the factor of update ``k`` (from 0) of ``steps``."""
        warmup = warmup_steps(self.warmup, steps)
        if k < warmup:
            return (k + 1) / warmup
        # Progress is 1 at the last update (k = steps - 1), which therefore uses ``final``.
        progress = (k - warmup + 1) / (steps - warmup)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))


class DecayShape(enum.Enum):
    """Shape of the decay of a warmup-stable-decay schedule."""

    LINEAR = "linear"
    SQRT = "sqrt"  # 1 - sqrt(progress), arXiv:2405.18392
    COSINE = "cosine"


@dataclass(frozen=True, kw_only=True)
class WSDSchedule:
    """Linear warmup, constant rate, then a decay (warmup-stable-decay, arXiv:2404.06395).

    Attributes:
        warmup: share of the steps spent warming up.
        decay: share of the steps spent in the decay.
        final: factor of the last update.
        shape: "linear", "sqrt" or "cosine".
    """

    family: ClassVar[str] = "wsd"
    warmup: float = 0.05
    decay: float = 0.2
    final: float = 0.0
    shape: DecayShape = DecayShape.SQRT

    def __post_init__(self) -> None:
        for name in ("warmup", "decay", "final"):
            _require_share(f"wsd.{name}", getattr(self, name))
        if self.warmup + self.decay > 1:
            raise UserError(
                f"wsd.warmup + wsd.decay = {self.warmup} + {self.decay}: more than the whole run. "
                f"Decrease one of them so that the sum is at most 1."
            )

    def factor(self, k: int, steps: int) -> float:
        """Return the factor of update ``k`` (from 0) of ``steps``."""
        warmup, decay = warmup_steps(self.warmup, steps), round(self.decay * steps)
        if k < warmup:
            return (k + 1) / warmup
        if k < steps - decay:
            return 1.0
        progress = (k - (steps - decay) + 1) / decay
        down = {
            DecayShape.LINEAR: 1 - progress,
            DecayShape.SQRT: 1 - math.sqrt(progress),
            DecayShape.COSINE: 0.5 * (1 + math.cos(math.pi * progress)),
        }[self.shape]
        return self.final + (1 - self.final) * down


@dataclass(frozen=True, kw_only=True)
class ConstantSchedule:
    """Linear warmup, then the peak until the end.

    Attributes:
        warmup: share of the steps spent warming up.
    """

    family: ClassVar[str] = "constant"
    warmup: float = 0.0

    def __post_init__(self) -> None:
        _require_share("constant_rate.warmup", self.warmup)

    def factor(self, k: int, steps: int) -> float:
        """Return the factor of update ``k`` (from 0) of ``steps``."""
        warmup = warmup_steps(self.warmup, steps)
        return (k + 1) / warmup if k < warmup else 1.0


def warmup_steps(share: float, steps: int) -> int:
    """Return the number of warmup updates; at least one update follows them."""
    return min(round(share * steps), max(steps - 1, 0))


def _require_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UserError(f"{name} = {value}: must be a share from 0 to 1")
