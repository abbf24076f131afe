"""Training tokens of logs that record steps alone: steps times the tokens of a batch."""

from __future__ import annotations

import pandas as pd

from lossline.errors import UserError
from lossline.tables.cells import as_numbers, as_text, is_empty

__all__ = ["BATCH", "with_tokens"]

BATCH = "batch_size_in_tokens"  # in the columns of a source and of a mapping


def with_tokens(facts: pd.DataFrame, where: str) -> tuple[pd.DataFrame, list[str]]:
    """Facts without the column of the batch. Where they have no tokens, these are
    step × `BATCH`, which a note says; without a step or a batch they are as they were.

    Raises `UserError` where a run changes its batch: its tokens do not follow from its steps.
    """
    rest = facts.drop(columns=BATCH, errors="ignore")
    known = "tokens" in facts and not is_empty(facts["tokens"]).all()
    if known or BATCH not in facts or "step" not in facts:
        return rest, []
    batch = as_numbers(facts[BATCH])
    batches = batch.groupby(as_text(facts["run_id"])).nunique()
    if (batches > 1).any():
        raise UserError(
            f"{where}: no tokens, and the run {batches.idxmax()!r} has {batches.max()} values of "
            f"{BATCH}: its tokens do not follow from its steps; name a column of tokens"
        )
    counted = as_numbers(facts["step"]) * batch
    shown = [f"{value:.15g}" for value in batch.dropna().unique()]
    sizes = ", ".join(shown[:4]) + (", …" if shown[4:] else "")
    note = f"{where}: no tokens; they are counted, step × {BATCH} ({sizes} tokens per step)"
    return rest.assign(tokens=counted), [note]
