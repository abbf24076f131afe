"""What the batches of a run contain, by its options: tokens, and what its objective needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from lossline.batches.plans import BatchPlan, MixturePlan
from lossline.errors import UserError
from lossline.objectives.columns import Column, open_scores, token_columns
from lossline.objectives.options import Score
from lossline.stores.token_scores import TokenScores
from lossline.training.options import Documents, TrainOptions
from lossline.training.text import TrainingText


def batch_fields(options: TrainOptions) -> dict[str, Any]:
    """Return the arrays of a batch that the step uses: field of ``Batch`` -> dtype."""
    fields: dict[str, Any] = {"inputs": jnp.int32, "targets": jnp.int32, "weights": jnp.float32}
    if options.documents is Documents.SEPARATE:
        fields["segment_ids"] = jnp.int32
    if options.objective is not None and not options.objective.score.needs_current_model:
        fields["selected"] = jnp.bool_
    if options.objective is not None and options.objective.score is Score.EXCESS_LOSS:
        fields["reference"] = jnp.float16
    return fields


def token_scores(options: TrainOptions, text: TrainingText) -> list[TokenScores]:
    """Open the token scores of each store that the objective reads; empty if it reads none.

    Raises:
        UserError: scores are missing or damaged, do not fit the training, or are those of the
            parameters that the run starts from.
    """
    if options.objective is None:
        return []
    found = open_scores(
        options.objective,
        text.stores,
        mixture=bool(text.shares),
        excluded=text.excluded,
        context_length=options.length,
        documents=options.documents.value,
    )
    start = options.start
    for scores in found:
        is_excess = options.objective.score is Score.EXCESS_LOSS
        if is_excess and start is not None and scores.parameters == start.parameters:
            raise UserError(
                f"{scores.location}: the reference ({scores.reference}) has the parameters that "
                "the run starts from, so every excess loss would start at 0. Give scores of a "
                "reference that was trained further, or another selective.score."
            )
    return found


def batch_plan(
    options: TrainOptions, text: TrainingText, scores: Sequence[TokenScores]
) -> BatchPlan | MixturePlan:
    """Return the plan of the batches.

    Args:
        options: options of the run.
        text: its text.
        scores: its token scores (``token_scores``).

    Raises:
        UserError: the context is longer than a store, or components have different vocabularies.
    """
    columns: Sequence[Column] = ()
    if options.objective is not None:
        columns = token_columns(
            options.objective,
            list(text.stores.values()),
            scores,
            weights=list(text.shares.values()) or [1],
            context_length=options.length,
            seed=options.order_seed,
        )
    return text.plan(
        context_length=options.length,
        batch_size=options.batch_size,
        seed=options.order_seed,
        columns=columns,
    )
