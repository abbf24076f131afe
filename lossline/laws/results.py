"""Result of a fit."""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import numpy as np

from lossline.errors import UserError
from lossline.laws.forms import Law
from lossline.laws.problems import Dropped

Array = np.ndarray


class FitStatus(enum.Enum):
    """How a fit ended. Only the first two have an answer; ``FitResult.message`` gives details."""

    CONVERGED = "converged"
    BOUND_HIT = "bound_hit"  # stationary, with a parameter at its bound (FitResult.at_bound)
    ITERATION_LIMIT = "iteration_limit"
    ABNORMAL = "abnormal"  # no start had a finite objective, or the descent got stuck
    UNDERDETERMINED = "underdetermined"  # too few points, or they leave a direction open


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitResult:
    """One fitted law.

    Attributes:
        law: the law.
        parameters: natural values by name; empty if no fit was possible.
        objective: value of the objective; NaN if no fit was possible.
        status: how the fit ended.
        message: the reason, unless the fit converged.
        conditioning: largest over smallest singular value of the Jacobian, over the free
            parameters, columns scaled to length 1, coefficients centered (``conditioning``).
        residuals: residuals of the objective (M,) in the order given, log f - log y by default; NaN
            at dropped points.
        dropped: points left out, with reasons.
        at_bound: parameters that ended at a bound.
        n_points: points fitted.
        n_free: parameters fitted.
        scatter: standard deviation of the residuals, corrected for the degrees of freedom.
        starts: number of starts.
        starts_reached: starts that ended at the returned optimum.
        iterations: iterations of the descent.
        r2: R^2 in the unit of the target.
        label: name of the problem.
    """

    law: Law
    parameters: Mapping[str, float]
    objective: float
    status: FitStatus
    message: str
    conditioning: float
    residuals: Array
    dropped: tuple[Dropped, ...]
    at_bound: tuple[str, ...]
    n_points: int
    n_free: int
    scatter: float
    starts: int
    starts_reached: int
    iterations: int
    r2: float
    label: str = ""

    @property
    def ok(self) -> bool:
        """Whether the parameters are a stationary point that the data determine."""
        return self.status in (FitStatus.CONVERGED, FitStatus.BOUND_HIT)

    def predict(self, **inputs: Any) -> Array:
        """Return the law at the inputs, e.g. ``predict(x=3.0)`` or ``predict(N=1e9, D=2e10)``.

        Raises:
            UserError: the fit has no parameters.
        """
        if not self.parameters:
            raise UserError(
                f"{self.label or self.law.name}: cannot predict, the fit has no parameters: "
                f"{self.message}"
            )
        return self.law.predict(self.parameters, inputs)

    def to_dict(self) -> dict[str, Any]:
        """Return a summary for JSON, without the residuals."""
        return {
            "label": self.label,
            "law": self.law.name,
            "equation": self.law.equation,
            "parameters": dict(self.parameters),
            "objective": None if np.isnan(self.objective) else self.objective,
            "status": self.status.value,
            "message": self.message,
            "conditioning": None if not np.isfinite(self.conditioning) else self.conditioning,
            "at_bound": list(self.at_bound),
            "n_points": self.n_points,
            "n_free": self.n_free,
            "scatter": None if np.isnan(self.scatter) else self.scatter,
            "dropped": [dataclasses.asdict(d) for d in self.dropped],
            "starts": self.starts,
            "starts_reached": self.starts_reached,
            "r2": None if np.isnan(self.r2) else self.r2,
        }

    def __str__(self) -> str:
        values = ", ".join(f"{k} = {v:.6g}" for k, v in self.parameters.items())
        text = f"{self.law.equation}: {values or 'no parameters'} [{self.status.value}]"
        return f"{text} {self.message}".rstrip()
