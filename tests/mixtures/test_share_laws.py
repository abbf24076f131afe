"""Linear and exponential law: planted truth, names, weights, errors."""

import dataclasses
import json

import numpy as np
import pytest
from planted_swarm import mixtures, power_losses, swarm

from lossline.errors import UserError
from lossline.mixtures.catalogue import fit_from_dict
from lossline.mixtures.process_law import ProcessLaw
from lossline.mixtures.share_laws import ExponentialLaw, LinearLaw

LAWS = (LinearLaw(), ExponentialLaw())
ids = [law.name for law in LAWS]


def exponential_losses(shares, E, t):
    return E + np.exp(shares @ t.T)


def test_linear_law_recovers_its_own_data():
    shares = mixtures(60, 8)
    slopes = np.random.default_rng(2).uniform(1, 4, (3, 8))
    fit = LinearLaw().fit(swarm(shares, shares @ slopes.T))
    np.testing.assert_allclose(fit.slopes, slopes, rtol=1e-9)


def test_exponential_law_recovers_its_own_data():
    shares = mixtures(80, 6)
    E, t = np.array([1.5, 2.0]), np.random.default_rng(2).uniform(-2, 1.5, (2, 6))
    fit = ExponentialLaw().fit(swarm(shares, exponential_losses(shares, E, t)))
    np.testing.assert_allclose(fit.floor, E, rtol=2e-3)
    np.testing.assert_allclose(fit.slopes, t, atol=0.02)
    unseen = mixtures(50, 6, seed=9)
    predicted = fit.predict(unseen, params=1e6, tokens=1e9)
    np.testing.assert_allclose(predicted, exponential_losses(unseen, E, t), rtol=1e-3)


@pytest.mark.parametrize("law", LAWS, ids=ids)
def test_json_and_back(law):
    shares = mixtures(40, 5)
    losses = power_losses(shares, 3)
    losses[2:, 1] = np.nan
    fit = law.fit(swarm(shares, losses))
    again = fit_from_dict(json.loads(json.dumps(fit.to_dict(), allow_nan=False)))
    np.testing.assert_array_equal(again.predict(shares), fit.predict(shares))
    assert np.isnan(fit.predict(shares)[:, 1]).all()  # two losses for six parameters


@pytest.mark.parametrize("law", (*LAWS, ProcessLaw()), ids=(*ids, "process"))
def test_no_losses_of_another_size(law):
    shares = mixtures(40, 4)
    fit = law.fit(swarm(shares, power_losses(shares, 2)))
    same = fit.predict(shares[:2], params=1e6, tokens=1e9)
    np.testing.assert_array_equal(same, fit.predict(shares[:2]))
    assert np.isnan(fit.predict(shares[:2], params=[1e6, 6e7], tokens=1e9)[1]).all()
    assert np.isnan(fit.predict(shares[:2], params=1e6, tokens=2e9)).all()


@pytest.mark.parametrize("law", LAWS, ids=ids)
def test_order_of_rows_and_components_changes_nothing(law):
    shares = mixtures(60, 5)
    runs = swarm(shares, power_losses(shares, 2, noise=0.01))
    rng = np.random.default_rng(4)
    rows, columns = rng.permutation(60), rng.permutation(5)
    other = dataclasses.replace(
        runs[rows],
        components=tuple(runs.components[k] for k in columns),
        shares=runs.shares[rows][:, columns],
    )
    np.testing.assert_allclose(
        law.fit(other).predict(shares[:, columns]), law.fit(runs).predict(shares), rtol=1e-5
    )


@pytest.mark.parametrize("law", LAWS, ids=ids)
def test_weight_two_counts_as_two_runs(law):
    shares = mixtures(40, 4)
    runs = swarm(shares, power_losses(shares, 1, noise=0.02))
    weights = np.arange(40) % 3
    twice = runs[np.repeat(np.arange(40), weights)]
    np.testing.assert_allclose(
        law.fit(runs, weights=weights).predict(shares), law.fit(twice).predict(shares), rtol=1e-5
    )


@pytest.mark.parametrize("law", (*LAWS, ProcessLaw()), ids=(*ids, "process"))
class TestErrors:
    def test_component_with_no_run_above_zero(self, law):
        shares = np.insert(mixtures(30, 3), 2, 0.0, axis=1)
        with pytest.raises(UserError, match="component 'source2' has no run with a share above 0"):
            law.fit(swarm(shares, power_losses(shares, 1)))

    def test_runs_of_two_sizes(self, law):
        shares = mixtures(30, 4)
        runs = swarm(shares, power_losses(shares, 1))
        mixed = dataclasses.replace(runs, params=np.r_[runs.params[:15], np.full(15, 6e7)])
        with pytest.raises(UserError, match=r"the runs have N from 1e\+06 to 6e\+07"):
            law.fit(mixed)

    def test_loss_that_is_not_positive(self, law):
        shares = mixtures(30, 4)
        losses = power_losses(shares, 2)
        losses[7, 1] = 0
        with pytest.raises(UserError, match="the loss of run '7' on 'domain1' is 0"):
            law.fit(swarm(shares, losses))

    def test_no_runs(self, law):
        shares = mixtures(30, 4)
        with pytest.raises(UserError, match="no runs to fit"):
            law.fit(swarm(shares, power_losses(shares, 2))[:0])

    def test_weights_of_another_length(self, law):
        shares = mixtures(30, 4)
        with pytest.raises(UserError, match="Give 30 numbers"):
            law.fit(swarm(shares, power_losses(shares, 1)), weights=np.ones(29))
