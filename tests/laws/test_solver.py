"""Solver: planted laws, published optimum, SciPy as reference, invariances, bad input."""

import numpy as np
import pandas as pd
import pytest
import scipy.optimize

from lossline.errors import UserError
from lossline.laws.compute_laws import Chinchilla, Kaplan, OverTrainingByParams, hoffmann_starts
from lossline.laws.forms import ErrorLaw, ShiftedPowerLaw
from lossline.laws.objective import LEAST_SQUARES, FitObjective, Loss, Residual
from lossline.laws.problems import FitProblem
from lossline.laws.results import FitStatus
from lossline.laws.solver import FitOptions, fit, fit_many
from tests.laws.planted_laws import EXAMPLES, LAWS, inputs_of

LEAST = FitOptions(objective=LEAST_SQUARES)


def noisy_line(count=60, noise=0.005, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(2.3, 5.0, count)
    y = 0.9 * (x - 1.8) ** 1.15 + 1.4
    return x, y * np.exp(noise * rng.standard_normal(count))


@LAWS
@pytest.mark.parametrize("objective", [FitObjective(), LEAST_SQUARES], ids=["huber_log", "squares"])
def test_planted_parameters_are_recovered(law, objective):
    inputs = inputs_of(law, count=80)
    target = law.predict(EXAMPLES[law], inputs)
    if objective.residual is Residual.LOG and np.any(target <= 0):
        pytest.skip("a log objective needs positive targets")
    result = fit(law, inputs, target, options=FitOptions(objective=objective))
    assert result.ok, result
    assert result.r2 == pytest.approx(1, abs=1e-9)
    for name, value in EXAMPLES[law].items():
        assert result.parameters[name] == pytest.approx(value, rel=1e-4), name


@pytest.fixture(scope="module")
def chinchilla_points(published_data):
    points = pd.read_csv(published_data / "chinchilla_points.csv")
    points = points.sort_values("loss").iloc[:-5]
    size = points["params"].to_numpy()
    return {"N": size, "D": points["flops"].to_numpy() / (6 * size)}, points["loss"].to_numpy()


def check_published_optimum(result):
    # Besiroglu et al., arXiv 2404.10102: the grid optimum on their 240 points, to the digits known.
    assert result.status is FitStatus.CONVERGED
    assert result.objective == pytest.approx(1.018274e-3, abs=5e-10)
    published = {"E": 1.8172, "A": 477.82, "B": 2143.42, "alpha": 0.3473, "beta": 0.3672}
    digits = {"E": 1e-4, "A": 1e-2, "B": 1e-2, "alpha": 1e-4, "beta": 1e-4}
    for name, value in published.items():
        assert result.parameters[name] == pytest.approx(value, abs=digits[name]), name


def test_published_starts_reach_the_published_chinchilla_optimum(chinchilla_points):
    inputs, loss = chinchilla_points
    result = fit(Chinchilla(), inputs, loss, starts=hoffmann_starts())
    check_published_optimum(result)
    assert result.starts == 4500
    assert result.starts_reached > 2000


def test_projected_starts_reach_the_published_chinchilla_optimum(chinchilla_points):
    inputs, loss = chinchilla_points
    result = fit(Chinchilla(), inputs, loss)
    check_published_optimum(result)
    assert result.starts_reached == result.starts


@pytest.mark.parametrize(
    ("data", "published"),
    [("rpj", (1.8366, 166.2, 366.7, 0.2729)), ("c4_original", (1.5083, 113.7, 189.5, 0.2425))],
)
def test_over_training_law_has_the_published_parameters(published_data, data, published):
    # Gadre et al. fit four parameters to five models: M = 20 below 1B parameters, 11M at M = 320.
    table = pd.read_csv(published_data / "gadre_models.csv")
    ratio = table["tokens"] / table["params"]
    chosen = table[
        (table["pretraining_data"] == data)
        & (
            (np.isclose(ratio, 20, rtol=0.05) & (table["params"] < 5e8))
            | (np.isclose(ratio, 320, rtol=0.05) & (table["params"] < 2e7))
        )
    ]
    assert len(chosen) == 5
    inputs = {"N": chosen["params"].to_numpy(), "D": chosen["tokens"].to_numpy()}
    result = fit(OverTrainingByParams(), inputs, chosen["loss/c4_val"].to_numpy(), options=LEAST)
    assert result.ok
    assert tuple(result.parameters.values()) == pytest.approx(published, rel=4e-4)


def test_order_of_points_and_starts_has_no_effect(chinchilla_points):
    inputs, loss = chinchilla_points
    rng = np.random.default_rng(3)
    starts = hoffmann_starts()[::50]
    first = fit(Chinchilla(), inputs, loss, starts=starts)
    order = rng.permutation(len(loss))
    shuffled = {k: v[order] for k, v in inputs.items()}
    second = fit(Chinchilla(), shuffled, loss[order], starts=rng.permutation(starts))
    assert second.parameters == first.parameters
    assert second.objective == first.objective
    np.testing.assert_array_equal(second.residuals, first.residuals[order])


def test_different_starts_reach_the_same_optimum(chinchilla_points):
    inputs, loss = chinchilla_points
    results = [
        fit(Chinchilla(), inputs, loss),
        fit(Chinchilla(), inputs, loss, starts=hoffmann_starts()[7::90]),
        fit(Chinchilla(), inputs, loss, options=FitOptions(starts=9)),
    ]
    for other in results[1:]:
        for name in other.parameters:
            assert other.parameters[name] == pytest.approx(results[0].parameters[name], rel=1e-9)


@pytest.mark.parametrize(
    ("loss", "scipy_loss"),
    [(Loss.SOFT_L1, "soft_l1"), (Loss.HUBER, "huber"), (Loss.LEAST_SQUARES, "linear")],
)
def test_objective_is_as_low_as_scipy_reaches(loss, scipy_loss):
    x, y = noisy_line()
    delta = 3e-3
    result = fit(
        ShiftedPowerLaw(),
        {"x": x},
        y,
        options=FitOptions(objective=FitObjective(loss=loss, delta=delta)),
    )

    def residuals(p):
        return np.log(p[0] * (x - p[2]) ** p[1] + p[3]) - np.log(y)

    found = scipy.optimize.least_squares(
        residuals,
        list(result.parameters.values()),
        loss=scipy_loss,
        f_scale=delta,
        bounds=([0, 0, 0, 0], [np.inf, np.inf, x.min() - 1e-3 * np.ptp(x), y.min()]),
        x_scale="jac",
        ftol=1e-15,
        xtol=1e-15,
        gtol=1e-15,
    )
    assert result.ok
    assert result.objective <= found.cost * (1 + 1e-9)
    assert result.objective == pytest.approx(found.cost, rel=1e-6)


def test_line_with_kappa_fixed_at_1_is_weighted_least_squares():
    rng = np.random.default_rng(1)
    x, weights = rng.uniform(2, 9, 30) * 1e3, rng.uniform(0.1, 2, 30)
    y = 1e6 + 150 * x + 1e4 * rng.normal(size=30)
    straight = {"kappa": 1.0, "E_x": 0.0}
    result = fit(ShiftedPowerLaw(), {"x": x}, y, weights=weights, fixed=straight, options=LEAST)
    slope, intercept = np.polyfit(x, y, 1, w=np.sqrt(weights))
    assert result.parameters["K"] == pytest.approx(slope, rel=1e-9)
    assert result.parameters["E_y"] == pytest.approx(intercept, rel=1e-9)


def test_integer_weight_equals_repeated_points():
    x, y = noisy_line(25)
    times = np.random.default_rng(2).integers(0, 4, 25)
    weighted = fit(ShiftedPowerLaw(), {"x": x}, y, weights=times.astype(float))
    repeated = fit(ShiftedPowerLaw(), {"x": np.repeat(x, times)}, np.repeat(y, times))
    assert weighted.objective == pytest.approx(repeated.objective, rel=1e-9)


def test_huber_loss_resists_an_outlier():
    inputs = inputs_of(Chinchilla())
    y = Chinchilla().predict(EXAMPLES[Chinchilla()], inputs)
    y[5] *= 1.5
    robust = fit(Chinchilla(), inputs, y)
    assert robust.parameters["E"] == pytest.approx(1.8, rel=1e-3)
    assert abs(fit(Chinchilla(), inputs, y, options=LEAST).parameters["E"] - 1.8) > 1e-2


def test_fit_many_equals_separate_fits():
    rng = np.random.default_rng(5)
    problems = []
    for k in range(7):
        x, y = noisy_line(10 + 9 * k, seed=k)
        problems.append(FitProblem(inputs={"x": x}, target=y, weights=rng.uniform(0.5, 1, len(x))))
    together = fit_many(ShiftedPowerLaw(), problems)
    for problem, result in zip(problems, together, strict=True):
        alone = fit_many(ShiftedPowerLaw(), [problem])[0]
        assert result.status is alone.status
        assert result.objective == pytest.approx(alone.objective, rel=1e-8)
        for name in alone.parameters:
            assert result.parameters[name] == pytest.approx(alone.parameters[name], rel=1e-5)


def test_one_bad_problem_does_not_stop_the_others():
    x, y = noisy_line(30)
    bad = y.copy()
    bad[:28] = np.nan
    results = fit_many(
        ShiftedPowerLaw(),
        [
            FitProblem(inputs={"x": x}, target=y, label="good"),
            FitProblem(inputs={"x": x}, target=bad, label="two points"),
            FitProblem(inputs={"x": np.full(30, 3.0)}, target=y, label="one x"),
            FitProblem(inputs={"x": x}, target=-y, label="negative"),
        ],
    )
    assert [r.ok for r in results] == [True, False, False, False]
    assert [r.status for r in results[1:]] == [FitStatus.UNDERDETERMINED] * 3
    assert "2 usable points for 4" in results[1].message
    assert "same inputs" in results[2].message
    assert "none of 30 points" in results[3].message
    assert {d.reason for d in results[3].dropped} == {"target not positive"}
    assert results[1].parameters == {}
    with pytest.raises(UserError, match="two points: cannot predict, the fit has no parameters"):
        results[1].predict(x=3.0)


def test_dropped_points_are_reported_and_have_no_effect():
    x, y = noisy_line(30)
    clean = fit(ShiftedPowerLaw(), {"x": x}, y)
    dirty_x, dirty_y = np.append(x, [np.nan, 3.0, 3.1]), np.append(y, [3.0, np.inf, -1.0])
    dirty = fit(ShiftedPowerLaw(), {"x": dirty_x}, dirty_y)
    assert dirty.parameters == clean.parameters
    assert [(d.index, d.reason.split()[0]) for d in dirty.dropped] == [
        (30, "an"),
        (31, "target"),
        (32, "target"),
    ]
    assert np.isnan(dirty.residuals[30:]).all()
    assert np.isfinite(dirty.residuals[:30]).all()


def test_bounds_and_fixed_values_hold():
    x, y = noisy_line()
    held = fit(ShiftedPowerLaw(), {"x": x}, y, bounds={"kappa": (1.16, 2.0)})
    assert held.status is FitStatus.BOUND_HIT
    assert held.at_bound == ("kappa",)
    assert held.parameters["kappa"] == pytest.approx(1.16, abs=1e-12)
    given = fit(ShiftedPowerLaw(), {"x": x}, y, fixed={"E_x": 1.8, "E_y": 1.4})
    assert given.status is FitStatus.CONVERGED
    assert (given.parameters["E_x"], given.parameters["E_y"]) == (1.8, 1.4)
    assert given.parameters["kappa"] == pytest.approx(1.15, abs=0.02)
    assert given.objective >= fit(ShiftedPowerLaw(), {"x": x}, y).objective


def test_too_curved_line_ends_at_a_reported_bound():
    # Without bounds the optimum has E_x < 0; within the law's bounds it lies on E_x = 0.
    x = np.linspace(1.0, 4.0, 40)
    result = fit(ShiftedPowerLaw(), {"x": x}, np.exp(0.6 * x), options=LEAST)
    assert result.status is FitStatus.BOUND_HIT
    assert "E_x" in result.at_bound


def test_law_is_underdetermined_if_one_input_does_not_vary():
    # D does not vary: B D^-beta and E cannot be separated.
    size = np.geomspace(1e7, 1e10, 12)
    inputs = {"N": size, "D": np.full(12, 1e10)}
    loss = Chinchilla().predict(EXAMPLES[Chinchilla()], inputs)
    result = fit(Chinchilla(), inputs, loss)
    assert result.status is FitStatus.UNDERDETERMINED
    assert "undetermined" in result.message
    assert not result.ok


def test_iteration_limit_is_reported():
    few = FitOptions(iterations=1, polish=1)
    result = fit(Kaplan(), inputs_of(Kaplan()), np.geomspace(2, 4, 40), options=few)
    assert result.status is FitStatus.ITERATION_LIMIT
    assert "after 1 iterations" in result.message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": {"z": np.ones(5)}}, "inputs x are missing. It needs x; given: z"),
        ({"inputs": {"x": np.ones(4)}}, "x has 4 points, but the target has 5"),
        ({"target": np.ones((5, 1))}, "one-dimensional"),
        ({"target": ["a", "b", "c", "d", "e"]}, "target must be an array of numbers"),
        ({"weights": [1, 1, 1, 1, -1]}, "weights must be finite and at least 0"),
        ({"fixed": {"E_z": 1.0}}, "no parameter 'E_z'; it has K, kappa, E_x, E_y"),
        ({"bounds": {"kappa": (2.0, 1.0)}}, "bounds of kappa"),
        ({"fixed": {"K": -1.0}}, "fixed K"),
        ({"starts": np.ones((2, 3))}, "starts have 3 columns"),
    ],
)
def test_wrong_argument_raises_a_user_error(arguments, message):
    given = {"inputs": {"x": np.linspace(2, 4, 5)}, "target": np.linspace(2, 4, 5), **arguments}
    with pytest.raises(UserError, match=message):
        fit(ShiftedPowerLaw(), given.pop("inputs"), given.pop("target"), **given)


def test_delta_must_be_positive():
    with pytest.raises(UserError, match=r"objective\.delta = 0: must be positive"):
        FitObjective(delta=0)


def test_result_converts_to_a_dictionary_and_to_one_line():
    x = np.linspace(2, 4, 20)
    result = fit(ErrorLaw(), {"x": x}, 0.86 - 2.2 * np.exp(-0.9 * x), options=LEAST)
    summary = result.to_dict()
    assert summary["law"] == "error"
    assert summary["status"] == "converged"
    assert "gamma = 0.9" in str(result)


def test_many_points_are_fitted_from_all_starts_where_one_does_not_arrive():
    random = np.random.default_rng(0)  # the fit from the start of fewer points ends beside it
    law = ShiftedPowerLaw()
    inputs = {"x": random.uniform(2.6, 4.5, 3000)}
    run = np.arange(3000) % 12
    noise = 0.004 * random.standard_normal(12)[run] + 0.003 * random.standard_normal(3000)
    truth = {"K": 0.9, "kappa": 1.1, "E_x": 1.6, "E_y": 1.3}
    result = fit(law, inputs, law.predict(truth, inputs) * np.exp(noise))
    assert result.ok, result.message
