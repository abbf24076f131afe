"""Options of the analysis of per-token losses."""

from __future__ import annotations

import dataclasses

from lossline.errors import UserError
from lossline.seeds import check_seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnalysisOptions:
    """Options of the classes of tokens, their shares and their excess loss.

    Attributes:
        threshold: fixed rule: a token has moved if its fitted loss changed by more nats. Default:
            that of the paper (arXiv 2404.07965, equation 6).
        false_positives: noise rule: share of tokens with a constant expected loss that count as
            moved, half of them in each direction. Default: the customary 5%; not corrected for the
            number of tokens, because shares are reported and not single tokens.
        share: share of the sample with the largest excess loss that counts as selected at a
            checkpoint. Default: that of the paper for 1.1B parameters.
        resamples: number of bootstrap resamples of documents.
        confidence: level of intervals.
        seed: seed of the sample and of the resamples.
    """

    threshold: float = 0.2
    false_positives: float = 0.05
    share: float = 0.6
    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < float("inf"):
            raise UserError(f"dynamics.threshold = {self.threshold}: must be 0 nats or more.")
        for name in ("false_positives", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(
                    f"dynamics.{name} = {getattr(self, name)}: must be between 0 and 1."
                )
        if not 0 < self.share <= 1:
            raise UserError(f"dynamics.share = {self.share}: must be above 0 and at most 1.")
        if self.resamples < 100:
            raise UserError(f"dynamics.resamples = {self.resamples}: must be at least 100.")
        check_seed(self.seed, "dynamics.seed")
