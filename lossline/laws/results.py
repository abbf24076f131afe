"""What a fit returns."""

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
    """How a fit ended. Only the first two are answers; `FitResult.message` says more."""

    CONVERGED = "converged"
    BOUND_HIT = "bound_hit"  # stationary, with a parameter at its bound: see FitResult.at_bound
    ITERATION_LIMIT = "iteration_limit"
    ABNORMAL = "abnormal"  # no start had a finite objective, or the descent got stuck
    UNDERDETERMINED = "underdetermined"  # too few points, or directions that the data do not see


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitResult:
    """One fitted law. Where nothing could be fitted, `parameters` is empty and `objective` is nan;
    `status` says why.

    ``residuals`` (M,) are those of the objective (log f - log y by default), nan at dropped points,
    in the order given. ``conditioning`` is the ratio of the largest to the smallest singular value
    of the Jacobian with columns scaled to length 1, over the free parameters, coefficients referred
    to the middle of the data. ``starts_reached`` of ``starts`` ended at the returned optimum."""

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
        """The law at the inputs, e.g. ``predict(x=3.0)`` or ``predict(N=1e9, D=2e10)``; UserError
        without parameters."""
        if not self.parameters:
            raise UserError(
                f"{self.label or self.law.name}: nothing to predict with: {self.message}"
            )
        return self.law.predict(self.parameters, inputs)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able summary, without the residuals."""
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
