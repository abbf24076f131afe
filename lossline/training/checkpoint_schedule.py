"""When checkpoints are taken: which ones are points of the loss table, which only guard against an
interruption."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from lossline.errors import UserError


class Spacing(Enum):
    """How ``count`` checkpoints lie between the first and the last step."""

    LINEAR = "linear"
    GEOMETRIC = "geometric"


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """When checkpoints are taken. The last step always is one.

    Attributes:
        every: keep one each that many steps; None: none for this reason.
        steps: keep one at each of these steps.
        count: keep that many, spaced as ``spacing`` says, the last one at the last step; 0: none
            for this reason.
        spacing: "linear" or "geometric" (each a constant factor after the one before, beginning at
            ``first``).
        first: step of the first of ``count``; default: as the spacing gives it (linear), 1% of the
            steps (geometric).
        minutes: replaceable checkpoints about that often, so that an interruption loses no more; 0:
            none.
        optimizer_states: how many of the newest checkpoints keep their optimizer state; at least 1.
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
            raise UserError(f"checkpoints.every = {self.every}: must be at least 1, or None")
        if self.count < 0 or self.minutes < 0:
            raise UserError("checkpoints.count and checkpoints.minutes must be at least 0")
        if self.optimizer_states < 1:
            raise UserError(
                "checkpoints.optimizer_states must be at least 1: without one nothing can resume"
            )

    def kept_steps(self, steps: int) -> tuple[int, ...]:
        """The steps, ascending, after which a checkpoint is taken and kept, for a run of ``steps``
        updates.

        Raises:
            UserError: a listed step beyond the run, more checkpoints than steps.
        """
        for step in self.steps:
            if not 1 <= step <= steps:
                raise UserError(
                    f"checkpoints.steps has {step}, but the run has steps 1 to {steps}; leave it "
                    f"out, or train longer"
                )
        if self.count > steps:
            raise UserError(
                f"checkpoints.count = {self.count} is more than the {steps} steps of the run; set "
                f"it to {steps} or fewer (0: the last step alone), or train longer"
            )
        latest = steps - self.count + 1
        if self.first is not None and not 1 <= self.first <= latest:
            raise UserError(
                f"checkpoints.first = {self.first} leaves no room for {self.count} checkpoints "
                f"among {steps} steps; set it between 1 and {latest}"
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
        for i, point in enumerate(
            points
        ):  # rounding may merge neighbors of a short run: push them apart
            lowest = spaced[-1] + 1 if spaced else 1
            spaced.append(min(max(round(point), lowest), steps - (n - 1 - i)))
        return spaced
