"""Results of fitting one loss table, as one object to save, load and draw."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from lossline.attribution.results import Attribution

if TYPE_CHECKING:
    from lossline.lines.fitting import Line


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeLawFit:
    """A law from scale to loss, fitted to the runs of one group on one evaluation set.

    Attributes:
        group: facts that the runs share (pretraining_data, architecture, …).
        eval_set: evaluation set of the loss.
        unit: "loss" or "bits_per_byte".
        law: name of the law.
        equation: its equation, as text.
        status: status of the solver ("converged", …).
        message: why the law is not trusted; else empty.
        parameters: natural values; empty if the fit failed. E is the irreducible loss.
        E_low: lower end of the 90% interval of E, by a bootstrap over runs; NaN without one.
        E_high: upper end of that interval.
        r2: R^2 in the unit of the loss.
        n_runs: runs fitted.
        n_points: points fitted.
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
class TableFit:
    """Results of ``lossline.fit``. A part without content is empty, never None.

    Attributes:
        table: the loss table, rows with status failed or excluded included (their message has the
            reason).
        lines: fitted lines; those that failed have a status and a message.
        compute_laws: laws from scale to loss per group and evaluation set.
        attribution: which factors moved the lines.
        heldout: one row per prediction of a run that was left out of the fit: run_id, facts of the
            group, x_set, y_set, unit, method, measured, predicted, low, high, relative_error (=
            predicted / measured - 1).
        excluded: what no fit used: columns what, rows, reason.
        settings: options of the fit.
        provenance: source of the table, versions, command.
    """

    table: pd.DataFrame
    lines: tuple[Line, ...] = ()
    compute_laws: tuple[ComputeLawFit, ...] = ()
    attribution: Attribution = dataclasses.field(default_factory=Attribution)
    heldout: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    excluded: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
