"""Translate a law of scale to another training set (arXiv 2411.12925, section 6).

    found = translate(source_rows, few_target_rows)
    found.predict(N=3e9, D=6e10)          # loss on the target, in nats per token
    score_translations(table)             # all ordered pairs, with baseline and skyline

The source has a full sweep, the target a few runs. The source's law gives its loss at (N, D); the
line through pairs of runs of equal (N, D) translates that loss. The line is fitted to measured
losses on both axes, because part of their noise is common. The law only fills in scales at which
the source has no run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.laws.compute_laws import Chinchilla
from lossline.laws.forms import Law
from lossline.laws.results import FitResult
from lossline.laws.solver import fit
from lossline.lines.fitting import NO_PARTNER, Line, LineOptions, fit_line, r_squared
from lossline.lines.groups import GROUP_BY, split
from lossline.lines.specimens import LineKind
from lossline.tables.continued import fresh
from lossline.tables.pairing import one_set, pair_groups
from lossline.tables.schema import OWN_SET

Array = np.ndarray
Choice = Callable[[pd.DataFrame], Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Translation:
    """A law of the source and the line from source to target.

    Attributes:
        law: law of the source in N and D.
        line: line from the source's loss to the target's.
    """

    law: FitResult
    line: Line

    def predict(self, *, N: Any, D: Any) -> Array:
        """Return the loss on the target at N parameters and D tokens (any one shape)."""
        N, D = np.asarray(N, float), np.asarray(D, float)
        with np.errstate(all="ignore"):
            ratio = D / N
        return self.line.predict(self.law.predict(N=N, D=D), tokens_per_param=ratio)


def near_optimal(
    low: float = 16.0, high: float = 23.0, *, leave_out: Sequence[float] = ()
) -> Choice:
    """Return a function that chooses runs with ``low`` < D/N < ``high``.

    The published protocol is (16, 23) without the 20-layer models, N = 475,239,680.

    Args:
        low: lower bound of D/N.
        high: upper bound of D/N.
        leave_out: sizes N to leave out, matched to 0.1%.
    """

    def choose(rows: pd.DataFrame) -> Array:
        params = rows["params"].to_numpy(float)
        ratio = rows["tokens"].to_numpy(float) / params
        keep = (ratio > low) & (ratio < high)
        for size in leave_out:
            keep &= np.abs(params / size - 1) > 1e-3
        return keep

    return choose


def fit_law(rows: pd.DataFrame, law: Law | None = None) -> FitResult:
    """Fit a law of N and D (Chinchilla's by default) to rows of ``pairing.one_set``."""
    inputs = {"N": rows["params"].to_numpy(float), "D": rows["tokens"].to_numpy(float)}
    return fit(law or Chinchilla(), inputs, rows["value"].to_numpy(float))


def translate(
    source: pd.DataFrame, target: pd.DataFrame, *, x_set: str = OWN_SET, y_set: str | None = None,
    unit: str = "loss", law: Law | None = None, options: LineOptions | None = None,
) -> Translation:  # fmt: skip
    """Return a law for the target from a full sweep of the source and a few runs of the target.

    Runs that continued another run are not used: their tokens count only their own part.

    Args:
        source: rows of a loss table, the source's runs.
        target: rows of a loss table, the target's runs.
        x_set: evaluation set of the source's losses; each run's own by default.
        y_set: evaluation set of the target's losses; ``x_set`` by default.
        unit: "loss" or "bits_per_byte".
        law: law of the source; Chinchilla's by default.
        options: how to fit the line.

    Raises:
        UserError: the runs do not determine the law or the line.
    """
    for rows, name, whose in ((source, x_set, "source"), (target, y_set or x_set, "target")):
        known = sorted(map(str, rows["eval_set"].unique()))
        if name not in known:
            has = f"they have {', '.join(known)}" if known else "there are no rows"
            raise UserError(f"translation: eval_set {name!r} is not in the {whose}'s rows; {has}.")
    found = fit_law(one_set(fresh(source), x_set, unit), law)
    if not found.ok:
        raise UserError(f"translation: the law of the source: {found.message}")
    pairs = pair_groups(source, target, x_set, y_set or x_set, unit=unit)
    if not len(pairs):
        raise UserError(f"translation: source and target: {NO_PARTNER}")
    line = fit_line(
        pairs, x_set=x_set, y_set=y_set or x_set, unit=unit, kind=LineKind.TRAIN_TO_TRAIN,
        options=options,
    )  # fmt: skip
    if not line.drawable:
        raise UserError(f"translation: the line from source to target: {line.message}")
    return Translation(law=found, line=line)


def score_translations(
    table: pd.DataFrame, *, choose: Choice | None = None,
    vary: Sequence[str] = ("pretraining_data",),
    group_by: Sequence[str] = GROUP_BY, eval_set: str = OWN_SET, unit: str = "loss",
    law: Law | None = None, options: LineOptions | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Return R^2 on each target's whole grid, for all ordered pairs of groups.

    Columns: source and target (facts in words); few (target runs used); r2; baseline, R^2 of the
    law fitted to these few runs; skyline, R^2 of the law fitted to all of the target's runs;
    message, if a pair was left out.

    Args:
        table: a loss table.
        choose: function that chooses the few target runs; ``near_optimal()`` by default.
        vary: facts in which source and target differ; they agree in the other facts.
        group_by: facts that the runs of one group share.
        eval_set: evaluation set of both losses.
        unit: "loss" or "bits_per_byte".
        law: law of scale; Chinchilla's by default.
        options: how to fit the lines.
    """
    choose = choose or near_optimal()
    fixed = [name for name in group_by if name not in vary]
    groups = split(fresh(table), group_by)
    rows = []
    for target in groups:
        grid = one_set(target.table, eval_set, unit)
        ends = _ends(target.table, grid, choose, law)
        for source in groups:
            alike = all(source.facts[name] == target.facts[name] for name in fixed)
            if source is target or not alike:
                continue
            row = {"source": source.name, "target": target.name, "r2": np.nan, "message": ""}
            few = target.table[choose(target.table)]
            try:
                found = translate(
                    source.table, few, x_set=eval_set, unit=unit, law=law, options=options
                )
                row["r2"] = _r2(found, grid)
            except UserError as mistake:
                row["message"] = str(mistake)
            rows.append({**row, **ends})
    return pd.DataFrame(rows)


def _ends(table: pd.DataFrame, grid: pd.DataFrame, choose: Choice, law: Law | None) -> dict:
    """Return number of few runs, baseline and skyline of a target."""
    few = grid[choose(grid)]
    fits = {"baseline": fit_law(few, law), "skyline": fit_law(grid, law)}
    scores = {name: _r2(f, grid) if f.parameters else np.nan for name, f in fits.items()}
    return {"few": len(few), **scores}


def _r2(found: Translation | FitResult, grid: pd.DataFrame) -> float:
    predicted = found.predict(N=grid["params"].to_numpy(float), D=grid["tokens"].to_numpy(float))
    return r_squared(grid["value"].to_numpy(float), predicted)
