"""Translation: a full sweep on one training set and a few runs on another give a law for the other
(arXiv 2411.12925 section 6).

    found = translate(source_rows, few_target_rows)
    found.predict(N=3e9, D=6e10)          # loss on the target, in nats per token
    score_translations(table)             # all ordered pairs, with baseline and skyline

The source's law of scale gives its loss at (N, D); the line through the few pairs of runs of equal
(N, D) carries it over. The line is fitted to measured losses on both axes, whose noise is partly
common; the law only fills in the scales that the source has no run at.
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
from lossline.tables.pairing import one_set, pair_groups
from lossline.tables.schema import OWN_SET

__all__ = ["Translation", "fit_law", "near_optimal", "score_translations", "translate"]

Array = np.ndarray
Choice = Callable[[pd.DataFrame], Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Translation:
    """The source's law and the line from source to target."""

    law: FitResult
    line: Line

    def predict(self, *, N: Any, D: Any) -> Array:
        """Loss on the target at N parameters and D tokens (any one shape)."""
        N, D = np.asarray(N, float), np.asarray(D, float)
        with np.errstate(all="ignore"):
            ratio = D / N
        return self.line.predict(self.law.predict(N=N, D=D), tokens_per_param=ratio)


def near_optimal(
    low: float = 16.0, high: float = 23.0, *, leave_out: Sequence[float] = ()
) -> Choice:
    """Chooses the runs with `low` < D/N < `high`, but those of the sizes `leave_out` (N, to 0.1%).

    The published protocol is (16, 23) without the 20-layer models, N = 475,239,680.
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
    """A law of N and D, Chinchilla's by default, fitted to rows of `pairing.one_set`."""
    inputs = {"N": rows["params"].to_numpy(float), "D": rows["tokens"].to_numpy(float)}
    return fit(law or Chinchilla(), inputs, rows["value"].to_numpy(float))


def translate(
    source: pd.DataFrame, target: pd.DataFrame, *, x_set: str = OWN_SET, y_set: str | None = None,
    unit: str = "loss", law: Law | None = None, options: LineOptions | None = None,
) -> Translation:  # fmt: skip
    """A law for the target out of rows of a loss table: a full sweep of the source, few runs of the
    target.

    `x_set`, `y_set`: what the losses of source and target are measured on; by default each run's
    own validation set. UserError where the runs do not determine law or line.
    """
    for rows, name, whose in ((source, x_set, "source"), (target, y_set or x_set, "target")):
        known = sorted(map(str, rows["eval_set"].unique()))
        if name not in known:
            has = f"it has {', '.join(known)}" if known else "there are no runs of it"
            raise UserError(f"translation: no eval_set {name!r} among the {whose}'s rows; {has}")
    found = fit_law(one_set(source, x_set, unit), law)
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
    """R2 on each target's whole grid, for all ordered pairs of groups that differ in `vary`.

    Columns: source and target (facts in words), few (target runs used), r2; baseline, the law
    fitted to the few runs; skyline, the law fitted to all; message where a pair was left out.
    `choose` picks the few target runs: `near_optimal()` by default.
    """
    choose = choose or near_optimal()
    fixed = [name for name in group_by if name not in vary]
    groups = split(table, group_by)
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
    """What the target says of itself: by the few runs, and by all."""
    few = grid[choose(grid)]
    fits = {"baseline": fit_law(few, law), "skyline": fit_law(grid, law)}
    scores = {name: _r2(f, grid) if f.parameters else np.nan for name, f in fits.items()}
    return {"few": len(few), **scores}


def _r2(found: Translation | FitResult, grid: pd.DataFrame) -> float:
    predicted = found.predict(N=grid["params"].to_numpy(float), D=grid["tokens"].to_numpy(float))
    return r_squared(grid["value"].to_numpy(float), predicted)
