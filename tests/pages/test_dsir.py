"""DSIR: against a slow reference, against the package, and on planted pages."""

import json
import random
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from planted_pages import page, pool, text_of

from lossline.errors import UserError
from lossline.pages import Dsir, Sampling, SelectionTask
from lossline.pages.dsir import ImportanceWeights
from lossline.pages.hashing import hash_ngrams

BUCKETS = 10_000
WORDS = re.compile(r"\w+|[^\w\s]+")


def bucket(gram: str, num_buckets: int = BUCKETS) -> int:
    """Bucket of one n-gram whose words are separated by spaces."""
    words = gram.split(" ")
    return int(hash_ngrams([gram], len(words))[-1].buckets(num_buckets)[0])


def reference_counts(text: str) -> Counter:
    words = WORDS.findall(text.lower())
    pairs = [f"{a} {b}" for a, b in pairwise(words)]
    return Counter(bucket(gram) for gram in words + pairs)


def reference_scores(target: list[str], raw: list[str]) -> list[float]:
    """Sum over the n-grams of counts · log((p_t + 1e-8) / (p_r + 1e-8)), one page at a time."""
    bags = [sum(map(reference_counts, texts), Counter()) for texts in (target, raw)]
    p_t, p_r = ({b: n / bag.total() for b, n in bag.items()} for bag in bags)
    return [
        sum(
            n * np.log((p_t.get(b, 0) + 1e-8) / (p_r.get(b, 0) + 1e-8))
            for b, n in reference_counts(text).items()
        )
        for text in raw
    ]


def texts(count: int, *, words: int = 60) -> tuple[list[str], list[str]]:
    """Target texts, and raw texts with a growing share of the target's words."""
    draw = random.Random(1)
    target = [text_of("bio", draw, own=0.8) for _ in range(20)]
    raw = [text_of("bio", draw, own=own, words=words) for own in np.linspace(0, 0.8, count)]
    return target, raw


def fit(target: list[str], raw: list[str]) -> ImportanceWeights:
    return ImportanceWeights.fit(target, raw, buckets=BUCKETS, longest=2)


def test_scores_equal_a_slow_reference():
    target, raw = texts(12)
    raw += ["", "x", "bio1, common2!"]
    scores, words = fit(target, raw).score(raw)
    np.testing.assert_allclose(scores, reference_scores(target, raw), rtol=1e-10, atol=1e-9)
    assert words.tolist() == [len(WORDS.findall(text)) for text in raw]


def test_a_score_does_not_depend_on_the_pages_beside_it():
    target, raw = texts(12)
    weights = fit(target, raw)
    together, _ = weights.score(raw)
    assert [weights.score([text])[0][0] for text in raw] == together.tolist()


def package_scores(tmp_path, target: list[str], raw: list[str]) -> np.ndarray:
    package = pytest.importorskip("data_selection")
    files = []
    for name, rows in (("raw", raw), ("target", target)):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
        files.append([str(file)])
    dsir = package.HashedNgramDSIR(*files, cache_dir=str(tmp_path / "cache"), num_proc=1)
    dsir.fit_importance_estimator(num_tokens_to_fit="all")
    dsir.compute_importance_weights()
    return np.load(tmp_path / "cache" / "log_importance_weights" / "0.npy")


def test_scores_equal_those_of_the_package_with_our_hash(tmp_path, monkeypatch):
    module = pytest.importorskip("data_selection.hashed_ngram_dsir")
    monkeypatch.setattr(module, "hash_buckets", bucket)
    target, raw = texts(25)
    theirs = package_scores(tmp_path, target, raw)
    np.testing.assert_allclose(fit(target, raw).score(raw)[0], theirs, rtol=1e-9, atol=1e-9)


def test_planted_ranking_is_that_of_the_package_with_its_own_hash(tmp_path):
    target, _ = texts(1)
    draw = random.Random(2)
    like_target, unlike = text_of("bio", draw), text_of("law", draw)
    raw = [" ".join([like_target] * k + [unlike] * (30 - k)) for k in range(31)]
    random.Random(3).shuffle(raw)
    theirs = package_scores(tmp_path, target, raw)
    ours, _ = fit(target, raw).score(raw)
    assert np.argsort(ours).tolist() == np.argsort(theirs).tolist()
    planted = np.array([text.count("bio") for text in raw])
    assert (np.diff(planted[np.argsort(ours)]) > 0).all()


def rank(pages, seed=0, **options):
    draw = random.Random(9)
    target = tuple(text_of("bio", draw) for _ in range(20))
    return Dsir(**options).rank(pages, SelectionTask(target="bio", texts=target, seed=seed))


def test_the_planted_domain_comes_first():
    pages = pool()
    ranking = rank(pages)
    first = np.argsort(-ranking.scores)[:40]
    assert {pages[i].domain for i in first} == {"bio"}


def test_the_noise_is_standard_gumbel_and_depends_on_seed_and_id():
    pages = [page("word " * 120, id=str(i)) for i in range(4000)]
    plain = rank(pages, sampling=Sampling.TOP).scores
    noise = rank(pages, seed=1).scores - plain
    assert abs(noise.mean() - np.euler_gamma) < 0.06 and abs(noise.std() - np.pi / 6**0.5) < 0.06
    assert abs(np.corrcoef(noise, rank(pages, seed=2).scores - plain)[0, 1]) < 0.06
    np.testing.assert_array_equal(
        rank(pages[::-1], seed=1).scores[::-1], rank(pages, seed=1).scores
    )


def test_short_pages_are_no_candidates():
    pages = [page("word " * count) for count in (99, 100)]
    ranking = rank(pages)
    assert ranking.candidate.tolist() == [False, True]
    assert ranking.facts["pages_too_short"] == 1


def test_bad_input_is_one_line():
    task = SelectionTask(target="bio", texts=(" ",))
    with pytest.raises(UserError, match="target bio has no texts of its own"):
        Dsir().rank(pool(), task)
    with pytest.raises(UserError, match="longest page has 3 words"):
        rank([page("one two three")])
    with pytest.raises(UserError, match="all pages of the pool are empty"):
        rank([page(" ")])
    with pytest.raises(UserError, match="buckets = 1"):
        Dsir(buckets=1)
