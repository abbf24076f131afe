"""The trainer that options ask for: the same one to train with and to compile ahead of time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lossline.errors import UserError
from lossline.sharding import batch_sharding, make_mesh, make_rules
from lossline.sharding.mesh import (
    devices_along,
    indivisible,
    nearest_divisors,
    require_divisible,
)
from lossline.training.objective import Objective
from lossline.training.options import Documents, TrainOptions
from lossline.training.step import State, Trainer


def make_trainer(options: TrainOptions, *, devices: Sequence[jax.Device] | None = None) -> Trainer:
    """The step, its mesh and its shardings.

    Args:
        options: of the training.
        devices: to spread it over; None: all that JAX has.

    Raises:
        UserError: the mesh fits neither the devices, nor the batch, nor the model.
    """
    mesh = make_mesh(options.mesh) if devices is None else make_mesh(options.mesh, devices=devices)
    require_whole_rows(options.batch_size, options.microbatches, mesh)
    if (pieces := mesh.shape["sequence"]) > 1:
        if hasattr(options.model, "scan_implementation"):
            raise UserError(
                f"mesh sequence = {pieces}: the state of {options.model.family!r} layers passes "
                f"through every position in turn, so that its length cannot be split; set it to 1 "
                f"and split tensor or fsdp"
            )
        along = devices_along(mesh, "sequence")
        require_divisible(
            "train.context_length", options.length, "mesh sequence", pieces, devices=along
        )
    trainer = Trainer(
        model=options.model,
        objective=Objective(
            vocab_size=options.model.vocab_size,
            z_loss=options.z_loss,
            implementation=options.cross_entropy,
        ),
        optimizer=options.optimizer,
        mesh=mesh,
        rules=make_rules(options.mesh.rules),
        microbatches=options.microbatches,
    )
    _ = trainer.shardings  # refuses a mesh that does not fit the model
    return trainer


def step_arguments(
    options: TrainOptions, trainer: Trainer
) -> tuple[State, dict[str, jax.ShapeDtypeStruct], np.ndarray]:
    """What one step is called with: state and batch as shapes where they lie, and rates. A trace of
    these is kept by JAX, and serves the calls of the step too.
    """
    shape = (options.batch_size, options.length)
    dtypes = {"inputs": jnp.int32, "targets": jnp.int32, "weights": jnp.float32}
    if options.documents is Documents.SEPARATE:
        dtypes["segment_ids"] = jnp.int32
    rows = batch_sharding(trainer.mesh)
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=rows) for name, dtype in dtypes.items()
    }
    return trainer.abstract_state, batch, np.zeros(2, np.float32)


def rates(options: TrainOptions, step: int) -> np.ndarray:
    """[learning rate, weight decay] of update number ``step`` (from 1); float32 [2]."""
    factor = options.schedule.factor(step - 1, options.total_steps)
    optimizer = options.optimizer
    return np.asarray([factor * optimizer.learning_rate, optimizer.weight_decay], np.float32)


def require_whole_rows(rows: int, parts: int, mesh: Mesh) -> None:
    """Refuses a batch that does not give every device as many rows in each of ``parts``
    microbatches.

    Raises:
        UserError: with the nearest batches, microbatches or meshes that do.
    """
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % (shards * parts) == 0:
        return
    if rows % shards == 0:
        mend = f"train.microbatches = {nearest_divisors(rows // shards, parts)}"
    else:
        along = mesh.size // mesh.shape["sequence"]
        kept = parts if rows % parts == 0 else 1
        sizes = nearest_divisors(math.gcd(rows // kept, along), shards)
        mend = f"data × fsdp = {sizes} (and mesh tensor with the devices that are left)"
        mend += "" if kept == parts else " and train.microbatches = 1"
    by = "data × fsdp × microbatches"
    raise indivisible("train.batch_size", rows, by, shards * parts, mend=mend)
