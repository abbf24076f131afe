"""Perplexity correlations as a method: weights of domains, then a classifier of pages.

Thrush, Potts, Hashimoto, "Improving pretraining data using perplexity correlations"
(arXiv:2409.05816).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lossline.errors import UserError
from lossline.pages.methods import PageClassifier
from lossline.pages.task import Ranking, SelectionTask
from lossline.selection.projection import RATIO, caps

if TYPE_CHECKING:
    from lossline.corpora.pools import Page


@dataclass(frozen=True, kw_only=True)
class PerplexityCorrelations:
    """Gin component: select pages like those of the domains whose losses predict the target.

    Each domain gets the coefficient of its losses with the target's errors over many models. The
    coefficients are projected to weights; each domain is included entirely or not
    (arXiv:2409.05816, section 4). A classifier then learns to tell pages of included domains from
    pages of excluded ones, and ranks all pages of the pool.

    Attributes:
        estimator: name in ``lossline.selection.estimators.ESTIMATORS``.
        projection: "linear" or "l2".
        filter_ratio: share of the pool that the included domains make up; the caps of the weights
            are the domains' shares of the pool, divided by it. The paper's examples use 0.1.
        negative: whether domains with a negative coefficient may be included.
        classifier: classifier of included and excluded pages.
    """

    estimator: str = "spearmanr"
    projection: str = "linear"
    filter_ratio: float = RATIO
    negative: bool = False
    classifier: PageClassifier = field(default_factory=PageClassifier)

    def __post_init__(self) -> None:
        if not 0 < self.filter_ratio <= 1:
            raise UserError(
                f"perplexity_correlations.filter_ratio = {self.filter_ratio}: must be above 0 and "
                "at most 1."
            )

    def caps(self, sizes: np.ndarray) -> np.ndarray:
        """Return the largest weight of each domain, float64 [domains].

        Args:
            sizes: bytes or tokens of each domain of the pool.
        """
        return caps(sizes, self.filter_ratio)

    def rank(self, pages: Sequence[Page], task: SelectionTask) -> Ranking:
        """Rank pages by the classifier; see ``PageMethod``."""
        return self.classifier.rank(pages, task)
