"""The best mixture of planted goals with known answers."""

import dataclasses
import json

import numpy as np
import pytest
from planted_mixture_runs import COMPONENTS, design, mixtures, planted

from lossline.errors import UserError
from lossline.mixtures.goals import loss_goal, task_goal
from lossline.mixtures.limits import Limits
from lossline.mixtures.optimum import (
    Pull,
    best_mixture,
    hull_distance,
    mixture_binding,
    rounded,
)
from lossline.mixtures.performance import PerformanceSigmoid
from lossline.mixtures.resampling import resample
from lossline.mixtures.scale_laws import Separable

BEST = np.array([0.5, 0.3, 0.2])
EVERYWHERE = design([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.4, 0.3, 0.3]])
AT = {"params": 1e9, "tokens": 2e10}
TRUTH = [-0.4, -1.5, np.log(0.35), -1.5, np.log(0.4), 0.05, np.log(0.2), 0.02, -0.01, -0.01,
         1.5, 0.0, -1.5]  # fmt: skip


def bowl(shares, best=BEST):
    return 2.0 + ((shares - best) ** 2).sum(axis=1)


def test_optimum_inside_is_found():
    found = best_mixture(bowl, EVERYWHERE)
    np.testing.assert_allclose(found.shares, BEST, atol=1e-3)
    np.testing.assert_allclose(found.free, BEST, atol=1e-3)
    assert found.value == pytest.approx(2.0, abs=1e-5)
    assert found.warnings == ()
    assert np.isnan(found.low).all()


def test_bound_and_floor_hold_and_the_free_optimum_stands_beside_them():
    found = best_mixture(bowl, EVERYWHERE, limits=Limits(upper={"code": 0.4}, lower={"wiki": 0.3}))
    np.testing.assert_allclose(found.shares, [0.4, 0.3, 0.3], atol=1e-3)
    np.testing.assert_allclose(found.free, BEST, atol=1e-3)
    assert found.free_value < found.value
    assert found.warnings == (
        "code is at its highest share, 0.4",
        "wiki is at its lowest share, 0.3",
    )


def test_cap_is_epochs_times_tokens_over_training_tokens():
    limits = Limits(available={"code": 2e9, "web": 1e11}, epochs=4, tokens=2e10)
    found = best_mixture(bowl, EVERYWHERE, limits=limits)
    # The rest of the share of code goes to both others alike: the bowl is round.
    np.testing.assert_allclose(found.shares, [0.4, 0.35, 0.25], atol=1e-3)


def test_optimum_at_a_corner_of_the_simplex():
    found = best_mixture(lambda s: 1.0 - s[:, 1], EVERYWHERE)
    np.testing.assert_allclose(found.shares, [0, 1, 0], atol=1e-6)


def test_best_of_two_valleys_is_found():
    def valleys(s):
        near = ((s - [0.4, 0.4, 0.2]) ** 2).sum(axis=1)
        deep = ((s - [0.05, 0.05, 0.9]) ** 2).sum(axis=1)
        return 1.0 - 0.5 * np.exp(-30 * near) - np.exp(-30 * deep)

    found = best_mixture(valleys, EVERYWHERE)
    np.testing.assert_allclose(found.shares, [0.05, 0.05, 0.9], atol=0.01)


def test_pull_moves_toward_its_mixture_with_its_strength():
    natural = {"code": 0.2, "web": 0.2, "wiki": 0.6}
    near, far = (
        best_mixture(bowl, EVERYWHERE, pull=Pull(natural, strength)) for strength in (0.01, 100.0)
    )
    np.testing.assert_allclose(far.shares, [0.2, 0.2, 0.6], atol=0.01)
    assert 0.2 < near.shares[2] < 0.3
    assert near.value == pytest.approx(bowl(near.shares[None])[0])  # without the pull
    with pytest.raises(UserError, match="'cod' is unknown"):
        best_mixture(bowl, EVERYWHERE, pull=Pull({"cod": 1.0}))
    # At the minimum of w log(w / v) + goal, w is v exp(-goal) for a linear goal.
    slope = np.array([0.1, 0.0, -0.1])
    linear = best_mixture(lambda s: s @ slope, EVERYWHERE, pull=Pull(natural, 0.1))
    expected = np.array([0.2, 0.2, 0.6]) * np.exp(-slope / 0.1)
    np.testing.assert_allclose(linear.shares, expected / expected.sum(), atol=1e-3)


def test_optimum_outside_the_mixtures_trained_warns():
    narrow = design([[0.2, 0.4, 0.4], [0.3, 0.3, 0.4], [0.25, 0.45, 0.3]])
    (warning,) = best_mixture(bowl, narrow).warnings
    assert warning.startswith("the best mixture is outside the mixtures trained: code 0.500")
    corners = design([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    cross = design([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.2, 0.1, 0.7]])
    assert best_mixture(bowl, corners).warnings == ()
    between = best_mixture(lambda s: bowl(s, [0.1, 0.45, 0.45]), cross)
    assert "no mixture trained combines" in between.warnings[0]


def test_hull_distance():
    corners = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    assert hull_distance(np.array([0.5, 0.5, 0]), corners) == pytest.approx(0, abs=1e-6)
    away = hull_distance(np.array([0.4, 0.4, 0.2]), corners)
    assert away == pytest.approx(np.sqrt(0.01 + 0.01 + 0.04), rel=1e-3)


def test_interval_and_flatness_of_the_optimum():
    rng = np.random.default_rng(0)
    shifts = [d - d.mean() for d in 0.03 * rng.standard_normal((40, 3))]
    resampled = [lambda s, d=d: bowl(s, BEST + d) + 4 * d[0] for d in shifts]
    found = best_mixture(bowl, EVERYWHERE, resampled=resampled, level=0.9)
    expected = np.quantile(BEST + shifts, [0.05, 0.95], axis=0)
    np.testing.assert_allclose([found.low, found.high], expected, atol=2e-3)
    assert found.error == pytest.approx(
        np.std([4 * d[0] + (d**2).sum() for d in shifts], ddof=1), rel=0.01
    )
    # |s - best|^2 <= error, with sum of shares 1: a share moves by sqrt(2/3 error) at most.
    reach = np.sqrt(2 / 3 * found.error)
    np.testing.assert_allclose(found.flat_high, np.minimum(BEST + reach, 1), atol=0.01)
    np.testing.assert_allclose(found.flat_low, np.maximum(BEST - reach, 0), atol=0.01)


def test_law_of_domains_gives_one_target_several_and_an_interval():
    truth = np.array(TRUTH)
    other = truth.copy()
    other[[10, 12]] = truth[[12, 10]]  # the second domain needs wiki, not code
    runs = design(mixtures(14, floor=0.01), domains=("a", "b"))
    losses = [
        planted(Separable(), theta, runs, noise=2e-3).losses[:, :1] for theta in (truth, other)
    ]
    runs = dataclasses.replace(runs, losses=np.hstack(losses))
    found = resample(Separable(), runs, resamples=6, backtest=False)
    one = best_mixture(
        loss_goal(found.fit, {"a": 1.0}, **AT),
        runs,
        resampled=[loss_goal(fit, {"a": 1.0}, **AT) for fit in found.fits()],
    )
    both = best_mixture(loss_goal(found.fit, {"a": 1.0, "b": 1.0}, **AT), runs)
    assert one.shares[0] > 0.9
    assert one.low[0] <= one.shares[0] <= one.high[0]
    assert abs(both.shares[0] - both.shares[2]) < 0.2
    assert min(both.shares[0], both.shares[2]) > 0.2


def test_task_goal_takes_domains_by_name():
    runs = planted(Separable(), TRUTH, design(mixtures(14), domains=("a", "b")))
    fit = Separable().fit(runs)
    performance = PerformanceSigmoid().fit(
        runs.losses[:, [1, 0]], 1 / runs.losses[:, 0], domains=("b", "a")
    )
    goal = task_goal(fit, {"quiz": (performance, 1.0)}, **AT)
    shares = mixtures(3)
    losses = fit.predict(shares, **AT)[:, [1, 0]]
    np.testing.assert_allclose(goal(shares), -performance.predict(losses))
    stranger = dataclasses.replace(performance, domains=("b", "c"))
    with pytest.raises(UserError, match=r"task 'quiz': domain 'c' is unknown"):
        task_goal(fit, {"quiz": (stranger, 1.0)}, **AT)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(upper={"cod": 0.5}), "component 'cod' is unknown; did you mean 'code'"),
        (
            Limits(upper=dict.fromkeys(COMPONENTS, 0.3)),
            "highest shares of all .* sum to 0.9",
        ),
        (
            Limits(lower=dict.fromkeys(COMPONENTS, 0.4)),
            "lowest shares of all .* sum to 1.2",
        ),
        (Limits(lower={"code": 0.5}, upper={"code": 0.4}), "between 0.5 and 0.4"),
        (Limits(available={"code": 1e9}), "caps by repetition need tokens D"),
        (
            Limits(available=dict.fromkeys(COMPONENTS, 1e9), tokens=2e10),
            "sum to 0.15; no mixture fits. Raise some of them, or allow more epochs",
        ),
    ],
)
def test_impossible_limits_are_one_line(limits, message):
    with pytest.raises(UserError, match=message):
        best_mixture(bowl, EVERYWHERE, limits=limits)


def test_bad_targets_and_goals_are_one_line():
    fit = Separable().fit(planted(Separable(), TRUTH, design(mixtures(8), sizes=(1e9,))))
    with pytest.raises(UserError, match="target 'b' is unknown"):
        loss_goal(fit, {"b": 1.0}, **AT)
    with pytest.raises(UserError, match="one must be above 0"):
        loss_goal(fit, {"loss": 0.0}, **AT)
    with pytest.raises(UserError, match="no finite value at any mixture"):
        best_mixture(loss_goal(fit, {"loss": 1.0}, params=7e9, tokens=2e10), EVERYWHERE)


def test_binding_trains_the_mixture(tmp_path):
    mixture = {"code": 1 / 3, "web": 1 / 3, "wiki": 1 / 3}
    assert sum(rounded(mixture).values()) == pytest.approx(1.0, abs=1e-12)
    text = mixture_binding(mixture, {name: f"stores/{name}" for name in COMPONENTS})
    lines = dict(line.split(" = ") for line in text.splitlines())
    assert lines["train.store"] == "@mixture()"
    shares = json.loads(lines["mixture.shares"].replace("'", '"'))
    assert shares == {"code": 0.3334, "web": 0.3333, "wiki": 0.3333}
    assert json.loads(lines["mixture.components"].replace("'", '"'))["code"] == "stores/code"
    assert "mixture.components" not in mixture_binding(mixture)
