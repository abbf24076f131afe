"""Laws of one variable, and the interface of all laws.

A law is a small frozen object. It maps inputs (``x``; or ``N``, ``D`` in ``compute_laws``) to a
loss or an error, and gives derivatives and bounds. The solver searches its parameters in internal
coordinates: the logarithm where ``Parameter.log`` is True, else the value itself. Vectors of
internal coordinates are called theta. Users only see natural values.

Shapes: R rows (starts x resamples x problems), P parameters, L linear parameters, M points.

A parameter is marked ``linear`` if the prediction is linear in it, the others given. The solver
does not search a start for it; it solves for it by weighted least squares on ``Law.basis``
(variable projection, Golub & Pereyra 1973).
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from lossline.errors import UserError

Array = np.ndarray
Columns = tuple[np.ndarray, ...]

# Smallest distance between E_x and the lowest x, as a share of the range of x. At x = E_x and
# kappa < 1 the derivative by E_x is infinite, and the law degenerates into a vertical line through
# the lowest point.
_SHIFT_MARGIN = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a law: its name, its natural bounds and how it is searched.

    Attributes:
        name: name in results.
        low: lower bound, natural.
        high: upper bound, natural.
        log: whether its logarithm is searched.
        linear: whether the prediction is linear in it.
        ceiling: column of the data ("x" or "y") whose smallest value bounds it from above.
        max_step: largest change of an exponent in one iteration. After a longer step its term could
            be 0 at all points, where the slope is 0 and no step leads back.
    """

    name: str
    low: float = -np.inf
    high: float = np.inf
    log: bool = False
    linear: bool = False
    ceiling: str | None = None
    max_step: float = np.inf

    def internal(self, value: float) -> float:
        """Return a natural value in internal coordinates; the log of 0 is -inf."""
        if not self.log:
            return float(value)
        return float(np.log(value)) if value > 0 else -np.inf


class Law(abc.ABC):
    """Base of all laws. A law is a frozen dataclass; its docstring holds the equation."""

    name: ClassVar[str]
    equation: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]
    parameters: ClassVar[tuple[Parameter, ...]]

    @abc.abstractmethod
    def columns(self, inputs: Mapping[str, Array]) -> Columns:
        """Return the transformed inputs that the formulas use, each of the inputs' shape."""

    @abc.abstractmethod
    def value_and_jacobian(self, theta_RxP: Array, columns: Columns) -> tuple[Array, Array]:
        """Return the prediction (R, M) and its derivative by theta (R, P, M).

        Columns broadcast against (R, M).
        """

    @abc.abstractmethod
    def value(self, theta_RxP: Array, columns: Columns) -> Array:
        """Return the prediction (R, M)."""

    @abc.abstractmethod
    def basis(self, theta_GxP: Array, columns: Columns) -> tuple[Array, Array]:
        """Return offset (G, M) and basis (G, L, M) of the linear parameters.

        prediction = offset + sum_l (natural linear parameter l) * basis_l. Reads only the nonlinear
        entries of theta.
        """

    @abc.abstractmethod
    def grid(self, columns: Columns, target_M: Array) -> Array:
        """Return nodes (G, P) over the nonlinear parameters, for starts; linear entries are 0."""

    def centering(self, columns: Columns) -> Array:
        """Return the matrix T (P, P) of centered coordinates phi = T theta.

        In phi, coefficients refer to the middle of the data, and trust regions are spheres. In
        theta a coefficient belongs to x = 1, far from all points, and is correlated with its
        exponent to 0.999.
        """
        return np.eye(len(self.parameters))

    def missing_inputs(self, inputs: Mapping[str, Array]) -> list[str]:
        """Return the names of the inputs that are not given."""
        return [name for name in self.inputs if name not in inputs]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in order."""
        return tuple(p.name for p in self.parameters)

    def index(self, name: str) -> int:
        """Return the position of a parameter.

        Raises:
            UserError: the law has no parameter of this name.
        """
        if name not in self.names:
            raise UserError(
                f"the law {self.name!r} has no parameter {name!r}; it has {', '.join(self.names)}"
            )
        return self.names.index(name)

    @property
    def linear_indices(self) -> list[int]:
        """Positions of the linear parameters."""
        return [i for i, p in enumerate(self.parameters) if p.linear]

    def to_internal(self, natural_RxP: Array) -> Array:
        """Return natural values (..., P) in internal coordinates."""
        theta = np.array(natural_RxP, float)
        for i, p in enumerate(self.parameters):
            if p.log:
                with np.errstate(divide="ignore", invalid="ignore"):
                    theta[..., i] = np.log(theta[..., i])
        return theta

    def to_natural(self, theta_RxP: Array) -> Array:
        """Return internal coordinates (..., P) as natural values."""
        natural = np.array(theta_RxP, float)
        for i, p in enumerate(self.parameters):
            if p.log:
                with np.errstate(over="ignore"):
                    natural[..., i] = np.exp(natural[..., i])
        return natural

    def bounds(self, columns: Columns, target_M: Array) -> tuple[Array, Array]:
        """Return internal bounds (P,), (P,), with those that depend on the data filled in."""
        low = np.array([p.internal(p.low) if p.low > -np.inf else -np.inf for p in self.parameters])
        high = np.array(
            [p.internal(p.high) if p.high < np.inf else np.inf for p in self.parameters]
        )
        for i, p in enumerate(self.parameters):
            if p.ceiling == "y":
                high[i] = min(high[i], p.internal(float(np.min(target_M))))
            elif p.ceiling == "x":
                x = columns[0]
                spread = float(np.max(x) - np.min(x))
                high[i] = min(high[i], p.internal(float(np.min(x)) - _SHIFT_MARGIN * spread))
        return low, np.maximum(low, high)

    def predict(self, parameters: Mapping[str, float], inputs: Mapping[str, Array]) -> Array:
        """Return the prediction at inputs of any one shape, for natural parameters."""
        arrays = {k: np.asarray(v, float) for k, v in inputs.items()}
        columns = tuple(np.atleast_1d(c) for c in self.columns(arrays))
        shape = np.shape(self.columns(arrays)[0])
        theta = self.to_internal(np.array([[parameters[n] for n in self.names]]))
        with np.errstate(all="ignore"):
            flat = self.value(theta, tuple(c.reshape(1, -1) for c in columns))
        return flat.reshape(shape)


def linspace_grid(*axes: Array) -> Array:
    """Return all combinations of the axes, one per row."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


class PowerSum(Law):
    """Base of the laws y = E + sum_k A_k exp(-alpha_k z_k), z_k a logarithm of the inputs.

    ``term_exponents`` gives the exponent of each term, as a position in ``parameters``. The
    coefficients come after E, in the order of the terms.
    """

    term_exponents: ClassVar[tuple[int, ...]]
    exponent_grid: ClassVar[Array] = np.array(
        [0.05, 0.1, 0.15, 0.2, 0.27, 0.35, 0.43, 0.5, 0.6, 0.75, 1.0, 1.5]
    )

    def _terms(self, theta: Array, columns: Columns) -> list[Array]:
        return [
            np.exp(theta[:, 1 + k, None] - theta[:, e, None] * columns[k])
            for k, e in enumerate(self.term_exponents)
        ]

    def value(self, theta_RxP: Array, columns: Columns) -> Array:
        """Return the prediction (R, M)."""
        terms = self._terms(theta_RxP, columns)
        return sum(terms[1:], start=terms[0]) + theta_RxP[:, :1]

    def value_and_jacobian(self, theta_RxP: Array, columns: Columns) -> tuple[Array, Array]:
        """Return the prediction (R, M) and its derivative by theta (R, P, M)."""
        terms = self._terms(theta_RxP, columns)
        total = sum(terms[1:], start=terms[0]) + theta_RxP[:, :1]
        jacobian = np.empty((*theta_RxP.shape, total.shape[1]))
        jacobian[:, 0] = 1.0
        for k, e in enumerate(self.term_exponents):
            jacobian[:, 1 + k] = terms[k]
            # Two terms may share one exponent (Gadre et al.): then their derivatives add up.
            if e in self.term_exponents[:k]:
                jacobian[:, e] -= terms[k] * columns[k]
            else:
                np.multiply(terms[k], -columns[k], out=jacobian[:, e])
        return total, jacobian

    def basis(self, theta_GxP: Array, columns: Columns) -> tuple[Array, Array]:
        """Return 0 as offset; 1 and the powers as basis."""
        terms = [
            np.exp(-theta_GxP[:, e, None] * columns[k]) for k, e in enumerate(self.term_exponents)
        ]
        return np.zeros_like(terms[0]), np.stack([np.ones_like(terms[0]), *terms], axis=1)

    def grid(self, columns: Columns, target_M: Array) -> Array:
        """Return all combinations of the exponents' grid."""
        exponents = sorted(set(self.term_exponents))
        nodes = linspace_grid(*[self.exponent_grid] * len(exponents))
        theta = np.zeros((len(nodes), len(self.parameters)))
        theta[:, exponents] = nodes
        return theta

    def centering(self, columns: Columns) -> Array:
        """Return the matrix that refers each coefficient to the mean of its z_k."""
        matrix = np.eye(len(self.parameters))
        for k, e in enumerate(self.term_exponents):
            matrix[1 + k, e] = -float(np.mean(columns[k]))
        return matrix


@dataclasses.dataclass(frozen=True)
class ShiftedPowerLaw(Law):
    """y = K (x - E_x)^kappa + E_y, the loss-to-loss line.

    Source: arXiv 2411.12925, section 3; arXiv 2502.12120, section 3. x and y are losses, E_x and
    E_y their irreducible parts: 0 <= E_x < min x, 0 <= E_y <= min y, K > 0, kappa >= 0. Below E_x
    the law is not defined; the prediction there is its limit E_y.
    """

    name = "shifted_power"
    equation = "y = K (x - E_x)^kappa + E_y"
    inputs = ("x",)
    parameters = (
        Parameter(name="K", low=0, log=True, linear=True),
        Parameter(name="kappa", low=0, max_step=0.5),
        Parameter(name="E_x", low=0, ceiling="x"),
        Parameter(name="E_y", low=0, linear=True, ceiling="y"),
    )

    def columns(self, inputs: Mapping[str, Array]) -> Columns:
        """Return x."""
        return (np.asarray(inputs["x"], float),)

    def _power(self, theta: Array, x: Array) -> tuple[Array, Array, Array]:
        gap = x - theta[:, 2, None]
        # Below E_x: (1e-300)^kappa is about 0, as in the limit, and the logarithm is finite.
        log_gap = np.log(np.maximum(gap, 1e-300))
        return gap, log_gap, np.exp(theta[:, 0, None] + theta[:, 1, None] * log_gap)

    def value(self, theta_RxP: Array, columns: Columns) -> Array:
        """Return the prediction (R, M)."""
        return self._power(theta_RxP, columns[0])[2] + theta_RxP[:, 3, None]

    def value_and_jacobian(self, theta_RxP: Array, columns: Columns) -> tuple[Array, Array]:
        """Return the prediction (R, M) and its derivative by theta (R, P, M)."""
        gap, log_gap, power = self._power(theta_RxP, columns[0])
        jacobian = np.empty((len(theta_RxP), 4, power.shape[1]))
        jacobian[:, 0] = power
        jacobian[:, 1] = power * log_gap
        jacobian[:, 2] = -theta_RxP[:, 1, None] * power / np.maximum(gap, 1e-300)
        jacobian[:, 3] = 1.0
        return power + theta_RxP[:, 3, None], jacobian

    def basis(self, theta_GxP: Array, columns: Columns) -> tuple[Array, Array]:
        """Return 0 as offset; the power and 1 as basis of K and E_y."""
        gap = np.maximum(columns[0] - theta_GxP[:, 2, None], 1e-300)
        power = np.exp(theta_GxP[:, 1, None] * np.log(gap))
        return np.zeros_like(power), np.stack([power, np.ones_like(power)], axis=1)

    def grid(self, columns: Columns, target_M: Array) -> Array:
        """Return all combinations of kappa and E_x on a grid."""
        x = columns[0]
        low, high = self.bounds(columns, target_M)
        # E_x may lie anywhere from 0 to just below min x: nodes at shares of min x, and nodes close
        # to it at shares of the range of x.
        near = float(np.min(x)) - np.geomspace(0.02, 1.0, 5) * float(np.max(x) - np.min(x))
        shifts = np.concatenate([np.linspace(0, 0.95, 8) * float(np.min(x)), near])
        shifts = np.unique(np.clip(shifts, low[2], high[2]))
        kappas = np.array([0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0])
        nodes = linspace_grid(kappas, shifts)
        theta = np.zeros((len(nodes), 4))
        theta[:, 1:3] = nodes
        return theta

    def centering(self, columns: Columns) -> Array:
        """Return the matrix that refers K to a typical gap x - E_x."""
        x = columns[0]
        matrix = np.eye(4)
        # Logarithm of a typical gap x - E_x; only its order of magnitude matters.
        matrix[0, 1] = float(np.log(max(np.median(x) - 0.5 * np.min(x), 1e-3)))
        return matrix


@dataclasses.dataclass(frozen=True)
class ErrorLaw(Law):
    """err = epsilon - k exp(-gamma x), x a loss in nats.

    Source: Gadre et al., arXiv 2403.08540, equation 5. k >= 0, gamma >= 0.
    """

    name = "error"
    equation = "err = epsilon - k exp(-gamma x)"
    inputs = ("x",)
    parameters = (
        Parameter(name="epsilon", low=0, linear=True),
        Parameter(name="k", low=0, log=True, linear=True),
        Parameter(name="gamma", low=0),
    )

    def columns(self, inputs: Mapping[str, Array]) -> Columns:
        """Return x."""
        return (np.asarray(inputs["x"], float),)

    def value(self, theta_RxP: Array, columns: Columns) -> Array:
        """Return the prediction (R, M)."""
        return theta_RxP[:, 0, None] - np.exp(
            theta_RxP[:, 1, None] - theta_RxP[:, 2, None] * columns[0]
        )

    def value_and_jacobian(self, theta_RxP: Array, columns: Columns) -> tuple[Array, Array]:
        """Return the prediction (R, M) and its derivative by theta (R, P, M)."""
        decay = np.exp(theta_RxP[:, 1, None] - theta_RxP[:, 2, None] * columns[0])
        jacobian = np.stack([np.ones_like(decay), -decay, decay * columns[0]], axis=1)
        return theta_RxP[:, 0, None] - decay, jacobian

    def basis(self, theta_GxP: Array, columns: Columns) -> tuple[Array, Array]:
        """Return 0 as offset; 1 and -exp(-gamma x) as basis."""
        decay = np.exp(-theta_GxP[:, 2, None] * columns[0])
        return np.zeros_like(decay), np.stack([np.ones_like(decay), -decay], axis=1)

    def grid(self, columns: Columns, target_M: Array) -> Array:
        """Return nodes of gamma."""
        theta = np.zeros((16, 3))
        theta[:, 2] = np.geomspace(0.02, 20.0, 16)
        return theta

    def centering(self, columns: Columns) -> Array:
        """Return the matrix that refers k to the mean x."""
        matrix = np.eye(3)
        matrix[1, 2] = -float(np.mean(columns[0]))
        return matrix
