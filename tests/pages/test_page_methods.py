"""Uniform, oracle and language filter; what every method refuses."""

import sys

import numpy as np
import pytest
from planted_pages import page, pool

from lossline.errors import UserError
from lossline.pages import (
    Dsir,
    LanguageFilter,
    Oracle,
    PageClassifier,
    PositiveClassifier,
    SelectionTask,
    Uniform,
)
from lossline.pages.draws import uniform
from lossline.pages.languages import languages

TASK = SelectionTask(target="t")


def test_uniform_numbers_are_uniform_and_depend_on_id_seed_and_purpose():
    ids = [str(i) for i in range(5000)]
    one = uniform(ids, seed=0, purpose="a")
    assert one.min() > 0 and one.max() < 1
    assert np.abs(np.sort(one) - np.linspace(0, 1, 5000)).max() < 0.03
    for other in (uniform(ids, seed=1, purpose="a"), uniform(ids, seed=0, purpose="b")):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.05
    # A change makes other selections of every seed.
    assert uniform(["x"], seed=0, purpose="a")[0] == 0.5670447652027052


def test_uniform_takes_domains_by_their_pages():
    pages = pool(pages=200)
    ranking = Uniform().rank(pages, TASK)
    first = [pages[i].domain for i in np.argsort(-ranking.scores)[:150]]
    assert ranking.candidate.all()
    assert all(35 <= first.count(topic) <= 65 for topic in ("code", "bio", "law"))


def test_oracle_takes_its_domains_only():
    pages = pool()
    ranking = Oracle(domains=("bio",)).rank(pages, TASK)
    assert ranking.candidate.tolist() == [page.domain == "bio" for page in pages]
    with pytest.raises(UserError, match=r"oracle.domains: the pool has no pages of 'biology'"):
        Oracle(domains=("biology",)).rank(pages, TASK)


def test_the_language_of_a_page_is_detected_once(monkeypatch):
    py3langid = pytest.importorskip("py3langid")
    asked = []
    monkeypatch.setattr(py3langid, "classify", lambda text: (asked.append(text) or "en", 1.0))
    texts = [f"A sentence that no other test contains, {n}." for n in range(3)]
    assert languages(texts) == languages(texts[::-1]) == ["en"] * 3
    assert asked == texts


def test_the_language_filter_takes_its_languages_only():
    pytest.importorskip("py3langid")
    texts = [
        "The committee will publish its report on the state of the rivers next week.",
        "Der Ausschuss wird seinen Bericht über den Zustand der Flüsse veröffentlichen.",
        "위원회는 다음 주에 강의 상태에 관한 보고서를 발표할 것이다.",
        "12345 --- 67",
    ]
    assert languages(texts) == ["en", "de", "ko", "und"]
    pages = [page(text) for text in texts]
    ranking = LanguageFilter(languages=("de", "ko")).rank(pages, TASK)
    assert ranking.candidate.tolist() == [False, True, True, False]
    assert ranking.facts["pages_by_language"] == {"de": 1, "en": 1, "ko": 1, "und": 1}
    with pytest.raises(UserError, match="no page is in these languages; the pool has de, en"):
        LanguageFilter(languages=("english",)).rank(pages, TASK)


def test_a_missing_detector_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with pytest.raises(UserError, match=r"py3langid is missing; install the \[selection\] extra"):
        LanguageFilter().rank(pool(), TASK)


METHODS = [
    Uniform(),
    Oracle(domains=("a",)),
    LanguageFilter(),
    Dsir(),
    PageClassifier(),
    PositiveClassifier(),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_every_method_refuses_pages_that_are_no_utf8_and_empty_pools(method):
    bad = page("x", id="ab12")
    object.__setattr__(bad, "text", "half \ud83d")
    with pytest.raises(UserError, match="page ab12 of domain a: lone surrogate U\\+D83D"):
        method.rank([page("fine"), bad], TASK)
    with pytest.raises(UserError, match="no pages to select from"):
        method.rank([], TASK)


def test_a_bad_seed_is_one_line():
    with pytest.raises(UserError, match="seed of the selection = -1"):
        SelectionTask(target="t", seed=-1)
