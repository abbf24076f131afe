"""Every form of a prediction with a planted truth, written as its equation in plain numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from lossline.prediction import direct_forms, scale_forms, score_forms
from lossline.prediction.forms import Form

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Planted:
    """A form, its truth, and exponents that a fit must find.

    Attributes:
        form: the form.
        truth: columns of inputs, in the order of the form -> values.
        exponents: parameters with their planted values.
    """

    form: Form
    truth: Callable[..., Array]
    exponents: Mapping[str, float]

    def __str__(self) -> str:
        return self.form.name


def _q(value: Array) -> Array:
    return 0.25 + 0.75 * value


CASES = (
    Planted(scale_forms.PowerOfCompute(), lambda c: (c / 1e28) ** -0.06, {"alpha": 0.06}),
    Planted(
        scale_forms.FlooredPowerOfCompute(),
        lambda c: 1.6 + 900 * c**-0.15,
        {"alpha": 0.15, "log_E": np.log(1.6)},
    ),
    Planted(
        scale_forms.PowerOfScale(),
        lambda n, d: 60 * n**-0.07 * d**-0.05,
        {"alpha": 0.07, "beta": 0.05},
    ),
    Planted(
        scale_forms.PowersOfScale(),
        lambda n, d: 1.7 + 400 * n**-0.34 + 900 * d**-0.28,
        {"alpha": 0.34, "beta": 0.28, "log_E": np.log(1.7)},
    ),
    Planted(  # a truth at the mean of the prior, which then pulls nowhere
        scale_forms.PowersOfScale(exponent=0.3),
        lambda n, d: 1.7 + 200 * n**-0.3 + 900 * d**-0.3,
        {"alpha": 0.3, "beta": 0.3, "log_E": np.log(1.7)},
    ),
    Planted(score_forms.Line(chance=0.25), lambda x: 1.5 - 0.4 * x, {"w1": -0.4}),
    Planted(
        score_forms.Sigmoid(chance=0.25),
        lambda x: 0.65 / (1 + np.exp(-3 * (2.4 - x))) + 0.26,
        {"a": 0.65, "b": 0.26, "log_k": np.log(3)},
    ),
    Planted(
        score_forms.ChanceSigmoid(chance=0.25),
        lambda x: _q(1 / (1 + np.exp(-3 * (2.4 - x)))),
        {"log_k": np.log(3)},
    ),
    Planted(  # a truth at the means of the priors
        score_forms.AsymmetricSigmoid(chance=0.25),
        lambda x: _q((1 + np.exp(-2 * (2.9 - x))) ** -np.exp(0.7)),
        {"log_k": np.log(2), "log_nu": 0.7},
    ),
    Planted(
        score_forms.Exponential(chance=0.25),
        lambda x: 1 - 0.8 + 3 * np.exp(-0.9 * x),
        {"eps": 0.8, "gamma": 0.9},
    ),
    Planted(direct_forms.PowerOfScore(chance=0.25), lambda c: (c / 1e25) ** 0.08, {"alpha": 0.08}),
    Planted(
        direct_forms.LogScore(chance=0.25),
        lambda c: np.exp(-((c / 1e21) ** -0.2)),
        {"alpha": -0.2},
    ),
    Planted(
        direct_forms.LogScoreAboveChance(chance=0.25),
        lambda c: _q(np.exp(-((c / 1e21) ** -0.2))),
        {"alpha": -0.2},
    ),
    Planted(
        direct_forms.LogScoreInScale(chance=0.25),
        lambda n, d: _q(np.exp(-(300 * n**-0.3 + 60 * d**-0.2))),
        {"alpha": 0.3, "beta": 0.2},
    ),
    Planted(  # a truth at the means of the priors, families without shifts
        direct_forms.FamilyGompertz(chance=0.25, families=("amber", "birch")),
        lambda n, d, family: _q(
            np.exp(-np.exp(-(0.15 * np.log(n / 1e9) + 0.15 * np.log(d / 1e10))))
        ),
        {"alpha": 0.15, "beta": 0.15},
    ),
)


def inputs_of(form: Form, *, far: bool = False) -> dict[str, Array]:
    """Return columns to fit, or columns outside their range to predict."""
    n, ratio = (
        (np.array([6.4e9, 2e10]), np.array([20.0, 80.0]))
        if far
        else (np.geomspace(5e7, 3.2e9, 7), np.array([5.0, 20.0, 80.0]))
    )
    size, per = (axis.ravel() for axis in np.meshgrid(n, ratio, indexing="ij"))
    columns = {
        "params": size,
        "tokens": size * per,
        "flops": 6 * size * size * per,
        "loss": np.linspace(1.6, 1.9, len(size)) if far else np.linspace(2.0, 3.6, len(size)),
        "family": np.arange(len(size)) % 2,
    }
    return {name: columns[name] for name in form.inputs}
