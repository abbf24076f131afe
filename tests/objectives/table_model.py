"""A model whose gradient names the tokens that a step trains on, and a selection in NumPy."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import jax
import numpy as np

from lossline.objectives.options import Scope, Score
from lossline.objectives.selective import SelectiveLoss
from lossline.sharding import batch_sharding, make_rules
from lossline.training.optimizer import AdamW
from lossline.training.step import Trainer

ROWS, LENGTH, WIDTH, VOCABULARY = 32, 16, 8, 64
TOKENS = ROWS * LENGTH


class Table:
    """Every position of the batch has a hidden state of its own, which is a parameter."""

    def __init__(self, params):
        self._params = params

    def hidden(self, inputs, segment_ids):
        return self._params["hidden"][inputs]

    def unembedding(self, *, padded):
        return self._params["unembedding"]


@dataclass(frozen=True, kw_only=True)
class TableTrainer(Trainer):
    """The trainer of a table."""

    def merge(self, params):
        return Table(params)

    @cached_property
    def compiled(self):
        """The gradients of the step, compiled."""
        return jax.jit(self.gradients)


def table_trainer(mesh, *, microbatches=1, scope=Scope.BATCH, score=Score.EXCESS_LOSS, share="0.6"):
    """Return a trainer with a selective objective."""
    objective = SelectiveLoss(
        vocab_size=VOCABULARY,
        share=Fraction(share),
        score=score,
        scope=scope,
        one_device=mesh.size == 1,
    )
    return TableTrainer(
        model=None,
        objective=objective,
        optimizer=AdamW(),
        mesh=mesh,
        rules=make_rules(),
        microbatches=microbatches,
    )


def table_batch(reference, weights, targets):
    """Return a batch of arrays [ROWS, LENGTH] for a table."""
    return {
        "inputs": np.arange(TOKENS, dtype=np.int32).reshape(ROWS, LENGTH),
        "targets": targets.astype(np.int32),
        "weights": weights.astype(np.float32),
        "reference": reference,
    }


def trained_on(trainer, params, batch):
    """Return the tokens that the step trains on, bool [ROWS, LENGTH], and its metrics by name.

    The gradient of a hidden state is 0 unless its token is trained on.
    """
    batch = jax.device_put(batch, batch_sharding(trainer.mesh))
    with jax.set_mesh(trainer.mesh):
        gradients, metrics = trainer.compiled(params, batch)
    slopes = np.abs(np.asarray(gradients["hidden"])).sum(axis=1)
    values = zip(trainer.objective.metric_names, np.asarray(metrics).tolist(), strict=True)
    return slopes.reshape(ROWS, LENGTH) > 0, dict(values)


def stable_choice(scores, candidates, share):
    """Return ⌊share · candidates⌋ candidates by a stable sort: largest first, then by position."""
    places = np.flatnonzero(candidates)
    order = np.argsort(-np.asarray(scores, np.float64).reshape(-1)[places], kind="stable")
    chosen = np.zeros(np.size(candidates), bool)
    chosen[places[order[: int(Fraction(share) * len(places))]]] = True
    return chosen.reshape(np.shape(candidates))


def expected_choice(scores, candidates, share, scope, microbatches=1):
    """Return the definition of each scope. Microbatch m has the rows m, m + microbatches, …"""
    if scope is Scope.BATCH:
        return stable_choice(scores, candidates, share)
    chosen = np.zeros_like(candidates)
    if scope is Scope.SEQUENCE:
        groups = [slice(row, row + 1) for row in range(len(scores))]
    else:
        groups = [slice(first, None, microbatches) for first in range(microbatches)]
    for rows in groups:
        chosen[rows] = stable_choice(scores[rows], candidates[rows], share)
    return chosen
