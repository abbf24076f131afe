"""Find benchmark text in pages, by n-grams of words.

Source: GPT-3 (Brown et al., 2020, appendix C): a page overlaps with a question if they share 13
consecutive words, in lower case and without punctuation; between 8 and 13 words for short texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from lossline.corpora.items import Item
from lossline.corpora.pools import Page
from lossline.pages.hashing import chunks, hash_words, join_words
from lossline.pages.page_set import PageSet, as_set

LONG, SHORT = 13, 8  # words that pages and questions must share: questions of 13 words, of fewer
# Words of a prompt in front of a line, which no page has there.
_PROMPT_LABEL = re.compile(r"^\s*(question|answer|q|a)\s*:", re.IGNORECASE | re.MULTILINE)
_FILTER_BITS = 22


@dataclass(frozen=True)
class Overlap:
    """Benchmark text in the pages of a pool.

    Attributes:
        pages: bool [pages]: pages with text of any benchmark.
        domains: one row per domain and benchmark: domain, benchmark, pages, overlapping (pages),
            questions (different questions found there).
        benchmarks: one row per benchmark: benchmark, questions, found (questions with text in any
            page), too_short (questions of fewer than 8 words, which cannot be checked).
    """

    pages: np.ndarray
    domains: pd.DataFrame
    benchmarks: pd.DataFrame


def benchmark_overlap(pages: Sequence[Page], benchmarks: Mapping[str, Sequence[Item]]) -> Overlap:
    """Find pages that share text with benchmark questions (context and correct answer).

    Questions of at least 13 words share 13 consecutive words, questions of 8 to 12 words share 8.
    In scripts without spaces, a word is a character. Nothing is removed; see ``clean_pages``.

    Args:
        pages: pages of a pool.
        benchmarks: name -> questions.

    Raises:
        UserError: there is no page, or a page is not UTF-8.
    """
    given = as_set(pages)
    names = sorted(benchmarks)
    texts = [question_text(item) for name in names for item in benchmarks[name]]
    owner = np.repeat(np.arange(len(names)), [len(benchmarks[name]) for name in names])
    words, tables = _question_tables(texts)
    hits = _hits(given, tables)
    domain_names, domains = np.array(given.names), given.domain_of
    found = pd.DataFrame(
        {
            "page": hits[:, 0],
            "question": hits[:, 1],
            "domain": domains[hits[:, 0]],
            "benchmark": owner[hits[:, 1]],
        }
    )
    grid = pd.MultiIndex.from_product(
        [range(len(domain_names)), range(len(names))], names=["domain", "benchmark"]
    )
    counts = found.groupby(["domain", "benchmark"])[["page", "question"]].nunique()
    counts = counts.reindex(grid, fill_value=0).reset_index()
    overlapping = np.zeros(len(pages), bool)
    overlapping[hits[:, 0]] = True
    return Overlap(
        overlapping,
        pd.DataFrame(
            {
                "domain": domain_names[counts["domain"]],
                "benchmark": np.array(names, object)[counts["benchmark"].to_numpy(np.int64)],
                "pages": np.bincount(domains)[counts["domain"]],
                "overlapping": counts["page"],
                "questions": counts["question"],
            }
        ),
        pd.DataFrame(
            {
                "benchmark": names,
                "questions": np.bincount(owner, minlength=len(names)),
                "found": np.bincount(owner[np.unique(hits[:, 1])], minlength=len(names)),
                "too_short": np.bincount(owner[words < SHORT], minlength=len(names)),
            }
        ),
    )


def question_text(item: Item) -> str:
    """Return context and correct answer of a question, without "Question:" and the like."""
    return _PROMPT_LABEL.sub(" ", item.context + item.choices[item.gold])


@dataclass(frozen=True)
class _Table:
    """N-grams of questions: sorted distinct hashes, and the questions of each."""

    length: int
    hashes: np.ndarray  # uint64 [n-grams]
    first: np.ndarray  # int64 [n-grams + 1]: where the questions of each n-gram start
    questions: np.ndarray  # int64
    filter: np.ndarray  # bool [2^22]: lowest bits of all hashes; rules most n-grams out at once

    def matches(self, grams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return positions in ``grams`` and questions of all matches."""
        likely = np.flatnonzero(self.filter[grams & np.uint64(len(self.filter) - 1)])
        place = np.searchsorted(self.hashes, grams[likely])
        place[place == len(self.hashes)] = 0
        same = self.hashes[place] == grams[likely]
        likely, place = likely[same], place[same]
        count = self.first[place + 1] - self.first[place]
        start = np.repeat(self.first[place] - (np.cumsum(count) - count), count)
        return np.repeat(likely, count), self.questions[start + np.arange(count.sum())]


def _question_tables(texts: Sequence[str]) -> tuple[np.ndarray, list[_Table]]:
    """Return the words of each text, and the n-grams of long and of short texts."""
    if not texts:
        return np.zeros(0, np.int64), []
    words = hash_words(texts, marks=False)
    tables = []
    for length, own in ((LONG, words.counts >= LONG), (SHORT, words.counts < LONG)):
        grams = join_words(words, length)
        kept = own[grams.rows]
        if not kept.any():
            continue
        hashes, questions = grams.hashes[kept], grams.rows[kept]
        order = np.argsort(hashes, kind="stable")
        distinct, first = np.unique(hashes[order], return_index=True)
        present = np.zeros(1 << _FILTER_BITS, bool)
        present[distinct & np.uint64(len(present) - 1)] = True
        tables.append(
            _Table(length, distinct, np.append(first, len(order)), questions[order], present)
        )
    return words.counts, tables


def _hits(pages: PageSet, tables: Sequence[_Table]) -> np.ndarray:
    """Return the pairs (page, question) that share an n-gram, sorted: int64 [pairs, 2]."""
    if not tables:
        return np.empty((0, 2), np.int64)
    parts = pages.map(partial(_hits_of, pages.share(tables)), what="benchmark text")
    starts = np.cumsum([0, *(count for count, _ in parts)])
    pairs = [own + np.array([start, 0]) for (_, own), start in zip(parts, starts, strict=False)]
    return np.unique(np.concatenate([np.empty((0, 2), np.int64), *pairs]), axis=0)


def _hits_of(
    tables: Callable[[], Sequence[_Table]], texts: Sequence[str]
) -> tuple[int, np.ndarray]:
    """Return the number of texts, and their pairs (text, question) that share an n-gram."""
    start, pairs = 0, [np.empty((0, 2), np.int64)]
    for chunk in chunks(texts):
        words = hash_words(chunk, marks=False)
        for table in tables():
            grams = join_words(words, table.length)
            positions, questions = table.matches(grams.hashes)
            rows = np.searchsorted(np.cumsum(grams.counts), positions, side="right")
            pairs.append(np.unique(np.stack([start + rows, questions], axis=1), axis=0))
        start += len(chunk)
    return start, np.concatenate(pairs)
