"""Which run of a loss table a planned run is most like."""

from __future__ import annotations

import contextlib

import numpy as np
import pandas as pd

from lossline.design import Candidate
from lossline.errors import UserError


def nearest_run(table: pd.DataFrame, candidate: Candidate) -> str:
    """Return the run with the candidate's facts that is nearest in size, then in length.

    Args:
        table: the loss table.
        candidate: the planned run.

    Raises:
        UserError: no run of the table has these facts.
    """
    runs = table.sort_values("tokens").drop_duplicates("run_id", keep="last")
    for fact, value in candidate.facts.items():
        if fact in runs:
            runs = runs[_matches(runs[fact], value)]
    if runs.empty:
        said = ", ".join(f"{fact} {value}" for fact, value in candidate.facts.items())
        raise UserError(f"no run of the table has {said}. Leave such runs out of the candidates.")
    far = [
        np.abs(np.log(runs[name].to_numpy(float) / wanted))
        for name, wanted in (("params", candidate.params), ("tokens", candidate.tokens))
    ]
    return str(runs["run_id"].to_numpy()[np.lexsort((far[1], np.round(far[0], 2)))[0]])


def _matches(cells: pd.Series, value: str) -> np.ndarray:
    """Return which cells hold a fact, as text or as the same number."""
    same = (cells.astype(object).map(str) == str(value)).to_numpy(bool)
    if pd.api.types.is_numeric_dtype(cells):
        with contextlib.suppress(ValueError):
            same |= np.isclose(cells.to_numpy(float, na_value=np.nan), float(value))
    return same
