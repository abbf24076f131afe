"""Compare the levels of a factor on several targets: a loss table in, tables and notes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from lossline.comparisons.intervals import level_statistics
from lossline.comparisons.measurements import measure
from lossline.comparisons.options import CompareOptions
from lossline.comparisons.ranks import average_ranks
from lossline.errors import UserError
from lossline.options.identity import identity
from lossline.tables.frames import nearest_names


@dataclass(frozen=True, kw_only=True)
class LevelComparison:
    """Result of a comparison; a method is a level of the factor.

    Attributes:
        methods: per target and method: runs, mean, se, low, high, difference from the baseline with
            se, low and high, rank; targets in the order given, best method first.
        ranks: per method: average_rank, low, high, best_share, targets, seeds; best first.
        values: target, method, seed, run_id, value of each run that was used.
        left_out: what, reason.
        notes: what a reader must know, in sentences.
        settings: the options.
    """

    methods: pd.DataFrame
    ranks: pd.DataFrame
    values: pd.DataFrame
    left_out: pd.DataFrame
    notes: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


def compare_levels(table: pd.DataFrame, options: CompareOptions) -> LevelComparison:
    """Compare the levels of ``options.factor``.

    Args:
        table: loss table.
        options: what to compare.

    Raises:
        UserError: as in ``measure``; no run is left; or no run is at the baseline.
    """
    found = measure(table, options)
    rows = found.rows
    if rows.empty:
        reason = found.left_out.iloc[0] if len(found.left_out) else None
        first = f" ({reason['what']}: {reason['reason']})" if reason is not None else ""
        raise UserError(f"compare: no run is left to compare{first}. Measure the runs first.")
    known = sorted(rows["method"].unique())
    if options.baseline and options.baseline not in known:
        raise UserError(
            f"compare.baseline: no run has {options.factor} = {options.baseline!r}. Levels: "
            f'{nearest_names(options.baseline, known)}. Name one of them, or "" for no baseline.'
        )
    parts = [
        level_statistics(part, baseline=options.baseline, confidence=options.confidence).assign(
            target=target
        )
        for target, part in rows.groupby("target", sort=False)
    ]
    methods = pd.concat(parts, ignore_index=True)
    methods = methods[["target", *(name for name in methods if name != "target")]]
    ranks = average_ranks(
        rows, confidence=options.confidence, resamples=options.resamples, seed=options.seed
    )
    return LevelComparison(
        methods=methods,
        ranks=ranks,
        values=rows,
        left_out=found.left_out,
        notes=(*found.notes, *_notes(rows, ranks, options)),
        settings=identity(options),
    )


def _notes(rows: pd.DataFrame, ranks: pd.DataFrame, options: CompareOptions) -> list[str]:
    """Return sentences about missing seeds, missing methods and a missing baseline."""
    notes = []
    seeds = sorted(rows["seed"].unique())
    if len(seeds) == 1:
        notes.append(f"One seed ({seeds[0]}): no intervals.")
    for (target, method), part in rows.groupby(["target", "method"], sort=False):
        if lacking := sorted(set(seeds) - set(part["seed"])):
            notes.append(f"{method} on {target} has no run with seed {', '.join(lacking)}.")
    for target, part in rows.groupby("target", sort=False):
        if options.baseline and options.baseline not in set(part["method"]):
            notes.append(f"{target} has no run at the baseline: no differences.")
    if partial := sorted(set(rows["method"]) - set(ranks["method"])):
        notes.append(
            f"Average ranks leave out {', '.join(partial)}: not every target has runs with "
            f"{'it' if len(partial) == 1 else 'them'}."
        )
    return notes
