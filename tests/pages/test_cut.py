"""Cut to a budget, near-duplicates, make-up."""

import random

import numpy as np
import pytest
from planted_pages import page, pool, text_of

from lossline.errors import UserError
from lossline.pages import (
    Oracle,
    Ranking,
    SelectionTask,
    Shortage,
    Uniform,
    clean_pages,
    cut,
    make_up,
)
from lossline.stores.store_writer import write_store
from lossline.vocabularies import ByteVocabulary

BYTES = ByteVocabulary()
TASK = SelectionTask(target="t")


def ranking(scores, candidate=None):
    scores = np.array(scores, float)
    return Ranking(
        scores, np.ones(len(scores), bool) if candidate is None else np.array(candidate), {}
    )


def lettered(sizes):
    """Pages of so many bytes, so of one token more each."""
    return [page("x" * size, id=f"p{number}") for number, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("budget", "chosen"), [(1, [2]), (5, [2]), (6, [2, 0]), (16, [2, 0]), (17, [2, 0, 1])]
)
def test_the_page_that_reaches_the_budget_is_the_last(budget, chosen):
    pages = lettered([10, 20, 4])
    found = cut(pages, ranking([2, 1, 3]), budget=budget, vocabulary=BYTES)
    assert found.order.tolist() == chosen
    assert found.tokens == sum(len(pages[i].text) + 1 for i in chosen) >= budget
    assert found.tokens - (len(pages[chosen[-1]].text) + 1) < budget
    assert found.bytes == sum(len(pages[i].text) for i in chosen)


def test_tokens_are_counted_as_in_a_store(tmp_path):
    pages = pool(pages=10)
    found = cut(pages, Uniform().rank(pages, TASK), budget=9000, vocabulary=BYTES)
    store = write_store(tmp_path / "store", [pages[i].text for i in found.order], BYTES)
    assert store.manifest.tokens == found.tokens and store.manifest.bytes == found.bytes


def test_the_table_says_what_became_of_every_page():
    pages = lettered([10, 20, 4, 5])
    found = cut(pages, ranking([2, 1, 3, np.nan], [1, 1, 1, 0]), budget=6, vocabulary=BYTES).pages
    assert found["outcome"].tolist() == ["selected", "beyond_budget", "selected", "not_candidate"]
    assert found["included"].tolist() == [True, False, True, False]
    assert found["rank"].fillna(-1).tolist() == [1, 2, 0, -1]
    assert found["tokens"].fillna(-1).tolist() == [11, -1, 5, -1]
    assert found["bytes"].tolist() == [10, 20, 4, 5]
    assert found["score"].isna().tolist() == [False, False, False, True]


def test_ties_are_ordered_by_id_whatever_the_order_of_the_pages():
    pages = lettered([5] * 9)
    found = cut(pages, ranking([0] * 9), budget=12, vocabulary=BYTES)
    assert [pages[i].id for i in found.order] == ["p0", "p1"]
    backwards = pages[::-1]
    again = cut(backwards, ranking([0] * 9), budget=12, vocabulary=BYTES)
    assert [backwards[i].id for i in again.order] == ["p0", "p1"]


def test_a_permutation_of_the_pages_gives_the_same_choice():
    pages = pool() + [page(p.text + " more", domain="copy") for p in pool()[:20]]
    chosen = []
    for seed in (0, 1):
        shuffled = random.Random(seed).sample(pages, len(pages))
        clean = clean_pages(shuffled).pages
        found = cut(clean, Uniform().rank(clean, TASK), budget=20_000, vocabulary=BYTES)
        chosen.append([clean[i].id for i in found.order])
    assert chosen[0] == chosen[1]


def test_a_budget_larger_than_the_candidates_says_how_much_there_is():
    pages = lettered([10, 20, 4])
    own = ranking([2, 1, 3], [True, True, False])
    message = "budget = 33 tokens: the 2 candidate pages of 3 have only 32. Lower the budget to at"
    with pytest.raises(UserError, match=message):
        cut(pages, own, budget=33, vocabulary=BYTES)
    assert cut(pages, own, budget=32, vocabulary=BYTES).tokens == 32
    found = cut(pages, own, budget=33, vocabulary=BYTES, shortage=Shortage.TAKE_ALL)
    assert found.tokens == 32 and found.budget == 33


def test_bad_input_is_one_line():
    pages = lettered([3])
    for budget in (0, -5):
        with pytest.raises(UserError, match="give a positive number of tokens"):
            cut(pages, ranking([0]), budget=budget, vocabulary=BYTES)
    object.__setattr__(pages[0], "text", "\ud800")
    with pytest.raises(UserError, match="page p0 of domain a: lone surrogate"):
        cut(pages, ranking([0]), budget=1, vocabulary=BYTES)
    with pytest.raises(UserError, match="no pages to select from"):
        cut([], ranking([]), budget=1, vocabulary=BYTES)


def test_an_empty_page_has_one_token():
    pages = [page("", id="empty"), page("ab", id="z")]
    found = cut(pages, ranking([1, 0]), budget=2, vocabulary=BYTES)
    assert found.pages["tokens"].tolist() == [1, 3] and found.bytes == 2


def test_near_duplicates_leave_and_the_smallest_id_stays():
    draw = random.Random(0)
    text = text_of("bio", draw)
    pages = [
        page(text + " a", domain="a", id="3"),
        page(text + " b", domain="b", id="1"),
        page(text_of("law", draw), domain="b", id="2"),
        page(text[: len(text) // 2], domain="a", id="4"),
    ]
    clean = clean_pages(pages)
    assert [p.id for p in clean.pages] == ["1", "2"]
    assert clean.table["near_duplicates"].tolist() == [2, 0]
    assert clean.table["kept"].tolist() == [0, 2] and clean.table["pages"].tolist() == [2, 2]
    assert len(clean_pages(pages, duplicate_threshold=None).pages) == 4


def test_a_copy_of_a_page_with_benchmark_text_stays_if_it_has_none():
    draw = random.Random(0)
    text = text_of("bio", draw)
    pages = [page(text + " leaked question", id="1"), page(text, id="2")]
    clean = clean_pages(pages, benchmark_text=np.array([True, False]))
    assert [p.id for p in clean.pages] == ["2"]
    assert clean.table["benchmark_text"].tolist() == [1]


def test_the_make_up_counts_pool_and_selection():
    pages = pool(pages=10)
    found = cut(pages, Oracle(domains=("bio",)).rank(pages, TASK), budget=2000, vocabulary=BYTES)
    described = make_up(found, languages=["en"] * 20 + ["de"] * 10)
    domains = described.domains.set_index("domain")
    assert domains["pool_pages"].tolist() == [10, 10, 10]
    assert domains["selected_share"].to_dict() == {"bio": 1.0, "code": 0.0, "law": 0.0}
    assert domains.loc["bio", "selected_tokens"] == found.tokens
    assert domains["pool_share"].sum() == pytest.approx(1)
    assert domains["pool_bytes"].sum() == sum(len(p.text) for p in pages)
    assert described.languages["selected_pages"].tolist() == [len(found.order), 0]
    sizes = sorted(len(pages[i].text) for i in found.order)
    assert described.lengths["selected_bytes"].iloc[[0, -1]].tolist() == [sizes[0], sizes[-1]]
