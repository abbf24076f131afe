"""Compute the nats of every scored token under one model, and their float64 sums per text.

The model runs on the mesh in rows of a fixed shape. Its parameters are an argument, so one
compilation serves all checkpoints of one shape (and all runs of that shape). Only scored positions
are multiplied by the unembedding.

Letters: B rows, L row length, G groups of rows, K scored tokens of a group, D width, V vocabulary.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from lossline.evaluation.packing import PackedRows, PackedTexts
from lossline.ops.backend import target_backend
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
        return self._sums(state, texts, self._nats)

    def misses_per_text(self, state: Any, texts: PackedTexts) -> np.ndarray:
        """Return, for each text, the number of scored tokens that are not the most probable token.

        It is 0 if greedy decoding produces the text.
        """
        return self._sums(state, texts, self._misses)

    def _sums(
        self, state: Any, texts: PackedTexts, dispatch: Callable[[Any, PackedRows], jax.Array]
    ) -> np.ndarray:
        """Sum over each text, in float64, what ``dispatch`` returns for every scored token."""
        total = np.zeros(texts.num_texts)
        waiting: deque[tuple[PackedRows, jax.Array]] = deque()
        for batch in texts.batches():
            waiting.append((batch, dispatch(state, batch)))
            if len(waiting) > IN_FLIGHT:
                _add(total, *waiting.popleft())
        for batch, values_GxK in waiting:
            _add(total, batch, values_GxK)
        return total

    def _nats(self, state: Any, batch: PackedRows) -> jax.Array:
        return self._cross_entropy(state, batch, "nats_T")

    def _misses(self, state: Any, batch: PackedRows) -> jax.Array:
        return 1.0 - self._cross_entropy(state, batch, "correct_T")

    def _cross_entropy(self, state: Any, batch: PackedRows, field: str) -> jax.Array:
        arrays = (
            batch.inputs_BxL,
            batch.segment_ids_BxL,
            batch.positions_BxL,
            batch.index_GxK,
            batch.targets_GxK,
        )
        if self._mesh is None:
            return _score(self._graphdef, field, state, *arrays)
        with jax.set_mesh(self._mesh):  # the model's sharding constraints need it
            placed = place_rows(arrays, batch_sharding(self._mesh))
            return _score(self._graphdef, field, state, *placed)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _score(
    graphdef: Any,
    field: str,
    state: Any,
    inputs_BxL: jax.Array,
    segment_ids_BxL: jax.Array,
    positions_BxL: jax.Array,
    index_GxK: jax.Array,
    targets_GxK: jax.Array,
) -> jax.Array:
    """Return one field of ``CrossEntropy`` at the indexed positions, float32 [G, K].

    Values of padding entries are meaningless.
    """
    model = nnx.merge(graphdef, state)
    with products_of(model.config.activation_dtype):
        x_BxLxD = model.hidden(inputs_BxL, segment_ids_BxL, positions_BxL)
        # Gather the scored positions before the unembedding, which is the most expensive product.
        x_GxNxD = x_BxLxD.reshape(index_GxK.shape[0], -1, x_BxLxD.shape[-1])
        x_GxKxD = jnp.take_along_axis(x_GxNxD, index_GxK[..., None], axis=1)
        scored = linear_cross_entropy(
            x_GxKxD, model.unembedding(), targets_GxK, vocab_size=model.config.vocab_size
        )
    return everywhere(getattr(scored, field).astype(jnp.float32))


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


def products_of(dtype: str) -> AbstractContextManager:
    """Return a context in which float32 products are computed in float32.

    Otherwise TPUs would round the factors to bfloat16 and GPUs to TensorFloat-32.
    """
    exact = dtype == "float32" and target_backend() != "cpu"
    return jax.default_matmul_precision("float32") if exact else nullcontext()


def _add(total: np.ndarray, batch: PackedRows, values_GxK: jax.Array) -> None:
    """Add the values of a batch to the totals of its texts, in float64.

    One after the other in the order of the rows, so that the last digit does not depend on how
    many rows a batch has, or on how many devices share them.
    """
    values = np.asarray(values_GxK, np.float64)[batch.scored_GxK]
    np.add.at(total, batch.texts_GxK[batch.scored_GxK], values)
