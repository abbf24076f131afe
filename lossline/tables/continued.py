"""Runs of a loss table that started from another run's parameters (``train.start``).

Their ``tokens`` and ``flops`` count only their own part, since the start. A law of scale has no
place for them: it says which loss a fresh model has after D tokens.
"""

from __future__ import annotations

import pandas as pd

_NAMED = 3


def is_continued(table: pd.DataFrame) -> pd.Series:
    """Return a mask of the rows whose run started from another run's parameters."""
    if "start_run" not in table:
        return pd.Series(False, index=table.index)
    return table["start_run"].notna()


def fresh(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose run started from fresh parameters."""
    return table[~is_continued(table)]


def continued_names(table: pd.DataFrame) -> str:
    """Return the continued runs for people, such as "2 runs (a, b)"; empty if there is none."""
    runs = sorted(table.loc[is_continued(table), "run_id"].astype(str).unique())
    if not runs:
        return ""
    named = ", ".join(runs[:_NAMED]) + (", …" if len(runs) > _NAMED else "")
    return f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} ({named})"


def continued_note(table: pd.DataFrame) -> str:
    """Return a sentence on what tokens and FLOPs count; empty if no run was continued."""
    names = continued_names(table)
    if not names:
        return ""
    return (
        f"Started from another run's parameters: {names}. Their tokens and FLOPs count only their "
        "own part, since the start; start_tokens and start_flops count the part before."
    )


def left_out_of_laws(table: pd.DataFrame) -> str:
    """Return a sentence on the runs that no law of scale uses; empty if no run was continued."""
    names = continued_names(table)
    if not names:
        return ""
    return (
        f"Left out of all laws of scale: {names}, because they started from another run's "
        "parameters and their tokens and FLOPs count only their own part."
    )
