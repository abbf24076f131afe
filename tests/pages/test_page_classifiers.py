"""Classifiers of pages: split by page, weights, quality, files, reproducibility."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from planted_pages import page, pool, text_of

from lossline.errors import UserError
from lossline.pages import (
    FastText,
    FittedFastText,
    FittedLogistic,
    HashedLogistic,
    PageClassifier,
    PositiveClassifier,
    SelectionTask,
    TrainingPages,
)
from lossline.pages.examples import Group, draw, split
from lossline.pages.fasttext_classifier import as_line
from lossline.pages.logistic import hashed_features
from lossline.pages.quality import quality

HALF = TrainingPages(held_out=0.5)


def task(**weights) -> SelectionTask:
    return SelectionTask(target="planted", weights=weights)


def group(name, included, ids, mass=1.0, text="text"):
    return Group(name=name, included=included, mass=mass, ids=ids, texts=[text] * len(ids))


# --- the logistic regression ---------------------------------------------------------------------


def test_features_are_distinct_ngrams_of_norm_one():
    features = hashed_features(["a b a b", "", "a b"], buckets=1 << 18, longest=2)
    assert np.diff(features.indptr).tolist() == [4, 0, 3]  # a, b, "a b", "b a"
    np.testing.assert_allclose(features.multiply(features).sum(axis=1), [1, 0, 1])


def test_the_fit_is_the_optimum_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    texts = [page.text for page in pool(pages=30)]
    included = np.arange(90) < 30
    weights = np.where(included, 2.0, 0.5)
    ours = HashedLogistic(l2=0.5).fit(texts, included, weights, seed=0)
    features = hashed_features(texts, buckets=1 << 18, longest=2)
    theirs = linear_model.LogisticRegression(C=2, tol=1e-10, max_iter=5000)
    # Our weights add up to the number of texts, whatever their scale.
    theirs.fit(features, included, sample_weight=weights * 90 / weights.sum())
    expected = theirs.predict_proba(features)[:, 1]
    np.testing.assert_allclose(ours.probabilities(texts), expected, atol=1e-4)
    scaled = HashedLogistic(l2=0.5).fit(texts, included, 7 * weights, seed=0)
    np.testing.assert_allclose(scaled.probabilities(texts), ours.probabilities(texts), rtol=1e-6)


def test_a_probability_does_not_depend_on_the_texts_beside_it():
    texts = [page.text for page in pool(pages=20)] + ["", "中文字"]
    model = HashedLogistic().fit(texts[:60], np.arange(60) < 20, np.ones(60), seed=0)
    alone = [model.probabilities([text])[0] for text in texts]
    assert alone == model.probabilities(texts).tolist()


def test_text_without_spaces_is_told_apart():
    draw = random.Random(0)
    letters = ["天地玄黄宇宙洪荒日月盈昃", "春眠不觉晓处处闻啼鸟夜来风雨声"]
    texts = ["".join(draw.choices(letters[i % 2] + "的了是在", k=80)) for i in range(80)]
    included = np.arange(80) % 2 == 0
    model = HashedLogistic().fit(texts[:40], included[:40], np.ones(40), seed=0)
    assert ((model.probabilities(texts[40:]) > 0.5) == included[40:]).all()


def test_a_saved_classifier_predicts_the_same(tmp_path):
    texts = [page.text for page in pool(pages=20)]
    model = HashedLogistic().fit(texts, np.arange(60) < 20, np.ones(60), seed=0)
    model.save(tmp_path / "classifier.npz")
    again = FittedLogistic.load(tmp_path / "classifier.npz")
    np.testing.assert_array_equal(again.probabilities(texts), model.probabilities(texts))
    assert again.facts == model.facts
    model.save(tmp_path / "second.npz")
    assert (tmp_path / "second.npz").read_bytes() == (tmp_path / "classifier.npz").read_bytes()


def test_another_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "text").write_text("no classifier")
    np.savez(tmp_path / "arrays.npz", a=np.ones(2))
    np.savez(tmp_path / "pickle.npz", format=np.array([{}], object))
    for name in ("text", "arrays.npz", "pickle.npz", "missing.npz"):
        with pytest.raises(UserError, match=f"{name}: not a page classifier"):
            FittedLogistic.load(tmp_path / name)


# --- draw and split ------------------------------------------------------------------------------


def test_a_page_is_never_on_both_sides():
    pages = pool(pages=50)
    groups = [
        Group(
            name=topic,
            included=topic == "bio",
            mass=1.0,
            ids=[p.id for p in pages if p.domain == topic] * 2,  # every page twice
            texts=[p.text for p in pages if p.domain == topic] * 2,
        )
        for topic in ("bio", "law")
    ]
    groups.append(  # pages of the other class under a second name
        Group(name="copy", included=False, mass=1.0, ids=groups[0].ids, texts=groups[0].texts)
    )
    for seed in range(5):
        drawn = draw(groups, pages_per_class=1000, share=0.3, seed=seed)
        learned, tested = set(drawn.side(held_out=False)), set(drawn.side(held_out=True))
        assert learned and tested and not learned & tested
        assert drawn.held_out[drawn.included].sum() == 15


def test_the_split_is_by_page_not_by_passage_of_a_page():
    ids = ["p1"] * 5 + ["p2"] * 5 + ["n1", "n2"]
    held_out = split(ids, np.array([True] * 10 + [False] * 2), 0.5, seed=0)
    assert len(set(held_out[:5])) == len(set(held_out[5:10])) == 1 and held_out.sum() == 6


def test_both_classes_and_the_masses_inside_them_weigh_as_asked():
    ids = [[f"{g}{i}" for i in range(n)] for g, n in (("a", 400), ("b", 20), ("c", 300))]
    drawn = draw(
        [group("a", True, ids[0], 0.9), group("b", True, ids[1], 0.1), group("c", False, ids[2])],
        pages_per_class=100,
        share=0.1,
        seed=0,
    )
    names = np.array(drawn.groups)
    assert [int((names == g).sum()) for g in "abc"] == [90, 10, 100]
    assert [round(drawn.weights[names == g].sum(), 12) for g in "abc"] == [0.9, 0.1, 1.0]
    few = draw(
        [group("a", True, ids[0], 0.1), group("b", True, ids[1], 0.9), group("c", False, ids[2])],
        pages_per_class=100,
        share=0.1,
        seed=0,
    )
    names = np.array(few.groups)
    assert (names == "b").sum() == 20 and few.weights[names == "b"].sum() == pytest.approx(0.9)


def test_the_draw_does_not_depend_on_the_order_of_pages_and_groups():
    ids = [f"p{i}" for i in range(50)]
    groups = [group("a", True, ids), group("b", False, [f"q{i}" for i in range(50)])]
    backwards = [group("b", False, groups[1].ids[::-1]), group("a", True, ids[::-1])]
    one, two = (draw(g, pages_per_class=20, share=0.2, seed=3) for g in (groups, backwards))
    assert one.groups == two.groups and one.held_out.tolist() == two.held_out.tolist()


# --- quality -------------------------------------------------------------------------------------


def test_quality_counts_and_ratios():
    found = quality(np.array([0.9, 0.6, 0.4, 0.6, 0.1]), np.array([1, 1, 1, 0, 0], bool))
    assert (found["true_positives"], found["false_positives"]) == (2, 1)
    assert (found["false_negatives"], found["true_negatives"]) == (1, 1)
    assert found["precision"] == found["recall"] == found["f1"] == 2 / 3
    assert found["auc"] == (2 + 1.5 + 1) / 6  # the tie counts half


def test_a_ratio_without_pages_is_missing_not_zero():
    found = quality(np.array([0.1, 0.2]), np.array([False, False]))
    assert found["precision"] is found["recall"] is found["f1"] is found["auc"] is None


# --- perplexity correlations ---------------------------------------------------------------------


def test_pages_are_ranked_by_the_included_domains():
    pages = pool()
    ranking = PageClassifier(training=HALF).rank(pages, task(bio=1.0, code=0.0, law=0.0))
    first = np.argsort(-ranking.scores)[:40]
    assert {pages[i].domain for i in first} == {"bio"} and ranking.candidate.all()
    held_out = ranking.facts["held_out"]
    assert held_out["auc"] == held_out["f1"] == 1.0 and held_out["included"] == 20
    assert [row["predicted"] for row in ranking.facts["pool"]] == [40, 0, 0]
    json.dumps(ranking.facts)


def test_pages_of_a_domain_without_a_weight_train_nothing_and_are_ranked():
    pages = pool() + [page(p.text + " x", domain="new") for p in pool(("bio",), pages=5)]
    ranking = PageClassifier().rank(pages, task(bio=0.5, code=0.0, law=0.0, gone=0.5))
    assert {row["domain"] for row in ranking.facts["domains"]} == {"bio", "code", "law"}
    assert (ranking.scores[-5:] > 0.5).all()
    assert ranking.facts["domains_without_pages"] == ["gone"]


def test_a_domain_with_one_page_is_fine():
    pages = [*pool(), page("word " * 30, domain="tiny"), page("other " * 30, domain="small")]
    ranking = PageClassifier().rank(pages, task(bio=0.5, tiny=0.5, code=0.0, small=0.0))
    assert np.isfinite(ranking.scores).all()


def test_scores_belong_to_pages_whatever_their_order():
    pages = pool()
    weights = task(bio=0.7, code=0.3, law=0.0)
    ranking = PageClassifier().rank(pages, weights)
    order = np.random.default_rng(0).permutation(len(pages))
    again = PageClassifier().rank([pages[i] for i in order], weights)
    np.testing.assert_array_equal(again.scores, ranking.scores[order])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"bio": 0.5, "code": 0.2, "law": 0.3}, "all 3 domains of target planted are included"),
        ({"bio": 0.0, "code": -0.2}, "no domain has a positive weight for target planted"),
        ({"other": 1.0, "bio": 0.0}, "the pool has no pages of 'other'"),
        ({"one": 1.0, "bio": 0.0}, "the included class \\(one\\) has 1 different pages"),
        ({"bio": 1.0, "one": 0.0}, "the excluded class \\(one\\) has 1 different pages"),
    ],
)
def test_bad_weights_are_one_line(weights, message):
    pages = [*pool(pages=12), page("alone here", domain="one")]
    with pytest.raises(UserError, match=message):
        PageClassifier().rank(pages, task(**weights))


def test_weights_and_training_pages_are_checked():
    with pytest.raises(UserError, match="weight of domain bio is nan"):
        task(bio=float("nan"))
    with pytest.raises(UserError, match="held_out = 1"):
        TrainingPages(held_out=1.0)
    with pytest.raises(UserError, match="per_class = 0"):
        TrainingPages(per_class=0)
    with pytest.raises(UserError, match="hashed_logistic"):
        HashedLogistic(l2=0)


def test_the_ranking_is_the_same_in_another_process():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from planted_pages import pool;"
        "from lossline.pages import PageClassifier, SelectionTask;"
        "task = SelectionTask(target='t', weights={'bio': 1.0, 'law': 0.0});"
        "print(PageClassifier().rank(pool(), task).scores.tolist())"
    )
    here = os.path.dirname(__file__)
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, here],
            env=os.environ | {"PYTHONHASHSEED": seed, "OPENBLAS_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1 and outputs.pop().startswith("[0.")


# --- given positives -----------------------------------------------------------------------------


def positives() -> tuple[str, ...]:
    draw = random.Random(5)
    return tuple(text_of("bio", draw, words=30) for _ in range(30))


def test_pages_like_the_positives_come_first():
    pages = pool()
    ranking = PositiveClassifier().rank(pages, SelectionTask(target="t", texts=positives()))
    assert {pages[i].domain for i in np.argsort(-ranking.scores)[:40]} == {"bio"}
    assert ranking.facts["positives"] == 30 and ranking.model is not None


def test_positives_of_files_replace_the_texts_of_the_target(tmp_path):
    file = tmp_path / "instructions.jsonl"
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in positives()))
    method = PositiveClassifier(files=(str(file),), text_field="prompt")
    ranking = method.rank(pool(), SelectionTask(target="t", texts=("law1",) * 30))
    np.testing.assert_array_equal(
        ranking.scores,
        PositiveClassifier().rank(pool(), SelectionTask(target="t", texts=positives())).scores,
    )
    with pytest.raises(UserError, match=r"instructions.jsonl, line 1: 'text' is missing"):
        PositiveClassifier(files=(str(file),)).rank(pool(), SelectionTask(target="t"))


def test_missing_positives_are_one_line():
    with pytest.raises(UserError, match="target t has no texts of its own"):
        PositiveClassifier().rank(pool(), SelectionTask(target="t"))
    with pytest.raises(UserError, match="included class \\(positives\\) has 1 different pages"):
        PositiveClassifier().rank(pool(), SelectionTask(target="t", texts=("same",) * 30))


# --- fastText ------------------------------------------------------------------------------------


def test_a_text_is_one_line_without_marks_of_fasttext():
    assert as_line("One\ntwo </s> __label__x\r\n\u2028three 中文") == "one two three 中 文"


def test_fasttext_is_reproducible_and_loads_again(tmp_path):
    pytest.importorskip("fasttext")
    pages, weights = pool(), task(bio=1.0, code=0.0, law=0.0)
    method = PageClassifier(classifier=FastText(buckets=1000, dimension=8), training=HALF)
    ranking = method.rank(pages, weights)
    assert ranking.facts["held_out"]["auc"] > 0.95
    np.testing.assert_array_equal(method.rank(pages[::-1], weights).scores[::-1], ranking.scores)
    ranking.model.save(tmp_path / "model.bin")
    again = FittedFastText.load(tmp_path / "model.bin")
    np.testing.assert_array_equal(again.probabilities([p.text for p in pages]), ranking.scores)
    (tmp_path / "text").write_text("no model")
    with pytest.raises(UserError, match="text: not a fastText model"):
        FittedFastText.load(tmp_path / "text")


def test_fasttext_learns_the_whole_page():
    """A page's class is in its last line only; the package of the paper trains on the first."""
    pytest.importorskip("fasttext")
    draw = random.Random(0)
    texts = [f"{text_of('same', draw, words=8)}\n" * 3 + f"end{i % 2}" for i in range(60)]
    model = FastText(buckets=1000, dimension=8).fit(
        texts, np.arange(60) % 2 == 0, np.ones(60), seed=0
    )
    assert ((model.probabilities(texts) > 0.5) == (np.arange(60) % 2 == 0)).all()


def test_a_missing_fasttext_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "fasttext", None)
    with pytest.raises(
        UserError, match=r"fasttext-community is missing; install the \[selection\]"
    ):
        PageClassifier(classifier=FastText()).rank(pool(), task(bio=1.0, law=0.0))
