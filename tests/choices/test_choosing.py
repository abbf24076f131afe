"""Selections for planted targets: the right domains, budgets, and what is refused."""

import dataclasses
import json

import numpy as np
import pandas as pd
import planted_pool
import pytest

from lossline.choices.choosing import choose
from lossline.choices.correlation_method import PerplexityCorrelations
from lossline.choices.options import ANY, BenchmarkText, ChooseOptions
from lossline.choices.summary import summary
from lossline.choices.targets import Target
from lossline.corpora.pools import MissingDomains, Pool
from lossline.errors import UserError
from lossline.pages.cut import Shortage
from lossline.pages.methods import Dsir, Oracle, PositiveClassifier, Uniform
from lossline.vocabularies import Bytes

DOMAINS = tuple(planted_pool.WORDS)
QUIZ = Target(name="quiz", benchmarks=("quiz",), texts=("quiz",), domains=("code",))
METHODS = {
    "uniform": Uniform(),
    "dsir": Dsir(),
    "positives": PositiveClassifier(),
    "oracle": Oracle(),
    "correlations": PerplexityCorrelations(filter_ratio=0.3),
}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    planted_pool.write_pool(root)
    return Pool(root=str(root), domains=DOMAINS)


def options(pool, **changes):
    given = {"pool": pool, "targets": (QUIZ,), "methods": METHODS, "budget": 5000, "resamples": 50}
    return ChooseOptions(**(given | changes))


def run(chosen, scores=None, **more):
    fingerprint = chosen.pool.fingerprint() if chosen.pool else ""
    if scores is None:
        scores = planted_pool.planted_scores(pool=fingerprint)
    return choose(chosen, Bytes(), scores=scores, pool_fingerprint=fingerprint, **more)


@pytest.fixture(scope="module")
def found(pool):
    return run(options(pool))


def test_methods_with_knowledge_select_code_and_uniform_selects_all(found):
    shares = {
        choice.method: choice.cut.pages[choice.cut.pages["included"]]["domain"].eq("code").mean()
        for choice in found.choices
    }
    assert shares.pop("uniform") < 0.7
    assert set(shares.values()) == {1.0}


def test_methods_without_a_target_run_once(pool):
    other = dataclasses.replace(QUIZ, name="again")
    chosen = run(options(pool, targets=(QUIZ, other)))
    folders = [choice.folder for choice in chosen.choices]
    assert folders.count(f"{ANY}/uniform") == 1
    assert {"quiz/dsir", "again/dsir"} <= set(folders) and len(folders) == len(set(folders))


def test_every_selection_meets_its_budget_and_not_without_its_last_page(found):
    for choice in found.choices:
        included = choice.cut.pages[choice.cut.pages["included"]].sort_values("rank")
        assert included["tokens"].sum() == choice.cut.tokens >= 5000
        assert included["tokens"].iloc[:-1].sum() < 5000


def test_composition_states_the_pool_and_every_selection(found):
    rows = found.composition
    domains = rows[rows["part"] == "domain"].groupby(["target", "method"])["share"].sum()
    assert np.allclose(domains, 1) and len(domains) == len(found.choices) + 1
    whole = rows[(rows["part"] == "domain") & (rows["method"] == "pool")].set_index("level")
    assert whole["pages"].to_dict() == found.domains.set_index("domain")["kept"].to_dict()


def test_the_planted_domain_is_included_and_significant(found):
    rows = found.coefficients.set_index("domain")
    assert rows["estimate"].idxmax() == "code" and rows.loc["code", "included"]
    assert rows.loc["code", "significant"] and not rows.loc["news", "significant"]
    assert rows.loc["code", "low"] < rows.loc["code", "estimate"] < rows.loc["code", "high"]
    assert rows["weight"].sum() == pytest.approx(1, abs=1e-12)
    assert found.heldout["spearman"].iloc[0] > 0.7
    assert "quiz, correlations: includes code" in summary(found, options(None, budget=0))


def test_the_summary_says_where_models_are_too_few_for_a_number():
    scores = planted_pool.planted_scores(models=6).assign(family="one")
    chosen = ChooseOptions(resamples=20)
    text = summary(run(chosen, scores=scores), chosen)
    assert "includes" in text and "too few models to hold some out" in text and "nan" not in text


def test_the_summary_sets_held_out_models_beside_the_mean_loss(found, pool):
    row = found.heldout.iloc[0]
    expected = (
        f"rank correlation of held-out models {row['spearman']:.2f}, by the mean loss of all "
        f"domains {row['mean_loss']:.2f}"
    )
    assert expected in summary(found, options(pool))


def test_scores_of_another_pool_are_refused(pool):
    scores = planted_pool.planted_scores(pool="f" * 64)
    with pytest.raises(UserError, match="measured on pool ffffffffffff, but pool pool is"):
        run(options(pool), scores=scores)


def test_a_budget_larger_than_the_pool_says_how_much_there_is(pool):
    with pytest.raises(
        UserError, match=r"any/uniform: budget = 10000000 tokens: the 160 .* have only 124592"
    ):
        run(options(pool, budget=10_000_000))


def test_selections_below_the_budget_are_named_if_all_pages_are_taken(pool, found):
    methods = {"uniform": Uniform(), "oracle": Oracle()}
    chosen = options(pool, methods=methods, budget=100_000, shortage=Shortage.TAKE_ALL)
    notes = [note for note in run(chosen).notes if "fewer than the budget" in note]
    assert len(notes) == 1 and "quiz/oracle (" in notes[0] and "any/uniform" not in notes[0]
    assert not any("fewer than the budget" in note for note in found.notes)


def test_a_model_without_a_score_is_left_out_by_name(pool):
    scores = planted_pool.planted_scores(pool=pool.fingerprint())
    scores = scores[~((scores["model"] == "m3") & (scores["kind"] == "benchmark"))]
    found = run(options(pool), scores=scores.reset_index(drop=True))
    assert any("1 of 40 models have no score" in note and "m3" in note for note in found.notes)
    assert set(found.coefficients["models"]) == {39}


def test_the_order_of_the_rows_changes_nothing_also_with_equal_coefficients(pool):
    scores = planted_pool.planted_scores(pool=pool.fingerprint())
    for name in ("verse", "law"):  # three equal domains, and room for two
        scores.loc[scores["name"] == name, "value"] = scores.loc[
            scores["name"] == "code", "value"
        ].to_numpy()
    shuffled = scores.sample(frac=1, random_state=11).reset_index(drop=True)
    one, two = (run(options(pool), scores=table) for table in (scores, shuffled))
    pd.testing.assert_frame_equal(one.coefficients, two.coefficients)
    pd.testing.assert_frame_equal(one.heldout, two.heldout)
    for a, b in zip(one.choices, two.choices, strict=True):
        pd.testing.assert_frame_equal(a.cut.pages, b.cut.pages)
    assert one.scores_fingerprint == two.scores_fingerprint


def test_an_unknown_benchmark_is_one_line(pool):
    target = dataclasses.replace(QUIZ, benchmarks=("quizz",))
    with pytest.raises(UserError, match="quizz"):
        run(options(pool, targets=(target,)))


@pytest.mark.parametrize(
    ("models", "change", "message"),
    [
        (8, {"benchmark": 2.0}, "'quiz': all models have the same score, so no domain"),
        (4, {}, r"no domain has 5 models with a loss and a score \(the most is 4\).*Score more"),
        (8, {"domain": 1.0}, "'quiz': no domain has losses that differ between models"),
    ],
)
def test_a_target_that_ranks_no_domain_says_why(pool, models, change, message):
    scores = planted_pool.planted_scores(models, pool=pool.fingerprint())
    for kind, value in change.items():
        scores.loc[scores["kind"] == kind, "value"] = value
    with pytest.raises(UserError, match=message):
        run(options(pool), scores=scores)


def test_pages_with_benchmark_text_are_counted_and_removed_on_demand(tmp_path):
    planted_pool.write_pool(tmp_path)
    file = tmp_path / "text" / "news" / "train.jsonl"
    item = json.loads((tmp_path / "benchmarks/quiz/items.jsonl").read_text().splitlines()[0])
    leaked = planted_pool.page_text("news", 99) + item["context"] + item["choices"][0]
    file.write_text(file.read_text() + json.dumps({"text": leaked}) + "\n")
    pool = Pool(root=str(tmp_path), domains=DOMAINS)
    uniform = {"uniform": Uniform()}
    kept = run(options(pool, methods=uniform))
    removed = run(options(pool, methods=uniform, benchmark_text=BenchmarkText.REMOVE))
    assert [f.domains.set_index("domain").loc["news", "kept"] for f in (kept, removed)] == [41, 40]
    for each in (kept, removed):
        overlap = each.overlap.set_index("domain")["overlapping"]
        assert overlap["news"] == 1 and overlap.sum() == 1
        assert any("contain text of a benchmark" in note for note in each.notes)


def test_missing_domains_are_named(pool):
    skipping = dataclasses.replace(pool, domains=(*DOMAINS, "absent"), missing=MissingDomains.SKIP)
    found = run(options(skipping, methods={"uniform": Uniform()}))
    assert any("absent" in note for note in found.notes)


def test_domains_without_scores_get_no_weight_but_their_pages_are_ranked(pool):
    scores = planted_pool.planted_scores(pool=pool.fingerprint())
    scores = scores[scores["name"] != "verse"].reset_index(drop=True)
    found = run(options(pool), scores=scores)
    assert any("without scores get no weight: verse" in note for note in found.notes)
    assert "verse" not in set(found.coefficients["domain"])


def test_without_a_pool_every_benchmark_of_the_scores_is_a_target():
    found = run(ChooseOptions(resamples=20), scores=planted_pool.planted_scores())
    assert not found.choices and list(found.coefficients["target"].unique()) == ["quiz"]
    assert found.coefficients["weight"].sum() == pytest.approx(1, abs=1e-12)


def test_without_a_pool_a_benchmark_may_have_any_name():
    scores = planted_pool.planted_scores()
    scores["name"] = scores["name"].replace("quiz", "org/quiz: 5 shots")
    found = run(ChooseOptions(resamples=20), scores=scores)
    assert list(found.coefficients["target"].unique()) == ["org/quiz: 5 shots"]


def test_without_a_pool_a_benchmark_of_equal_scores_does_not_stop_the_others():
    scores = planted_pool.planted_scores()
    flat = scores[scores["kind"] == "benchmark"].assign(name="flat", value=2.0)
    found = run(ChooseOptions(resamples=20), scores=pd.concat([scores, flat], ignore_index=True))
    weights = found.coefficients.groupby("target")["weight"].sum()
    assert weights["quiz"] == pytest.approx(1, abs=1e-12) and weights["flat"] == 0
    assert any("flat gives no weights: all models have the same" in note for note in found.notes)
    assert not any("flat, " in note and "beyond chance" in note for note in found.notes)
    assert "flat, perplexity_correlations: includes no domain" in summary(found, ChooseOptions())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 0}, "select.budget = 0"),
        ({"targets": ()}, "select.targets is empty"),
        ({"methods": {}}, "select.methods is empty"),
        ({"methods": {"a/b": Uniform()}}, "cannot name a folder"),
        ({"targets": (QUIZ, QUIZ)}, "two targets are named 'quiz'"),
        ({"methods": {"a\0b": Uniform()}}, "cannot name a folder"),
        ({"methods": {"a": 3}}, "'a' is int, which ranks no pages"),
        ({"duplicates": -1.0}, "select.duplicates = -1: give a share"),
        ({"train_tokens": -5}, "select.train_tokens = -5"),
        ({"targets": (Target(name="any"),)}, "cannot name a target"),
        ({"targets": (Target(name="a\nb"),)}, "target.name = .*cannot name a folder"),
        ({"targets": (Target(name=""),)}, "target.name is empty"),
        ({"targets": (Target(name="x" * 201),)}, "too long"),
        ({"targets": (Target(name="figures"),)}, "results use this name"),
        ({"targets": (Target(name="summary.txt"),)}, "results use this name"),
        ({"targets": (Target(name="x"),)}, "needs target.benchmarks"),
    ],
)
def test_options_that_cannot_work(pool, changes, message):
    with pytest.raises(UserError, match=message):
        options(pool, **changes)


def test_texts_leave_out_the_questions_that_models_are_measured_on(pool):
    target = dataclasses.replace(QUIZ, skip=10, max_texts=5)
    root = options(pool).data_root
    every = QUIZ.read_texts(root)
    assert target.read_texts(root) == every[10:15]
    with pytest.raises(UserError, match="no text is left after the first 30"):
        dataclasses.replace(QUIZ, skip=30).read_texts(root)
    with pytest.raises(UserError, match="neither a gathered benchmark nor a gathered corpus"):
        dataclasses.replace(QUIZ, texts=("none",)).read_texts(root)


def test_the_same_inputs_give_the_same_selections(pool, found):
    again = run(options(pool))
    for one, two in zip(found.choices, again.choices, strict=True):
        pd.testing.assert_frame_equal(one.cut.pages, two.cut.pages)
    pd.testing.assert_frame_equal(found.coefficients, again.coefficients)


def test_random_labels_are_said_to_select_arbitrarily(pool):
    scores = planted_pool.planted_scores(pool=pool.fingerprint())
    quiz = scores["name"] == "quiz"
    shuffled = np.random.default_rng(3).permutation(scores.loc[quiz, "value"])
    scores.loc[quiz, "value"] = shuffled
    narrow = {"correlations": PerplexityCorrelations(filter_ratio=0.1)}
    found = run(options(pool, methods=narrow), scores=scores)
    assert not found.coefficients["significant"].any()
    assert any("no domain has a coefficient beyond chance" in note for note in found.notes)


def test_without_a_pool_a_method_must_use_the_scores(pool):
    with pytest.raises(UserError, match="without a pool only @perplexity_correlations"):
        ChooseOptions(methods={"uniform": Uniform()})
    with pytest.raises(UserError, match="needs target"):
        ChooseOptions(targets=(Target(name="x"),))


def test_models_of_one_family_cannot_be_tested(pool):
    scores = planted_pool.planted_scores(pool=pool.fingerprint()).assign(family="one")
    found = run(options(pool, methods={"correlations": METHODS["correlations"]}), scores=scores)
    assert any("could be tested against chance" in note for note in found.notes)
    assert not any("beyond chance" in note for note in found.notes)


def test_given_positives_need_no_target_and_run_once(pool, tmp_path):
    texts = [planted_pool.page_text("code", 7000 + i) for i in range(20)]
    lines = [json.dumps({"text": text}) for text in texts]
    (tmp_path / "positives.jsonl").write_text("\n".join(lines) + "\n")
    given = PositiveClassifier(files=(str(tmp_path / "positives.jsonl"),))
    other = dataclasses.replace(QUIZ, name="again")
    chosen = run(options(pool, targets=(QUIZ, other), methods={"dclm": given}))
    assert [choice.folder for choice in chosen.choices] == [f"{ANY}/dclm"]
