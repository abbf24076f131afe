"""The list of roles contains every option of a run."""

import dataclasses

import pytest

from lossline import models
from lossline.options.roles import FACTS, Role, fact_of
from lossline.tables.schema import column_of
from lossline.train import load
from lossline.training.options import TrainOptions


def identity_paths() -> set[str]:
    """Return the path of every option in a run's identity, over all classes of components."""
    components = load().components
    nested = {
        "model": list(models.CONFIGS.values()),
        "optimizer": [components["adamw"], components["adam"], components["sgd"]],
        "schedule": [components["cosine"], components["wsd"], components["constant_rate"]],
        "checkpoints": [components["checkpoints"]],
        "store": [components["mixture"]],
        "objective": [components["selective"]],
    }
    paths = set()
    for field in dataclasses.fields(TrainOptions):
        if field.metadata.get("identity", True) is False:
            continue
        for kind in nested.get(field.name, []):
            paths |= {f"{field.name}.{inner.name}" for inner in _of_identity(kind)}
        if field.name not in nested or field.name == "store":
            paths.add(field.name)
    return paths


def _of_identity(kind: type) -> list[dataclasses.Field]:
    return [f for f in dataclasses.fields(kind) if f.metadata.get("identity", True) is not False]


def test_every_option_of_the_identity_has_a_role():
    lacking = sorted(identity_paths() - {fact.option for fact in FACTS})
    assert not lacking, f"give each a line in lossline/options/roles.py: {lacking}"


def test_every_role_belongs_to_an_existing_option():
    known = identity_paths() | {"model.__class__", "optimizer.__class__", "schedule.__class__"}
    gone = sorted(fact.option for fact in FACTS if fact.option and fact.option not in known)
    assert not gone, f"remove their lines from lossline/options/roles.py: {gone}"


def test_options_of_every_component_of_a_run_are_listed():
    """Fails for a class that gin can bind to ``train`` but whose options are not listed."""
    looked_at = {"TrainOptions", *models.CONFIGS}
    looked_at |= {"AdamW", "Adam", "SGD", "CosineSchedule", "WSDSchedule", "ConstantSchedule"}
    looked_at |= {"CheckpointOptions", "Mixture", "Selective", "FromRun"}
    not_identity = {"MeshOptions", "LaunchOptions", "LogOptions"}
    values = {"fast_dtype"}  # a function that gives the value of a listed option
    known = looked_at | not_identity | values
    assert {kind.__name__ for kind in load().components.values()} <= known


def test_facts_are_columns_of_the_loss_table():
    assert all(column_of(fact.column) is not None for fact in FACTS)
    assert len({fact.column for fact in FACTS}) == len(FACTS)


@pytest.mark.parametrize(
    ("column", "role"),
    [
        ("option.batch_size", Role.FACTOR),
        ("option.schedule.warmup", Role.FACTOR),
        ("option.documents", Role.FACTOR),
        ("option.model.attention_every", Role.FACTOR),
        ("option.model.width", Role.SIZE),
        ("option.steps", Role.ALONG),
        ("option.checkpoints.count", Role.ALONG),
        ("option.seed", Role.REPLICATE),
        ("option.microbatches", Role.NUMERICS),
        ("option.model.scan_layers", Role.NUMERICS),
        ("option.model.attention_implementation", Role.NUMERICS),
        ("factor.curriculum", Role.FACTOR),
        ("option.model.of_another_program", Role.FACTOR),
    ],
)
def test_role_of_columns(column, role):
    assert fact_of(column).role is role


def test_option_with_a_named_column_is_the_same_fact():
    assert fact_of("option.optimizer.learning_rate").column == "learning_rate"
    assert fact_of("option.context_length").column == "context_length"
    assert fact_of("option.seed").column == "seed"
    assert fact_of("loss") is None and fact_of("x_store") is None
