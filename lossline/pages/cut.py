"""Cut a ranking of pages to a budget of tokens."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lossline.corpora.pools import Page
from lossline.errors import UserError
from lossline.pages.task import Ranking, require_pages
from lossline.stores.tokenization import Tokenizer, chunked
from lossline.vocabularies import Vocabulary, VocabularySpec

_CHUNK = 1 << 18  # characters that are tokenized at once; at most this much is tokenized in vain


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
        pages: one row per page, in the order given: id, domain, score (missing for pages that are
            no candidates), rank (from 0; missing likewise), tokens (eos included; missing for pages
            that are not selected), bytes (UTF-8), outcome (a value of ``Outcome``), included.
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

    Raises:
        UserError: the budget is not positive or more than the candidates have, a page is not UTF-8,
            or the vocabulary changes the text of a page.
    """
    if budget < 1:
        raise UserError(f"budget = {budget}: give a positive number of tokens.")
    require_pages(pages)
    _check(pages, ranking)
    order = rank_order(pages, ranking.scores, np.flatnonzero(ranking.candidate))
    lengths = np.fromiter(_lengths(pages, order, budget, vocabulary, processes), np.int64)
    tokens = int(lengths.sum())
    if tokens < budget and shortage is Shortage.REFUSE:
        raise UserError(
            f"budget = {budget} tokens: the {len(order)} candidate pages of {len(pages)} have only "
            f"{tokens}. Lower the budget to at most {tokens}, or set shortage = 'take_all'."
        )
    taken = order[: len(lengths)]
    table = _table(pages, ranking, order, lengths)
    return Cut(
        pages=table,
        order=taken,
        budget=budget,
        tokens=tokens,
        bytes=int(table["bytes"].to_numpy()[taken].sum()),
    )


def rank_order(pages: Sequence[Page], scores: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return ``positions`` with the highest score first; ties by id, then domain, then text."""
    order = sorted(
        positions.tolist(),
        key=lambda i: (-scores[i], pages[i].id, pages[i].domain, pages[i].text),
    )
    return np.array(order, np.int64)


def _check(pages: Sequence[Page], ranking: Ranking) -> None:
    if not len(pages) == len(ranking.scores) == len(ranking.candidate):
        raise ValueError(
            f"{len(pages)} pages, {len(ranking.scores)} scores, {len(ranking.candidate)} candidates"
        )
    if np.isnan(ranking.scores[ranking.candidate]).any():
        raise ValueError("a candidate page has no score (NaN)")


def _lengths(
    pages: Sequence[Page],
    order: np.ndarray,
    budget: int,
    vocabulary: Vocabulary | VocabularySpec,
    processes: int,
) -> Iterator[int]:
    """Yield the tokens of each page in rank order, up to the page that reaches the budget."""
    texts = (pages[i].text for i in order)
    total = 0
    tokenizer = Tokenizer(vocabulary, processes=processes)
    for _, _, tokens in tokenizer.map(enumerate(chunked(texts, _CHUNK))):
        for length in tokens.lengths.tolist():
            yield length
            total += length
            if total >= budget:
                return


def _table(
    pages: Sequence[Page], ranking: Ranking, order: np.ndarray, lengths: np.ndarray
) -> pd.DataFrame:
    taken = order[: len(lengths)]
    outcome = np.where(ranking.candidate, Outcome.BEYOND_BUDGET, Outcome.NOT_CANDIDATE)
    outcome[taken] = Outcome.SELECTED
    return pd.DataFrame(
        {
            "id": [page.id for page in pages],
            "domain": [page.domain for page in pages],
            "score": np.where(ranking.candidate, ranking.scores, np.nan),
            "rank": _some(len(pages), order, np.arange(len(order))),
            "tokens": _some(len(pages), taken, lengths),
            "bytes": np.array([len(page.text.encode()) for page in pages], np.int64),
            "outcome": outcome.astype(str),
            "included": outcome == Outcome.SELECTED,
        }
    )


def _some(size: int, positions: np.ndarray, values: np.ndarray) -> pd.Series:
    """Return integers at some positions; the others are missing."""
    return pd.Series(values, index=positions, dtype="Int64").reindex(range(size))
