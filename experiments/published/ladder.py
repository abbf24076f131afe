"""Section of the OLMo ladder (allenai/OLMo-ladder): its largest size from the smaller ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from interval_coverage import score_row
from records import Comparison, Section, named, percent

from lossline.errors import UserError
from lossline.laws.compute_laws import Chinchilla, Kaplan
from lossline.laws.solver import fit
from lossline.lines.extrapolation import BASELINES, LINE, predict_held_out
from lossline.lines.published_line import published_line
from lossline.lines.specimens import LineKind, Specimen, within_groups
from lossline.tables.pairing import Pairs
from lossline.tables.schema import SetKind
from lossline.tables.sweeps import import_sweep

Array = np.ndarray

X_SET = "c4_en"
PUBLISHED = "published procedure"
# The ladder's own largest model has 1.3B parameters; its targets, 7B and 13B, are only predicted.
FITTED_UP_TO = 1.5e9
# Without larger models, sizes of more than this share of the largest are held out.
_LARGEST = 0.9
KINDS = (LineKind.VALIDATION_TO_VALIDATION, LineKind.VALIDATION_TO_TASK)


def sections(folder: Path) -> list[Section]:
    """Yield the section of the ladder."""
    imported = import_sweep("olmo_ladder", folder / "olmo_ladder.csv")
    table, notes = final_checkpoints(imported.table), list(imported.notes)
    unknown = table["params"].isna()
    if unknown.any():
        runs = table.loc[unknown, "run_id"]
        notes.append(f"{runs.nunique()} runs without params ({named(runs)}); left out")
        table = table[~unknown]
    held = table["params"] > FITTED_UP_TO
    if not held.any():
        held = table["params"] > _LARGEST * table["params"].max()
    if held.all():
        raise UserError("olmo_ladder.csv has models of one size only: nothing to predict it from")
    if X_SET not in set(table["eval_set"]):
        raise UserError(f"olmo_ladder.csv has no losses on {X_SET}, the x axis of the lines")
    cut = float(table.loc[~held, "params"].max())
    found = [s for s in within_groups(table, x_sets=[X_SET], group_by=()) if s.kind in KINDS]
    parts = []
    for specimen in found:
        points, why = _one(specimen, cut)
        parts.append(points)
        if why:
            notes.append(f"{specimen.y_set}: left out: {why}")
    if not sum(map(len, parts)):
        raise UserError("; ".join(notes))
    sizes = sorted(table.loc[held, "params"].unique())
    return [_section(pd.concat(parts, ignore_index=True), cut, sizes, notes)]


def final_checkpoints(table: pd.DataFrame) -> pd.DataFrame:
    """Return the last checkpoint of each run; earlier ones have no annealed learning rate.

    Benchmarks are in bits per byte and validation losses in nats per token. A line works in any
    units, so that both go into ``loss``.
    """
    last = table[table["step"] == table.groupby("run_id")["step"].transform("max")]
    task = last["kind"] == SetKind.TASK
    return last.assign(loss=last["loss"].where(~task, last["bits_per_byte"]))


def _one(specimen: Specimen, cut: float) -> tuple[pd.DataFrame, str]:
    """Return predictions of all methods above ``cut`` parameters, and why there are none."""
    if specimen.pairs is None:
        return pd.DataFrame(), specimen.message
    small = specimen.pairs.params <= cut
    fitted, held = specimen.pairs[small], specimen.pairs[~small]
    if not len(held):
        return pd.DataFrame(), "not measured on the models to predict"
    methods = {**BASELINES, "Chinchilla law": chinchilla_law, PUBLISHED: published}
    line, points = predict_held_out(specimen, fitted, held, baselines=methods)
    facts = {"kind": str(specimen.kind), "x_set": specimen.x_set, "eval_set": specimen.y_set}
    if not line.drawable:
        return pd.DataFrame(), line.message
    return points.assign(**facts), ""


def chinchilla_law(fitted: Pairs, held: Pairs) -> Array:
    """Predict y by Chinchilla's law of N and D, the ladder's first step (arXiv 2412.04403)."""
    law = fit(Chinchilla(), {"N": fitted.params, "D": fitted.tokens}, fitted.y)
    if not law.parameters:
        return np.full(len(held), np.nan)
    return law.predict(N=held.params, D=held.tokens)


def published(fitted: Pairs, held: Pairs) -> Array:
    """Predict by the line of arXiv 2411.12925: both E's from Kaplan-style laws of the same runs."""
    scale = {"N": fitted.params, "D": fitted.tokens}
    laws = [fit(Kaplan(), scale, values) for values in (fitted.x, fitted.y)]
    try:
        E_x, E_y = (law.parameters["E"] for law in laws)
        return published_line(fitted, E_x, E_y).predict(held.x)
    except (UserError, KeyError):
        return np.full(len(held), np.nan)


def _section(
    points: pd.DataFrame, cut: float, sizes: Sequence[float], left_out: Sequence[str]
) -> Section:
    """Return the section from all predictions."""
    points = points.assign(error=points["relative_error"].abs())
    rows, notes = [], []
    for kind, part in points.groupby("kind", sort=False):
        error = {method: rows["error"] for method, rows in part.groupby("method", sort=False)}
        for name, pick in (("median", pd.Series.median), ("worst", pd.Series.max)):
            rerun, ours = (percent(pick(error[m])) for m in (PUBLISHED, LINE))
            rows.append(Comparison(what=f"{kind}: {name} error", rerun=rerun, ours=ours))
        nearer = np.mean(error[LINE].to_numpy() < error[PUBLISHED].fillna(np.inf).to_numpy())
        rows.append(Comparison(what=f"{kind}: ours is nearer at", ours=f"{100 * nearer:.0f}%"))
        line = part[part["method"] == LINE]
        inside = (line["low"] <= line["y"]) & (line["y"] <= line["high"])
        held = f"{100 * inside.mean():.1f}%"
        rows.append(Comparison(what=f"{kind}: 90% intervals hold", ours=held))
        rows.append(score_row(kind, line, "y"))
        others = ", ".join(
            f"{m} {percent(e.median())}" for m, e in error.items() if m not in (LINE, PUBLISHED)
        )
        notes.append(
            f"{kind}, {len(line)} points on {line['eval_set'].nunique()} sets; published procedure "
            f"without answer at {error[PUBLISHED].isna().sum()}; medians of other ways: {others}"
        )
    return Section(
        title=f"OLMo ladder: final checkpoints, lines from {X_SET} fitted up to {cut / 1e6:.0f}M "
        f"parameters, predicted at {', '.join(f'{n / 1e6:.0f}M' for n in sizes)} (relative error)",
        rows=rows,
        notes=[*notes, *left_out],
        tables={"olmo_ladder": points.drop(columns=["error"])},
    )
