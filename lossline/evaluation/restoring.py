"""Load the checkpoints of a run one after the other; the next is read while one is measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from lossline import models
from lossline.errors import UserError
from lossline.evaluation.packing import PackedTexts
from lossline.evaluation.scorer import Scorer
from lossline.runs.checkpoints import restore_arrays
from lossline.runs.run_directory import RunDirectory
from lossline.sharding import ProcessGroup, Rules, parameter_shardings


class CheckpointUnreadable(Exception):
    """A checkpoint that is damaged or too large; the message says which."""


class MeasurementFailed(Exception):
    """A measurement that is not possible; the message is the reason, for the row of the table."""


class RunModel:
    """The model of a run directory.

    Args:
        run: run directory.
        activations: type to compute in; "" for the type that the run was trained in.
        mesh: devices of parameters and rows.
        rules: logical axis -> mesh axis.
        group: the processes whose devices the mesh spans. None: this process alone.

    Attributes:
        config: config of the model, with these activations.
        graphdef: definition of the model, the other half of the states.
        mesh: as above.
        scorer: scorer of packed texts.
    """

    def __init__(
        self,
        run: RunDirectory,
        *,
        activations: str,
        mesh: Mesh,
        rules: Rules,
        group: ProcessGroup | None = None,
    ) -> None:
        config = models.config_from_dict(run.config["model"])
        if activations:
            config = dataclasses.replace(config, activation_dtype=activations)
        self.config, self.mesh = config, mesh
        self.graphdef, self._state = models.abstract_state(config)
        self.scorer = Scorer(self.graphdef, mesh=mesh)
        self._run, self._group = run, group or ProcessGroup()
        shapes = nnx.to_pure_dict(self._state)
        axes = nnx.to_pure_dict(models.logical_axes(self._state))
        self._abstract = jax.tree.map(
            lambda array, sharding: jax.ShapeDtypeStruct(
                array.shape, array.dtype, sharding=sharding
            ),
            shapes,
            parameter_shardings(shapes, axes, mesh, rules),
        )

    def states(self, steps: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Yield (step, parameters) of each checkpoint; a ``CheckpointUnreadable`` if damaged.

        Each process reads what its devices hold. If one cannot, the checkpoint is unreadable for
        all.
        """
        with ThreadPoolExecutor(max_workers=1) as reader:
            pending = [reader.submit(self._read, step) for step in steps[:1]]
            for number, step in enumerate(steps):
                state = pending.pop().result()
                if number + 1 < len(steps):
                    pending.append(reader.submit(self._read, steps[number + 1]))
                yield step, self._agreed(state)

    def _agreed(self, state: Any) -> Any:
        """Return the state, or a ``CheckpointUnreadable`` if one process has no state."""
        try:
            with self._group.agreed(CheckpointUnreadable):
                if isinstance(state, CheckpointUnreadable):
                    raise state
        except CheckpointUnreadable as error:
            return error
        return state

    def _read(self, step: int) -> Any:
        try:
            params = restore_arrays(
                self._run, step, self._abstract, part=(self._group.index, self._group.count)
            )
        except UserError as error:
            return CheckpointUnreadable(str(error))
        except jax.errors.JaxRuntimeError as error:  # out of memory, a lost device
            return CheckpointUnreadable(f"{type(error).__name__}: {error}")
        state = jax.tree.map(lambda leaf: leaf, self._state)
        nnx.replace_by_pure_dict(state, params)
        return state


def nats_of(scorer: Scorer, state: Any, texts: PackedTexts) -> np.ndarray:
    """Return the nats of each text under one checkpoint, float64 [texts].

    Args:
        scorer: the run's scorer.
        state: parameters, or a ``CheckpointUnreadable`` (``RunModel.states``).
        texts: packed texts.

    Raises:
        MeasurementFailed: the checkpoint is damaged, the memory does not suffice, or a device was
            lost. Nats that are not finite are returned.
    """
    with measuring(state):
        return scorer.nats_per_text(state, texts)


@contextmanager
def measuring(state: Any) -> Iterator[None]:
    """Turn what can go wrong while a checkpoint is measured into ``MeasurementFailed``.

    Args:
        state: parameters, or a ``CheckpointUnreadable`` (``RunModel.states``).
    """
    if isinstance(state, CheckpointUnreadable):
        raise MeasurementFailed(str(state))
    try:
        yield
    except jax.errors.JaxRuntimeError as error:  # out of memory, a lost device
        raise MeasurementFailed(f"{type(error).__name__}: {error}") from error


def not_finite(nats: float) -> str:
    """Return the reason why a measurement with these nats has failed."""
    return f"the loss is {nats}: the model's parameters or outputs are not finite"
