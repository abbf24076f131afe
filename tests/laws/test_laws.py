"""Laws: derivatives, linear parts and published forms against independent computation."""

import numpy as np
import pytest

from lossline.errors import UserError
from lossline.laws.compute_laws import (
    Chinchilla,
    Kaplan,
    OverTraining,
    OverTrainingByParams,
    complete_inputs,
    hoffmann_starts,
)
from lossline.laws.forms import ErrorLaw
from tests.laws.planted_laws import EXAMPLES, LAWS, inputs_of


def internal(law):
    return law.to_internal(np.array([[EXAMPLES[law][n] for n in law.names]]))


@LAWS
def test_jacobian_is_the_derivative_of_the_value(law):
    columns = tuple(c[None] for c in law.columns(inputs_of(law)))
    theta = np.repeat(internal(law), 2, axis=0)
    theta[1] += 0.01
    value, jacobian = law.value_and_jacobian(theta, columns)
    np.testing.assert_allclose(value, law.value(theta, columns), rtol=1e-14)
    for p in range(len(law.parameters)):
        step = np.zeros(len(law.parameters))
        step[p] = 1e-6
        slope = (law.value(theta + step, columns) - law.value(theta - step, columns)) / 2e-6
        np.testing.assert_allclose(jacobian[:, p], slope, rtol=2e-6, atol=1e-8)


@LAWS
def test_basis_times_linear_parameters_is_the_value(law):
    columns = tuple(c[None] for c in law.columns(inputs_of(law)))
    theta = internal(law)
    nonlinear = theta.copy()
    nonlinear[:, law.linear_indices] = np.nan  # must not be read
    offset, basis = law.basis(nonlinear, columns)
    natural = law.to_natural(theta)[:, law.linear_indices]
    rebuilt = offset + np.einsum("gl,glm->gm", natural, basis)
    np.testing.assert_allclose(rebuilt, law.value(theta, columns), rtol=1e-12)


@LAWS
def test_centering_is_invertible_and_docstring_has_the_equation(law):
    assert abs(np.linalg.det(law.centering(law.columns(inputs_of(law))))) > 1e-6
    assert "=" in type(law).__doc__
    assert hash(law) == hash(type(law)())


@LAWS
def test_predict_keeps_the_shape_of_the_inputs(law):
    one = {k: v[0] for k, v in inputs_of(law).items()}
    grid = {k: v.reshape(8, 5) for k, v in inputs_of(law).items()}
    assert law.predict(EXAMPLES[law], one).shape == ()
    assert law.predict(EXAMPLES[law], grid).shape == (8, 5)


def test_over_training_laws_are_chinchilla_with_one_exponent():
    inputs = inputs_of(Chinchilla())
    exponent, size, data = 0.28, 400.0, 600.0
    chinchilla = Chinchilla().predict(
        {"E": 1.8, "A": size, "B": data, "alpha": exponent, "beta": exponent}, inputs
    )
    eta = exponent / 2
    paper = OverTraining().predict(
        {"E": 1.8, "a": size * 6**eta, "b": data * 6**eta, "eta": eta}, inputs
    )
    code = OverTrainingByParams().predict(
        {"E": 1.8, "alpha": size, "beta": data * 6**eta, "decay": exponent}, inputs
    )
    np.testing.assert_allclose(paper, chinchilla, rtol=1e-12)
    np.testing.assert_allclose(code, chinchilla, rtol=1e-12)


def test_over_training_law_gives_the_published_prediction():
    # Gadre et al., RedPajama, 6.9B on 138B tokens: predicted C4 loss 2.4427 (table 1).
    law = OverTrainingByParams()
    predicted = law.predict(EXAMPLES[law], {"N": 6.9e9, "D": 138e9})
    assert predicted == pytest.approx(2.4427, abs=2e-3)


@pytest.mark.parametrize("law", [Chinchilla(), Kaplan()], ids=lambda law: law.name)
def test_optimum_has_the_least_loss_at_its_compute(law):
    compute = np.array([1e20, 1e23])
    size, data = law.optimum(EXAMPLES[law], compute)
    np.testing.assert_allclose(6 * size * data, compute, rtol=1e-12)
    best = law.predict(EXAMPLES[law], {"N": size, "D": data})
    for factor in (0.98, 1.02):
        other = law.predict(EXAMPLES[law], {"N": size * factor, "D": data / factor})
        assert np.all(other > best)


def test_any_two_inputs_determine_the_others():
    full = complete_inputs({"N": np.array([1e9]), "D": np.array([2e10])})
    for given in (("N", "C"), ("D", "M"), ("C", "M"), ("C", "D"), ("N", "M")):
        again = complete_inputs({k: full[k] for k in given})
        for name in "NDCM":
            np.testing.assert_allclose(again[name], full[name], rtol=1e-12)


def test_hoffmann_starts_are_the_published_grid():
    starts = hoffmann_starts()
    assert starts.shape == (4500, 5)
    assert len(np.unique(starts, axis=0)) == 4500
    assert set(np.round(np.log(starts[:, 0]), 6)) == {-1, -0.5, 0, 0.5, 1}
    assert set(np.round(np.log(starts[:, 1]), 6)) == {0, 5, 10, 15, 20, 25}


def test_unknown_parameter_error_names_the_known_ones():
    with pytest.raises(UserError, match=r"'gama'.*epsilon, k, gamma"):
        ErrorLaw().index("gama")


def test_kaplan_in_logarithms_equals_its_equation():
    """Kaplan's law in logarithms, with one exponential, equals the plain equation.

    It does so even where one term is far above the other.
    """
    law = Kaplan()
    random = np.random.default_rng(0)
    columns = law.columns(
        {"N": 10 ** random.uniform(6, 12, 50), "D": 10 ** random.uniform(8, 14, 50)}
    )
    natural = np.array(
        [[1.7, 2e7, 3e9, 0.4, 0.3], [0.5, 1e2, 1e13, 0.1, 0.9], [2.0, 1e13, 1e3, 0.7, 0.2]]
    )
    theta = law.to_internal(natural)
    flat = tuple(c[None] for c in columns)
    E, A, B, alpha, beta = natural.T[:, :, None]
    N, D = np.exp(columns[0]), np.exp(columns[1])
    plain = E + ((A / N) ** (alpha / beta) + B / D) ** beta
    value, _ = law.value_and_jacobian(theta, flat)
    np.testing.assert_allclose(value, plain, rtol=1e-12)
    np.testing.assert_allclose(law.value(theta, flat), plain, rtol=1e-12)
