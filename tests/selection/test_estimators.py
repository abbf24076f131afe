"""Coefficients against definitions written out, the published package, and closed forms."""

import numpy as np
import pytest
from planted_scores import single_index
from scipy import stats

from lossline.errors import UserError
from lossline.selection import ESTIMATORS, estimate
from lossline.selection.ranks import standings


def by_definition(losses, errors, name):
    """One coefficient from x (n,) and y (n,), pair by pair, as METHODS and papers define it."""
    known = ~np.isnan(losses) & ~np.isnan(errors)
    x, y = losses[known], errors[known]
    n, all_models = len(x), int((~np.isnan(errors)).sum())
    if n < 2 or len(set(x)) == 1 or len(set(y)) == 1:
        return np.nan
    rank = stats.rankdata(x)
    pairs = [(k, m) for k in range(n) for m in range(k + 1, n)]
    half = n * (n - 1) / 2

    def over_pairs(v):
        return sum(np.sign(y[m] - y[k]) * (v[m] - v[k]) for k, m in pairs)

    if name == "product":
        return float(np.mean(x * y))
    if name == "sign":
        return over_pairs(x) / half
    if name == "sign_cdf":
        return over_pairs(rank / n) / half
    if name == "sign_sign":
        return sum(np.sign(y[m] - y[k]) * np.sign(x[m] - x[k]) for k, m in pairs) / half
    if name == "spearmanr":
        return np.corrcoef(rank, stats.rankdata(y))[0, 1]
    scale = all_models**2 * (all_models - 1) / (n**2 * (n - 1))
    return 2 * over_pairs(rank) * scale


def table_by_definition(losses, errors, name):
    return np.array([[by_definition(x, y, name) for y in errors.T] for x in losses.T])


def values(models, domains, benchmarks, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(models, domains)), rng.random((models, benchmarks))


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("models", [2, 3, 24, 127, 128])
def test_coefficients_are_the_definitions(name, models):
    losses, errors = values(models, 9, 2)
    expected = table_by_definition(losses, errors, name)
    np.testing.assert_allclose(estimate(losses, errors, name), expected, rtol=0, atol=1e-12 * (
        models**3 if name == "gamma" else 1))  # fmt: skip


@pytest.mark.parametrize("name", ESTIMATORS)
def test_ties_missing_cells_and_constants_are_the_definitions(name):
    losses, errors = values(15, 40, 4)
    losses[:, 5:20] = losses[:, 5:20].round(1)  # ties
    losses[:, 20] = 0.7  # one loss for all
    losses[:, 21] = np.nan  # no model
    losses[:14, 22] = np.nan  # one model
    rng = np.random.default_rng(1)
    losses[:, 23:][rng.random((15, 17)) < 0.2] = np.nan
    losses[3] = losses[4]  # one model under two names: a tie in every column
    errors[:, 1] = errors[:, 1].round(1)
    errors[:, 2] = 0.5
    errors[2:5, 3] = np.nan
    found, expected = estimate(losses, errors, name), table_by_definition(losses, errors, name)
    assert np.isnan(found[20:23]).all() and np.isnan(found[:, 2]).all()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 if name == "gamma" else 1e-12)


def test_values_that_differ_in_the_last_bit_are_no_tie():
    near = 0.1 + np.arange(90)[::-1] * np.spacing(0.1)
    losses = np.column_stack([near, np.round(near, 12)])
    found = standings(losses)
    np.testing.assert_array_equal(found[:, 0], np.arange(89, -91, -2))
    np.testing.assert_array_equal(found[:, 1], np.zeros(90))


def test_negative_zero_and_signs_are_ordered_as_numbers():
    columns = np.array([[0.0, -0.0], [-0.0, 0.0], [-2.0, -2.0], [3.0, 3.0], [-1e-300, -1.0]])
    np.testing.assert_array_equal(standings(columns).T, [[1, 1, -4, 4, -2]] * 2)


def test_many_models_need_wider_integers():
    losses = np.random.default_rng(0).normal(size=(700, 3))
    expected = 2 * stats.rankdata(losses, axis=0) - 701
    np.testing.assert_array_equal(standings(losses), expected)
    errors = losses[:, :1] + np.random.default_rng(1).normal(size=(700, 1))
    tau = [stats.kendalltau(column, errors[:, 0]).statistic for column in losses.T]
    np.testing.assert_allclose(estimate(losses, errors, "sign_sign")[:, 0], tau, atol=1e-12)


def test_blocks_do_not_show():
    losses, errors = values(12, 9000, 1)
    losses[0, 8500] = np.nan
    whole = estimate(losses, errors, "spearmanr")
    np.testing.assert_allclose(estimate(losses[:, 4000:4200], errors, "spearmanr"),
                               whole[4000:4200], atol=1e-15)  # fmt: skip
    assert whole[8500, 0] == pytest.approx(
        by_definition(losses[:, 8500], errors[:, 0], "spearmanr")
    )


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "gamma"])
def test_the_package_agrees_without_ties(name):
    package = pytest.importorskip("perplexity_correlations.estimation")
    losses, errors = np.abs(values(90, 500, 3)[0]), values(90, 1, 3)[1]
    expected = np.column_stack([getattr(package, name)(losses, y) for y in errors.T])
    np.testing.assert_allclose(estimate(losses, errors, name), expected, rtol=0, atol=1e-12)


MODELS = 20_000
WEIGHTS = np.array([0.0, 1.0, -2.0, 3.0, -4.0, 5.0])


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_planted_weights_come_back_by_the_closed_forms(noise):
    losses, errors, w = single_index(MODELS, WEIGHTS, noise=noise)
    scale = np.sqrt(1 + noise**2)
    # Standard errors of these means over 20,000 models are at most 0.7 / sqrt(20,000) = 0.005.
    bound = 4 * 0.7 / np.sqrt(MODELS)
    cdf = 2 / np.pi * np.arcsin(w / (2 * scale))
    np.testing.assert_allclose(estimate(losses, errors, "sign_cdf")[:, 0], cdf, atol=bound)
    few = slice(0, 4000)  # pair by pair
    concordance = 2 / np.pi * np.arcsin(w / scale)
    found = estimate(losses[few], errors[few], "sign_sign")[:, 0]
    np.testing.assert_allclose(found, concordance, atol=bound * np.sqrt(5))
    pearson = 6 / np.pi * np.arcsin(w / scale / 2)  # Spearman's correlation of normals
    np.testing.assert_allclose(estimate(losses, errors, "spearmanr")[:, 0], pearson, atol=bound)


@pytest.mark.parametrize("name", ["product", "sign"])
def test_product_and_sign_are_proportional_to_planted_weights(name):
    losses, errors, w = single_index(MODELS, WEIGHTS, noise=0.5)
    target = np.log(errors) if name == "product" else errors  # a line for the one that needs it
    found = estimate(losses, target, name)[:, 0]
    np.testing.assert_allclose(found / np.linalg.norm(found), w, atol=0.04)


def test_an_unknown_estimator_is_one_line():
    losses, errors = values(4, 3, 1)
    with pytest.raises(UserError, match=r"'spearman'; did you mean 'spearmanr'\?; choose from"):
        estimate(losses, errors, "spearman")
    with pytest.raises(UserError, match="Give \\(models, domains\\)"):
        estimate(losses, errors[:3], "sign")
