"""Compute the nats of every scored token under one model, and their float64 sums per text.

The model runs on the mesh in rows of a fixed shape. Its parameters are an argument, so one
compilation serves all checkpoints of one shape (and all runs of that shape). Only scored positions
are multiplied by the unembedding.

Letters: B rows, L row length, G groups of rows, K scored tokens of a group, D width, V vocabulary.
"""

from __future__ import annotations

import functools
from collections import deque
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from lossline.evaluation.packing import PackedRows, PackedTexts
from lossline.ops.backend import products_of
from lossline.ops.cross_entropy import linear_cross_entropy
from lossline.sharding import BATCH_AXES, batch_sharding, place_rows

# Batches dispatched before the host reads the oldest result: enough to hide the host's work, few
# enough to bound memory.
IN_FLIGHT = 4


class Scorer:
    """Score packed texts with a model.

    The model must have ``hidden(tokens, segment_ids, positions)`` and ``unembedding()``.

    Args:
        graphdef: definition of the model, ``nnx.split(model)[0]``.
        mesh: mesh over whose axes ``data`` and ``fsdp`` rows are split. None: one device.
    """

    def __init__(self, graphdef: Any, *, mesh: Mesh | None = None) -> None:
        self._graphdef = graphdef
        self._mesh = mesh
        self.groups = 1 if mesh is None else int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))

    def nats_per_text(self, state: Any, texts: PackedTexts) -> np.ndarray:
        """Return the sum of the nats of the scored tokens of each text, float64 [texts].

        Args:
            state: parameters, ``nnx.split(model)[1]``, placed on the mesh.
            texts: texts packed with this scorer's ``groups``.
        """
        return self._sums(state, texts, ("nats_T",))[0]

    def misses_per_text(self, state: Any, texts: PackedTexts) -> np.ndarray:
        """Return, for each text, the number of scored tokens that are not the most probable token.

        It is 0 if greedy decoding produces the text.
        """
        return self._sums(state, texts, ("misses",))[0]

    def nats_and_misses_per_text(
        self, state: Any, texts: PackedTexts
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return both of the above, from one pass of the model."""
        nats, misses = self._sums(state, texts, ("nats_T", "misses"))
        return nats, misses

    def _sums(self, state: Any, texts: PackedTexts, fields: tuple[str, ...]) -> np.ndarray:
        """Return the sum of each field over the scored tokens of each text, [fields, texts]."""
        total = np.zeros((len(fields), texts.num_texts))
        waiting: deque[tuple[PackedRows, tuple[jax.Array, ...]]] = deque()
        for batch in texts.batches():
            waiting.append((batch, self._cross_entropy(state, batch, fields)))
            if len(waiting) > IN_FLIGHT:
                _add(total, *waiting.popleft())
        for batch, values in waiting:
            _add(total, batch, values)
        return total

    def _cross_entropy(
        self, state: Any, batch: PackedRows, fields: tuple[str, ...]
    ) -> tuple[jax.Array, ...]:
        arrays = (
            batch.inputs_BxL,
            batch.segment_ids_BxL,
            batch.positions_BxL,
            batch.index_GxK,
            batch.targets_GxK,
        )
        if self._mesh is None:
            return self._score(state, fields, *arrays)
        with jax.set_mesh(self._mesh):  # the model's sharding constraints need it
            return self._score(state, fields, *place_rows(arrays, batch_sharding(self._mesh)))

    def _score(
        self,
        state: Any,
        fields: tuple[str, ...],
        inputs_BxL: jax.Array | np.ndarray,
        segment_ids_BxL: jax.Array | np.ndarray,
        positions_BxL: jax.Array | np.ndarray,
        index_GxK: jax.Array | np.ndarray,
        targets_GxK: jax.Array | np.ndarray,
    ) -> tuple[jax.Array, ...]:
        # Two programs, because K differs from set to set: the layers, which take longest to
        # compile, are compiled once for all of them.
        x_BxLxD = _hidden(self._graphdef, state, inputs_BxL, segment_ids_BxL, positions_BxL)
        return _losses(self._graphdef, fields, state, x_BxLxD, index_GxK, targets_GxK)


@functools.partial(jax.jit, static_argnums=0)
def _hidden(
    graphdef: Any,
    state: Any,
    inputs_BxL: jax.Array,
    segment_ids_BxL: jax.Array,
    positions_BxL: jax.Array,
) -> jax.Array:
    """Return the vectors before the unembedding, [B, L, D]."""
    model = nnx.merge(graphdef, state)
    with products_of(model.config.activation_dtype):
        return model.hidden(inputs_BxL, segment_ids_BxL, positions_BxL)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _losses(
    graphdef: Any,
    fields: tuple[str, ...],
    state: Any,
    x_BxLxD: jax.Array,
    index_GxK: jax.Array,
    targets_GxK: jax.Array,
) -> tuple[jax.Array, ...]:
    """Return fields of ``CrossEntropy`` at the indexed positions, each float32 [G, K].

    "misses" is 1 where the token is not the most probable one. Values of padding entries are
    meaningless.
    """
    model = nnx.merge(graphdef, state)
    with products_of(model.config.activation_dtype):
        # Gather the scored positions before the unembedding, which is the most expensive product.
        x_GxNxD = x_BxLxD.reshape(index_GxK.shape[0], -1, x_BxLxD.shape[-1])
        x_GxKxD = jnp.take_along_axis(x_GxNxD, index_GxK[..., None], axis=1)
        scored = linear_cross_entropy(
            x_GxKxD, model.unembedding(), targets_GxK, vocab_size=model.config.vocab_size
        )
    values = [1.0 - scored.correct_T if f == "misses" else getattr(scored, f) for f in fields]
    return tuple(everywhere(value.astype(jnp.float32)) for value in values)


def everywhere(values: jax.Array) -> jax.Array:
    """Return an output that every process can read, in a program of several processes.

    All of them then add the same numbers in the same order, so that their sums are equal to the
    last digit. It costs 4 bytes per scored token between the devices.
    """
    return (
        values
        if jax.process_count() == 1
        else jax.lax.with_sharding_constraint(values, PartitionSpec())
    )


def _add(total: np.ndarray, batch: PackedRows, fields: tuple[jax.Array, ...]) -> None:
    """Add the values of a batch to the totals of its texts, in float64.

    One after the other in the order of the rows, so that the last digit does not depend on how
    many rows a batch has, or on how many devices share them.
    """
    texts = batch.texts_GxK[batch.scored_GxK]
    for sums, values_GxK in zip(total, fields, strict=True):
        np.add.at(sums, texts, np.asarray(values_GxK, np.float64)[batch.scored_GxK])
