"""Laws of mixtures on planted losses: every form is found from its own data."""

import json
from dataclasses import replace

import numpy as np
import pytest
from planted_mixture_runs import COMPONENTS, at, design, mixtures, planted

from lossline.errors import UserError
from lossline.mixtures.catalogue import LAWS, fit_from_dict
from lossline.mixtures.compute_laws import M1, M2, M3, M4
from lossline.mixtures.laws import Problem
from lossline.mixtures.scale_laws import Exponential, Separable

LN = np.log
# Parameters of each law for three components, in its own order.
TRUTH = {
    "M1": [0.1, -0.06],
    "M2": [0.1, -0.04, -0.03, -0.02],
    "M3": [LN(0.5), LN(0.3), LN(0.3), LN(0.2), LN(0.05), LN(0.1)],
    "M4": [0.1, -0.06, 0.02, -0.03, -0.01],
    "exponential": [-0.3, -1.5, LN(0.3), -1.2, LN(0.4), -2.5, -1.0, -0.6],
    "additive": [-0.3, -1.5, LN(0.3), -1.2, LN(0.4), 1.5, 0.5, 1.0, LN(0.6), LN(0.3), LN(0.5)],
    "joint": [-0.3, -1.5, LN(0.3), -1.2, LN(0.4), 1.5, 0.5, 1.0, LN(0.6), LN(0.3), LN(0.5),
              0.2, -0.4, 0.1, 0.3, 0.5, -0.3, 0.2, -0.2],
    "separable": [-0.4, -1.5, LN(0.35), -1.5, LN(0.4), 0.05, LN(0.2), 0.02, -0.01, -0.01,
                  1.5, 0.0, -1.5],
}  # fmt: skip
UNSEEN = mixtures(6, seed=5)


@pytest.mark.parametrize("name", TRUTH)
def test_each_law_predicts_its_own_losses_elsewhere(name):
    law = LAWS[name]()
    runs = planted(law, TRUTH[name], design(mixtures(16), tokens=(1e9, 2e9, 5e9, 1e10, 3e10)))
    fit = law.fit(runs)
    beyond = design(UNSEEN, sizes=(3e9,), tokens=(6e10,))
    columns = Problem.of(law, runs).scale.columns(
        beyond.shares, beyond.params, beyond.tokens, beyond.flops
    )
    truth = np.exp(1.0 + law.log_loss(np.array([TRUTH[name]]), columns)[0][0])
    found = fit.predict(beyond.shares, **at(beyond))[:, 0]
    # The ridge of ours moves it by a little; sums of many terms have nearly equal solutions.
    np.testing.assert_allclose(found, truth, rtol=0.004 if name != "separable" else 0.01)
    assert fit.scatter[0] < 2e-3


@pytest.mark.parametrize("name", TRUTH)
def test_jacobians_are_those_of_the_values(name):
    law = LAWS[name]()
    problem = Problem.of(
        law, design([[0.2, 0.3, 0.5], [0.6, 0.4, 0.0] if law.zero_shares else [0.1, 0.1, 0.8]])
    )
    theta = np.array([TRUTH[name]])
    _, jacobian = law.log_loss(theta, problem.columns)
    for p in range(theta.shape[1]):
        step = 1e-6 * np.eye(theta.shape[1])[p]
        above, below = (law.log_loss(theta + s, problem.columns)[0] for s in (step, -step))
        np.testing.assert_allclose(jacobian[:, p], (above - below) / 2e-6, atol=1e-6)


@pytest.mark.parametrize("law", [M1(), M2(), M4()])
def test_laws_linear_in_logarithms_give_their_parameters(law):
    runs = planted(law, TRUTH[law.name], design(mixtures(8)))
    fit = law.fit(runs)
    np.testing.assert_allclose(fit.theta[0][1:], TRUTH[law.name][1:], atol=1e-3)


def test_separable_finds_what_each_component_is_worth():
    runs = planted(Separable(), TRUTH["separable"], design(mixtures(16)), noise=1e-3)
    worth = Separable().fit(runs).theta[0][-3:]
    assert np.argsort(worth).tolist() == [2, 1, 0]


@pytest.mark.parametrize("law", [Exponential(), LAWS["additive"](), LAWS["joint"](), Separable()])
def test_laws_of_n_and_d_bear_shares_of_zero(law):
    shares = [*mixtures(12), [1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0]]
    runs = planted(law, TRUTH[law.name], design(shares))
    fit = law.fit(runs)
    corner = fit.predict([[0.0, 0.0, 1.0]], params=3e8, tokens=6e9)
    here = (runs.shares[:, 2] == 1) & (runs.params == 3e8) & (runs.tokens == 6e9)
    assert corner[0, 0] == pytest.approx(runs.losses[here][0, 0], rel=0.01)


@pytest.mark.parametrize("law", [M2, M3, M4])
def test_compute_laws_reject_zero_shares_and_say_so(law):
    clean = planted(law(), TRUTH[law.name], design(mixtures(8)))
    zero = design([[0.5, 0.5, 0.0]])
    both = replace(
        clean,
        **{
            name: np.concatenate([getattr(clean, name), getattr(zero, name)])
            for name in ("shares", "params", "tokens", "flops", "losses", "runs")
        },
    )
    fit = law().fit(both)
    np.testing.assert_array_equal(fit.theta, law().fit(both).theta)
    assert any(f"9 of {len(both)} checkpoints left out" in note for note in fit.notes)
    assert np.isnan(fit.predict([0.5, 0.5, 0.0], params=1e8, tokens=1e9)).all()
    with pytest.raises(UserError, match="has no loss of a run without a zero share"):
        law().fit(zero)


def test_epsilon_admits_zero_shares():
    law = M4(epsilon=0.01)
    fit = law.fit(planted(law, TRUTH["M4"], design([*mixtures(8), [0.5, 0.5, 0.0]])))
    assert np.isfinite(fit.predict([0.5, 0.5, 0.0], params=1e8, tokens=1e9)).all()
    assert not fit.notes


def test_laws_of_compute_need_compute_and_others_do_not():
    runs = planted(M1(), TRUTH["M1"], design(mixtures(8)))
    blind = replace(runs, flops=np.full(len(runs), np.nan))
    with pytest.raises(UserError, match="no compute: 72 of 72 checkpoints have no flops"):
        M1().fit(blind)
    assert np.isfinite(Separable().fit(blind).theta).all()


def test_two_components_in_one_ratio_are_named():
    two = mixtures(8, components=2)
    shares = np.column_stack([two[:, 0] * 0.25, two[:, 0] * 0.75, two[:, 1]])
    fit = Separable().fit(planted(Separable(), TRUTH["separable"], design(shares)))
    assert fit.notes == (
        "code and web are in one ratio in all mixtures: their separate effects are not identified",
    )
    assert np.isfinite(fit.predict(shares, params=1e9, tokens=2e10)).all()


def test_one_size_is_predicted_at_that_size_only():
    runs = planted(Separable(), TRUTH["separable"], design(mixtures(12), sizes=(3e8,)))
    fit = Separable().fit(runs)
    assert "all runs have one size: the effect of N is not identified" in fit.notes
    assert np.isfinite(fit.predict(runs.shares, **at(runs))).all()
    assert np.isnan(fit.predict(runs.shares[:2], params=1e9, tokens=6e9)).all()


def test_few_mixtures_and_one_ratio_of_tokens_are_named():
    runs = design(mixtures(2), sizes=(1e8, 3e8), tokens=(2e9,))
    runs = replace(runs, tokens=20 * runs.params)
    notes = Separable().fit(planted(Separable(), TRUTH["separable"], runs)).notes
    assert any("2 mixtures of 3 components" in note for note in notes)
    assert any("one D / N" in note for note in notes)


def test_missing_losses_and_weights_are_borne():
    law = Separable()
    runs = planted(law, TRUTH["separable"], design(mixtures(12), domains=("a", "b")))
    holes = runs.losses.copy()
    holes[::5, 0] = np.nan
    weights = np.ones(len(runs))
    weights[:9] = 0.0
    spoiled = runs.losses.copy()
    spoiled[:9] *= 3.0
    ahead = {"params": 1e9, "tokens": 2e10}
    clean = law.fit(runs).predict(UNSEEN, **ahead)
    with_holes = law.fit(replace(runs, losses=holes))
    np.testing.assert_allclose(with_holes.predict(UNSEEN, **ahead), clean, rtol=0.01)
    weighted = law.fit(replace(runs, losses=spoiled), weights=weights)
    np.testing.assert_allclose(weighted.predict(UNSEEN, **ahead), clean, rtol=0.02)
    with pytest.raises(UserError, match="weights have shape"):
        law.fit(runs, weights=weights[1:])


def test_huber_bears_a_wild_run():
    runs = planted(Separable(), TRUTH["separable"], design(mixtures(16)))
    wild = runs.losses.copy()
    wild[np.isin(runs.runs, runs.runs[20::45])] *= 1.5
    clean, found = (
        Separable().fit(r).predict(UNSEEN, params=1e9, tokens=2e10)
        for r in (runs, replace(runs, losses=wild))
    )
    np.testing.assert_allclose(found, clean, rtol=0.01)


@pytest.mark.parametrize("name", TRUTH)
def test_fits_survive_json(name):
    law = LAWS[name]()
    fit = law.fit(planted(law, TRUTH[name], design(mixtures(6), domains=("a", "b")), noise=1e-3))
    back = fit_from_dict(json.loads(json.dumps(fit.to_dict())))
    ahead = {"params": 2e9, "tokens": 5e10}
    np.testing.assert_array_equal(back.predict(UNSEEN, **ahead), fit.predict(UNSEEN, **ahead))
    assert (back.law, back.components, back.domains) == (law, COMPONENTS, ("a", "b"))


def test_broken_json_is_one_line():
    tree = M1().fit(planted(M1(), TRUTH["M1"], design(mixtures(4)))).to_dict()
    for broken, message in (
        ({**tree, "law": "M9"}, "law 'M9' is unknown"),
        ({**tree, "parameters": ["x"]}, "its parameters are not those of law 'M1'"),
        ({"law": "M1"}, "not a saved mixture fit"),
    ):
        with pytest.raises(UserError, match=message):
            fit_from_dict(broken)


def test_bad_shares_to_predict_are_one_line():
    fit = M1().fit(planted(M1(), TRUTH["M1"], design(mixtures(4))))
    with pytest.raises(UserError, match=r"shares to predict: the shares sum to 1\.5"):
        fit.predict([0.5, 0.5, 0.5], params=1e9, tokens=1e10)
    with pytest.raises(UserError, match=r"shares to predict: the shares of row 2 sum to 1\.5"):
        fit.predict([[0.5, 0.5, 0.0], [0.5, 0.5, 0.5]], params=1e9, tokens=1e10)
    with pytest.raises(UserError, match="one share for each of the 3 components"):
        fit.predict([0.5, 0.5], params=1e9, tokens=1e10)
