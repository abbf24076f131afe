"""The reader of compiled programs: trip counts, traffic, collectives, and text of unknown forms."""

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lossline.compilation import hlo
from lossline.compilation.collectives import collectives, replica_groups
from lossline.compilation.flops import matmul_flops
from lossline.compilation.search import attempt
from lossline.errors import UserError
from lossline.sharding import MeshOptions, make_mesh

TPU_TEXT = """\
HloModule jit_run, is_scheduled=true

%cond.1 (p.1: (s32[], bf16[12,8,64])) -> pred[] {
  %constant.9 = s32[]{:T(128)} constant(12)
  %p.1 = (s32[]{:T(128)}, bf16[12,8,64]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %gte.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%gte.1, %constant.9), direction=LT
}

%slicing.1 (q.0: bf16[12,8,64], q.1: s32[]) -> bf16[8,64] {
  %q.0 = bf16[12,8,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %q.1 = s32[]{:T(128)} parameter(1)
  %zero.1 = s32[]{:T(128)} constant(0)
  %ds.1 = bf16[1,8,64]{2,1,0:T(8,128)(2,1)} dynamic-slice(%q.0, %q.1, %zero.1, %zero.1), dynamic_slice_sizes={1,8,64}
  ROOT %bc.1 = bf16[8,64]{1,0:T(8,128)(2,1)} bitcast(%ds.1)
}

%all-reduce-scatter.1 (r.0: bf16[8,64]) -> bf16[4,64] {
  %r.0 = bf16[8,64]{1,0:T(8,128)(2,1)} parameter(0)
  %ar.1 = bf16[8,64]{1,0:T(8,128)(2,1)} all-reduce(%r.0), channel_id=3, replica_groups=[4,2]<=[4,2]T(1,0), to_apply=%add
  %zero.2 = s32[]{:T(128)} constant(0)
  ROOT %ds.2 = bf16[4,64]{1,0:T(8,128)(2,1)} dynamic-slice(%ar.1, %zero.2, %zero.2), dynamic_slice_sizes={4,64}
}

%body.1 (p.2: (s32[], bf16[12,8,64])) -> (s32[], bf16[12,8,64]) {
  %p.2 = (s32[]{:T(128)}, /*index=1*/bf16[12,8,64]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.2), index=0
  %stack.1 = bf16[12,8,64]{2,1,0:T(8,128)(2,1)} get-tuple-element(%p.2), index=1
  %one.1 = bf16[8,64]{1,0:T(8,128)(2,1)S(3)} fusion(%stack.1, %i.1), kind=kLoop, calls=%slicing.1
  %ag.1 = bf16[8,128]{1,0:T(8,128)(2,1)S(3)} all-gather(%one.1), channel_id=1, replica_groups=mesh['a'=4,'b'=1,'c'=2] {'c'}, dimensions={1}, use_global_device_ids=true
  %rs.1 = bf16[4,64]{1,0:T(8,128)(2,1)} fusion(%one.1), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %t.1 = (s32[]{:T(128)}, bf16[12,8,64]{2,1,0:T(8,128)(2,1)}) tuple(%i.1, %stack.1)
}

ENTRY %main.1 (a.0: bf16[12,8,64]) -> bf16[12,8,64] {
  %a.0 = bf16[12,8,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %c.0 = s32[]{:T(128)} constant(0)
  %t.0 = (s32[]{:T(128)}, bf16[12,8,64]{2,1,0:T(8,128)(2,1)}) tuple(%c.0, %a.0)
  %w.0 = (s32[]{:T(128)}, bf16[12,8,64]{2,1,0:T(8,128)(2,1)}) while(%t.0), condition=%cond.1, body=%body.1
  ROOT %out.0 = bf16[12,8,64]{2,1,0:T(8,128)(2,1)} get-tuple-element(%w.0), index=1
}
"""  # noqa: E501


def test_a_loop_runs_as_often_as_its_condition_allows():
    program = hlo.Program.parse(TPU_TEXT)
    assert program.entry == "main.1"
    assert program.runs["body.1"] == 12
    assert program.unknown_loops == 0


def test_an_attribute_over_several_lines_does_not_end_a_computation():
    """The metadata of a Pallas kernel is such an attribute; everything after it still counts."""
    first = "  %one.1 = "
    kernel = (
        '  %k.1 = bf16[8,64]{1,0} custom-call(%stack.1), custom_call_target="tpu_custom_call",'
        ' frontend_attributes={kernel_metadata={\n"block": 512\n}}, metadata={op_name="k"}\n'
    )
    broken = hlo.Program.parse(TPU_TEXT.replace(first, kernel + first))
    whole = hlo.Program.parse(TPU_TEXT)
    assert "k.1" in broken.computations["body.1"].instructions
    assert hlo.memory_traffic(broken) == hlo.memory_traffic(whole)
    arguments = ((2, 2, 2), ("data", "fsdp", "tensor"))
    assert collectives(broken, *arguments) == collectives(whole, *arguments)


BRANCHES = """\
HloModule jit_run

%small.1 (s.0: f32[8,128]) -> f32[8,128] {
  %s.0 = f32[8,128]{1,0} parameter(0)
  ROOT %s.1 = f32[8,128]{1,0} negate(%s.0)
}

%large.1 (l.0: f32[8,128]) -> f32[8,128] {
  %l.0 = f32[8,128]{1,0} parameter(0)
  %l.1 = f32[8,128]{1,0} all-reduce(%l.0), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  ROOT %l.2 = f32[8,128]{1,0} negate(%l.1)
}

ENTRY %main.1 (a.0: f32[8,128], a.1: pred[]) -> f32[8,128] {
  %a.0 = f32[8,128]{1,0} parameter(0)
  %a.1 = pred[] parameter(1)
  ROOT %c.0 = f32[8,128]{1,0} conditional(%a.1, %a.0, %a.0), FORM
}
"""


@pytest.mark.parametrize(
    "form",
    [
        "branch_computations={%small.1, %large.1}",
        "branch_computations={%large.1, %small.1}",
        "true_computation=%small.1, false_computation=%large.1",
    ],
)
def test_the_branch_of_a_choice_that_moves_most_counts(form):
    program = hlo.Program.parse(BRANCHES.replace("FORM", form))
    assert program.runs == {"main.1": 1.0, "large.1": 1.0}
    assert hlo.memory_traffic(program) == 4 * 8 * 128 * 4  # two operations read and write
    (row,) = collectives(program, (2,), ("data",))
    assert (row.kind, row.count, row.wire_bytes) == ("all-reduce", 1, 8 * 128 * 4)


def test_traffic_counts_slices_not_stacks_and_only_main_memory():
    program = hlo.Program.parse(TPU_TEXT)
    slice_bytes = 8 * 64 * 2  # read from HBM, written to scratch memory S(3)
    scattered = 4 * 64 * 2  # written to HBM; its operand is in scratch memory
    index = 4
    assert hlo.memory_traffic(program) == 12 * (slice_bytes + index + scattered)


NESTED = """\
HloModule jit_run

%inmost.1 (i.0: bf16[12,8,64], i.1: s32[]) -> f32[8,64] {
  %i.0 = bf16[12,8,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %i.1 = s32[]{:T(128)} parameter(1)
  %ds.1 = bf16[1,8,64]{2,1,0:T(8,128)(2,1)} dynamic-slice(%i.0, %i.1, %i.1, %i.1), dynamic_slice_sizes={1,8,64}
  ROOT %cv.1 = f32[8,64]{1,0:T(8,128)} convert(%ds.1)
}

%replacing.1 (u.0: bf16[12,8,64], u.1: bf16[1,8,64], u.2: s32[]) -> bf16[12,8,64] {
  %u.0 = bf16[12,8,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %u.1 = bf16[1,8,64]{2,1,0:T(8,128)(2,1)} parameter(1)
  %u.2 = s32[]{:T(128)} parameter(2)
  ROOT %dus.1 = bf16[12,8,64]{2,1,0:T(8,128)(2,1)} dynamic-update-slice(%u.0, %u.1, %u.2, %u.2, %u.2)
}

%outer.1 (o.0: bf16[12,8,64], o.1: s32[], o.2: bf16[12,8,64]) -> (f32[8,64], bf16[12,8,64]) {
  %o.0 = bf16[12,8,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %o.1 = s32[]{:T(128)} parameter(1)
  %o.2 = bf16[12,8,64]{2,1,0:T(8,128)(2,1)} parameter(2)
  %bc.1 = bf16[12,8,64]{2,1,0:T(8,128)(2,1)} bitcast(%o.0)
  %f.1 = f32[8,64]{1,0:T(8,128)} fusion(%bc.1, %o.1), kind=kLoop, calls=%inmost.1
  %cv.2 = bf16[1,8,64]{2,1,0:T(8,128)(2,1)} convert(%f.1)
  %f.2 = bf16[12,8,64]{2,1,0:T(8,128)(2,1)} fusion(%o.2, %cv.2, %o.1), kind=kLoop, calls=%replacing.1
  ROOT %t.1 = (f32[8,64]{1,0:T(8,128)}, bf16[12,8,64]{2,1,0:T(8,128)(2,1)}) tuple(%f.1, %f.2)
}

ENTRY %main.1 (a.0: bf16[12,8,64], a.1: s32[], a.2: bf16[12,8,64]) -> (f32[8,64], bf16[12,8,64]) {
  %a.0 = bf16[12,8,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %a.1 = s32[]{:T(128)} parameter(1)
  %a.2 = bf16[12,8,64]{2,1,0:T(8,128)(2,1)} parameter(2)
  ROOT %f.3 = (f32[8,64]{1,0:T(8,128)}, bf16[12,8,64]{2,1,0:T(8,128)(2,1)}) fusion(%a.0, %a.1, %a.2), kind=kOutput, calls=%outer.1
}
"""  # noqa: E501


def test_slices_inside_nested_fusions_are_counted_as_slices():
    """The body of a scan over layers on TPU looks like this.

    It reads one layer of the stack of all layers, and writes one layer, three fusions deep.
    """
    one = 8 * 64
    read, written, updated, index = 2 * one, 4 * one, 2 * one, 4
    program = hlo.Program.parse(NESTED)
    assert hlo.memory_traffic(program) == read + index + written + updated
    # If any instruction inside uses the whole stack, the whole stack counts.
    convert = "%cv.2 = bf16[1,8,64]{2,1,0:T(8,128)(2,1)} convert(%f.1)"
    whole = NESTED.replace(convert, convert.replace("%f.1", "%f.1, %bc.1"))
    assert whole != NESTED
    assert hlo.memory_traffic(hlo.Program.parse(whole)) == 12 * read + index + written + updated


def test_collectives_are_counted_per_trip_with_their_mesh_axes():
    program = hlo.Program.parse(TPU_TEXT)
    rows = collectives(program, (2, 2, 2), ("data", "fsdp", "tensor"))
    found = {(row.kind, row.axes): row for row in rows}
    gathered = found["all-gather", "tensor"]
    assert (gathered.count, gathered.wire_bytes) == (12, 12 * (8 * 128 * 2) / 2)
    # The transposed iota pairs devices 0 and 2, and so on: along fsdp.
    scattered = found["reduce-scatter", "fsdp"]
    assert (scattered.count, scattered.wire_bytes) == (12, 12 * (8 * 64 * 2) / 2)
    assert len(rows) == 2


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("ENTRY %main.1", "%main.1", "its text has no ENTRY computation"),
        ("%body.1 (p.2", "%body/1 (p.2", "computation body.1 of w.0 is not in its text"),
        ("  %c.0 = s32[]", "  let %c.0: s32[]", "the line 'let %c.0: .*is not an instruction"),
        (" constant(12)", " Constant 12", "has no operation"),
        ("all-gather(%one.1)", "all-gather(one.1)", "all-gather.one.1.*no operand with a name"),
        ("all-gather(%one.1)", "all-gather(%two.1)", "operand two.1 of ag.1 is not in its text"),
        ("all-gather(%one.1)", "all-scatter(%one.1)", "operation all-scatter of ag.1 is unknown"),
        ("ag.1 = bf16[8,128]", "ag.1 = mx9[8,128]", "the data type 'mx9' is unknown"),
        ("ag.1 = bf16[8,128]", "ag.1 = bf16[<=8,128]", "the shape 'bf16.<=8,128.*is unknown"),
        ("body=%body.1", "do=%body.1", "the loop w.0 has no body"),
        ("calls=%slicing.1", "does=%slicing.1", "the fusion one.1 calls no computation"),
        ("=mesh['a'=4", "=ring['a'=4", "the groups .*ring.*are unknown"),
    ],
)
def test_text_of_an_unknown_form_is_refused_in_one_line(old, new, problem):
    """Each of these changes would leave bytes out of the counts, or count them wrongly."""
    altered = TPU_TEXT.replace(old, new)
    assert altered != TPU_TEXT
    with pytest.raises(UserError, match=problem) as refused:
        program = hlo.Program.parse(altered)
        hlo.memory_traffic(program)
        collectives(program, (2, 2, 2), ("data", "fsdp", "tensor"))
    message = str(refused.value)
    assert message.startswith(f"cannot read the program that jaxlib {jaxlib.__version__} compiled")
    assert message.endswith("Install a tested jaxlib: 0.10.2, 0.11.2 or 0.12.0")
    assert "\n" not in message


def test_a_search_does_not_take_unreadable_text_for_a_setting_that_is_refused(monkeypatch):
    def unreadable(options, target):
        raise hlo.UnreadableProgram("its text has no ENTRY computation")

    monkeypatch.setattr("lossline.compilation.search.analyze", unreadable)
    with pytest.raises(UserError, match="no ENTRY computation"):
        attempt(None, None)


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}, to_apply=%a", [[0, 2], [1, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['x'=2,'y'=2] {'x'}, foo", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['x'=2,'y'=2], device_ids=([2,2]T(1,0)) {'x'}, f", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['x'=1,'y'=4], device_ids=(0,2,1,3) {'y'}", [[0, 2, 1, 3]]),
        ("replica_groups=mesh['x'=4] {'x':(1)2}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['x'=4] {'x':(2)2}", [[0, 1], [2, 3]]),
        ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
        ("replica_groups={}", [[0, 1, 2, 3]]),
    ],
)
def test_replica_groups_are_read_in_every_form(text, groups):
    assert replica_groups(text, 4) == groups


def compiled_scan(mesh):
    def step(x, w):
        def layer(x, w):
            return jnp.tanh(x @ w), None

        return jnp.sum(jax.lax.scan(layer, x, w)[0])

    x = jax.ShapeDtypeStruct(
        (16, 64), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data"))
    )
    w = jax.ShapeDtypeStruct(
        (6, 64, 64), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(None, None, "fsdp"))
    )
    whole = NamedSharding(mesh, PartitionSpec(None, None, "fsdp"))
    return jax.jit(jax.grad(step, argnums=1), out_shardings=whole).trace(x, w)


def test_a_real_compiled_scan_is_read():
    mesh = make_mesh(MeshOptions(data=2, fsdp=4))
    traced = compiled_scan(mesh)
    # One product forward and two backward in each of 6 layers. The input of the first layer needs
    # no gradient, but the loop computes it.
    assert matmul_flops(traced.jaxpr) == 3 * 6 * 2 * 16 * 64 * 64
    program = hlo.Program.parse(traced.lower().compile().as_text())
    assert program.unknown_loops == 0
    assert 6.0 in program.runs.values()
    rows = collectives(program, tuple(mesh.shape.values()), tuple(mesh.shape))
    assert rows
    assert {row.axes for row in rows} <= {"data", "fsdp", "data+fsdp"}
    assert max(row.count for row in rows) >= 6
    # Both passes read the weights at least once.
    assert hlo.memory_traffic(program) >= 2 * 6 * 64 * 64 * 4 / 4


def test_flops_are_counted_inside_remat_cond_and_shard_map():
    w = jnp.ones((8, 8))
    product = 2 * 8 * 8 * 8

    def twice(x):
        return jax.checkpoint(lambda y: jnp.sin(y @ w) @ w)(x).sum()

    plain = matmul_flops(jax.make_jaxpr(jax.grad(lambda x: (jnp.sin(x @ w) @ w).sum()))(w))
    assert matmul_flops(jax.make_jaxpr(jax.grad(twice))(w)) >= plain
    branches = jax.make_jaxpr(lambda p, x: jax.lax.cond(p, lambda y: y @ y @ y, lambda y: y @ y, x))
    assert matmul_flops(branches(True, w)) == 2 * product
    mesh = make_mesh(MeshOptions(data=8))
    sharded = jax.shard_map(
        lambda x: x @ w,
        mesh=mesh,
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec("data"),
        check_vma=False,
    )
    rows = np.ones((64, 8), np.float32)
    assert matmul_flops(jax.make_jaxpr(sharded)(rows)) == 2 * 64 * 8 * 8
    convolution = jax.make_jaxpr(
        lambda x, k: jax.lax.conv_general_dilated(
            x, k, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
        )
    )
    assert matmul_flops(convolution(jnp.ones((1, 10, 3)), jnp.ones((4, 3, 5)))) == 2 * 7 * 5 * 12
