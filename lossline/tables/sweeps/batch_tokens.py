"""Training tokens of logs that record only steps: steps times tokens per batch."""

from __future__ import annotations

import pandas as pd

from lossline.errors import UserError
from lossline.tables.cells import as_numbers, as_text, is_empty

BATCH = "batch_size_in_tokens"  # name of a column, in sources and in mappings


def with_tokens(facts: pd.DataFrame, where: str) -> tuple[pd.DataFrame, list[str]]:
    """Return facts without the column of the batch, and notes.

    If tokens are missing they are computed as step × ``BATCH``, with a note. Without a step or a
    batch the facts stay as they are.

    Raises:
        UserError: a run changes its batch, so that its tokens do not follow from its steps.
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
            f"{BATCH}: its tokens do not follow from its steps; map a column of tokens"
        )
    counted = as_numbers(facts["step"]) * batch
    shown = [f"{value:.15g}" for value in batch.dropna().unique()]
    sizes = ", ".join(shown[:4]) + (", …" if shown[4:] else "")
    note = f"{where}: no tokens; computed as step × {BATCH} ({sizes} tokens per step)"
    return rest.assign(tokens=counted), [note]
