"""What a selection is for, and what a method of selection returns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from lossline.corpora.pools import Page
from lossline.errors import UserError
from lossline.seeds import check_seed


@dataclass(frozen=True, kw_only=True)
class SelectionTask:
    """What pages are selected for.

    Attributes:
        target: name of the target, such as a benchmark.
        texts: the target's own text (context and correct answer), for DSIR and classifiers with
            given positives; never pages that models are scored on.
        domains: the target's own domains, for the oracle.
        weights: weight of each domain, for perplexity correlations; empty for other methods.
        seed: seed of all that is random in a method.

    Raises:
        UserError: the seed is out of range, or a weight is not a finite number.
    """

    target: str
    texts: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed, "seed of the selection")
        for domain, weight in self.weights.items():
            if not math.isfinite(weight):
                raise UserError(
                    f"target {self.target}: the weight of domain {domain} is {weight}. Leave out "
                    "domains without an estimate."
                )


class FittedModel(Protocol):
    """A fitted classifier of texts.

    Attributes:
        SUFFIX: suffix of the file that ``save`` writes.
    """

    SUFFIX: ClassVar[str]

    @property
    def facts(self) -> Mapping[str, Any]:
        """Facts of the fit; JSON."""
        ...

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Return P(included), float64 [texts]."""
        ...

    def save(self, path: Path) -> None:
        """Write the model to one file, atomically."""
        ...


class TextClassifier(Protocol):
    """Options of a classifier of texts: ``HashedLogistic`` or ``FastText``."""

    def fit(
        self, texts: Sequence[str], included: np.ndarray, weights: np.ndarray, *, seed: int
    ) -> FittedModel:
        """Fit the classifier to texts with their class (bool) and weight (float64)."""
        ...


@dataclass(frozen=True)
class Ranking:
    """An order of pages.

    Attributes:
        scores: float64 [pages]: higher is earlier; equal scores are ordered by page id.
        candidate: bool [pages]: pages that the method would take at all.
        facts: quality of the classifier, languages, counts; JSON.
        model: the classifier that made the scores, or None.
    """

    scores: np.ndarray
    candidate: np.ndarray
    facts: Mapping[str, Any]
    model: FittedModel | None = None


class PageMethod(Protocol):
    """A method of the gin slot: ranks the pages of a pool for a task."""

    def rank(self, pages: Sequence[Page], task: SelectionTask) -> Ranking:
        """Rank the pages.

        Raises:
            UserError: the task or the pages lack what the method needs.
        """
        ...
