"""Laws from scale to loss: the loss of a model of N parameters trained on D tokens.

Inputs are ``N`` (parameters; state in your study which count), ``D`` (training tokens), ``C``
(training FLOPs, here always 6 N D) and ``M`` (tokens per parameter, D / N). Any two that determine
the others are enough (``complete_inputs``).
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from lossline.errors import UserError
from lossline.laws.forms import Array, Columns, Law, Parameter, PowerSum, linspace_grid

_FLOOR = Parameter(name="E", low=0, linear=True, ceiling="y")


def complete_inputs(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Add those of N, D, C = 6 N D and M = D / N that follow from the given ones."""
    full = {name: np.asarray(value, float) for name, value in inputs.items()}
    rules = {
        "N": [(("C", "D"), lambda c, d: c / (6 * d)), (("D", "M"), lambda d, m: d / m),
              (("C", "M"), lambda c, m: np.sqrt(c / (6 * m)))],
        "D": [(("C", "N"), lambda c, n: c / (6 * n)), (("N", "M"), lambda n, m: n * m)],
        "C": [(("N", "D"), lambda n, d: 6 * n * d)],
        "M": [(("D", "N"), lambda d, n: d / n)],
    }  # fmt: skip
    with np.errstate(all="ignore"):
        for name, ways in rules.items():
            for needed, rule in ways:
                if name not in full and all(n in full for n in needed):
                    full[name] = rule(*(full[n] for n in needed))
    return full


def _logs(inputs: Mapping[str, Array], *names: str) -> list[Array]:
    full = complete_inputs(inputs)
    missing = [n for n in names if n not in full]
    if missing:
        raise UserError(
            f"inputs {', '.join(missing)}: missing, and they do not follow from the given "
            f"{', '.join(inputs) or '(none)'}. Give two of N, D, C and M."
        )
    return [np.log(full[n]) for n in names]


class ComputeLaw(Law):
    """Base of the laws whose inputs may be any two of N, D, C and M."""

    def missing_inputs(self, inputs: Mapping[str, Array]) -> list[str]:
        """Return the inputs that are not given and do not follow from the given ones."""
        full = complete_inputs({name: np.ones(1) for name in inputs})
        return [name for name in self.inputs if name not in full]


@dataclasses.dataclass(frozen=True)
class Chinchilla(ComputeLaw, PowerSum):
    """L(N, D) = E + A N^(-alpha) + B D^(-beta) (Hoffmann et al., arXiv 2203.15556, eq. 2)."""

    name = "chinchilla"
    equation = "L = E + A N^(-alpha) + B D^(-beta)"
    inputs = ("N", "D")
    parameters = (
        _FLOOR,
        Parameter(name="A", low=0, log=True, linear=True),
        Parameter(name="B", low=0, log=True, linear=True),
        Parameter(name="alpha", low=0, max_step=0.5),
        Parameter(name="beta", low=0, max_step=0.5),
    )
    term_exponents = (3, 4)

    def columns(self, inputs: Mapping[str, Array]) -> Columns:
        """Return log N and log D."""
        return tuple(_logs(inputs, "N", "D"))

    @staticmethod
    def optimum(parameters: Mapping[str, float], compute: Array) -> tuple[Array, Array]:
        """Return N and D of least loss at C = 6 N D FLOPs.

        N = G (C/6)^(beta/(alpha+beta)), G = (alpha A / (beta B))^(1/(alpha+beta)).
        """
        alpha, beta = parameters["alpha"], parameters["beta"]
        factor = (alpha * parameters["A"] / (beta * parameters["B"])) ** (1 / (alpha + beta))
        product = np.asarray(compute, float) / 6
        return factor * product ** (beta / (alpha + beta)), product ** (
            alpha / (alpha + beta)
        ) / factor


def hoffmann_starts() -> Array:
    """Return the 4,500 starts of Hoffmann et al. (approach 3).

    Shape (4500, 5), natural units, columns E, A, B, alpha, beta. alpha, beta in {0, .5, 1, 1.5, 2};
    log E in {-1, -.5, 0, .5, 1}; log A, log B in {0, 5, ..., 25}.
    """
    exponents = np.linspace(0, 2, 5)
    logs = np.arange(0, 26, 5.0)
    starts = linspace_grid(np.linspace(-1, 1, 5), logs, logs, exponents, exponents)
    starts[:, :3] = np.exp(starts[:, :3])
    return starts


@dataclasses.dataclass(frozen=True)
class Kaplan(ComputeLaw):
    """L(N, D) = E + ((A/N)^(alpha/beta) + B/D)^beta.

    Source: Kaplan et al. 2020, equation 1.5, with an irreducible E as in arXiv 2411.12925. A and B
    are the N and D at which their terms are 1.
    """

    name = "kaplan"
    equation = "L = E + ((A/N)^(alpha/beta) + B/D)^beta"
    inputs = ("N", "D")
    parameters = (
        _FLOOR,
        Parameter(name="A", low=0, log=True),
        Parameter(name="B", low=0, log=True),
        Parameter(name="alpha", low=0, max_step=0.5),
        Parameter(name="beta", low=1e-3, max_step=0.5),
    )

    def columns(self, inputs: Mapping[str, Array]) -> Columns:
        """Return log N and log D."""
        return tuple(_logs(inputs, "N", "D"))

    @staticmethod
    def _parts(theta: Array, columns: Columns) -> tuple[Array, Array, Array, Array, Array]:
        """Return the parts of the law at N and D, each (R, M).

        They are: log of the size term (A/N)^(alpha/beta); that log minus the log of the data term
        B/D; the smaller term over the larger; log of the sum of both; the reducible loss.
        """
        size = (theta[:, 3] / theta[:, 4])[:, None] * (theta[:, 1, None] - columns[0])
        data = theta[:, 2, None] - columns[1]
        # np.logaddexp written out, so that value and derivatives share one exponential: three times
        # faster, in the line where a bootstrap spends most of its time.
        above = size - data
        ratio = np.exp(-np.abs(above))
        total = np.maximum(size, data) + np.log(1 + ratio)
        return size, above, ratio, total, np.exp(theta[:, 4, None] * total)

    def value(self, theta_RxP: Array, columns: Columns) -> Array:
        """Return the prediction (R, M)."""
        return self._parts(theta_RxP, columns)[-1] + theta_RxP[:, :1]

    def value_and_jacobian(self, theta_RxP: Array, columns: Columns) -> tuple[Array, Array]:
        """Return the prediction (R, M) and its derivative by theta (R, P, M)."""
        alpha, beta = theta_RxP[:, 3, None], theta_RxP[:, 4, None]
        size, above, ratio, total, reducible = self._parts(theta_RxP, columns)
        # Share of the size term in the sum; ratio <= 1, so that nothing overflows.
        share = np.where(above >= 0, 1.0, ratio) / (1 + ratio)
        jacobian = np.empty((len(theta_RxP), 5, reducible.shape[1]))
        jacobian[:, 0] = 1.0
        jacobian[:, 4] = reducible * (total - share * size)
        np.multiply(share, reducible, out=share)
        jacobian[:, 1] = alpha * share
        jacobian[:, 2] = beta * (reducible - share)
        jacobian[:, 3] = share * (theta_RxP[:, 1, None] - columns[0])
        return reducible + theta_RxP[:, :1], jacobian

    def basis(self, theta_GxP: Array, columns: Columns) -> tuple[Array, Array]:
        """Return the reducible loss as offset, and 1 as basis of E."""
        reducible = self._parts(theta_GxP, columns)[-1]
        return reducible, np.ones((len(theta_GxP), 1, reducible.shape[1]))

    def grid(self, columns: Columns, target_M: Array) -> Array:
        # Choose log A and log B from the data, whatever its scale: at the mean of log N and log D
        # the size term is e^rho times the data term, and the reducible loss is a given share of the
        # median target.
        """Return nodes over all parameters but E, scaled to the data."""
        exponents = np.array([0.15, 0.25, 0.35, 0.45, 0.6, 0.8])
        nodes = linspace_grid(
            exponents, exponents, np.array([-1.5, 0.0, 1.5]), np.array([0.2, 0.5, 0.9])
        )
        alpha, beta, rho, share = nodes.T
        middle_n, middle_d = float(np.mean(columns[0])), float(np.mean(columns[1]))
        inner = np.log(share * float(np.median(target_M))) / beta
        data = inner - np.logaddexp(rho, 0.0)
        theta = np.zeros((len(nodes), 5))
        theta[:, 1] = middle_n + (data + rho) * beta / alpha
        theta[:, 2] = middle_d + data
        theta[:, 3], theta[:, 4] = alpha, beta
        return theta

    @staticmethod
    def optimum(parameters: Mapping[str, float], compute: Array) -> tuple[Array, Array]:
        """Return N and D of least loss at C = 6 N D FLOPs.

        N = (G C/6)^(beta/(alpha+beta)), G = alpha A^(alpha/beta) / (beta B).
        """
        alpha, beta = parameters["alpha"], parameters["beta"]
        log_factor = (
            np.log(alpha / beta) + alpha / beta * np.log(parameters["A"]) - np.log(parameters["B"])
        )
        product = np.asarray(compute, float) / 6
        best_n = np.exp((log_factor + np.log(product)) * beta / (alpha + beta))
        return best_n, product / best_n


@dataclasses.dataclass(frozen=True)
class OverTraining(ComputeLaw, PowerSum):
    """L(C, M) = E + (a M^eta + b M^(-eta)) C^(-eta), M = D / N, C = 6 N D.

    Source: Gadre et al., arXiv 2403.08540, equation 4. It is Chinchilla's law with alpha = beta = 2
    eta, a = A 6^eta, b = B 6^eta.
    """

    name = "over_training"
    equation = "L = E + (a M^eta + b M^(-eta)) C^(-eta)"
    inputs = ("C", "M")
    parameters = (
        _FLOOR,
        Parameter(name="a", low=0, log=True, linear=True),
        Parameter(name="b", low=0, log=True, linear=True),
        Parameter(name="eta", low=0, max_step=0.5),
    )
    term_exponents = (3, 3)
    exponent_grid = np.linspace(0.01, 0.6, 40)

    def columns(self, inputs: Mapping[str, Array]) -> Columns:
        """Return log C - log M and log C + log M."""
        compute, ratio = _logs(inputs, "C", "M")
        return compute - ratio, compute + ratio


@dataclasses.dataclass(frozen=True)
class OverTrainingByParams(ComputeLaw, PowerSum):
    """L(N, M) = E + alpha N^(-decay) + beta 6^(-decay/2) (M N)^(-decay), M = D / N.

    The same law as ``OverTraining``, as the released code of Gadre et al. writes it. That code
    names the exponent b = -decay, about -0.25.
    """

    name = "over_training_by_params"
    equation = "L = E + alpha N^(-decay) + beta 6^(-decay/2) (M N)^(-decay)"
    inputs = ("N", "M")
    parameters = (
        _FLOOR,
        Parameter(name="alpha", low=0, log=True, linear=True),
        Parameter(name="beta", low=0, log=True, linear=True),
        Parameter(name="decay", low=0, max_step=0.5),
    )
    term_exponents = (3, 3)
    exponent_grid = np.linspace(0.02, 1.2, 40)

    def columns(self, inputs: Mapping[str, Array]) -> Columns:
        """Return log N and log (6^(1/2) M N)."""
        params, ratio = _logs(inputs, "N", "M")
        return params, params + ratio + 0.5 * np.log(6.0)
