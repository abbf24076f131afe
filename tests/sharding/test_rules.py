"""The rules table is strict, and mesh mistakes name both numbers and the nearest that work."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lossline.errors import UserError
from lossline.sharding import (
    MeshOptions,
    constrain,
    make_mesh,
    make_rules,
    parameter_shardings,
    parameter_table,
)


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_spec_follows_the_table():
    assert make_rules().spec("w", ("layers", "embed", "mlp")) == P(None, "fsdp", "tensor")
    assert make_rules(["mlp=", "embed=tensor"]).spec("w", ("embed", "mlp")) == P("tensor", None)


@pytest.mark.parametrize(
    ("changes", "axes", "message"),
    [
        ((), ("embed", "color"), "w: no sharding rule for logical axis 'color'"),
        (("mlp=fsdp",), ("embed", "mlp"), "'embed' and 'mlp' both fall on mesh axis 'fsdp'"),
        (("mlp",), ("embed",), "write it as"),
        (("color=fsdp",), ("embed",), "no logical axis 'color'"),
        (("mlp=pipe",), ("embed",), "no mesh axis 'pipe'"),
        (("mlp=", "mlp=fsdp"), ("embed",), "already"),
    ],
)
def test_strictness(changes, axes, message):
    with pytest.raises(UserError, match=message):
        make_rules(changes).spec("w", axes)


def test_unused_change_is_refused():
    mesh = make_mesh(MeshOptions())
    with pytest.raises(UserError, match="unused sharding rule 'inner'"):
        parameter_shardings({"w": shape(8)}, {"w": ("embed",)}, mesh, make_rules(["inner="]))


def test_dimension_that_the_mesh_does_not_divide():
    mesh = make_mesh(MeshOptions(tensor=4))
    with pytest.raises(
        UserError, match=r"'kv_heads' of size 6 .* tensor = 4; nearest .* 4 or 8, or .* = 3 or 6"
    ):
        parameter_shardings({"k": shape(16, 6)}, {"k": ("embed", "kv_heads")}, mesh, make_rules())


def test_shardings_and_table():
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
        (MeshOptions(tensor=3), "multiple of 3 devices, there are 8; nearest that work: 2 or 4"),
        (
            MeshOptions(data=2, fsdp=2, tensor=3),
            "needs 12 devices, there are 8; .*data=2 × fsdp=2 × sequence=1 × tensor=2",
        ),
        (MeshOptions(fsdp=-1), "only one axis may be -1"),
        (MeshOptions(fsdp=0), "fsdp = 0: must be a positive number"),
    ],
)
def test_mesh_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        make_mesh(options)


def test_constrain_pins_the_batch_and_the_length():
    mesh = make_mesh(MeshOptions(data=2, sequence=2, tensor=2))
    with jax.set_mesh(mesh):
        x = jax.jit(lambda x: constrain(x, "batch", "length", "mlp"))(jnp.zeros((8, 6, 4)))
    assert x.sharding.is_equivalent_to(NamedSharding(mesh, P("data", "sequence", "tensor")), 3)
    assert constrain(jnp.zeros(3), "batch").shape == (3,)
