"""The compiled step.

Equal results however it is split, state placed as declared, and no unnecessary collectives.
"""

import functools
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossline.compilation import hlo
from lossline.compilation.collectives import collectives as traffic_by_axes
from lossline.objectives.plain import PlainLoss
from lossline.ops.backend import compiling_for
from lossline.sharding import MeshOptions, batch_sharding, make_mesh, make_rules
from lossline.training.optimizer import AdamW
from lossline.training.step import Trainer

ROWS, LENGTH = 16, 32
MESHES = {
    "data": MeshOptions(data=8),
    "fsdp": MeshOptions(data=1, fsdp=8),
    "data-tensor": MeshOptions(data=4, tensor=2),
    "fsdp-tensor": MeshOptions(data=1, fsdp=2, tensor=4),
    "all": MeshOptions(data=2, fsdp=2, tensor=2),
}
FAMILIES = ("llama", "mamba")
RATES = np.asarray([1e-3, 0.1], np.float32)
QUICK = {"xla_backend_optimization_level": 0}  # what XLA partitions is the same, LLVM is quicker


def make_trainer(model, mesh=None, *, z_loss=1e-3, **changes):
    alone = mesh is None
    devices = jax.devices()[:1] if alone else None
    return Trainer(
        model=model,
        objective=PlainLoss(vocab_size=model.vocab_size, z_loss=z_loss),
        optimizer=AdamW(clip_norm=0.5),
        mesh=make_mesh(MeshOptions(data=1) if alone else mesh, devices=devices),
        rules=make_rules(),
        **changes,
    )


# The tests before the collectives compile each step once. Those of collectives trace their own, in
# the form of the accelerators.
shared_trainer = functools.cache(make_trainer)


@pytest.fixture(scope="module")
def batch():
    """Rows with two documents each and padding of different lengths."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, 264, (ROWS, LENGTH + 1), np.int32)
    filled = generator.integers(3, LENGTH + 1, ROWS)
    return {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": (np.arange(LENGTH) < filled[:, None]).astype(np.float32),
        "segment_ids": 1 + (np.arange(LENGTH) >= filled[:, None] // 2).astype(np.int32),
    }


def run(trainer, batch, steps=2, rates=RATES, start=None):
    """Return (state, metrics) after ``steps`` updates on one batch, from ``start`` or fresh."""
    if start is None:
        state = trainer.init(jax.random.key(0))
    else:
        state = jax.device_put(start, trainer.shardings)
    placed = {k: jax.device_put(v, batch_sharding(trainer.mesh)) for k, v in batch.items()}
    with jax.set_mesh(trainer.mesh):
        for _ in range(steps):
            state, metrics = trainer.step(state, placed, rates)
    return state, np.asarray(metrics)


@pytest.fixture(scope="module")
def fresh(models):
    """A fresh state on one device as NumPy arrays, per family."""
    key = jax.random.key(0)
    return {
        family: jax.tree.map(np.asarray, shared_trainer(models[family]).init(key))
        for family in FAMILIES
    }


@pytest.fixture(scope="module")
def alone(models, batch, fresh):
    """The result on one device, per family."""
    return {
        family: run(shared_trainer(models[family]), batch, start=fresh[family])
        for family in FAMILIES
    }


def assert_close(found, expected):
    (state, metrics), (state_0, metrics_0) = found, expected
    np.testing.assert_allclose(metrics, metrics_0, rtol=2e-5)
    flat, tree = jax.tree.flatten(jax.tree.map(np.asarray, state["params"]))
    flat_0, tree_0 = jax.tree.flatten(jax.tree.map(np.asarray, state_0["params"]))
    assert tree == tree_0
    # Adam turns even tiny gradients into steps of size lr, with a sign that depends on rounding.
    # So compare the update of a whole parameter, relative to the size of the updates.
    for a, b in zip(flat, flat_0, strict=True):
        assert np.linalg.norm(a - b) <= 1e-3 * RATES[0] * 2 * np.sqrt(a.size) + 1e-6


FAST = {("llama", "all"), ("mamba", "all")}


@pytest.mark.parametrize(
    ("family", "mesh"),
    [
        pytest.param(family, mesh, marks=() if (family, mesh) in FAST else pytest.mark.slow)
        for family in FAMILIES
        for mesh in MESHES
    ],
)
def test_sharded_step_equals_one_device(models, batch, fresh, alone, family, mesh):
    """On a mesh with every axis split, the fresh state is created there too."""
    trainer = shared_trainer(models[family], MESHES[mesh])
    found = run(trainer, batch, start=None if mesh == "all" else fresh[family])
    assert_close(found, alone[family])
    for leaf, sharding in zip(
        jax.tree.leaves(found[0]), jax.tree.leaves(trainer.shardings), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


def test_microbatches_equal_the_whole_batch(models, batch, alone):
    assert_close(run(shared_trainer(models["llama"], microbatches=4), batch), alone["llama"])


@pytest.mark.parametrize("family", ["llama", pytest.param("mamba", marks=pytest.mark.slow)])
def test_microbatches_on_a_data_mesh_equal_one_device(models, batch, fresh, alone, family):
    trainer = shared_trainer(models[family], MESHES["data"], microbatches=2)
    assert_close(run(trainer, batch, start=fresh[family]), alone[family])


def test_microbatches_on_a_mixed_mesh_equal_one_device(models, batch, alone):
    mesh = MeshOptions(data=2, fsdp=2, tensor=2)
    assert_close(run(shared_trainer(models["llama"], mesh, microbatches=2), batch), alone["llama"])


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["full", "dots", "offload"])
def test_remat_does_not_change_the_result(models, batch, alone, remat):
    assert_close(run(shared_trainer(replace(models["llama"], remat=remat)), batch), alone["llama"])


def test_moments_are_sharded_like_their_parameter(models):
    trainer = shared_trainer(models["llama"], MESHES["all"])
    moments = trainer.shardings["optimizer"]
    assert moments.mu == trainer.shardings["params"] == moments.nu
    assert moments.count.spec == jax.sharding.PartitionSpec()
    state = trainer.init(jax.random.key(0))
    gate = state["optimizer"].nu["blocks"]["mlp"]["gate"]
    assert gate.addressable_shards[0].data.size * 4 == gate.size  # fsdp 2 × tensor 2


def test_float32_copies_accumulate_updates_below_bfloat16_precision(models, batch):
    trainer = shared_trainer(replace(models["llama"], param_dtype="bfloat16"), MESHES["all"])
    moments, copies = trainer.shardings["optimizer"]
    assert copies == trainer.shardings["params"] == moments.nu
    first = jax.tree.map(np.asarray, trainer.init(jax.random.key(0))["params"])
    rates = np.asarray([1e-6, 0.0], np.float32)
    state, _ = run(trainer, batch, rates=rates)
    for leaf in jax.tree.leaves((state["optimizer"].moments.nu, state["optimizer"].params)):
        assert leaf.dtype == jnp.float32

    def compare(path, before, copy, stored):
        before, copy = before.astype(np.float32), np.asarray(copy)
        moved = np.abs(copy - before).max()
        assert 0 < moved <= 2.1e-6, jax.tree_util.keystr(path)
        np.testing.assert_array_equal(copy.astype(stored.dtype), np.asarray(stored))

    jax.tree_util.tree_map_with_path(compare, first, state["optimizer"].params, state["params"])


def test_fresh_parameters_are_the_same_on_every_mesh(models):
    states = [
        jax.tree.map(np.asarray, shared_trainer(models["mamba"], mesh).init(jax.random.key(3)))
        for mesh in (None, MESHES["all"])
    ]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_state_is_donated(models, batch):
    trainer = shared_trainer(models["llama"])
    state = trainer.init(jax.random.key(0))
    with jax.set_mesh(trainer.mesh):
        trainer.step(state, batch, RATES)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state["params"]))


def test_other_rates_and_seeds_do_not_recompile(models, batch):
    trainer = shared_trainer(models["llama"])

    def lowered(seed):
        state = trainer.init(jax.random.key(seed))
        with jax.set_mesh(trainer.mesh):
            return trainer.step.lower(state, batch, RATES * seed).as_text()

    assert lowered(1) == lowered(2)


def test_loss_is_the_mean_over_weighted_targets(models, batch, fresh):
    """Compared with full logits. The z-loss is in the update, not in the reported loss."""
    plain, pulled = (shared_trainer(models["llama"], z_loss=z_loss) for z_loss in (0.0, 1.0))
    module = plain.merge(plain.init(jax.random.key(0))["params"])
    logits = jax.jit(module)(batch["inputs"], batch["segment_ids"])
    nats = -np.take_along_axis(
        np.asarray(jax.nn.log_softmax(logits)), batch["targets"][..., None], axis=-1
    )[..., 0]
    expected = (nats * batch["weights"]).sum() / batch["weights"].sum()
    normalizers = []
    for trainer in (plain, pulled):
        _, metrics = run(trainer, batch, steps=1, start=fresh["llama"])
        assert metrics[0] == pytest.approx(expected, rel=1e-5)
        state, _ = run(trainer, batch, steps=6, start=fresh["llama"])
        logits = jax.jit(trainer.merge(state["params"]))(batch["inputs"])
        normalizers.append(float(jnp.mean(jax.nn.logsumexp(logits, axis=-1) ** 2)))
    assert normalizers[1] < normalizers[0] - 0.1


# --- collectives --------------------------------------------------------------------------------


def compiled(trainer):
    """Return the compiled step as text, in the form of the accelerators."""
    batch = {
        name: jax.ShapeDtypeStruct((ROWS, LENGTH), dtype)
        for name, dtype in (("inputs", jnp.int32), ("targets", jnp.int32), ("weights", jnp.float32))
    }
    rates = jax.ShapeDtypeStruct((2,), jnp.float32)
    with jax.set_mesh(trainer.mesh), compiling_for("tpu"):
        lowered = trainer.step.lower(trainer.abstract_state, batch, rates)
    return lowered.compile(compiler_options=QUICK).as_text()


def collectives(trainer):
    """Return (kind, result shapes) of every collective in the compiled step."""
    text = compiled(trainer)
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    found = re.findall(rf"= (\S.*?) ({kinds})(?:-start)?\(", text)
    return [(kind, re.findall(r"\w+\[([\d,]*)\]", shapes)) for shapes, kind in found]


def sizes(found, *kinds):
    shapes = [shape for kind, shapes in found if kind in kinds for shape in shapes]
    return [int(np.prod([int(n) for n in shape.split(",") if n])) for shape in shapes]


def with_plain_attention(model):
    return (
        replace(model, attention_implementation="reference") if model.family == "llama" else model
    )


@pytest.mark.parametrize("family", ["llama", pytest.param("mamba", marks=pytest.mark.slow)])
def test_data_parallel_reduces_gradients_once_and_gathers_nothing(models, family):
    model = with_plain_attention(models[family])
    trainer = make_trainer(model, MESHES["data"])
    found = collectives(trainer)
    assert {kind for kind, _ in found} == {"all-reduce"}
    # The scan contains one layer; its gradients represent those of all layers.
    assert sum(sizes(found, "all-reduce")) <= once(trainer, model) + 64


@pytest.mark.parametrize("family", ["llama", pytest.param("mamba", marks=pytest.mark.slow)])
def test_data_parallel_microbatches_reduce_gradients_once(models, family):
    trainer = make_trainer(with_plain_attention(models[family]), MESHES["data"], microbatches=2)
    program = hlo.Program.parse(compiled(trainer))
    assert max(program.runs.values()) >= 2 * trainer.model.layers  # the loops are there
    rows = traffic_by_axes(program, tuple(trainer.mesh.shape.values()), trainer.mesh.axis_names)
    assert {(row.kind, row.axes) for row in rows} == {("all-reduce", "data")}
    ring = 2 * 7 / 8 * 4  # bytes sent for each element
    assert sum(row.wire_bytes for row in rows) <= ring * (trainer.model.num_params().total + 16)


@pytest.mark.parametrize("family", ["llama", pytest.param("mamba", marks=pytest.mark.slow)])
def test_fsdp_gathers_parameters_and_never_logits_or_moments(models, family):
    model = with_plain_attention(models[family])
    trainer = make_trainer(model, MESHES["fsdp"])
    found = collectives(trainer)
    assert {kind for kind, _ in found} <= {"all-gather", "all-reduce", "reduce-scatter"}
    # A layer's matrices once for the forward and once for the backward, the two embedding matrices
    # once each. The smallest moment more, or one tensor of tokens × vocabulary, would exceed it.
    embeddings = 2 * model.vocab_size * model.width
    assert sum(sizes(found, "all-gather")) <= 2 * (once(trainer, model) - embeddings) + embeddings
    assert max(sizes(found, "all-gather")) <= embeddings / 2


def test_fsdp_with_tensor_gathers_only_its_tensor_shard(models):
    model = with_plain_attention(models["llama"])
    trainer = make_trainer(model, MESHES["all"])
    found = collectives(trainer)
    assert {kind for kind, _ in found} <= {"all-gather", "all-reduce", "reduce-scatter"}
    embeddings = 2 * model.vocab_size * model.width
    whole = 2 * (once(trainer, model) - embeddings) + embeddings
    assert sum(sizes(found, "all-gather")) <= whole / 2  # tensor = 2 holds the other half


@pytest.mark.parametrize("family", FAMILIES)
def test_tensor_parallel_reduces_and_never_gathers(models, family):
    model = with_plain_attention(models[family])
    found = collectives(make_trainer(model, MESHES["data-tensor"]))
    assert {kind for kind, _ in found} == {"all-reduce"}
    rows = ROWS // MESHES["data-tensor"].data
    logits = rows * LENGTH * model.vocab_size
    assert max(sizes(found, "all-reduce")) <= logits / 4


def once(trainer, model):
    """Return the number of parameters with one layer only, as in the text of the program."""
    flat, _ = jax.tree_util.tree_flatten_with_path(trainer.shapes["params"])
    return sum(leaf.size // (model.layers if path[0].key == "blocks" else 1) for path, leaf in flat)
