"""Options of a comparison."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from lossline.errors import UserError
from lossline.options.roles import OWN_PREFIX
from lossline.seeds import check_seed
from lossline.tables.schema import Unit


class Unequal(enum.Enum):
    """What to do if runs differ in parameters or in the budget."""

    REFUSE = "refuse"
    EXCLUDE = "exclude"


class Budget(enum.Enum):
    """What compared checkpoints have equal, besides parameters.

    FLOPs include those of selecting the tokens (``selection_flops``; empty counts as 0, with a
    note). FLOPs before ``train.start`` are not counted.
    """

    TOKENS = "tokens"  # training tokens seen
    FLOPS = "flops"  # training FLOPs spent


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What to compare, and how.

    Attributes:
        factor: column of the loss table whose levels are compared (``factor.method``,
            ``token_selection``, …).
        by: column that says which target a run was made for. Empty: every run counts for every
            target.
        shared: level of ``by`` of the runs that count for every target; runs with an empty cell
            count for every target too.
        targets: name of each target -> its evaluation sets. Several sets are joined by their sums;
            where a set has no sums, by the mean. Empty: every set is a target.
        where: column -> value; only these runs are compared. For a table with several sizes.
        budget: what must be equal, besides parameters: "tokens" or "flops".
        at: compare the checkpoint of each run that is nearest to this much of the budget. Default:
            its last checkpoint.
        baseline: level that the others are compared to. Empty: none.
        unit: unit of the losses.
        unequal: "refuse" (default): stop if runs differ in parameters or budget. "exclude": leave
            out the runs that differ from the most frequent budget, by name.
        confidence: level of the intervals.
        resamples: number of bootstrap samples for the intervals of average ranks.
        seed: seed of the bootstrap.

    Raises:
        UserError: a value is out of range, or ``by`` is given without targets.
    """

    factor: str = OWN_PREFIX + "method"
    by: str = ""
    shared: str = "any"
    targets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    budget: Budget = Budget.TOKENS
    at: float | None = None
    baseline: str = "uniform"
    unit: Unit = Unit.BITS
    unequal: Unequal = Unequal.REFUSE
    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed, "compare.seed")
        if not 0 < self.confidence < 1:
            raise UserError(
                f"compare.confidence = {self.confidence}: must be between 0 and 1, such as 0.95."
            )
        if self.at is not None and not self.at > 0:
            raise UserError(f"compare.at = {self.at}: must be above 0, or None.")
        if self.resamples < 1:
            raise UserError(f"compare.resamples = {self.resamples}: must be at least 1.")
        if self.by and not self.targets:
            raise UserError(
                f"compare.by = {self.by!r} needs compare.targets: which sets measure each target."
            )
        if empty := [name for name, sets in self.targets.items() if not sets]:
            raise UserError(f"compare.targets: {empty[0]!r} has no sets. Name at least one.")
