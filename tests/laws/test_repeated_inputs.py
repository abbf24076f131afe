"""A law evaluated once per distinct input gives what one evaluated at every point gives."""

import numpy as np
import pytest

from lossline.laws import repeated
from lossline.laws.bootstrap import bootstrap
from lossline.laws.compute_laws import Kaplan
from lossline.laws.objective import FitObjective, Loss, Residual
from lossline.laws.problems import FitProblem, prepare, stack
from lossline.laws.repeated import RepeatedRows, fit_rows
from lossline.laws.rows import FitRows

LAW = Kaplan()
TRUTH = {"E": 1.7, "A": 4e8, "B": 6e9, "alpha": 0.34, "beta": 0.28}


@pytest.fixture(scope="module")
def points():
    """Return inputs and losses of 100 runs of 30 checkpoints, ten of each recipe."""
    rng = np.random.default_rng(1)
    N = np.repeat(np.geomspace(2e7, 2e9, 10), 300)
    D = 20 * N * np.tile(np.arange(1, 31) / 30, 100)
    clean = TRUTH["E"] + ((TRUTH["A"] / N) ** (0.34 / 0.28) + TRUTH["B"] / D) ** 0.28
    noise = np.repeat(rng.standard_normal(100), 30) + 0.3 * rng.standard_normal(3000)
    return {"N": N, "D": D}, clean * np.exp(0.004 * noise), np.repeat(np.arange(100), 30)


@pytest.mark.parametrize("loss", Loss)
@pytest.mark.parametrize("residual", [Residual.LOG, Residual.LINEAR])
def test_objective_and_derivatives_agree(points, residual, loss):
    inputs, target, _ = points
    objective = FitObjective(residual=residual, loss=loss)
    data = prepare(LAW, FitProblem(inputs=inputs, target=target), objective)
    rng = np.random.default_rng(0)
    theta = LAW.to_internal(np.array([list(TRUTH.values())])) * (1 + 0.01 * rng.normal(size=(7, 5)))
    rows = np.arange(7)
    fields = {
        "stack": stack(LAW, objective, [data]), "problem": np.zeros(7, int),
        "weights": rng.exponential(size=(7, 3000)), "weight": rows, "fit": rows,
        "low": np.full((7, 5), -np.inf), "high": np.full((7, 5), np.inf),
    }  # fmt: skip
    once, every = fit_rows(**fields), FitRows(**fields)
    assert isinstance(once, RepeatedRows) and len(once.first) == 300
    np.testing.assert_allclose(once.objective(theta, rows), every.objective(theta, rows), 1e-12)
    np.testing.assert_allclose(once.gradient(theta, rows), every.gradient(theta, rows), 1e-9)
    for one, other in zip(
        once.derivatives(theta, rows), every.derivatives(theta, rows), strict=True
    ):
        np.testing.assert_allclose(one, other, 1e-9)


def test_relative_residuals_and_distinct_inputs_are_evaluated_at_every_point(points):
    inputs, target, _ = points
    for given, residual in ((inputs, "relative"), ({**inputs, "N": inputs["N"] + target}, "log")):
        objective = FitObjective(residual=residual)
        data = prepare(LAW, FitProblem(inputs=given, target=target), objective)
        empty = dict.fromkeys(("problem", "weights", "weight", "fit", "low", "high"))
        assert type(fit_rows(stack(LAW, objective, [data]), **empty)) is FitRows


def test_fits_and_intervals_agree(points, monkeypatch):
    inputs, target, runs = points
    once = bootstrap(LAW, inputs, target, runs=runs, resamples=20)
    monkeypatch.setattr(repeated, "MANY_POINTS", len(target) + 1)
    every = bootstrap(LAW, inputs, target, runs=runs, resamples=20)
    assert once.fit.ok and not np.array_equal(once.samples, every.samples)  # two ways, one optimum
    for name, value in every.fit.parameters.items():
        np.testing.assert_allclose(once.fit.parameters[name], value, 1e-7)
    np.testing.assert_allclose(once.samples, every.samples, 1e-4)
    np.testing.assert_allclose(once.interval("E"), every.interval("E"), 1e-6)
