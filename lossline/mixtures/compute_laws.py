"""Laws of compute per component: the four forms of FLP-M (arXiv 2410.08527, Table 3 and eq. 5).

The paper has two components; here they are K. C_k is the compute of component k, C their sum. Each
factor (C_k / c_k)^a_k is written as exp(a_k log C_k) with the constants c_k in one constant b: they
cannot be told apart.

Shares of 0: M2, M3 and M4 take the logarithm of C_k, or a negative power of it, which does not
exist at 0. With ``epsilon`` 0 (the default) checkpoints with a zero share are left out of the fit,
which says so, and predictions there are NaN. With a positive ``epsilon`` lower shares are raised to
it, and all are scaled to sum to 1.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from lossline.mixtures.laws import Columns, Law, Parameters, parameters

Array = np.ndarray

_SOURCE = "FLP-M (Chen et al., arXiv 2410.08527)"
_FAINT = 1e-8  # a ridge that only keeps the solver's matrix regular


@dataclasses.dataclass(frozen=True)
class M1(Law):
    """Total compute, L = (C / c)^a. Source: FLP-M, Table 3."""

    name = "M1"
    equation = "L = (C / c)^a"
    source = f"{_SOURCE}, Table 3, M1"
    in_compute = True

    def parameters(self, components: tuple[str, ...]) -> Parameters:
        """Return b and a."""
        return parameters(("b", 0.0, _FAINT), ("a", -0.05, _FAINT))

    def log_loss(self, theta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return log loss (R, M) and its Jacobian (R, 2, M)."""
        return _linear(theta, np.stack([np.ones_like(columns.c), columns.c]))


@dataclasses.dataclass(frozen=True)
class _PerComponent(Law):
    """A law that needs the compute of every component to be positive.

    Attributes:
        epsilon: lowest share; 0 leaves out checkpoints with a zero share.
    """

    in_compute = True
    zero_shares = False
    epsilon: float = 0.0

    def prepared(self, shares: Array) -> Array:
        """Return the shares (M, K), not below ``epsilon``."""
        raised = np.maximum(shares, self.epsilon)
        return raised / raised.sum(axis=1, keepdims=True) if self.epsilon else shares


@dataclasses.dataclass(frozen=True)
class M2(_PerComponent):
    """Product of powers, L = prod_k (C_k / c_k)^a_k. Source: FLP-M, Table 3."""

    name = "M2"
    equation = "L = prod_k (C_k / c_k)^a_k"
    source = f"{_SOURCE}, Table 3, M2"

    def parameters(self, components: tuple[str, ...]) -> Parameters:
        """Return b and a_k."""
        exponents = tuple(f"a[{name}]" for name in components)
        return parameters(("b", 0.0, _FAINT), (exponents, -0.05 / len(components), _FAINT))

    def log_loss(self, theta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return log loss (R, M) and its Jacobian (R, 1 + K, M)."""
        return _linear(theta, np.vstack([np.ones_like(columns.c), _log_compute(columns)]))


@dataclasses.dataclass(frozen=True)
class M3(_PerComponent):
    """Weighted sum of powers that fall, L = sum_k w_k C_k^-a_k. Source: FLP-M, Table 3.

    The exponents have one sign. If they may have either, the sum overfits: late losses of
    ``mixtures_slimpajama.csv`` predicted from early ones are wrong by orders of magnitude.
    """

    name = "M3"
    equation = "L = sum_k w_k C_k^-a_k, a_k > 0"
    source = f"{_SOURCE}, Table 3, M3"

    def parameters(self, components: tuple[str, ...]) -> Parameters:
        """Return log w_k and log a_k."""
        weights = tuple(f"log w[{name}]" for name in components)
        exponents = tuple(f"log a[{name}]" for name in components)
        even = -np.log(len(components))
        return parameters((weights, even, _FAINT), (exponents, float(np.log(0.05)), _FAINT))

    def log_loss(self, theta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return log loss (R, M) and its Jacobian (R, 2 K, M)."""
        log_compute = _log_compute(columns)
        count = len(log_compute)
        falls = -np.exp(theta[:, count:, None]) * log_compute
        value, part = log_sum(theta[:, :count, None] + falls)
        return value, np.concatenate([part, part * falls], axis=1)


@dataclasses.dataclass(frozen=True)
class M4(_PerComponent):
    """Total compute times a product of powers. Source: FLP-M, eq. 5."""

    name = "M4"
    equation = "L = (C / c)^a prod_k (C_k / c_k)^a_k"
    source = f"{_SOURCE}, eq. 5"

    def parameters(self, components: tuple[str, ...]) -> Parameters:
        """Return b, a and a_k."""
        exponents = tuple(f"a[{name}]" for name in components)
        return parameters(("b", 0.0, _FAINT), ("a", -0.05, _FAINT), (exponents, 0.0, _FAINT))

    def log_loss(self, theta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return log loss (R, M) and its Jacobian (R, 2 + K, M)."""
        constant = np.ones_like(columns.c)
        return _linear(theta, np.vstack([constant, columns.c, _log_compute(columns)]))


def log_sum(terms: Array) -> tuple[Array, Array]:
    """Return log sum exp of terms (R, I, M) over I, and each term's part of the sum (R, I, M)."""
    top = terms.max(axis=1, keepdims=True)
    parts = np.exp(terms - top)
    total = parts.sum(axis=1, keepdims=True)
    return (np.log(total) + top)[:, 0], parts / total


def _log_compute(columns: Columns) -> Array:
    """Return log C_k (K, M)."""
    return (columns.logs + columns.c[:, None]).T


def _linear(theta: Array, design: Array) -> tuple[Array, Array]:
    """Return theta (R, P) times the design (P, M), and the design as Jacobian (R, P, M)."""
    return theta @ design, np.broadcast_to(design, (len(theta), *design.shape))
