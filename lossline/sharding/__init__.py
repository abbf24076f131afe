"""Device mesh, the table of sharding rules, and the placement of state on devices."""

from lossline.sharding.launch import LaunchOptions, launch
from lossline.sharding.mesh import BATCH_AXES, MESH_AXES, MeshOptions, make_mesh
from lossline.sharding.placement import (
    batch_sharding,
    parameter_shardings,
    parameter_table,
    place_rows,
    replicated,
)
from lossline.sharding.process_group import ProcessGroup, joined
from lossline.sharding.rings import Rings, chosen_rings, ring_options
from lossline.sharding.rules import LOGICAL_AXES, RULES, Rules, constrain, make_rules

__all__ = [
    "BATCH_AXES",
    "LOGICAL_AXES",
    "MESH_AXES",
    "RULES",
    "LaunchOptions",
    "MeshOptions",
    "ProcessGroup",
    "Rings",
    "Rules",
    "batch_sharding",
    "chosen_rings",
    "constrain",
    "joined",
    "launch",
    "make_mesh",
    "make_rules",
    "parameter_shardings",
    "parameter_table",
    "place_rows",
    "replicated",
    "ring_options",
]
