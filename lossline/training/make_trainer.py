"""Build the ``Trainer`` of given options, for training and for compiling ahead of time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lossline.errors import UserError
from lossline.objectives.options import Scope
from lossline.objectives.plain import PlainLoss
from lossline.objectives.selective import SelectiveLoss
from lossline.sharding import batch_sharding, make_mesh, make_rules
from lossline.sharding.mesh import (
    devices_along,
    indivisible,
    nearest_divisors,
    require_divisible,
)
from lossline.training.batch_contents import batch_fields
from lossline.training.options import TrainOptions
from lossline.training.step import State, Trainer


def make_trainer(options: TrainOptions, *, devices: Sequence[jax.Device] | None = None) -> Trainer:
    """Build the training step with its mesh and shardings.

    Args:
        options: options of the training.
        devices: devices to use. None: all devices of JAX.

    Raises:
        UserError: the mesh does not fit the devices, the batch or the model.
    """
    mesh = make_mesh(options.mesh) if devices is None else make_mesh(options.mesh, devices=devices)
    require_whole_rows(options.batch_size, options.microbatches, mesh)
    if (pieces := mesh.shape["sequence"]) > 1:
        if hasattr(options.model, "scan_implementation"):
            raise UserError(
                f"mesh sequence = {pieces}: {options.model.family!r} has recurrent layers, which "
                "need the whole sequence on one device. Set mesh.sequence = 1 and use mesh.tensor "
                "or mesh.fsdp."
            )
        along = devices_along(mesh, "sequence")
        require_divisible(
            "train.context_length", options.length, "mesh sequence", pieces, devices=along
        )
    trainer = Trainer(
        model=options.model,
        objective=_objective(options, mesh),
        optimizer=options.optimizer,
        mesh=mesh,
        rules=make_rules(options.mesh.rules),
        microbatches=options.microbatches,
        rings=options.mesh.rings,
    )
    _ = trainer.shardings  # raises UserError if the mesh does not fit the model
    return trainer


def _objective(options: TrainOptions, mesh: Mesh) -> PlainLoss | SelectiveLoss:
    """Return the objective of the step.

    Raises:
        UserError: the selection of a batch would be empty.
    """
    common: dict[str, Any] = {
        "vocab_size": options.model.vocab_size,
        "z_loss": options.z_loss,
        "implementation": options.cross_entropy,
    }
    chosen = options.objective
    if chosen is None:
        return PlainLoss(**common)
    scope = chosen.scope or Scope.BATCH
    ranked = {
        Scope.BATCH: options.tokens_per_step,
        Scope.MICROBATCH: options.tokens_per_step // options.microbatches,
        Scope.SEQUENCE: options.length,
    }[scope]
    if options.tokens_per_step < mesh.size:
        raise UserError(
            f"train.objective: a batch has {options.tokens_per_step} targets, fewer than the "
            f"{mesh.size} devices. Increase train.batch_size or use fewer devices."
        )
    if chosen.fraction * ranked < 1:
        raise UserError(
            f"selective.share = {chosen.share}: less than one of the {ranked} targets of a "
            f"{scope.value}. Increase the share, train.batch_size or train.context_length."
        )
    return SelectiveLoss(
        share=chosen.fraction,
        score=chosen.score,
        scope=scope,
        one_device=mesh.size == 1,
        **common,
    )


def step_arguments(
    options: TrainOptions, trainer: Trainer
) -> tuple[State, dict[str, jax.ShapeDtypeStruct], np.ndarray]:
    """Return abstract arguments of one step: state, batch (shapes with shardings) and rates.

    JAX caches the trace made with them, so compiling the step does not trace again.
    """
    shape = (options.batch_size, options.length)
    rows = batch_sharding(trainer.mesh)
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=rows)
        for name, dtype in batch_fields(options).items()
    }
    return trainer.abstract_state, batch, np.zeros(2, np.float32)


def rates(options: TrainOptions, step: int) -> np.ndarray:
    """Return [learning rate, weight decay] of update ``step`` (counted from 1), float32 [2]."""
    factor = options.schedule.factor(step - 1, options.total_steps)
    optimizer = options.optimizer
    return np.asarray([factor * optimizer.learning_rate, optimizer.weight_decay], np.float32)


def require_whole_rows(rows: int, parts: int, mesh: Mesh) -> None:
    """Check that every device gets the same number of rows in each microbatch.

    Args:
        rows: rows of the batch.
        parts: number of microbatches.
        mesh: devices; rows are split over ``data`` and ``fsdp``.

    Raises:
        UserError: names the nearest batch sizes, microbatches or meshes that work.
    """
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % (shards * parts) == 0:
        return
    if rows % shards == 0:
        fix = f"train.microbatches = {nearest_divisors(rows // shards, parts)}"
    else:
        along = mesh.size // mesh.shape["sequence"]
        kept = parts if rows % parts == 0 else 1
        sizes = nearest_divisors(math.gcd(rows // kept, along), shards)
        fix = f"data × fsdp = {sizes} (with the remaining devices on mesh tensor)"
        fix += "" if kept == parts else " and train.microbatches = 1"
    by = "data × fsdp × microbatches"
    raise indivisible("train.batch_size", rows, by, shards * parts, fix=fix)
