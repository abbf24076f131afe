"""Options of a prediction."""

from __future__ import annotations

import dataclasses
import enum

from lossline.errors import UserError
from lossline.lines.groups import GROUP_BY
from lossline.seeds import check_seed


class BelowChance(enum.StrEnum):
    """What to do with a task whose largest runs do no better than guessing."""

    STATE = "state"  # no number: the status says that it has not emerged
    PREDICT = "predict"  # a number from every method that can be fitted


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What to predict, from what, and how.

    Attributes:
        tasks: evaluation sets to predict; empty: every set of kind "task".
        metric: "accuracy"; or "bits_per_byte" or "loss" of the gold answers, for tasks that have
            not emerged.
        validation_sets: sets whose mean loss is the middle quantity; empty: all validation sets
            that nine in ten checkpoints have, without the run's own. Mixtures: the sets to predict.
        targets: runs of the table to leave out and predict, by name or pattern (``1.5M-*``); empty,
            with no ``points`` and no ``above_flops``: the run of most compute.
        above_flops: leave out and predict all runs with more training FLOPs than this.
        points: models that nobody has trained: (N, D), or (N, D, {component: share}).
        exclude: runs to leave out of everything, by name or pattern.
        group_by: facts that the runs of one fit share; unused with ``family``.
        methods: names of methods; empty: all that the table allows.
        chance: accuracy of guessing by task, where the table does not state it.
        family: fact of the run that shifts the scores of a whole family of models (for tables
            without losses).
        emergence: accuracy above chance from which FLP's points count; 0.05 is 5 points.
        below_chance: "state" gives a task that has not emerged a status and no number; "predict" a
            number from every method that can be fitted.
        resamples: resamples of the runs for the intervals; 0 for none.
        seed: seed of the resampling.

    Raises:
        UserError: an option is out of range.
    """

    tasks: tuple[str, ...] = ()
    metric: str = "accuracy"
    validation_sets: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    above_flops: float | None = None
    points: tuple[tuple, ...] = ()
    exclude: tuple[str, ...] = ()
    group_by: tuple[str, ...] = GROUP_BY
    methods: tuple[str, ...] = ()
    chance: dict[str, float] = dataclasses.field(default_factory=dict)
    family: str = ""
    emergence: float = 0.05
    below_chance: BelowChance = BelowChance.STATE
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed, "predict.seed")
        if self.below_chance not in tuple(BelowChance):
            raise UserError(
                f"predict.below_chance: {self.below_chance!r} is unknown. Choose from "
                f"{', '.join(BelowChance)}."
            )
        object.__setattr__(self, "below_chance", BelowChance(self.below_chance))
        if self.metric not in ("accuracy", "bits_per_byte", "loss"):
            raise UserError(
                f"predict.metric: {self.metric!r} is unknown. Choose accuracy, bits_per_byte or "
                "loss."
            )
        if self.resamples < 0 or self.resamples == 1:
            raise UserError(
                f"predict.resamples = {self.resamples}: must be 0, for no intervals, or at least 2."
            )
        if not 0 <= self.emergence < 1:
            raise UserError(
                f"predict.emergence = {self.emergence}: must be a share from 0 to below 1, e.g. "
                "0.05 for 5 points above chance."
            )
        for task, chance in self.chance.items():
            if not 0 <= chance < 1:
                raise UserError(
                    f"predict.chance[{task!r}] = {chance}: must be a share from 0 to below 1, e.g. "
                    "0.25 for four answers."
                )
