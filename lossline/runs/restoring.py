"""Load a model from a run directory."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from lossline import models
from lossline.runs.checkpoints import restore_arrays
from lossline.runs.run_directory import RunDirectory
from lossline.sharding import MeshOptions, make_mesh, make_rules, parameter_shardings


def load_model(run: RunDirectory, step: int, *, mesh: Mesh | None = None) -> nnx.Module:
    """Return the model after ``step`` updates.

    Args:
        run: run directory.
        step: one of ``run.checkpoint_steps()``.
        mesh: devices of the parameters. Default: one device.

    Raises:
        UserError: the checkpoint is missing or corrupt, or the mesh does not fit the model.
    """
    if mesh is None:
        mesh = make_mesh(MeshOptions(data=1), devices=jax.devices()[:1])
    graph, state = models.abstract_state(models.config_from_dict(run.config["model"]))
    nnx.replace_by_pure_dict(state, restore_arrays(run, step, _abstract(state, mesh)))
    return nnx.merge(graph, state)


def _abstract(state: nnx.State, mesh: Mesh) -> Any:
    shapes = nnx.to_pure_dict(state)
    axes = nnx.to_pure_dict(models.logical_axes(state))
    shardings = parameter_shardings(shapes, axes, mesh, make_rules())
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )
