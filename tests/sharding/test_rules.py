"""The table of rules is strict, and mesh errors give both numbers and the nearest that work."""

import itertools
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lossline.errors import UserError
from lossline.models import LlamaConfig
from lossline.sharding import (
    LaunchOptions,
    MeshOptions,
    constrain,
    launch,
    make_mesh,
    make_rules,
    parameter_shardings,
    parameter_table,
)
from lossline.sharding.launch import Launch
from lossline.training.make_trainer import make_trainer, require_whole_rows
from lossline.training.options import TrainOptions


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_a_launch_with_zero_processes_or_devices_is_refused():
    for name in ("processes", "virtual_cpu_devices"):
        with pytest.raises(UserError, match=rf"launch.{name} = 0: must be at least 1"):
            LaunchOptions(**{name: 0})


@pytest.mark.parametrize("coordinator", ["localhost", "1234", "localhost:", "host:0", "host:65536"])
def test_a_coordinator_must_be_a_host_and_a_port(coordinator):
    options = LaunchOptions(how=Launch.EXPLICIT, coordinator=coordinator, processes=1, process_id=0)
    with pytest.raises(UserError, match=f"launch.coordinator = '{coordinator}': must be host:port"):
        launch(options)


def test_automatic_launch_without_a_cluster_is_refused(monkeypatch):
    def initialize(**options):
        raise ValueError("coordinator_address should be defined.")  # the error of JAX

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(
        UserError, match=r"launch.how = 'auto': found no TPU pod, SLURM or Open MPI"
    ):
        launch(LaunchOptions(how=Launch.AUTO))


def test_spec_follows_the_table():
    assert make_rules().spec("w", ("layers", "embed", "mlp")) == P(None, "fsdp", "tensor")
    assert make_rules(["mlp=", "embed=tensor"]).spec("w", ("embed", "mlp")) == P("tensor", None)


@pytest.mark.parametrize(
    ("changes", "axes", "message"),
    [
        ((), ("embed", "color"), "w: no sharding rule for logical axis 'color'"),
        (("mlp=fsdp",), ("embed", "mlp"), "'embed' and 'mlp' both use mesh axis 'fsdp'"),
        (("mlp",), ("embed",), 'write "logical axis'),
        (("color=fsdp",), ("embed",), "no logical axis 'color'"),
        (("mlp=pipe",), ("embed",), "no mesh axis 'pipe'"),
        (("mlp=", "mlp=fsdp"), ("embed",), "already"),
    ],
)
def test_bad_rules_are_refused(changes, axes, message):
    with pytest.raises(UserError, match=message):
        make_rules(changes).spec("w", axes)


def test_a_changed_rule_that_no_parameter_uses_is_refused():
    mesh = make_mesh(MeshOptions())
    with pytest.raises(UserError, match="unused sharding rule 'inner'"):
        parameter_shardings({"w": shape(8)}, {"w": ("embed",)}, mesh, make_rules(["inner="]))


def place(mesh, **dimensions):
    """Place one parameter per dimension; its other axis has size 16 and is split along fsdp."""
    shapes = {name: shape(16, size) for name, size in dimensions.items()}
    axes = {name: ("embed", name) for name in dimensions}
    return parameter_shardings(shapes, axes, make_mesh(mesh), make_rules())


@pytest.mark.parametrize(
    ("mesh", "dimensions", "message"),
    [
        # 3 and 6 divide the six heads, but not the 8 devices.
        (
            MeshOptions(tensor=4),
            {"kv_heads": 6},
            "kv_heads axis 'kv_heads' of size 6 is not divisible by mesh tensor = 4; nearest that "
            "work: kv_heads axis 'kv_heads' of size 4 or 8, or mesh tensor = 2 (with the remaining "
            'devices on mesh data), or the mesh rule "kv_heads=" (a copy on every device)',
        ),
        (MeshOptions(tensor=2), {"heads": 3}, "of size 2 or 4, or mesh tensor = 1 (with the"),
        # 2 divides the heads, but not the groups of keys.
        (MeshOptions(tensor=4), {"heads": 6, "kv_heads": 3}, "or mesh tensor = 1 (with"),
        # tensor cannot use the devices of fsdp.
        (MeshOptions(fsdp=4, tensor=2), {"heads": 15}, "or mesh tensor = 1 (with"),
        (
            MeshOptions(data=1, fsdp=4, tensor=2),
            {"vocab": 61, "heads": 4},
            "a vocabulary of 61 is not divisible by mesh tensor = 2; pad it with the model's "
            "vocab_multiple = 2 (to 62), or set mesh tensor = 1 (with the",
        ),
        # A vocabulary can be padded, so it does not limit the proposed sizes.
        (MeshOptions(tensor=8), {"heads": 12, "vocab": 61}, "or mesh tensor = 4 (with"),
    ],
)
def test_a_dimension_that_the_mesh_does_not_divide_is_refused(mesh, dimensions, message):
    with pytest.raises(UserError) as mistake:
        place(mesh, **dimensions)
    assert message in str(mistake.value)


def proposed(message):
    """Return the sizes that a message proposes after its last "="."""
    found = re.search(r"= (\d+(?: or \d+)*) \(with", message)
    return [int(size) for size in found.group(1).split(" or ")]


def test_every_proposed_mesh_size_works():
    """For all small models and meshes: with the proposed size, and -1 for data, the model is
    placed.
    """
    refused = 0
    for heads, groups, fsdp, tensor in itertools.product(range(1, 13), (1, 2, 3), (1, 2), (2, 4)):
        dimensions = {"heads": heads * groups, "kv_heads": groups}
        try:
            place(MeshOptions(data=-1, fsdp=fsdp, tensor=tensor), **dimensions)
        except UserError as mistake:
            refused += 1
            sizes = proposed(str(mistake))
            assert sizes
            for size in sizes:
                place(MeshOptions(data=-1, fsdp=fsdp, tensor=size), **dimensions)
    assert refused > 50


def test_shardings_follow_the_rules_and_the_table_shows_them():
    mesh = make_mesh(MeshOptions(data=1, fsdp=4, tensor=2))
    shapes = {"a": {"w": shape(8, 4)}, "b": shape(3)}
    axes = {"a": {"w": ("embed", "mlp")}, "b": ("norm",)}
    shardings = parameter_shardings(shapes, axes, mesh, make_rules())
    assert shardings["a"]["w"].spec == P("fsdp", "tensor")
    placed = jax.device_put(jnp.zeros((8, 4)), shardings["a"]["w"])
    assert placed.addressable_shards[0].data.shape == (2, 2)
    table = parameter_table(shapes, axes, shardings)
    assert (
        "a/w" in table
        and "fsdp,tensor" in table
        and table.splitlines()[-1].split() == ["total", "35"]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (MeshOptions(tensor=3), "multiple of 3 devices, but 8 exist; nearest that work: 2 or 4"),
        (
            MeshOptions(data=2, fsdp=2, tensor=3),
            "needs 12 devices, but 8 exist; .*data=2 × fsdp=2 × sequence=1 × tensor=2",
        ),
        (MeshOptions(fsdp=-1), "only one axis may be -1"),
        (MeshOptions(fsdp=0), "fsdp = 0: must be a positive number"),
    ],
)
def test_bad_meshes_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        make_mesh(options)


ROWS = LlamaConfig(
    vocab_size=64, width=16, layers=1, heads=8, kv_heads=8, mlp_width=16, context_length=24
)


def trained(**changes):
    return make_trainer(TrainOptions(model=ROWS, store="unread", steps=99, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # 6 and 12 divide the batch, but they are not possible with 8 devices.
        (
            {"batch_size": 12},
            "train.batch_size 12 is not divisible by data × fsdp × microbatches = 8; nearest that "
            "work: train.batch_size 8 or 16, or data × fsdp = 4 (with the remaining devices "
            "on mesh tensor)",
        ),
        (
            {"batch_size": 24, "microbatches": 2},
            "microbatches = 16; nearest that work: train.batch_size 16 or 32, or "
            "train.microbatches = 1 or 3",
        ),
        ({"batch_size": 12, "microbatches": 2}, "train.batch_size 16, or data × fsdp = 2 (with"),
        ({"batch_size": 12, "microbatches": 5}, "mesh tensor) and train.microbatches = 1"),
        (
            {"batch_size": 8, "mesh": MeshOptions(data=2, sequence=4), "context_length": 22},
            "train.context_length 22 is not divisible by mesh sequence = 4; nearest that work: "
            "train.context_length 20 or 24, or mesh sequence = 2",
        ),
    ],
)
def test_a_batch_that_the_mesh_does_not_divide_is_refused(changes, message):
    with pytest.raises(UserError) as mistake:
        trained(**changes)
    assert message in str(mistake.value)


def test_every_proposed_batch_size_works():
    refused = 0
    for rows, parts, tensor in itertools.product(range(1, 41), (1, 2, 3), (1, 4)):
        mesh = MeshOptions(tensor=tensor)
        try:
            require_whole_rows(rows, parts, make_mesh(mesh))
        except UserError as mistake:
            refused += 1
            message = str(mistake)
            batches = re.search(r"work: train.batch_size (\d+)(?: or (\d+))?", message)
            for batch in filter(None, batches.groups()):
                require_whole_rows(int(batch), parts, make_mesh(mesh))
            if "data × fsdp = " in message:
                kept = 1 if "microbatches = 1" in message else parts
                for size in proposed(message):
                    other = MeshOptions(data=size, fsdp=1, tensor=-1)
                    require_whole_rows(rows, kept, make_mesh(other))
            else:
                for size in re.search(r"train.microbatches = (.*)", message).group(1).split(" or "):
                    require_whole_rows(rows, int(size), make_mesh(mesh))
    assert refused > 50


def test_constrain_pins_the_batch_and_the_length():
    mesh = make_mesh(MeshOptions(data=2, sequence=2, tensor=2))
    with jax.set_mesh(mesh):
        x = jax.jit(lambda x: constrain(x, "batch", "length", "mlp"))(jnp.zeros((8, 6, 4)))
    assert x.sharding.is_equivalent_to(NamedSharding(mesh, P("data", "sequence", "tensor")), 3)
    assert constrain(jnp.zeros(3), "batch").shape == (3,)
