"""Cut a ranking of pages to a budget of tokens."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lossline.corpora import utf8
from lossline.corpora.deduplication import near_duplicates
from lossline.errors import UserError
from lossline.pages.task import Ranking
from lossline.stores.tokenization import Tokenizer, chunked
from lossline.vocabularies import Vocabulary, VocabularySpec

if TYPE_CHECKING:
    from lossline.corpora.pools import Page

_CHUNK = 1 << 18  # characters that are tokenized at once; at most this much is tokenized in vain


class Shortage(enum.Enum):
    """What to do if the pages have fewer tokens than the budget."""

    REFUSE = "refuse"
    TAKE_ALL = "take_all"


class Outcome(enum.StrEnum):
    """What became of a page."""

    SELECTED = "selected"
    BEYOND_BUDGET = "beyond_budget"
    NEAR_DUPLICATE = "near_duplicate"
    EXCLUDED = "excluded"  # by the caller, such as a page that contains benchmark text
    NOT_CANDIDATE = "not_candidate"  # the method would never take it


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The pages selected, and what became of the others.

    Attributes:
        pages: one row per page, in the order of the pool: id, domain, score, rank (from 0, in the
            order of the budget; missing for pages that were never in the order), tokens (with the
            eos; missing where the page was not tokenized), bytes (UTF-8), outcome (a value of
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
    duplicate_threshold: float | None = 0.5,
    exclude: np.ndarray | None = None,
    shortage: Shortage = Shortage.REFUSE,
    processes: int = 1,
) -> Cut:
    """Take pages in rank order until they have ``budget`` tokens.

    Near-duplicates among the candidates go first. The page that reaches the budget is the last one
    taken, whole: the selection has at least ``budget`` tokens, and fewer without its last page.
    Tokens are counted as in a token store: the ids of the page and one eos.

    The result does not depend on the order of ``pages``: equal scores are ordered by id, and the
    copy of a near-duplicate that is kept is the one with the smallest id.

    Args:
        pages: pages of the pool.
        ranking: scores and candidates, one per page.
        budget: tokens of the run's tokenizer.
        vocabulary: the run's tokenizer; several processes need a specification.
        duplicate_threshold: share of repeated word 8-grams that makes a near-duplicate; None keeps
            near-duplicates.
        exclude: bool [pages]: pages to leave out, such as pages that contain benchmark text.
        shortage: what to do if the candidates have fewer tokens than the budget.
        processes: number of tokenizing processes.

    Raises:
        UserError: the budget is not positive or larger than what there is, a page is not UTF-8, a
            score is NaN, or the vocabulary changes the text of a page.
    """
    if budget < 1:
        raise UserError(f"budget = {budget}: must be a positive number of tokens")
    _check(pages, ranking)
    outcome = np.full(len(pages), Outcome.BEYOND_BUDGET.value, dtype=object)
    outcome[~ranking.candidate] = Outcome.NOT_CANDIDATE.value
    left = np.array(ranking.candidate, bool)
    if exclude is not None:
        outcome[left & exclude] = Outcome.EXCLUDED.value
        left &= ~exclude
    if duplicate_threshold is not None:
        copies = _copies(pages, left, duplicate_threshold)
        outcome[copies] = Outcome.NEAR_DUPLICATE.value
        left[copies] = False
    order = rank_order(pages, ranking.scores, np.flatnonzero(left))
    lengths = np.fromiter(_lengths_to_budget(pages, order, budget, vocabulary, processes), np.int64)
    if lengths.sum() < budget and shortage is Shortage.REFUSE:
        raise UserError(_shortage_text(budget, int(lengths.sum()), outcome))
    outcome[order[: len(lengths)]] = Outcome.SELECTED.value
    return _cut(pages, ranking, order, lengths, outcome, budget)


def rank_order(pages: Sequence[Page], scores: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return ``positions`` with the highest score first; ties by id, then domain, then text."""
    keys = sorted(
        positions.tolist(),
        key=lambda i: (-scores[i], pages[i].id, pages[i].domain, pages[i].text),
    )
    return np.array(keys, np.int64)


def _check(pages: Sequence[Page], ranking: Ranking) -> None:
    if not len(pages) == len(ranking.scores) == len(ranking.candidate):
        raise ValueError(
            f"{len(pages)} pages, {len(ranking.scores)} scores, {len(ranking.candidate)} candidates"
        )
    if np.isnan(ranking.scores[ranking.candidate]).any():
        raise ValueError("a candidate page has no score (NaN)")
    require_utf8(pages)


def require_utf8(pages: Sequence[Page]) -> None:
    """Check that UTF-8 can encode every page.

    Raises:
        UserError: a page contains a lone surrogate.
    """
    for page in pages:
        utf8.require(page.text, f"page {page.id} of domain {page.domain}")


def _copies(pages: Sequence[Page], left: np.ndarray, threshold: float) -> np.ndarray:
    """Return the positions of near-duplicates of pages with a smaller id."""
    order = rank_order(pages, np.zeros(len(pages)), np.flatnonzero(left))
    return order[near_duplicates([pages[i].text for i in order], threshold=threshold)]


def _lengths_to_budget(
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


def _shortage_text(budget: int, found: int, outcome: np.ndarray) -> str:
    kept = int((outcome == Outcome.BEYOND_BUDGET).sum())
    left_out = ", ".join(
        f"{int((outcome == o).sum())} {o.value.replace('_', ' ')}"
        for o in (Outcome.NOT_CANDIDATE, Outcome.EXCLUDED, Outcome.NEAR_DUPLICATE)
    )
    return (
        f"budget = {budget} tokens: the {kept} pages to select from have {found} tokens (left out: "
        f"{left_out}). Lower the budget, or set shortage to TAKE_ALL to take all of them."
    )


def _cut(
    pages: Sequence[Page],
    ranking: Ranking,
    order: np.ndarray,
    lengths: np.ndarray,
    outcome: np.ndarray,
    budget: int,
) -> Cut:
    taken = order[: len(lengths)]
    rank = pd.array([pd.NA] * len(pages), dtype="Int64")
    rank[order] = np.arange(len(order))
    tokens = pd.array([pd.NA] * len(pages), dtype="Int64")
    tokens[taken] = lengths
    table = pd.DataFrame(
        {
            "id": [page.id for page in pages],
            "domain": [page.domain for page in pages],
            "score": np.where(ranking.candidate, ranking.scores, np.nan),
            "rank": rank,
            "tokens": tokens,
            "bytes": np.array([len(page.text.encode()) for page in pages], np.int64),
            "outcome": outcome.astype(str),
            "included": outcome == Outcome.SELECTED,
        }
    )
    return Cut(
        pages=table,
        order=taken,
        budget=budget,
        tokens=int(lengths.sum()),
        bytes=int(table["bytes"].to_numpy()[taken].sum()),
    )
