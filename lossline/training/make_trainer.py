"""The trainer that options ask for: the same one to train with and to compile ahead of time."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from lossline.errors import UserError
from lossline.sharding import make_mesh, make_rules
from lossline.sharding.mesh import require_divisible
from lossline.training.objective import Objective
from lossline.training.options import TrainOptions
from lossline.training.step import Trainer


def make_trainer(options: TrainOptions, *, devices: Sequence[jax.Device] | None = None) -> Trainer:
    """The step, its mesh and its shardings.

    Args:
        options: of the training.
        devices: to spread it over; None: all that JAX has.

    Raises:
        UserError: the mesh fits neither the devices, nor the batch, nor the model.
    """
    mesh = make_mesh(options.mesh) if devices is None else make_mesh(options.mesh, devices=devices)
    ways = mesh.shape["data"] * mesh.shape["fsdp"] * options.microbatches
    parts = "data × fsdp × microbatches"
    require_divisible("train.batch_size", options.batch_size, parts, ways)
    if (pieces := mesh.shape["sequence"]) > 1:
        if hasattr(options.model, "scan_implementation"):
            raise UserError(
                f"mesh sequence = {pieces}: the state of {options.model.family!r} layers passes "
                f"through every position in turn, so that its length cannot be split; set it to 1 "
                f"and split tensor or fsdp"
            )
        require_divisible("train.context_length", options.length, "mesh sequence", pieces)
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
