"""Values of every target of fixed windows under one model: nats and entropy, token by token.

The windows are those of training, so a row needs no packing, and every position is multiplied by
the unembedding. With the activations of the training, the nats are those that its step adds up.

Letters: R rows, B rows of a batch, L row length.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lossline.errors import UserError
from lossline.evaluation.restoring import RunModel, measuring
from lossline.evaluation.scorer import IN_FLIGHT, everywhere
from lossline.ops.backend import products_of
from lossline.ops.cross_entropy import linear_cross_entropy, linear_token_values
from lossline.sharding import batch_sharding, place_rows
from lossline.stores.token_scores import ReferenceScore

QUANTITIES = tuple(quantity.value for quantity in ReferenceScore)
# Inputs and targets int32 [R, L], and int32 [R, L] segment ids or None.
Rows = tuple[np.ndarray, np.ndarray, np.ndarray | None]


class TokenMeasurer:
    """Measure every target of rows of windows, over all devices, several batches in flight.

    Args:
        model: the model of a run (``lossline.evaluation.options.Devices.model``).
        batch_size: rows per call of the model, divisible by the devices that rows are split over
            (``Devices.layout.batch_size``). It changes results only in the last rounding.
    """

    def __init__(self, model: RunModel, *, batch_size: int) -> None:
        self._model = model
        self._batch_size = batch_size

    def require_length(self, length: int, *, where: str) -> None:
        """Check that the model takes rows of ``length`` tokens.

        Args:
            length: L, tokens per row.
            where: the option that gives the length, for the message.

        Raises:
            UserError: the model has fewer learned positions.
        """
        config = self._model.config
        if config.position_params() and length > config.context_length:
            raise UserError(
                f"{where} = {length}: the model has only {config.context_length} learned "
                f"positions. Give at most {config.context_length}."
            )

    def measure(
        self,
        state: Any,
        inputs: np.ndarray,
        targets: np.ndarray,
        segment_ids: np.ndarray | None,
        quantities: Sequence[str] = ("nats",),
    ) -> dict[str, np.ndarray]:
        """Return values of every target of some rows.

        Args:
            state: parameters from ``RunModel.states``.
            inputs: int32 [R, L]: token ids, any number of rows.
            targets: int32 [R, L]: token ids; ``targets[:, i]`` is predicted from ``inputs[:, :i +
                1]``.
            segment_ids: int32 [R, L]: document of each position, which attends only to its own;
                None: each position attends to the whole row before it.
            quantities: of ``QUANTITIES``.

        Returns:
            float32 [R, L] by quantity, in nats. Values that are not finite are returned.

        Raises:
            MeasurementFailed: the checkpoint is damaged, the memory does not suffice, or a device
                was lost.
        """
        B = self._batch_size
        cut = (
            tuple(None if a is None else a[i : i + B] for a in (inputs, targets, segment_ids))
            for i in range(0, len(inputs), B)
        )
        parts = list(self.stream(state, cut, quantities))  # type: ignore[arg-type]
        empty = np.zeros((0, inputs.shape[1]), np.float32)
        return {name: np.concatenate([empty, *(p[name] for p in parts)]) for name in quantities}

    def stream(
        self, state: Any, batches: Iterable[Rows], quantities: Sequence[str] = ("nats",)
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield the values of each batch, as ``measure`` returns them; read batches ahead.

        Args:
            state: parameters from ``RunModel.states``.
            batches: rows as for ``measure``, at most ``batch_size`` in each batch. A batch of fewer
                rows is computed as a whole one.
            quantities: of ``QUANTITIES``.

        Raises:
            MeasurementFailed: as for ``measure``.
        """
        wanted = tuple(name for name in QUANTITIES if name in quantities)
        if not wanted or len(wanted) != len(set(quantities)):
            raise ValueError(f"quantities {quantities}: give some of {QUANTITIES}")
        waiting: deque[tuple[int, Mapping[str, jax.Array]]] = deque()
        with measuring(state):
            for rows in batches:
                waiting.append((len(rows[0]), self._dispatch(state, rows, wanted)))
                if len(waiting) > IN_FLIGHT:
                    yield _fetch(*waiting.popleft())
            while waiting:
                yield _fetch(*waiting.popleft())

    def _dispatch(self, state: Any, rows: Rows, quantities: tuple[str, ...]) -> Any:
        missing = self._batch_size - len(rows[0])
        whole = tuple(a if a is None else np.pad(a, ((0, missing), (0, 0))) for a in rows)
        with jax.set_mesh(self._model.mesh):  # the model's sharding constraints need it
            placed = place_rows(whole, batch_sharding(self._model.mesh))
            return _measure(self._model.graphdef, quantities, state, *placed)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _measure(
    graphdef: Any,
    quantities: tuple[str, ...],
    state: Any,
    inputs_BxL: jax.Array,
    targets_BxL: jax.Array,
    segment_ids_BxL: jax.Array | None,
) -> dict[str, jax.Array]:
    """Return each quantity, float32 [B, L]."""
    model = nnx.merge(graphdef, state)
    with products_of(model.config.activation_dtype):
        x_BxLxD = model.hidden(inputs_BxL, segment_ids_BxL)
        measured = (linear_token_values if "entropy" in quantities else linear_cross_entropy)(
            x_BxLxD,
            model.unembedding(padded=True),  # as in training: sharded columns stay whole
            targets_BxL,
            vocab_size=model.config.vocab_size,
        )
    values = {name: getattr(measured, f"{name}_T").astype(jnp.float32) for name in quantities}
    return {name: everywhere(array) for name, array in values.items()}


def _fetch(rows: int, values: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """Wait for the values of a batch; leave out the rows of padding."""
    return {name: np.asarray(array)[:rows] for name, array in values.items()}
