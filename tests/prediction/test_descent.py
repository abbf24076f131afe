"""Least squares of many weightings at once, against single fits and other solvers."""

import numpy as np
import pytest
from planted_forms import CASES, inputs_of
from scipy import optimize

from lossline.laws.compute_laws import Chinchilla
from lossline.laws.objective import FitObjective, Loss
from lossline.laws.solver import FitOptions, fit
from lossline.prediction.descent import Limits, descend
from lossline.prediction.forms import columns_of, fit_form, no_priors
from lossline.prediction.scale_forms import PowersOfScale

X = np.linspace(0, 2, 30)
NOISE = 0.05 * np.random.default_rng(0).normal(size=30)
Y = 0.5 + 2 * np.exp(-1.5 * X) + NOISE
WIDE = no_priors(np.full(3, -50.0), np.full(3, 50.0))


def decay(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a + b exp(-c x) and its derivative."""
    a, b, c = (theta[:, i : i + 1] for i in range(3))
    e = np.exp(-c * X)
    return a + b * e, np.stack([np.ones_like(e), e, -b * X * e], axis=1)


def by_scipy(weights: np.ndarray, limits: Limits) -> optimize.OptimizeResult:
    """Return SciPy's optimum of the same objective, priors as further residuals."""
    sd = np.where(np.isfinite(limits.sd), limits.sd, 1.0)
    pulled = np.isfinite(limits.sd)

    def residuals(theta):
        misses = np.sqrt(weights) * (decay(theta[None])[0][0] - Y)
        return np.concatenate([misses, pulled * (theta - limits.mean) / sd])

    bounds = (limits.low, limits.high)
    return optimize.least_squares(
        residuals, np.clip(np.ones(3), *bounds), bounds=bounds, xtol=1e-14, ftol=1e-14, gtol=1e-14
    )


def test_many_weightings_equal_separate_fits_and_scipy():
    weights = np.random.default_rng(1).exponential(size=(6, 30))
    together, cost = descend(decay, np.ones((6, 3)), Y, weights, WIDE)
    for b in range(6):
        alone, alone_cost = descend(decay, np.ones((1, 3)), Y, weights[b : b + 1], WIDE)
        np.testing.assert_allclose(together[b], alone[0], rtol=1e-6)
        assert cost[b] == pytest.approx(alone_cost[0])
        other = by_scipy(weights[b], WIDE)
        np.testing.assert_allclose(together[b], other.x, rtol=1e-4)
        assert cost[b] == pytest.approx(2 * other.cost, rel=1e-8)


def test_chunks_change_nothing(monkeypatch):
    weights = np.random.default_rng(1).exponential(size=(7, 30))
    whole = descend(decay, np.ones((7, 3)), Y, weights, WIDE)
    monkeypatch.setattr("lossline.prediction.descent._CHUNK", 200)  # two rows a chunk
    parts = descend(decay, np.ones((7, 3)), Y, weights, WIDE)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


@pytest.mark.parametrize(("place", "low", "high"), [(0, 0.8, 2.0), (2, 0.1, 0.7), (1, -3.0, 1.0)])
def test_a_bound_holds_and_the_others_are_best_there(place, low, high):
    limits = no_priors(np.full(3, -50.0), np.full(3, 50.0))
    limits.low[place], limits.high[place] = low, high
    (theta,), (cost,) = descend(decay, np.ones((1, 3)), Y, np.ones((1, 30)), limits)
    other = by_scipy(np.ones(30), limits)
    assert theta[place] in (low, high)
    np.testing.assert_allclose(theta, other.x, rtol=1e-3)
    assert cost == pytest.approx(2 * other.cost, rel=1e-6)


def test_a_parameter_leaves_its_bound_when_it_must():
    limits = no_priors(np.array([-50.0, -50.0, 0.0]), np.full(3, 50.0))
    start = np.array([[0.0, 1.0, 0.0]])  # c at its lower bound
    theta, _ = descend(decay, start, Y, np.ones((1, 30)), limits)
    np.testing.assert_allclose(theta[0], by_scipy(np.ones(30), WIDE).x, rtol=1e-4)


def test_a_prior_pulls_as_much_as_its_width_says():
    for sd in (0.01, 0.3, 10.0):
        limits = no_priors(np.full(3, -50.0), np.full(3, 50.0))
        limits.mean[2], limits.sd[2] = 3.0, sd
        theta, cost = descend(decay, np.ones((1, 3)), Y, np.ones((1, 30)), limits)
        other = by_scipy(np.ones(30), limits)
        np.testing.assert_allclose(theta[0], other.x, rtol=1e-4)
        assert cost[0] == pytest.approx(2 * other.cost, rel=1e-8)


def test_infinite_values_are_never_taken():
    def cliff(theta):
        value, slopes = decay(theta)
        return np.where(theta[:, :1] > 0.6, np.nan, value), slopes

    theta, cost = descend(cliff, np.array([[0.0, 1.0, 1.0]]), Y, np.ones((1, 30)), WIDE)
    assert np.isfinite(theta).all() and np.isfinite(cost).all() and theta[0, 0] <= 0.6


def test_chinchilla_equals_the_solver_of_the_laws():
    form = PowersOfScale()
    inputs = inputs_of(form)
    random = np.random.default_rng(0)
    truth = next(case.truth for case in CASES if case.form == form)
    loss = truth(*inputs.values()) * np.exp(0.003 * random.normal(size=21))
    found = fit_form(form, inputs, loss, np.arange(21), np.ones((1, 21)))
    other = fit(
        Chinchilla(),
        {"N": inputs["params"], "D": inputs["tokens"]},
        loss,
        options=FitOptions(objective=FitObjective(loss=Loss.LEAST_SQUARES), tolerance=1e-12),
    )
    far = inputs_of(form, far=True)
    np.testing.assert_allclose(
        found.predict(far)[0], other.predict(N=far["params"], D=far["tokens"]), rtol=1e-5
    )
    ends = dict(zip(form.parameters, found.theta[0], strict=True))
    for name in ("alpha", "beta"):
        assert ends[name] == pytest.approx(other.parameters[name], rel=1e-3)
    assert np.exp(ends["log_E"]) == pytest.approx(other.parameters["E"], rel=1e-3)


def test_resamples_equal_fits_to_the_weighted_points():
    """Row b of a fit is the optimum of weights b: no other resample comes lower."""
    form = PowersOfScale(exponent=0.3)
    inputs = inputs_of(form)
    random = np.random.default_rng(0)
    truth = next(case.truth for case in CASES if case.form == form)
    loss = truth(*inputs.values()) * np.exp(0.003 * random.normal(size=21))
    weights = np.ones((20, 21))
    weights[1:] = 21 * random.dirichlet(np.ones(21), size=19)
    found = fit_form(form, inputs, loss, np.arange(21), weights)
    columns = columns_of(form, inputs, found.centers)
    limits = form.limits(columns, loss)

    def objective(theta, weight):
        misses = np.sum(weight * np.square(form.model(theta[None], columns)[0][0] - np.log(loss)))
        pull = np.sum(np.square((theta - limits.mean) / limits.sd))
        return misses / form.spread**2 + pull

    costs = np.array([[objective(t, w) for t in found.theta] for w in weights])
    assert (costs.argmin(axis=1) == np.arange(20)).all()
    again = [
        descend(
            lambda t: form.model(t, columns),
            form.starts(columns, loss),
            np.log(loss),
            w[None] / form.spread**2,
            limits,
        )[1].min()
        for w in weights
    ]
    np.testing.assert_allclose(np.diag(costs), again, rtol=1e-3)
