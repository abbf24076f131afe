"""Intervals, selection probabilities and significance on planted models."""

import dataclasses
import itertools

import numpy as np
import pytest
from planted_scores import with_families
from scipy import stats

from lossline.errors import UserError
from lossline.selection import ESTIMATORS, ScoreMatrix, caps, correlate, estimate
from lossline.selection.resampled import resampled

# Sizes of the families of the 90 published models: one of 17, many of one.
UNEQUAL = [17, 4, 4, 4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2, *[1] * 23]


def matrix_of(losses, errors, families=None):
    models, domains = losses.shape
    names = tuple(f"model {n}" for n in range(models))
    return ScoreMatrix(
        models=names,
        families=names if families is None else families,
        domains=tuple(f"domain {n}" for n in range(domains)),
        benchmarks=tuple(f"benchmark {n}" for n in range(errors.shape[1])),
        losses=losses,
        errors=errors,
    )


def by_copies(x, y, counts, name):
    """One coefficient of a resample whose models are written out, copies and all."""
    which = np.repeat(np.arange(len(x)), counts)
    x, y, n = x[which], y[which], len(which)
    pairs = [(k, m) for k, m in itertools.combinations(range(n), 2) if which[k] != which[m]]

    def over_pairs(v):
        return sum(np.sign(y[m] - y[k]) * (v[m] - v[k]) for k, m in pairs) / len(pairs)

    if name == "product":
        return np.mean(x * y)
    if name == "sign":
        return over_pairs(x)
    if name == "sign_sign":
        return sum(np.sign(y[m] - y[k]) * np.sign(x[m] - x[k]) for k, m in pairs) / len(pairs)
    if name == "spearmanr":
        return stats.spearmanr(x, y).statistic
    ranks = over_pairs(stats.rankdata(x) / n)
    models = len(counts)
    return ranks * models**2 * (models - 1) if name == "gamma" else ranks


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_resample_is_the_estimator_on_the_drawn_models(name):
    rng = np.random.default_rng(0)
    losses, errors = rng.normal(size=(12, 5)), rng.normal(size=(12, 2))
    losses[:, 0] = losses[:, 0].round()  # ties beside the copies
    counts = rng.multinomial(12, np.full(12, 1 / 12), size=4)
    found = resampled(losses, errors, counts, name)
    expected = np.array(
        [[[by_copies(x, y, row, name) for x in losses.T] for y in errors.T] for row in counts]
    )
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
    ones = resampled(losses, errors, np.ones((1, 12)), name)[0].T
    np.testing.assert_allclose(ones, estimate(losses, errors, name), rtol=2e-5, atol=2e-6)


def test_a_resample_of_one_model_determines_nothing():
    losses, errors = np.arange(6.0).reshape(3, 2), np.arange(3.0)[:, None]
    for name in set(ESTIMATORS) - {"product"}:
        assert np.isnan(resampled(losses, errors, np.array([[0, 3, 0]]), name)).all()


def covered(families, *, shared, name, sims=40, ignore=False):
    """Share of intervals that hold the truth, of 20 domains of each planted study."""
    signal = np.repeat([0.0, 0.3, 0.6, 0.9, 0.97], 4)
    truth = {
        "spearmanr": 6 / np.pi * np.arcsin(signal / 2),
        "sign_sign": 2 / np.pi * np.arcsin(signal),
        "sign_cdf": 2 / np.pi * np.arcsin(signal / 2),
    }[name]
    hits = []
    for sim in range(sims):
        losses, errors, names = with_families(families, 20, shared=shared, signal=signal, seed=sim)
        matrix = matrix_of(losses, errors, None if ignore else names)
        table = correlate(matrix, estimator=name, resamples=200, seed=sim).table
        hits.append((table["low"] <= truth) & (truth <= table["high"]))
    return float(np.mean(hits))


# Without families, sign_cdf has a closed form; models of one family are near each other in rank.
@pytest.mark.parametrize(
    ("name", "families", "shared"),
    [
        ("sign_cdf", [1] * 30, 0.0),
        *((name, [1] * 30, 0.0) for name in ("spearmanr", "sign_sign")),
        *((name, [3] * 10, 0.5) for name in ("spearmanr", "sign_sign")),
        *((name, UNEQUAL, 0.5) for name in ("spearmanr", "sign_sign")),
    ],
)
def test_intervals_hold_the_truth_at_their_level(name, families, shared):
    assert 0.85 <= covered(families, shared=shared, name=name) <= 0.97


def test_intervals_that_ignore_families_are_too_narrow():
    assert covered([5] * 10, shared=0.8, name="spearmanr") > 0.85
    assert covered([5] * 10, shared=0.8, name="spearmanr", ignore=True) < 0.75


@pytest.mark.parametrize(("families", "shared"), [([1] * 24, 0.0), (UNEQUAL, 0.7), ([3] * 8, 0.7)])
def test_random_labels_select_nothing_significant(families, shared):
    false = 0
    for sim in range(100):
        losses, errors, names = with_families(families, 60, shared=shared, signal=0.0, seed=sim)
        found = correlate(matrix_of(losses, errors, names), resamples=100, seed=sim).table
        false += found["significant"].any()
    assert false <= 12  # 5 expected; more than 12 have a probability of 0.2%


def test_planted_domains_are_selected_significant_and_surely():
    signal = np.array([0.9] * 6 + [0.0] * 54)
    losses, errors, names = with_families([2] * 30, 60, shared=0.5, signal=signal, seed=3)
    errors = np.hstack([errors, -errors])
    found = correlate(matrix_of(losses, errors, names), resamples=200)
    first = found.of("benchmark 0")
    assert set(first["domain"][:6]) == {f"domain {n}" for n in range(6)}
    planted = first["domain"].isin([f"domain {n}" for n in range(6)]).to_numpy()
    assert first["significant"][planted].all() and not first["significant"][~planted].any()
    assert (first["selected"][planted] > 0.95).all() and (first["selected"][~planted] < 0.3).all()
    weights = found.weights("benchmark 0")
    assert weights == pytest.approx({f"domain {n}": 1 / 6 for n in range(6)})
    # The reversed benchmark has these domains last, and takes others.
    assert not set(found.weights("benchmark 1")) & set(weights)
    reverse = found.of("benchmark 1")
    assert set(reverse["domain"][-6:]) == set(weights)


def test_renamed_and_reordered_models_give_the_same_table():
    losses, errors, names = with_families([2] * 8, 12, shared=0.3, signal=0.5, seed=1)
    order = np.random.default_rng(0).permutation(16)
    one = correlate(matrix_of(losses, errors, names), resamples=50)
    renamed = tuple(f"x{99 - int(name.split()[1])}" for name in np.array(names)[order])
    other = correlate(matrix_of(losses[order], errors[order], renamed), resamples=50)
    for column in ("estimate", "low", "high", "selected", "p_value"):
        np.testing.assert_allclose(one.table[column], other.table[column], atol=1e-6)


def test_missing_cells_are_counted_and_left_out():
    losses, errors, names = with_families([1] * 20, 30, shared=0.0, signal=0.5, seed=2)
    losses[:4, 0] = np.nan
    losses[:, 1] = np.nan
    losses[4:, 2] = np.nan  # four models
    losses[:, 3] = 1.0
    errors = np.hstack([errors, errors, np.ones_like(errors)])
    errors[-3:, 1] = np.nan
    found = correlate(matrix_of(losses, errors, names), resamples=100)
    rows = found.table.set_index(["benchmark", "domain"])
    assert rows.loc[("benchmark 0", "domain 0"), ["models", "missing"]].tolist() == [16, 4]
    assert rows.loc[("benchmark 1", "domain 0"), ["models", "missing"]].tolist() == [13, 4]
    alone = correlate(matrix_of(losses[4:, [0]], errors[4:, [0]], names[4:]), resamples=100,
                      limits=np.ones(1))  # fmt: skip
    assert rows["estimate"].iloc[0] == pytest.approx(alone.table["estimate"].iloc[0])
    numbers = ["estimate", "low", "high", "selected", "p_value"]
    for unranked in ("domain 1", "domain 2", "domain 3"):
        row = rows.loc[("benchmark 0", unranked)]
        assert row[numbers].isna().all() and row["weight"] == 0 and not row["significant"]
    assert rows.loc["benchmark 2"][[*numbers, "weight"]].isna().all(axis=None)
    ranked = rows.loc["benchmark 0"].drop(["domain 1", "domain 2", "domain 3"])
    assert ranked[numbers].notna().all(axis=None)
    assert (ranked["low"] <= ranked["estimate"]).all()
    assert (ranked["high"] >= ranked["estimate"]).all()
    notes = " ".join(found.notes)
    assert "Benchmark benchmark 1: 3 of 20 models have no score" in notes
    assert "1 domains have fewer than 5 models and are not ranked: domain 2." in notes
    assert "Benchmark benchmark 2 gives no weights: all models have the same score" in notes
    with pytest.raises(UserError, match="benchmark 'benchmark 2': all models have"):
        found.weights("benchmark 2")


def test_large_domains_fill_the_budget_sooner():
    losses, errors, names = with_families([1] * 40, 20, shared=0.0, signal=0.8, seed=5)
    tokens = np.ones(20)
    first = correlate(matrix_of(losses, errors, names), resamples=50).of("benchmark 0")
    best = int(first["domain"].iloc[0].split()[1])
    tokens[best] = 81.0  # of 100 tokens; ten are wanted
    found = correlate(matrix_of(losses, errors, names), limits=caps(tokens, 0.1), resamples=50)
    assert found.weights("benchmark 0") == {f"domain {best}": 1.0}


@pytest.mark.parametrize("projection", ["linear", "l2"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_and_projection_gives_a_table(name, projection):
    losses, errors, names = with_families([1] * 12, 15, shared=0.0, signal=0.7, seed=6)
    found = correlate(matrix_of(losses, np.log(errors), names), estimator=name,
                      projection=projection, negative=True, resamples=30)  # fmt: skip
    assert found.table[["low", "high", "selected", "weight"]].notna().all(axis=None)
    assert found.table["weight"].sum() == pytest.approx(1, abs=1e-12)


def test_options_out_of_range_are_one_line():
    losses, errors, names = with_families([1] * 8, 3, shared=0.0, signal=0.5, seed=0)
    matrix = matrix_of(losses, errors, names)
    for change, message in (
        ({"confidence": 1.0}, "confidence = 1 must lie between 0 and 1"),
        ({"significance": 0.0}, "significance = 0"),
        ({"resamples": 5}, "resamples = 5 must be 20 or more"),
        ({"fewest_models": 1}, "fewest_models = 1 must be 2 or more"),
        ({"estimator": "tau"}, "unknown estimator 'tau'"),
        ({"projection": "l1"}, "unknown projection 'l1'"),
        ({"limits": np.ones(2)}, "shape"),
        ({"seed": -1}, "seed = -1"),
    ):
        with pytest.raises(UserError, match=message):
            correlate(matrix, **change)
    with pytest.raises(UserError, match="unknown benchmark 'arc'"):
        correlate(matrix, resamples=20).of("arc")
    nothing = dataclasses.replace(matrix, errors=np.full_like(errors, np.nan))
    assert correlate(nothing, resamples=20).table["estimate"].isna().all()


def test_product_takes_no_level_of_losses_or_errors_for_a_relation():
    """Losses in bits per byte and errors have means far from 0; domain 0 alone is related."""
    rng = np.random.default_rng(0)
    losses = 0.3 * rng.normal(size=(40, 6))
    errors = losses[:, :1] + 0.1 * rng.normal(size=(40, 1))
    levels = np.linspace(1, 4, 6)  # the related domain has the lowest losses
    found = correlate(matrix_of(losses + levels, errors + 2), estimator="product", resamples=50)
    rows = found.of("benchmark 0")
    assert rows["domain"].iloc[0] == "domain 0"
    expected = [np.cov(x, errors[:, 0], bias=True)[0, 1] for x in losses.T]
    np.testing.assert_allclose(found.table["estimate"], expected, atol=1e-12)
    assert found.table["low"].iloc[0] > 0 > found.table["low"].iloc[1:].min()


def test_product_of_models_without_a_loss_is_that_of_the_others():
    rng = np.random.default_rng(1)
    losses, errors = 2 + rng.normal(size=(30, 3)), 1 + rng.normal(size=(30, 1))
    losses[:4, 1] = np.nan
    table = correlate(matrix_of(losses, errors), estimator="product", resamples=20).table
    expected = np.cov(losses[4:, 1], errors[4:, 0], bias=True)[0, 1]
    np.testing.assert_allclose(table["estimate"].iloc[1], expected, atol=1e-12)
