"""Runs of a loss table that laws of mixtures can use, and what is wrong with the others."""

from __future__ import annotations

import pandas as pd

from lossline.mixtures.runs import SHARE_ROUNDING, components_of
from lossline.tables.schema import COMPONENT_TOKENS, SHARE


def usable_runs(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the table without what no law of mixtures can use, and one sentence for each.

    Runs with a negative share, or whose shares do not sum to 1, lose their rows; a component that
    no run was trained on loses its columns.

    Args:
        table: a loss table.
    """
    notes = []
    columns = [name for name in map(str, table.columns) if name.startswith(SHARE)]
    shares = table[columns].astype(float)
    total = shares.fillna(0.0).sum(axis=1)
    off = shares.notna().any(axis=1) & ((total - 1).abs() > SHARE_ROUNDING)
    for run, rows in table[off].groupby("run_id", sort=True):
        notes.append(
            f"run {run}: its shares sum to {total[rows.index[0]]:.4g}, not to 1: it is left out. "
            "Give the shares of all components, as fractions."
        )
    negative = ~off & (shares < 0).any(axis=1)
    for run in sorted(map(str, table["run_id"][negative].unique())):
        notes.append(
            f"run {run}: a share is negative: it is left out. Give the shares of all components, "
            "as fractions."
        )
    table = table[~(off | negative)]
    unused = [name for name in components_of(table) if not _is_used(table, name)]
    for name in unused:
        notes.append(
            f"component {name}: no run has a share above 0: its effect is unknown, and it is left "
            "out. Train on it to learn its effect."
        )
    gone = [prefix + name for name in unused for prefix in (SHARE, COMPONENT_TOKENS)]
    return table.drop(columns=[name for name in gone if name in table]), notes


def _is_used(table: pd.DataFrame, component: str) -> bool:
    names = [p + component for p in (SHARE, COMPONENT_TOKENS) if p + component in table]
    return bool((table[names].astype(float).fillna(0.0) > 0).to_numpy().any())
