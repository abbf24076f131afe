"""Train a page classifier and measure it on held-out pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lossline.errors import UserError
from lossline.pages.examples import Examples, Group, draw
from lossline.pages.quality import THRESHOLD, quality
from lossline.pages.task import FittedModel, TextClassifier


@dataclass(frozen=True, kw_only=True)
class TrainingPages:
    """Gin component: the pages that a classifier is trained and tested on.

    Attributes:
        per_class: pages of each class, trained and held out; 10,000 pages train in about a minute.
        held_out: share of them that only tests; the split is by page.
    """

    per_class: int = 10_000
    held_out: float = 0.1

    def __post_init__(self) -> None:
        if self.per_class < 1:
            raise UserError(f"training_pages.per_class = {self.per_class}: give at least 1.")
        if not 0 < self.held_out < 1:
            raise UserError(
                f"training_pages.held_out = {self.held_out}: give a share between 0 and 1."
            )


def train(
    classifier: TextClassifier, groups: Sequence[Group], pages: TrainingPages, *, seed: int
) -> tuple[FittedModel, dict[str, Any]]:
    """Train on some pages of each group and measure on the others.

    Returns:
        The model, and its facts (JSON): name and facts of the classifier; ``training``: pages of
        each class; ``held_out``: see ``quality``, of all groups, and ``domains``: of each group.

    Raises:
        UserError: a class has too few pages, or a package is missing.
    """
    drawn = draw(groups, pages_per_class=pages.per_class, share=pages.held_out, seed=seed)
    learned = ~drawn.held_out
    model = classifier.fit(
        drawn.side(held_out=False), drawn.included[learned], drawn.weights[learned], seed=seed
    )
    predicted = model.probabilities(drawn.side(held_out=True))
    truth = drawn.included[drawn.held_out]
    facts = {
        "classifier": type(classifier).__name__,
        "fit": dict(model.facts),
        "training": {
            "pages": int(learned.sum()),
            "included": int(drawn.included[learned].sum()),
        },
        "held_out": quality(predicted, truth),
        "domains": _by_group(groups, drawn, predicted),
    }
    return model, facts


def _by_group(
    groups: Sequence[Group], drawn: Examples, predicted: np.ndarray
) -> list[dict[str, Any]]:
    """Return the pages of each group, and how many held-out pages are predicted "included"."""
    names = np.array(drawn.groups)
    tested = names[drawn.held_out]
    return [
        {
            "domain": group.name,
            "included": group.included,
            "pages": len(group.ids),
            "training": int(((names == group.name) & ~drawn.held_out).sum()),
            "held_out": int((tested == group.name).sum()),
            "held_out_predicted": int((predicted[tested == group.name] >= THRESHOLD).sum()),
        }
        for group in sorted(groups, key=lambda group: (not group.included, group.name))
    ]
