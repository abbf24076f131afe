"""Every family on every kind of mesh: loss and gradients equal those on one device."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.families import CONFIGS

from lossline.errors import UserError
from lossline.objectives.plain import PlainLoss
from lossline.sharding import MeshOptions, batch_sharding, make_mesh, make_rules
from lossline.training.make_trainer import make_trainer
from lossline.training.optimizer import AdamW
from lossline.training.options import TrainOptions
from lossline.training.step import Trainer

ROWS, LENGTH = 8, 24
ALONE = MeshOptions(data=1)
MESHES = {
    "data": MeshOptions(data=8),
    "fsdp": MeshOptions(data=1, fsdp=8),
    "tensor": MeshOptions(data=4, tensor=2),
    "sequence": MeshOptions(data=2, sequence=4),
    "all": MeshOptions(data=2, fsdp=2, tensor=2),
    "all-sequence": MeshOptions(data=1, fsdp=2, sequence=2, tensor=2),
}
QUICK = {"xla_backend_optimization_level": 0}  # the same partitioning, a faster LLVM


def recurrent(config):
    return hasattr(config, "scan_implementation")


def make_batch(vocab_size=61):
    """Return rows with padding of different lengths, each with two documents."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, vocab_size, (ROWS, LENGTH + 1), np.int32)
    filled = generator.integers(3, LENGTH + 1, ROWS)
    return {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": (np.arange(LENGTH) < filled[:, None]).astype(np.float32),
        "segment_ids": 1 + (np.arange(LENGTH) >= filled[:, None] // 2).astype(np.int32),
    }


def trainer_on(options, config):
    devices = jax.devices()[:1] if options is ALONE else None
    return Trainer(
        model=config,
        objective=PlainLoss(vocab_size=config.vocab_size, z_loss=1e-3),
        optimizer=AdamW(),
        mesh=make_mesh(options, devices=devices),
        rules=make_rules(),
    )


def loss_and_gradients(options, config, params=None):
    trainer = trainer_on(options, config)
    if params is None:
        params = trainer.init(jax.random.key(0))["params"]
    params = jax.device_put(params, trainer.shardings["params"])
    batch = jax.device_put(make_batch(config.vocab_size), batch_sharding(trainer.mesh))
    with jax.set_mesh(trainer.mesh):
        compiled = jax.jit(trainer.gradients).lower(params, batch).compile(compiler_options=QUICK)
        gradients, metrics = compiled(params, batch)
    return jax.tree.map(np.asarray, gradients), float(metrics[0])


def assert_close(found, expected, bound=2e-5):
    (gradients, nats), (gradients_0, nats_0) = found, expected
    assert nats == pytest.approx(nats_0, rel=bound)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients_0))

    def compare(path, got, want):
        # Some gradients are 0 except for rounding (bias of a key): compare them on the scale of
        # the whole tree.
        scale = max(np.abs(want).max(), 1e-3 * largest)
        assert np.abs(got - want).max() <= bound * scale, jax.tree_util.keystr(path)

    jax.tree_util.tree_map_with_path(compare, gradients, gradients_0)


@pytest.fixture(scope="module")
def alone():
    """Return fresh parameters and results on one device, computed on first use."""
    found = {}

    def of(name, config):
        if name not in found:
            params = trainer_on(ALONE, config).init(jax.random.key(0))["params"]
            found[name] = params, loss_and_gradients(ALONE, config, params)
        return found[name]

    return of


# Variants of a family on all axes at once; a mesh of a single axis repeats a part of that.
VARIANTS = ("llama-variants", "llama-wide-heads", "gpt-neox", "gpt-ladder", "hybrid-mamba1")
CASES = [
    pytest.param(name, mesh, marks=() if mesh == "all-sequence" else pytest.mark.slow)
    for name, config in CONFIGS.items()
    for mesh in MESHES
    if not ("sequence" in mesh and recurrent(config))
    and (mesh.startswith("all") or name not in VARIANTS)
]


@pytest.mark.parametrize(("name", "mesh"), CASES)
def test_sharded_gradients_equal_those_of_one_device(alone, name, mesh):
    """On the meshes "all" and "all-sequence", fresh parameters also equal those of one device."""
    config = replace(CONFIGS[name], vocab_multiple=16)
    params, expected = alone(name, config)
    params = None if mesh.startswith("all") else params
    assert_close(loss_and_gradients(MESHES[mesh], config, params), expected)


PADDED = ["llama", "llama-variants", pytest.param("mamba", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", PADDED)
def test_a_padded_vocabulary_over_tensor_equals_the_unpadded_one(alone, name):
    """61 tokens in 64 columns over 2 devices: same loss and gradients, and no gradient for the
    padding.
    """
    plain = replace(CONFIGS[name], vocab_multiple=1)
    padded = replace(plain, vocab_multiple=64)
    params, _ = alone(name, replace(CONFIGS[name], vocab_multiple=16))
    params = {**params, "embedding": params["embedding"][:61]}
    if not plain.tie_embeddings:
        params["unembed"] = params["unembed"][:, :61]
    expected, nats_0 = loss_and_gradients(ALONE, plain, params)
    wide = {**params, "embedding": jnp.pad(params["embedding"], ((0, 3), (0, 0)))}
    if not plain.tie_embeddings:
        wide["unembed"] = jnp.pad(params["unembed"], ((0, 0), (0, 3)), constant_values=9.0)
    gradients, nats = loss_and_gradients(MESHES["tensor"], padded, wide)
    tables = {"embedding": gradients["embedding"]}
    if not plain.tie_embeddings:
        tables["unembed"] = gradients["unembed"].T
    for name, table in tables.items():
        assert not table[61:].any()
        gradients[name] = table[:61] if name == "embedding" else table[:61].T
    assert_close((gradients, nats), (expected, nats_0))


def test_heads_that_tensor_does_not_divide_are_refused():
    options = TrainOptions(
        model=replace(CONFIGS["llama-wide-heads"], kv_heads=None),
        store="unread",
        batch_size=8,
        steps=99,
        mesh=MeshOptions(data=2, tensor=4),
    )
    with pytest.raises(UserError, match="of size 6 is not divisible by mesh tensor = 4"):
        make_trainer(options)


def test_mesh_axis_sequence_is_refused_for_state_space_layers():
    options = TrainOptions(
        model=CONFIGS["mamba"], store="unread", batch_size=8, steps=99, mesh=MESHES["sequence"]
    )
    with pytest.raises(
        UserError, match="mesh sequence = 4: 'mamba' has recurrent layers"
    ) as mistake:
        make_trainer(options)
    assert "\n" not in str(mistake.value)
    with pytest.raises(UserError, match="context_length 22 is not divisible by mesh sequence = 4"):
        make_trainer(replace(options, model=CONFIGS["llama"], context_length=22))
