"""Slopes, the two rules and the four classes, on losses with known trends and noise."""

import numpy as np
import pytest
from token_dynamics.planted_tokens import planted_nats

from lossline.errors import UserError
from lossline.token_dynamics.classes import CLASSES, Rule, classify, threshold_of
from lossline.token_dynamics.options import AnalysisOptions
from lossline.token_dynamics.trends import fit_trends

RNG = np.random.default_rng(5)


def classes(nats, rule, **options):
    trends = fit_trends(nats)
    codes = classify(trends, threshold_of(rule, trends, AnalysisOptions(**options)))
    return np.array(CLASSES)[codes]


def test_slopes_and_errors_are_those_of_least_squares():
    nats = RNG.normal(size=(7, 40))
    found = fit_trends(nats)
    for token in range(40):
        (slope, _), covariance = np.polyfit(np.arange(7), nats[:, token], 1, cov=True)
        assert found.slope[token] == pytest.approx(slope, abs=1e-12)
        assert found.change[token] == pytest.approx(6 * slope, abs=1e-12)
        assert found.error[token] == pytest.approx(6 * covariance[0, 0] ** 0.5, rel=1e-10)
    assert found.checkpoints == 7 and np.array_equal(found.last, nats[-1])


def test_the_four_classes_of_the_paper():
    """Mean of the last losses: 2.5. A change of exactly 0.2, and a loss of exactly 2.5, stay."""
    last = np.array([4.0, 4.0, 1.0, 1.0, 2.5])
    change = np.array([0.0, 0.3, -0.3, 0.19, -0.19])
    nats = last + np.linspace(-1, 0, 5)[:, None] * change
    assert classes(nats, Rule.FIXED).tolist() == ["H→H", "L→H", "H→L", "L→L", "L→L"]
    assert classes(nats, Rule.FIXED, threshold=0.1).tolist()[3:] == ["L→H", "H→L"]
    exact = np.array([[0.0], [0.25], [0.5], [0.75], [1.0]])  # a binary fraction: no rounding
    assert classes(exact, Rule.FIXED, threshold=1.0).tolist() == ["L→L"]
    assert classes(exact, Rule.FIXED, threshold=0.999).tolist() == ["L→H"]


@pytest.mark.parametrize("checkpoints", [5, 8, 15])
@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_noise_rule_has_its_rate_of_false_positives_whatever_the_noise(checkpoints, rate):
    """Tokens without a trend; each has noise of its own, from 0.001 to 3 nats."""
    count = 40_000
    noise = np.geomspace(0.001, 3, count)
    nats = planted_nats(np.zeros(count), noise, checkpoints=checkpoints, seed=checkpoints)
    found = classes(nats, Rule.NOISE, false_positives=rate)
    moved = np.isin(found, ("L→H", "H→L"))
    margin = 4 * (rate * (1 - rate) / count) ** 0.5
    assert moved.mean() == pytest.approx(rate, abs=margin)
    for part in np.array_split(moved, 4):  # for small noise as for large noise
        assert part.mean() == pytest.approx(rate, abs=2 * margin)
    assert (found == "L→H").mean() == pytest.approx(rate / 2, abs=margin)


def test_fixed_rule_calls_noise_a_change_and_the_noise_rule_does_not():
    quiet = planted_nats(np.zeros(5000), 0.02, seed=1)
    loud = planted_nats(np.zeros(5000), 1.0, seed=2)
    moved = {
        (name, rule): np.isin(classes(nats, rule), ("L→H", "H→L")).mean()
        for name, nats in (("quiet", quiet), ("loud", loud))
        for rule in Rule
    }
    assert moved["quiet", Rule.FIXED] == 0
    assert moved["loud", Rule.FIXED] > 0.8
    assert moved["loud", Rule.NOISE] == pytest.approx(0.05, abs=0.012)
    assert moved["quiet", Rule.NOISE] == pytest.approx(0.05, abs=0.012)


def test_noise_rule_finds_changes_that_are_large_for_their_noise():
    """A small change of a quiet token is found; the fixed rule overlooks it."""
    nats = planted_nats(np.repeat([-0.1, 0.1], 2000), 0.01, seed=3)
    assert (classes(nats, Rule.NOISE)[:2000] == "H→L").mean() > 0.999
    assert (classes(nats, Rule.NOISE)[2000:] == "L→H").mean() > 0.999
    assert not np.isin(classes(nats, Rule.FIXED), ("L→H", "H→L")).any()


def test_dependent_noise_is_noticed():
    independent = planted_nats(np.zeros(2000), 0.3, seed=4)
    assert fit_trends(independent).lag == pytest.approx(0, abs=0.02)
    walk = np.cumsum(RNG.normal(size=(11, 2000)), axis=0)
    assert fit_trends(walk).lag > 0.4
    bent = 3 + np.exp(-np.arange(11) / 3)[:, None] + np.zeros(5)
    assert fit_trends(bent).lag > 0.4


def test_fewer_than_five_checkpoints_have_no_trend():
    with pytest.raises(ValueError, match="4 checkpoints"):
        fit_trends(np.zeros((4, 3)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": -0.1}, r"dynamics\.threshold = -0\.1: must be 0"),
        ({"threshold": float("nan")}, r"dynamics\.threshold = nan"),
        ({"false_positives": 0.0}, r"dynamics\.false_positives = 0\.0: must be between"),
        ({"confidence": 1.0}, r"dynamics\.confidence = 1\.0: must be between"),
        ({"share": 1.5}, r"dynamics\.share = 1\.5: must be above 0"),
        ({"share": 0.0}, r"dynamics\.share = 0\.0: must be above 0"),
        ({"resamples": 10}, r"dynamics\.resamples = 10: must be at least 100"),
        ({"seed": -1}, r"dynamics\.seed = -1"),
    ],
)
def test_wrong_options_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        AnalysisOptions(**changes)
