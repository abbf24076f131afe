"""Forms of both stages: their equations, derivatives and fits."""

import numpy as np
import pytest
from planted_forms import CASES, Planted, inputs_of

from lossline.prediction import direct_forms, scale_forms, score_forms
from lossline.prediction.forms import FittedForm, Form, columns_of, fit_form

FORMS = [case.form for case in CASES]


def fitted(case: Planted, *, weights: np.ndarray | None = None, **options) -> FittedForm:
    inputs = inputs_of(case.form)
    target = case.truth(*inputs.values())
    runs = np.arange(len(target))
    weights = np.ones((1, len(target))) if weights is None else weights
    found = fit_form(case.form, inputs, target, runs, weights, **options)
    assert isinstance(found, FittedForm), found
    return found


def test_every_form_of_the_package_is_planted():
    made = {
        form
        for module in (scale_forms, score_forms, direct_forms)
        for form in vars(module).values()
        if isinstance(form, type) and issubclass(form, Form) and "name" in vars(form)
    }
    assert {type(form) for form in FORMS} == made


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_form_is_recovered_from_its_own_values(case):
    found = fitted(case)
    far = inputs_of(case.form, far=True)
    np.testing.assert_allclose(found.predict(far)[0], case.truth(*far.values()), rtol=1e-4)
    parameters = dict(zip(case.form.parameters, found.theta[0], strict=True))
    for name, value in case.exponents.items():
        assert parameters[name] == pytest.approx(value, rel=1e-3), name
    assert found.r2 == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_derivatives_are_those_of_the_value(form):
    inputs = inputs_of(form)
    centers = tuple(0.0 if n == "family" else c.mean() for n, c in zip(
        form.inputs, columns_of(form, inputs, (0.0,) * len(form.inputs)), strict=True))  # fmt: skip
    columns = columns_of(form, inputs, centers)
    target = np.full(len(columns[0]), 0.6)
    for start in form.starts(columns, target):
        theta = start[None] + 0.1 * np.random.default_rng(0).normal(size=(3, len(start)))
        _, slopes = form.model(theta, columns)
        assert slopes.shape == (3, len(form.parameters), len(target))
        for p in range(len(start)):
            step = 1e-6 * np.eye(len(start))[p]
            difference = form.model(theta + step, columns)[0] - form.model(theta - step, columns)[0]
            np.testing.assert_allclose(slopes[:, p], difference / 2e-6, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", [c for c in CASES if "family" not in c.form.inputs], ids=str)
def test_columns_per_draw_give_each_draw_its_own(case):
    """The loss that stage 1 predicts differs between resamples: (B, T) columns."""
    found = fitted(case, weights=np.ones((4, 21)))
    far = inputs_of(case.form, far=True)
    spread = np.array([1.0, 1.01, 1.02, 1.03])[:, None]
    together = found.predict({name: column * spread for name, column in far.items()})
    for b, factor in enumerate(spread[:, 0]):
        alone = found.predict({name: column * factor for name, column in far.items()})
        np.testing.assert_allclose(together[b], alone[b], rtol=1e-12)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_starts_lie_within_the_bounds_and_texts_are_there(form):
    columns = columns_of(form, inputs_of(form), (0.0,) * len(form.inputs))
    target = np.linspace(0.3, 0.9, len(columns[0]))
    limits, starts = form.limits(columns, target), form.starts(columns, target)
    assert starts.shape[1] == len(form.parameters) == len(limits.low) == len(limits.high)
    assert (limits.low < limits.high).all()
    assert form.equation and form.source and form.name


@pytest.mark.parametrize("form", [f for f in FORMS if f.has_floor], ids=lambda form: form.name)
def test_a_score_with_a_floor_stays_between_chance_and_one(form):
    case = next(case for case in CASES if case.form is form)
    found = fitted(case)
    inputs = {
        "params": np.array([1.0, 1e30]),
        "tokens": np.array([1.0, 1e30]),
        "flops": np.array([1.0, 1e60]),
        "loss": np.array([30.0, -30.0]),
        "family": np.array([-1, -1]),
    }
    low, high = found.predict(inputs)[0]
    assert low == pytest.approx(0.25, abs=1e-3) and high == pytest.approx(1.0, abs=1e-3)


def test_values_off_the_range_of_a_form_are_left_out():
    form = direct_forms.LogScoreAboveChance(chance=0.25)
    usable = form.usable(np.array([0.2, 0.25, 0.3, 1.0, np.nan]))
    assert usable.tolist() == [False, False, True, False, False]
    assert scale_forms.PowerOfCompute().usable(np.array([0.0, 1.0])).tolist() == [False, True]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_too_few_points_are_a_reason(form):
    inputs = {name: column[:1] for name, column in inputs_of(form).items()}
    found = fit_form(form, inputs, np.array([0.6]), np.zeros(1, int), np.ones((1, 1)))
    assert isinstance(found, str) and "1 usable points" in found and form.equation in found


def test_one_size_is_a_reason():
    form = scale_forms.PowersOfScale()
    inputs = {"params": np.full(9, 1e8), "tokens": np.geomspace(1e9, 1e11, 9)}
    target = np.linspace(4, 3, 9)
    found = fit_form(form, inputs, target, np.arange(9), np.ones((1, 9)))
    assert found == "all runs have the same size"


def test_point_weights_decide_between_points_that_disagree():
    form = score_forms.Line()
    x = np.array([1.0, 2.0, 3.0, 4.0])
    y = np.array([0.8, 0.7, 0.6, 0.1])  # the last one is off the line of the others
    found = fit_form(
        form, {"loss": x}, y, np.arange(4), np.ones((1, 4)), point_weights=np.array([1, 1, 1, 0.0])
    )
    assert found.predict({"loss": np.array([4.0])})[0, 0] == pytest.approx(0.5, abs=1e-6)


def test_a_run_of_weight_0_is_a_run_left_out():
    rng = np.random.default_rng(0)
    for case in CASES:
        inputs = inputs_of(case.form)
        count = len(next(iter(inputs.values())))
        runs = np.arange(count) // 3  # three points a run
        target = case.truth(*inputs.values()) * np.exp(0.002 * rng.normal(size=count))
        weights = np.ones((2, runs.max() + 1))
        weights[1, 2] = 0
        both = fit_form(case.form, inputs, target, runs, weights)
        without = fit_form(
            case.form,
            {name: column[runs != 2] for name, column in inputs.items()},
            target[runs != 2],
            runs[runs != 2],
            weights[:1],
        )
        far = inputs_of(case.form, far=True)
        same = np.abs(both.predict(far)[1] / without.predict(far)[0] - 1).max()
        other = np.abs(both.predict(far)[0] / without.predict(far)[0] - 1).max()
        assert same < 2e-4 and same < other, case


def scaling_runs(ratios: tuple[float, ...], noise: float) -> tuple[dict, np.ndarray]:
    """Return scales and losses of 12 sizes at each number of tokens per parameter."""
    size, ratio = (
        axis.ravel() for axis in np.meshgrid(np.geomspace(1e8, 6e9, 12), ratios, indexing="ij")
    )
    loss = 1.7 + 400 * size**-0.34 + 900 * (size * ratio) ** -0.28
    random = np.random.default_rng(0)
    loss = loss * np.exp(noise * random.normal(size=len(size)))
    return {"params": size, "tokens": size * ratio}, loss


def test_one_ratio_of_tokens_to_parameters_leaves_the_law_open():
    flatness = {}
    for name, ratios, form in (
        ("one ratio", (20.0,), scale_forms.PowersOfScale()),
        ("five ratios", (2.0, 8.0, 32.0, 128.0, 512.0), scale_forms.PowersOfScale()),
    ):
        inputs, loss = scaling_runs(ratios, 0.001)
        found = fit_form(form, inputs, loss, np.arange(len(loss)), np.ones((1, len(loss))))
        flatness[name] = found.flatness
        if name == "one ratio":
            # N and D move together, so that A and B, or alpha and beta, can take each other's part.
            assert found.weakest in ("log_A", "log_B", "alpha", "beta")
    assert flatness["one ratio"] > 0.95
    assert flatness["five ratios"] < 0.2


def test_a_run_off_the_law_is_named():
    inputs, loss = scaling_runs((10.0, 40.0), 0.001)
    names = tuple(f"run {i}" for i in range(24))
    weights, runs = np.ones((1, 24)), np.arange(24)

    def outliers(loss: np.ndarray) -> tuple[str, ...]:
        found = fit_form(scale_forms.PowersOfScale(), inputs, loss, runs, weights, names=names)
        return found.outliers

    assert outliers(loss) == ()
    bad = loss.copy()
    bad[9] *= 1.03
    assert outliers(bad) == ("run 9",)
