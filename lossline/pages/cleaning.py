"""Leave pages out of a pool before anything ranks it: benchmark text, and near-duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lossline.corpora.pools import Page
from lossline.pages.page_set import HeldPages, as_set


@dataclass(frozen=True)
class CleanPool:
    """The pages that remain.

    Attributes:
        pages: the pages that remain, in the order given; a set of pages if it was one.
        table: one row per domain: domain, pages, benchmark_text and near_duplicates (pages left out
            for that reason), kept.
    """

    pages: Sequence[Page]
    table: pd.DataFrame


def clean_pages(
    pages: Sequence[Page],
    *,
    duplicate_threshold: float | None = 0.5,
    benchmark_text: np.ndarray | None = None,
) -> CleanPool:
    """Leave out pages with benchmark text, if asked to, and then near-duplicates.

    Clean before ranking: every method then chooses from the same pages, and no copy of a training
    page tests a classifier. Of near-duplicates, the page with the smallest id stays, so the result
    does not depend on the order of the pages. Threshold and n-gram length are those of ``gather``.

    200 MB take about 20 seconds.

    Args:
        pages: pages of a pool.
        duplicate_threshold: share of its word 8-grams in pages with smaller ids that makes a page a
            near-duplicate; None keeps near-duplicates.
        benchmark_text: bool [pages]: pages to leave out (``Overlap.pages``); None keeps them.

    Raises:
        UserError: there is no page, or a page is not UTF-8.
    """
    given = as_set(pages)
    leaked = np.zeros(len(pages), bool) if benchmark_text is None else benchmark_text
    copies = np.zeros(len(pages), bool)
    if duplicate_threshold is not None:
        copies = given.repeated(duplicate_threshold, ~leaked)
    kept = ~leaked & ~copies
    own = given.by_domain()
    table = pd.DataFrame(
        {
            "domain": list(own),
            "pages": [len(some) for some in own.values()],
            "benchmark_text": [int(leaked[some].sum()) for some in own.values()],
            "near_duplicates": [int(copies[some].sum()) for some in own.values()],
            "kept": [int(kept[some].sum()) for some in own.values()],
        }
    )
    left = given.subset(kept)
    return CleanPool(list(left.pages) if isinstance(left, HeldPages) else left, table)
