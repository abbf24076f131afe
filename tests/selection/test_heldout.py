"""Prediction of models that were left out: published numbers, and planted truth."""

import numpy as np
import pandas as pd
import pytest
from planted_scores import with_families
from scipy import stats

from lossline.errors import UserError
from lossline.selection import ScoreMatrix, estimate, heldout_ranks
from lossline.selection.heldout import CANDIDATES, PUBLISHED, Method, Predictor, predict

PUBLISHED_MEDIANS = {
    "arc_easy": (0.966, 0.976, 0.981), "piqa": (0.954, 0.964, 0.973),
    "sciq": (0.908, 0.925, 0.934), "lambada_openai": (0.931, 0.954, 0.975),
    "lambada_openai_mt_de": (0.820, 0.847, 0.889), "lambada_openai_mt_es": (0.807, 0.835, 0.873),
    "lambada_openai_mt_fr": (0.842, 0.865, 0.898), "lambada_openai_mt_it": (0.845, 0.871, 0.910),
}  # fmt: skip
PUBLISHED_HELDOUT = {"arc_easy": 0.971, "piqa": 0.967, "sciq": 0.919, "lambada_openai": 0.967}


def matrix_of(losses, errors, families):
    return ScoreMatrix(
        models=tuple(f"model {n}" for n in range(len(losses))), families=tuple(families),
        domains=tuple(f"domain {n}" for n in range(losses.shape[1])),
        benchmarks=tuple(f"benchmark {n}" for n in range(errors.shape[1])),
        losses=losses, errors=errors,
    )  # fmt: skip


@pytest.fixture(scope="module")
def published(published_data):
    """The 90 × 263 matrix, aligned by the models' names."""
    tables = [
        pd.read_csv(published_data / f"perplexity_correlations_{what}.csv", index_col=0)
        for what in ("bpb", "error")
    ]
    losses, errors = tables[0], tables[1][tables[0].columns]
    return ScoreMatrix(
        models=tuple(losses.columns),
        families=tuple(name.split("'")[1] for name in losses.columns),
        domains=tuple(losses.index), benchmarks=tuple(errors.index),
        losses=losses.to_numpy().T, errors=errors.to_numpy().T,
    )  # fmt: skip


def test_published_coefficients_come_back(published):
    found = estimate(published.losses, published.errors, "spearmanr")
    for name, (low, middle, high) in PUBLISHED_MEDIANS.items():
        column = found[:, published.benchmark(name)]
        # The published numbers break ties of benchmark scores by position: up to 0.001.
        assert np.median(column) == pytest.approx(middle, abs=0.0011), name
        assert column.min() == pytest.approx(low, abs=0.0011), name
        assert column.max() == pytest.approx(high, abs=0.0011), name


def four(published):
    keep = [published.benchmark(name) for name in PUBLISHED_HELDOUT]
    return ScoreMatrix(
        models=published.models, families=published.families, domains=published.domains,
        benchmarks=tuple(PUBLISHED_HELDOUT), losses=published.losses,
        errors=published.errors[:, keep],
    )  # fmt: skip


def test_published_predictions_come_back(published):
    limits = np.full(len(published.domains), 0.1)
    found = heldout_ranks(four(published), methods=(PUBLISHED,), limits=limits)
    for row in found.itertuples():
        assert row.spearman == pytest.approx(PUBLISHED_HELDOUT[row.benchmark], abs=0.005)


@pytest.mark.slow
def test_the_default_is_not_below_the_published_average(published):
    found = heldout_ranks(four(published))
    assert found["spearman"].mean() >= np.mean(list(PUBLISHED_HELDOUT.values()))
    harder = heldout_ranks(four(published), folds="families", splits=5)
    assert (harder["spearman"] > 0.9).all() and (harder["folds"] == "families").all()


def test_only_planted_domains_predict():
    signal = np.array([0.95] * 4 + [0.0] * 36)
    losses, errors, names = with_families([1] * 60, 40, shared=0.0, signal=signal, seed=0)
    found = heldout_ranks(matrix_of(losses, errors, names), splits=3).iloc[0]
    assert found["spearman"] > 0.9 > 0.5 > found["mean_loss"]
    assert found["lowest"] <= found["spearman"] <= found["highest"]
    shuffled = np.random.default_rng(0).permutation(errors)
    random = heldout_ranks(matrix_of(losses, shuffled, names), splits=3).iloc[0]
    assert abs(random["spearman"]) < 0.35


def test_left_out_errors_decide_nothing():
    """Prediction of a model must not change with its own error, however the method is chosen."""
    losses, errors, names = with_families([1] * 30, 12, shared=0.0, signal=0.5, seed=1)
    seen = []

    def spy(method, used, its_errors, left_out, limits):
        seen.append(its_errors.copy())
        return original(method, used, its_errors, left_out, limits)

    import lossline.selection.heldout as room

    original = room.predict
    room.predict = spy
    try:
        heldout_ranks(matrix_of(losses, errors, names), methods=CANDIDATES[:2], splits=1)
    finally:
        room.predict = original
    # Of 30 models, each outer fold leaves 24 to estimate; inner folds of those leave 19 or 20.
    assert {len(errors) for errors in seen} == {24, 19, 20}
    outer = None
    for its in reversed(seen):  # the inner folds come before the outer prediction of their models
        if len(its) == 24:
            outer = set(its)
        else:
            assert set(its) < outer


def test_models_of_a_family_are_left_out_together():
    """Near copies of a model give its rank away, unless the whole family is left out."""
    rng = np.random.default_rng(2)
    family = np.repeat(np.arange(12), 5)
    losses = rng.normal(size=(12, 200))[family] + 0.01 * rng.normal(size=(60, 200))
    errors = rng.normal(size=(12, 1))[family] + 0.01 * rng.normal(size=(60, 1))
    matrix = matrix_of(losses, errors, [str(number) for number in family])
    method = (Method(estimator="spearmanr", predictor=Predictor.LOSSES),)
    near = heldout_ranks(matrix, methods=method, splits=5)["spearman"][0]
    far = heldout_ranks(matrix, methods=method, splits=5, folds="families")["spearman"][0]
    assert near > 0.8 and far < 0.4


def test_places_do_not_depend_on_the_scale_of_a_domain():
    losses, errors, _ = with_families([1] * 40, 10, shared=0.0, signal=0.8, seed=3)
    method = Method(estimator="spearmanr", predictor=Predictor.PLACES)
    limits = np.full(10, 0.25)
    one = predict(method, losses[:30], errors[:30, 0], losses[30:], limits)
    other = predict(method, np.exp(losses[:30]), errors[:30, 0], np.exp(losses[30:]), limits)
    np.testing.assert_allclose(one, other)
    assert stats.spearmanr(one, errors[30:, 0]).statistic > 0.7


def test_missing_losses_are_left_out_of_the_prediction():
    losses, errors, names = with_families([1] * 40, 10, shared=0.0, signal=0.8, seed=4)
    losses[np.random.default_rng(0).random(losses.shape) < 0.1] = np.nan
    errors[3] = np.nan
    found = heldout_ranks(matrix_of(losses, errors, names), splits=2).iloc[0]
    assert found["models"] == 39 and found["spearman"] > 0.6


def test_too_few_models_are_one_line():
    losses, errors, _ = with_families([1] * 12, 4, shared=0.0, signal=0.8, seed=5)
    matrix = matrix_of(losses, errors, ["one", "two", "three"] * 4)
    with pytest.raises(UserError, match="has 3 families, but 5 folds need 10"):
        heldout_ranks(matrix, folds="families")
    with pytest.raises(UserError, match="at least one method"):
        heldout_ranks(matrix, methods=())
    with pytest.raises(UserError, match="splits = 0"):
        heldout_ranks(matrix, splits=0)


def test_the_better_method_is_chosen():
    """Loud domains that say nothing mislead the sign estimator, which is not free of scale."""
    signal = np.array([0.9] * 5 + [0.0] * 20)
    losses, errors, names = with_families([1] * 40, 25, shared=0.0, signal=signal, seed=6)
    losses[:, 5:] *= 100
    matrix = matrix_of(losses, errors, names)
    bad = Method(estimator="sign", predictor=Predictor.PLACES)
    good = Method(estimator="spearmanr", predictor=Predictor.PLACES)
    for methods in ((bad, good), (good, bad)):
        found = heldout_ranks(matrix, methods=methods, splits=2).iloc[0]
        assert found["method"] == str(good) and found["share"] == 1
        assert found["spearman"] > 0.8
    assert heldout_ranks(matrix, methods=(bad,), splits=2)["spearman"][0] < 0.5


def test_negative_coefficients_predict_on_demand_only():
    errors = np.arange(20.0)[:, None]
    losses = -errors + np.zeros(4)
    names = tuple(f"m{n}" for n in range(20))
    matrix = ScoreMatrix(
        models=names, families=names, domains=tuple("abcd"), benchmarks=("quiz",),
        losses=losses, errors=errors,
    )  # fmt: skip
    found = [
        heldout_ranks(matrix, methods=(Method(negative=allowed),), splits=1)["spearman"].iloc[0]
        for allowed in (False, True)
    ]
    assert np.isnan(found[0]) and found[1] == pytest.approx(-1)


def test_product_predicts_by_the_related_domain_at_any_level_of_losses():
    rng = np.random.default_rng(0)
    losses = 0.3 * rng.normal(size=(40, 4))
    errors = losses[:, 0] + 0.05 * rng.normal(size=40)
    method, levels = Method(estimator="product"), np.arange(1.0, 5.0)
    found = predict(method, losses[:30] + levels, errors[:30] + 2, losses[30:] + levels, np.ones(4))
    assert stats.spearmanr(found, errors[30:]).statistic > 0.9
