"""Linear parameters solved during the descent: same optimum, few steps."""

import numpy as np
import pytest

from lossline.laws import projection
from lossline.laws import rows as rows_module
from lossline.laws.forms import ShiftedPowerLaw
from lossline.laws.objective import LEAST_SQUARES, FitObjective, Loss, Residual
from lossline.laws.problems import FitProblem, internal_bounds, prepare, stack
from lossline.laws.rows import FitRows
from lossline.laws.solver import FitOptions, fit

LAW = ShiftedPowerLaw()
RELATIVE = FitObjective(residual=Residual.RELATIVE, loss=Loss.LEAST_SQUARES)


def points(count=40):
    rng = np.random.default_rng(4)
    x = rng.uniform(2.4, 5.0, count)
    return x, (0.9 * (x - 1.7) ** 1.1 + 1.3) * np.exp(0.004 * rng.standard_normal(count))


def batch_of(objective, thetas, **limits):
    x, y = points()
    problem = FitProblem(inputs={"x": x}, target=y, **limits)
    data = prepare(LAW, problem, objective)
    low, high = internal_bounds(LAW, problem, data)
    rows = np.zeros(len(thetas), int)
    together = stack(LAW, objective, [data])
    return FitRows(
        stack=together,
        problem=rows,
        weights=together.weights,
        weight=rows,
        fit=rows,
        low=np.tile(low, (len(thetas), 1)),
        high=np.tile(high, (len(thetas), 1)),
    )


THETAS = np.array([[-0.5, 1.2, 1.5, 1.0], [0.1, 0.9, 1.9, 1.6], [-1.5, 1.6, 0.9, 0.7]])


@pytest.mark.parametrize("objective", [LEAST_SQUARES, RELATIVE], ids=["plain", "relative"])
def test_solved_parameters_equal_least_squares(objective):
    together = batch_of(objective, THETAS)
    assert projection.solvable(together)
    solved = projection.solve(together, THETAS, np.arange(3))
    x, y = points()
    for before, after in zip(THETAS, solved, strict=True):
        scale = y if objective is RELATIVE else np.ones(len(y))
        basis = np.stack([(x - before[2]) ** before[1], np.ones(len(x))], axis=1)
        k, floor = np.linalg.lstsq(basis / scale[:, None], y / scale)[0]
        np.testing.assert_array_equal(after[1:3], before[1:3])
        if k > 0 and 0 < floor < y.min():
            np.testing.assert_allclose(after[[0, 3]], [np.log(k), floor], rtol=1e-9)
        else:
            np.testing.assert_array_equal(after, before)
    assert not np.array_equal(solved, THETAS)


def test_fixed_parameter_is_not_solved_for():
    together = batch_of(LEAST_SQUARES, THETAS, fixed={"E_y": 1.1})
    start = THETAS.copy()
    start[:, 3] = 1.1
    solved = projection.solve(together, start, np.arange(3))
    np.testing.assert_array_equal(solved[:, 3], 1.1)
    assert not np.any(solved[:, 0] == start[:, 0])


@pytest.mark.parametrize("objective", [FitObjective(), FitObjective(loss="least_squares")])
def test_nothing_is_solved_if_the_objective_is_not_quadratic(objective):
    assert not projection.solvable(batch_of(objective, THETAS))


def test_parallel_columns_do_not_break_the_solve():
    flat = THETAS.copy()
    flat[:, 1] = 0.0  # kappa = 0: only K + E_y has an effect
    solved = projection.solve(batch_of(LEAST_SQUARES, flat), flat, np.arange(3))
    assert solved.shape == flat.shape


def test_curved_valley_takes_few_steps():
    # E_x, kappa and K compensate each other: a search of all four takes hundreds of steps.
    x, y = points()
    result = fit(LAW, {"x": x}, y, options=FitOptions(objective=LEAST_SQUARES))
    assert result.ok
    assert result.starts_reached == result.starts
    assert result.iterations <= 40


def test_chunk_size_has_no_effect(monkeypatch):
    x, y = points()
    results = []
    for size in (12_000, 100, 1):
        monkeypatch.setattr(rows_module, "_CHUNK_ELEMENTS", size)
        results.append(fit(LAW, {"x": x}, y, options=FitOptions(objective=LEAST_SQUARES)))
    for other in results[1:]:
        assert other.parameters == results[0].parameters
        assert other.objective == results[0].objective
