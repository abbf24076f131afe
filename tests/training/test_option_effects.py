"""Every option in a run's identity changes its batches, its parameters or its compiled step.

An option that is hashed into the run's name but never read would make a study train the same model
twice, and report that the option does not move the line.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

import jax
import jax.extend
import numpy as np
import pytest
from flax import nnx

from lossline import models
from lossline.errors import UserError
from lossline.models import GPTConfig, HybridConfig, LlamaConfig, Mamba2Config, MambaConfig
from lossline.objectives.options import Scope, Score, Selective
from lossline.seeds import random_key
from lossline.sharding import MeshOptions
from lossline.stores.store_writer import write_store
from lossline.training.batch_contents import batch_fields, batch_plan, token_scores
from lossline.training.checkpoint_schedule import CheckpointOptions, Spacing
from lossline.training.make_trainer import make_trainer, rates, step_arguments
from lossline.training.optimizer import SGD, Adam, AdamW
from lossline.training.options import Documents, TrainOptions
from lossline.training.schedule import ConstantSchedule, CosineSchedule, DecayShape, WSDSchedule
from lossline.training.text import TrainingText
from lossline.vocabularies import ByteVocabulary

SHAPE = {"vocab_size": 264, "width": 16, "layers": 2, "context_length": 8, "init_std": 0.02}
ATTENTION = {"heads": 2, "mlp_width": 8}
SCALED = {"rope_scaling": 8.0, "rope_original": 16, "rope_theta": 100.0}
BASES = {
    "llama": LlamaConfig(**SHAPE, **ATTENTION, **SCALED, norm="layer"),
    # Learned positions are a parameter of context_length rows.
    "gpt": GPTConfig(**SHAPE, **ATTENTION),
    "mamba": MambaConfig(**SHAPE, state=4, scan_chunk=4),
    "mamba2": Mamba2Config(**SHAPE, state=4, head_channels=8, scan_chunk=4),
    "hybrid": HybridConfig(
        **SHAPE,
        **ATTENTION,
        **SCALED,
        state=4,
        head_channels=8,
        scan_chunk=4,
        attention_every=2,
    ),
}
# Option -> another value, optionally with changes of the base that the option needs.
MODEL_VALUES = {
    "vocab_size": 272,
    "width": 32,
    "layers": 4,
    "context_length": (16, {"positions": "learned"}),
    "tie_embeddings": True,
    "norm": {"rms": "layer", "layer": "rms"},
    "norm_scale": (False, {"norm_bias": False}),
    "norm_bias": {False: (True, {"norm": "layer"}), True: False},
    "norm_eps": 1e-3,
    "init_std": 0.1,
    "vocab_multiple": 5,
    "activation_dtype": "float32",
    "param_dtype": "bfloat16",
    "remat": "full",
    "scan_layers": False,
    "heads": 4,
    "head_width": 16,
    "kv_heads": 1,
    "mlp_width": 16,
    "mlp": {"swiglu": "geglu_tanh", "gelu": "gelu_tanh"},
    "biases": True,
    "parallel": True,
    "post_norm": True,
    "norm_offset": (1.0, {"norm": "rms", "norm_bias": False}),
    "embedding_scale": "sqrt_width",
    "qk_norm": "head",
    "score_width": 3,
    "positions": {"rotary": "learned", "learned": "rotary"},
    "rope_theta": (5.0, {"positions": "rotary"}),
    "rope_fraction": (0.5, {"positions": "rotary"}),
    "rope_scaling": (4.0, {"positions": "rotary", "rope_original": 16, "rope_theta": 100.0}),
    "rope_scaling_kind": ("linear", {"positions": "rotary", **SCALED}),
    "rope_low": (0.5, {"positions": "rotary", **SCALED}),
    "rope_high": (9.0, {"positions": "rotary", **SCALED}),
    "rope_original": (24, {"positions": "rotary", **SCALED}),
    "unrotated_every": (2, {"positions": "rotary", "layers": 4}),
    "window": 3,
    "full_every": (2, {"window": 3, "layers": 4}),
    "window_theta": (7.0, {"positions": "rotary", "window": 3, "full_every": 2, "layers": 4}),
    "attention_implementation": "reference",
    "expand": 4,
    "state": 8,
    "conv": 2,
    "dt_min": 5e-3,
    "dt_max": 5e-2,
    "scan_implementation": "sequential",
    "scan_chunk": 2,
    "dt_rank": (3, {"state_space": "mamba"}),
    "head_channels": 16,
    "map_groups": 2,
    "decay_min": 2.0,
    "decay_max": 8.0,
    "attention_every": 1,
    "state_space": "mamba",
}
TRAIN_VALUES = {
    "store": "other",
    "batch_size": 16,
    "steps": 11,
    "tokens": (20 * 64, {"steps": None, "tokens": 10 * 64}),
    "context_length": 4,
    "documents": Documents.SEPARATE,
    "seed": 1,
    "data_seed": 1,
    "microbatches": 2,
    "z_loss": 1e-3,
    "cross_entropy": "reference",
    "objective": Selective(share=0.5, score=Score.CURRENT_LOSS),
}
OPTIMIZER_VALUES = {
    "learning_rate": 1e-3,
    "weight_decay": 0.3,
    "b1": 0.8,
    "b2": 0.8,
    "eps": 1e-3,
    "momentum": 0.5,
    "clip_norm": 0.5,
}
SCHEDULE_VALUES = {"warmup": 0.3, "final": 0.5, "decay": 0.5, "shape": DecayShape.LINEAR}
CHECKPOINT_VALUES = {
    "every": 3,
    "steps": (2,),
    "count": 4,
    "spacing": Spacing.GEOMETRIC,
    "first": 3,
}

# Options that change neither batches, nor parameters, nor the step, with the reason why they are
# still in the identity.
EXCEPTIONS = {
    "adam.weight_decay": "Adam has no weight decay; the class refuses every other value",
    "train.start": "the parameters of another run; tests/training/test_continued_runs.py",
    **{
        f"train.{part}": "its options are changed one by one"
        for part in ("model", "optimizer", "schedule", "checkpoints")
    },
    **{
        f"checkpoints.{name}": "chooses which states become points of the loss table"
        for name in CHECKPOINT_VALUES
    },
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> TrainOptions:
    folder = tmp_path_factory.mktemp("stores")
    for name in ("text", "other"):
        write_store(
            folder / name, [f"{name} of {i}." for i in range(60)], ByteVocabulary(), name=name
        )
    return TrainOptions(
        model=BASES["llama"],
        store=str(folder / "text"),
        batch_size=8,
        steps=10,
        optimizer=AdamW(weight_decay=0.1),
        schedule=CosineSchedule(warmup=0.1),
        checkpoints=CheckpointOptions(count=2),
        mesh=MeshOptions(data=1),
    )


def fed(options: TrainOptions) -> list[bytes]:
    """Return what a run is fed: first batches, key of the parameters, rates."""
    text = TrainingText.open(options.store)
    plan = batch_plan(options, text, token_scores(options, text))
    names = list(batch_fields(options))
    key = np.asarray(jax.random.key_data(random_key(options.seed)))
    steps = range(1, options.total_steps + 1)
    return [
        key.tobytes(),
        *(getattr(plan.batch(k), name).tobytes() for k in range(2) for name in names),
        *(rates(options, number).tobytes() for number in steps),
    ]


def program(traced: jax.extend.core.ClosedJaxpr) -> list[bytes]:
    """The text of a traced function and its constants."""
    return [str(traced).encode(), *(np.asarray(each).tobytes() for each in traced.consts)]


def built(options: TrainOptions) -> list[bytes]:
    """The function that makes the fresh parameters."""
    build = jax.make_jaxpr(lambda key: nnx.state(models.build(options.model, key=key)))
    return program(build(jax.random.key(0)))


def judged(options: TrainOptions) -> list[bytes]:
    """The loss that the training step differentiates."""
    trainer = make_trainer(options, devices=jax.devices()[:1])
    state, batch, _ = step_arguments(options, trainer)

    def loss(params, batch):
        return trainer.objective(trainer.merge(params), batch, 1.0)

    with jax.set_mesh(trainer.mesh):
        return program(jax.make_jaxpr(loss)(state["params"], batch))


def stepped(options: TrainOptions) -> list[bytes]:
    """The training step."""
    trainer = make_trainer(options, devices=jax.devices()[:1])
    with jax.set_mesh(trainer.mesh):
        return program(jax.make_jaxpr(trainer.step)(*step_arguments(options, trainer)))


# What a training does, the cheapest to look at first. A trace of the step takes a second, one of
# its loss a third of that. If the loss differs, the step differs too.
PARTS_OF_A_TRAINING = (fed, built, judged, stepped)


@functools.lru_cache
def part_of(part: Callable[[TrainOptions], list[bytes]], options: TrainOptions) -> str:
    """Hash of what ``part`` says of a training."""
    return hashlib.sha256(b"|".join(part(options))).hexdigest()


def differ(one: TrainOptions, other: TrainOptions) -> bool:
    """Whether any part of two trainings differs."""
    return any(part_of(part, one) != part_of(part, other) for part in PARTS_OF_A_TRAINING)


def of_identity(kind: type) -> list[str]:
    fields = dataclasses.fields(kind)
    return [f.name for f in fields if f.metadata.get("identity", True) is not False]


def changed(options, name, value):
    """Return the options before and after the change of one option.

    ``value`` is the new value, a mapping from the current value to the new one, or a pair of value
    and changes of the base.
    """
    if isinstance(value, dict):
        value = value[getattr(options, name)]
    value, needed = (
        value if isinstance(value, tuple) and isinstance(value[-1], dict) else (value, {})
    )
    known = {field.name for field in dataclasses.fields(options)}
    before = dataclasses.replace(options, **{k: v for k, v in needed.items() if k in known})
    return before, dataclasses.replace(before, **{name: value})


def assert_effects(base, part, options, values, prefix):
    """Check that each option in the identity of ``options`` (at ``base.<part>``) has an effect."""
    names = of_identity(type(options))
    assert set(names) <= set(values), "give each new option another value in this file"

    def whole(tree: object) -> TrainOptions:
        return dataclasses.replace(base, **{part: tree}) if part else tree

    for name in names:
        if f"{prefix}.{name}" in EXCEPTIONS:
            continue
        before, after = changed(options, name, values[name])
        assert before != after, name
        assert differ(whole(before), whole(after)), f"{prefix}.{name} has no effect"


@pytest.mark.parametrize("family", BASES)
def test_every_option_of_a_model_has_an_effect(base, family):
    assert_effects(base, "model", BASES[family], MODEL_VALUES, family)
    assert {type(model) for model in BASES.values()} == set(models.CONFIGS.values())


def test_every_option_of_a_training_has_an_effect(base):
    # Their options or their effect are tested apart, see EXCEPTIONS.
    parts = ("model", "optimizer", "schedule", "checkpoints", "start")
    other = str(Path(base.store).parent / "other")
    values = TRAIN_VALUES | {"store": other} | {part: None for part in parts}
    assert_effects(base, "", base, values, "train")


def test_every_option_of_a_selective_objective_has_an_effect(base, written_scores):
    places = [written_scores(base.store, context_length=8, seed=seed) for seed in range(2)]
    values = {
        "share": 0.5,
        "score": Score.REFERENCE_LOSS,
        "scope": Scope.SEQUENCE,
        "scores": places[1],
    }
    objective = Selective(share=0.6, score=Score.EXCESS_LOSS, scores=places[0])
    assert_effects(base, "objective", objective, values, "objective")


@pytest.mark.parametrize("kind", [AdamW, Adam, SGD])
def test_every_option_of_an_optimizer_has_an_effect(base, kind):
    assert_effects(base, "optimizer", kind(), OPTIMIZER_VALUES, kind.family)


@pytest.mark.parametrize("kind", [CosineSchedule, WSDSchedule, ConstantSchedule])
def test_every_option_of_a_schedule_has_an_effect(base, kind):
    assert_effects(base, "schedule", kind(), SCHEDULE_VALUES, kind.family)


@pytest.mark.parametrize("name", of_identity(CheckpointOptions))
def test_every_option_of_checkpoints_changes_the_kept_steps(name):
    options = CheckpointOptions(count=2)
    needed = {"spacing": {"count": 5}}.get(name, {})
    before, after = changed(options, name, (CHECKPOINT_VALUES[name], needed))
    assert before.kept_steps(10) != after.kept_steps(10)


def test_every_exception_names_an_option_and_gives_a_reason():
    owners = {"adam": Adam, "checkpoints": CheckpointOptions, "train": TrainOptions}
    for name, reason in EXCEPTIONS.items():
        owner, _, option = name.partition(".")
        assert option in of_identity(owners[owner]) and reason
    with pytest.raises(UserError, match="Adam has no weight decay"):
        Adam(weight_decay=0.1)
