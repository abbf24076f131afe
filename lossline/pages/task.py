"""What a selection is for, and what a method of selection returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from lossline.corpora.pools import Page


@dataclass(frozen=True, kw_only=True)
class SelectionTask:
    """What pages are selected for.

    Attributes:
        target: name of the target, such as a benchmark.
        texts: the target's own text (context and correct answer), for DSIR and classifiers with
            given positives; never pages that models are scored on.
        weights: weight of each domain, for perplexity correlations; empty for other methods.
        seed: seed of all that is random in a method.
    """

    target: str
    texts: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0


class FittedModel(Protocol):
    """A fitted classifier of texts."""

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Return P(included), float64 [texts]."""
        ...

    def save(self, path: Path) -> None:
        """Write the model to one file, atomically."""
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
