"""Checkpoint schedule: the steps after which a run saves checkpoints.

Kept checkpoints become points of the loss table. Replaceable checkpoints only limit the work that
an interruption loses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from lossline.errors import UserError


class Spacing(Enum):
    """Spacing of ``count`` checkpoints between the first and the last step."""

    LINEAR = "linear"
    GEOMETRIC = "geometric"


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """When to save checkpoints. The last step is always saved.

    Attributes:
        every: keep a checkpoint every this many steps. None: no regular interval.
        steps: keep a checkpoint at each of these steps.
        count: keep this many checkpoints, spaced by ``spacing``; the last one is at the last step.
            0: none.
        spacing: "linear" (equal distances) or "geometric" (each step is a constant factor times the
            one before, starting at ``first``).
        first: step of the first of the ``count`` checkpoints. Default: steps / count (linear) or 1%
            of the steps (geometric).
        minutes: minutes between replaceable checkpoints: an interruption loses at most about this
            much work. 0: none.
        optimizer_states: number of newest checkpoints that keep their optimizer state; at least 1.
    """

    every: int | None = None
    steps: tuple[int, ...] = ()
    count: int = 10
    spacing: Spacing = Spacing.LINEAR
    first: int | None = None
    minutes: float = field(default=10.0, metadata={"identity": False})
    optimizer_states: int = field(default=2, metadata={"identity": False})

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise UserError(
                f"checkpoints.every = {self.every}: must be at least 1, or None for no interval"
            )
        if self.count < 0 or self.minutes < 0:
            raise UserError(
                f"checkpoints.count = {self.count}, checkpoints.minutes = {self.minutes}: both "
                "must be at least 0"
            )
        if self.optimizer_states < 1:
            raise UserError(
                f"checkpoints.optimizer_states = {self.optimizer_states}: must be at least 1: "
                "a run cannot resume without an optimizer state"
            )

    def kept_steps(self, steps: int) -> tuple[int, ...]:
        """Return the steps after which a checkpoint is saved and kept, ascending.

        Args:
            steps: number of updates of the run.

        Raises:
            UserError: a listed step is outside the run, or there are more checkpoints than steps.
        """
        for step in self.steps:
            if not 1 <= step <= steps:
                raise UserError(
                    f"checkpoints.steps contains {step}, but the run has steps 1 to {steps}. "
                    f"Remove {step} or train longer."
                )
        if self.count > steps:
            raise UserError(
                f"checkpoints.count = {self.count} is more than the {steps} steps of the run. Set "
                f"it to {steps} or less (0: only the last step), or train longer."
            )
        latest = steps - self.count + 1
        if self.first is not None and not 1 <= self.first <= latest:
            raise UserError(
                f"checkpoints.first = {self.first} leaves fewer than {self.count} steps for "
                f"{self.count} checkpoints (the run has {steps} steps). Set it between 1 and "
                f"{latest}, lower checkpoints.count, or train longer."
            )
        chosen = {steps, *self.steps}
        if self.every is not None:
            chosen.update(range(self.every, steps + 1, self.every))
        return tuple(sorted(chosen | set(self._spaced(steps))))

    def _spaced(self, steps: int) -> list[int]:
        n = self.count
        if n < 2:
            return []
        if self.spacing is Spacing.LINEAR:
            first = steps / n if self.first is None else self.first
            points = [first + (steps - first) * i / (n - 1) for i in range(n)]
        else:
            first = max(1.0, steps / 100) if self.first is None else self.first
            points = [first * (steps / first) ** (i / (n - 1)) for i in range(n)]
        spaced: list[int] = []
        for i, point in enumerate(points):
            # In a short run, rounding can give two checkpoints the same step: move them apart.
            lowest = spaced[-1] + 1 if spaced else 1
            spaced.append(min(max(round(point), lowest), steps - (n - 1 - i)))
        return spaced
