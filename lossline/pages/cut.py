"""Cut a ranking of pages to a budget of tokens."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lossline.corpora.pools import Page
from lossline.errors import UserError
from lossline.pages.page_set import PageSet, as_set
from lossline.pages.task import Ranking
from lossline.vocabularies import Vocabulary, VocabularySpec


class Shortage(enum.Enum):
    """What to do if the candidates have fewer tokens than the budget."""

    REFUSE = "refuse"
    TAKE_ALL = "take_all"


class Outcome(enum.StrEnum):
    """What became of a page."""

    SELECTED = "selected"
    BEYOND_BUDGET = "beyond_budget"
    NOT_CANDIDATE = "not_candidate"  # the method would never take it


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The pages selected, and what became of the others.

    Attributes:
        pages: one row per page, or per selected page, in the order given: id, domain, score
            (missing for pages that are no candidates), rank (from 0; missing likewise), tokens (eos
            included; missing for pages that are not selected), bytes (UTF-8), outcome (a value of
            ``Outcome``), included.
        order: int64 [selected pages]: positions of the selected pages, best first.
        budget: tokens asked for.
        tokens: tokens selected.
        bytes: UTF-8 bytes selected.
    """

    pages: pd.DataFrame
    order: np.ndarray
    budget: int
    tokens: int
    bytes: int


def cut(
    pages: Sequence[Page],
    ranking: Ranking,
    *,
    budget: int,
    vocabulary: Vocabulary | VocabularySpec,
    shortage: Shortage = Shortage.REFUSE,
    processes: int = 1,
    selected_only: bool = False,
) -> Cut:
    """Take pages in rank order until they have ``budget`` tokens.

    The page that reaches the budget is the last one taken, whole: the selection has at least
    ``budget`` tokens, and has fewer without its last page. Tokens are counted as in a token store:
    the ids of the page and one eos. Equal scores are ordered by page id, so the selection does not
    depend on the order of ``pages``.

    Args:
        pages: pages of the pool, without near-duplicates (``clean_pages``).
        ranking: scores and candidates, one per page.
        budget: tokens of the run's tokenizer.
        vocabulary: the run's tokenizer; several processes need a specification.
        shortage: what to do if the candidates have fewer tokens than the budget.
        processes: number of tokenizing processes.
        selected_only: whether the table has only the selected pages.

    Raises:
        UserError: the budget is not positive or more than the candidates have, a page is not UTF-8,
            or the vocabulary changes the text of a page.
    """
    if budget < 1:
        raise UserError(f"budget = {budget}: give a positive number of tokens.")
    given = as_set(pages)
    _check(given, ranking)
    order = _rank_order(given, ranking)
    lengths = given.lengths(order, budget, vocabulary, processes)
    tokens = int(lengths.sum())
    if tokens < budget and shortage is Shortage.REFUSE:
        raise UserError(
            f"budget = {budget} tokens: the {len(order)} candidate pages of {len(pages)} have only "
            f"{tokens}. Lower the budget to at most {tokens}, or set shortage = 'take_all'."
        )
    taken = order[: len(lengths)]
    shown = np.sort(taken) if selected_only else np.arange(len(given))
    return Cut(
        pages=_table(given, ranking, order, lengths, shown),
        order=taken,
        budget=budget,
        tokens=tokens,
        bytes=int(given.sizes[taken].sum()),
    )


def _rank_order(pages: PageSet, ranking: Ranking) -> np.ndarray:
    """Return the candidates, highest score first; ties by id, then domain, then text."""
    own = np.flatnonzero(ranking.candidate)
    return own[np.lexsort((pages.places[own], -ranking.scores[own]))]


def _check(pages: PageSet, ranking: Ranking) -> None:
    if not len(pages) == len(ranking.scores) == len(ranking.candidate):
        raise ValueError(
            f"{len(pages)} pages, {len(ranking.scores)} scores, {len(ranking.candidate)} candidates"
        )
    if np.isnan(ranking.scores[ranking.candidate]).any():
        raise ValueError("a candidate page has no score (NaN)")


def _table(
    pages: PageSet, ranking: Ranking, order: np.ndarray, lengths: np.ndarray, shown: np.ndarray
) -> pd.DataFrame:
    taken = order[: len(lengths)]
    outcome = np.where(ranking.candidate, Outcome.BEYOND_BUDGET, Outcome.NOT_CANDIDATE)
    outcome[taken] = Outcome.SELECTED
    return pd.DataFrame(
        {
            "id": list(pages.ids(shown.tolist())),
            "domain": [pages.names[code] for code in pages.domain_of[shown].tolist()],
            "score": np.where(ranking.candidate, ranking.scores, np.nan)[shown],
            "rank": _some(len(pages), order, np.arange(len(order)), shown),
            "tokens": _some(len(pages), taken, lengths, shown),
            "bytes": pages.sizes[shown],
            "outcome": outcome[shown].astype(str),
            "included": outcome[shown] == Outcome.SELECTED,
        }
    )


def _some(size: int, positions: np.ndarray, values: np.ndarray, shown: np.ndarray) -> pd.Series:
    """Return the integers of the shown pages; those without one are missing."""
    placed = np.zeros(size, np.int64)
    missing = np.ones(size, bool)
    placed[positions], missing[positions] = values, False
    return pd.Series(pd.arrays.IntegerArray(placed[shown], missing[shown]))
