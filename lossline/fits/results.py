"""Everything that fitting one loss table gives, as one object that can be saved, loaded and
drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from lossline.attribution.results import Attribution

if TYPE_CHECKING:
    from lossline.lines.fitting import Line

__all__ = ["ComputeLawFit", "StudyResults"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeLawFit:
    """A law from scale to loss, fitted to the runs of one group on one evaluation set.

    Attributes:
      group: facts that the runs share (pretraining_data, architecture, …).
      eval_set: what the loss was measured on; unit: "loss" or "bits_per_byte".
      law: name of the law; equation: as text.
      parameters: natural values; empty if the fit failed. E is the irreducible loss.
      E_low, E_high: 90% interval of E by a bootstrap over runs; NaN if there is none.
      status: of the solver ("converged", …); message: why it is not trusted, if it is not.
      r2: in loss space; n_runs, n_points: what was fitted.
    """

    group: Mapping[str, Any]
    eval_set: str
    unit: str
    law: str
    equation: str
    status: str
    message: str = ""
    parameters: Mapping[str, float] = dataclasses.field(default_factory=dict)
    E_low: float = float("nan")
    E_high: float = float("nan")
    r2: float = float("nan")
    n_runs: int = 0
    n_points: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyResults:
    """Results of `lossline.fit`. A part that could not be made is empty, never None.

    Attributes:
      table: the loss table that was fitted, rows with status failed or excluded included (their
        message says why).
      lines: fitted lines, those that failed too (status and message).
      compute_laws: laws from scale to loss per group and evaluation set.
      attribution: what moved the lines.
      heldout: one row per prediction of a run that was left out of the fit: run_id, facts of the
        group, x_set, y_set, unit, method, measured, predicted, low, high, relative_error (=
        predicted / measured - 1).
      excluded: what, rows, reason: what no fit has seen.
      settings: options of the fit; provenance: where the table came from, versions, command.
    """

    table: pd.DataFrame
    lines: tuple[Line, ...] = ()
    compute_laws: tuple[ComputeLawFit, ...] = ()
    attribution: Attribution = dataclasses.field(default_factory=Attribution)
    heldout: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    excluded: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
