"""Benchmark text in pages."""

import random

import numpy as np
import pytest
from planted_pages import page, text_of

from lossline.corpora.items import Item
from lossline.pages import benchmark_overlap

DRAW = random.Random(0)
WORDS = [f"w{i}" for i in range(5000)]


def sentence(count: int) -> str:
    return " ".join(DRAW.sample(WORDS, count))


def item(context: str, answer: str) -> Item:
    return Item(id="0", context=context, choices=(" wrong", answer), gold=1)


LONG = item(f"Question: {sentence(15)}?\nAnswer:", f" {sentence(2)}")
BRIEF = item(f"Q: {sentence(7)}?\nA:", f" {sentence(1)}")
TINY = item("Q: what is it?\nA:", " gold")


def words_of(question: Item) -> list[str]:
    """Words without the prompt's labels and punctuation."""
    text = question.context + question.choices[1]
    return [w.strip("?:") for w in text.split() if w not in ("Question:", "Answer:", "Q:", "A:")]


def shares(text: str, question: Item) -> bool:
    return bool(benchmark_overlap([page(text)], {"b": [question]}).pages[0])


@pytest.mark.parametrize(("question", "length"), [(LONG, 13), (BRIEF, 8)])
def test_a_page_overlaps_from_so_many_words_in_a_row_on(question, length):
    words = words_of(question)
    inside = words[-length:]  # ends with the answer
    assert shares("before " + ", ".join(inside).upper() + "! after", question)
    assert not shares("before " + " ".join(inside[1:]) + " after", question)
    assert not shares(" ".join([*inside[: length // 2], "x", *inside[length // 2 :]]), question)
    assert not shares(" ".join(reversed(inside)), question)


def test_wrong_answers_do_not_count():
    question = Item(id="0", context=sentence(12), choices=(" right", " wrong"), gold=0)
    assert shares(question.context + " right", question)
    assert not shares(question.context + " wrong", question)


def test_questions_too_short_to_check_are_counted_not_found():
    found = benchmark_overlap([page("what is it gold")], {"b": [TINY, LONG]})
    assert not found.pages.any()
    assert found.benchmarks.to_dict("records") == [
        {"benchmark": "b", "questions": 2, "found": 0, "too_short": 1}
    ]


def test_counts_by_domain_and_benchmark():
    filler = [text_of("bio", DRAW) for _ in range(5)]
    leak, brief = " ".join(words_of(LONG)), " ".join(words_of(BRIEF))
    pages = [
        page(f"{filler[0]} {leak} {filler[1]}", domain="a"),
        page(f"{leak} {brief}", domain="a"),
        page(filler[2], domain="a"),
        page(filler[3] + brief, domain="b"),  # joined to the word before it: seven words left
        page("", domain="c"),
    ]
    found = benchmark_overlap(pages, {"two": [BRIEF, LONG, LONG], "one": [BRIEF], "none": []})
    assert found.pages.tolist() == [True, True, False, False, False]
    rows = found.domains.set_index(["domain", "benchmark"])
    assert len(rows) == 9
    assert rows.loc[("a", "two")].tolist() == [3, 2, 3]
    assert rows.loc[("a", "one")].tolist() == [3, 1, 1]
    assert rows.loc[("b", "one")].tolist() == [1, 0, 0]
    assert found.benchmarks.set_index("benchmark")["found"].to_dict() == {
        "none": 0, "one": 1, "two": 3,
    }  # fmt: skip


def test_text_without_spaces_overlaps_by_characters():
    question = item("问题是关于天地玄黄宇宙洪荒日月盈昃", "辰宿列张")
    assert shares("前面的话。黄宇宙洪荒日月盈昃辰宿列张，后面的话", question)
    assert not shares("前面的话。宇宙洪荒日月盈昃辰宿列张，后面的话", question)


def test_pages_and_questions_do_not_run_into_each_other():
    words = words_of(LONG)
    pages = [page(" ".join(words[:7])), page(" ".join(words[7:]))]
    assert not benchmark_overlap(pages, {"b": [LONG]}).pages.any()
    two = [item(" ".join(words[:9]), " x"), item(" ".join(words[9:]), " y")]
    across = page(" ".join([*words[5:9], "x", *words[9:12]]))
    assert not benchmark_overlap([across], {"b": two}).pages.any()


def test_pages_beyond_the_first_chunk_keep_their_places():
    leak = " ".join(words_of(LONG))
    pages = [page("word " * 60_000), page(f"x {leak}"), page("word " * 60_000), page(leak + " x")]
    found = benchmark_overlap(pages, {"b": [LONG]})
    assert found.pages.tolist() == [False, True, False, True]


def test_without_benchmarks_nothing_overlaps():
    found = benchmark_overlap([page("text")], {})
    assert found.pages.tolist() == [False] and not len(found.domains)
    assert found.benchmarks.columns.tolist() == ["benchmark", "questions", "found", "too_short"]


def test_counts_equal_a_slow_reference():
    draw = random.Random(4)
    vocabulary = [f"v{i}" for i in range(2)]  # few words, so that many n-grams repeat
    questions = [item(" ".join(draw.choices(vocabulary, k=14)), " v0") for _ in range(20)]
    pages = [page(" ".join(draw.choices(vocabulary, k=1500)), id=str(i)) for i in range(12)]

    def grams(text: str) -> set[str]:
        words = text.split()
        return {" ".join(words[i : i + 13]) for i in range(len(words) - 12)}

    asked = [grams(q.context + " v0") for q in questions]
    hits = np.array([[bool(grams(p.text) & own) for own in asked] for p in pages])
    found = benchmark_overlap(pages, {"b": questions})
    assert 0 < hits.sum() < hits.size
    assert found.pages.tolist() == hits.any(axis=1).tolist()
    assert found.domains["questions"].tolist() == [int(hits.any(axis=0).sum())]
