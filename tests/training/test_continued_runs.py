"""Runs that start from another run's parameters: ``train.start = @from_run()``."""

import dataclasses
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx

from lossline.batches.plans import BatchPlan
from lossline.cli.configuration import build_options
from lossline.conversion import write_model
from lossline.conversion.runs import ConvertOptions, convert
from lossline.errors import NotMadeYet, UserError
from lossline.evaluation.measured_runs import checkpoint_columns
from lossline.models import GPTConfig
from lossline.options.gin_text import gin_text
from lossline.options.identity import identity
from lossline.runs.checkpoints import parameters_fingerprint
from lossline.runs.origin import FromRun, check_start, start_parameters
from lossline.runs.restoring import load_model
from lossline.runs.run_directory import RunDirectory
from lossline.sharding import MeshOptions
from lossline.studies.planned_run import plan_run
from lossline.tables import from_rows
from lossline.tables.schema import START
from lossline.train import load
from lossline.training import loop
from lossline.training.checkpoint_schedule import CheckpointOptions
from lossline.training.components import COMPONENTS
from lossline.training.loop import train
from lossline.training.make_trainer import make_trainer, step_arguments


class Killed(Exception):
    """Raised by a test to stop a run."""


@pytest.fixture(scope="module")
def origin(base_options, tmp_path_factory) -> RunDirectory:
    """Finished run of 6 steps with checkpoints 3 and 6."""
    folder = tmp_path_factory.mktemp("origin") / "base"
    chosen = replace(base_options, steps=6, checkpoints=CheckpointOptions(count=2))
    return train(replace(chosen, directory=str(folder)))


@pytest.fixture
def continued(options, origin):
    """``continued(**changes)``: options of 4 steps from checkpoint 3 of ``origin``."""
    start = FromRun(run=str(origin.path), step=3)
    chosen = options(steps=4, checkpoints=CheckpointOptions(count=2), start=start, seed=5)
    return lambda **changes: replace(chosen, **changes)


@pytest.fixture
def first_state(monkeypatch):
    """``first_state(options)``: the state before the first step of a training."""

    def of(options):
        states = []

        def stop(job, state, *_):
            states.append(jax.tree.map(np.asarray, state))
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(loop, "_steps", stop)
            with pytest.raises(Killed):
                train(options)
        return states[0]

    return of


@pytest.fixture
def killed_at(monkeypatch):
    """``killed_at(batch, options)``: train until this batch, counted from 0."""

    def start(stop, options):
        batch = BatchPlan.batch

        def read(self, number, rows=None):
            if number == stop:
                raise Killed
            return batch(self, number, rows)

        with monkeypatch.context() as patch:
            patch.setattr(BatchPlan, "batch", read)
            with pytest.raises(Killed):
                train(options)

    return start


def parameters(run, step):
    return nnx.to_pure_dict(nnx.state(load_model(run, step)))


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


# --- the first state ------------------------------------------------------------------------------


@pytest.mark.parametrize("mesh", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_step_0_has_the_origins_parameters_and_a_fresh_optimizer(
    continued, origin, first_state, mesh
):
    chosen = continued(mesh=MeshOptions(**mesh))
    state = first_state(chosen)
    assert_equal(state["params"], parameters(origin, 3))
    fresh = make_trainer(chosen).init(jax.random.key(0))["optimizer"]
    assert_equal(state["optimizer"], fresh)


def test_parameters_are_placed_on_the_mesh_as_they_are_read(continued, monkeypatch):
    trainer = make_trainer(continued(mesh=MeshOptions(data=2, fsdp=4)))
    read = []
    monkeypatch.setattr(
        "lossline.runs.checkpoints._restore", lambda folder, abstract: read.append(abstract)
    )
    start_parameters(continued().start, trainer.shardings["params"])
    shardings = jax.tree.map(lambda leaf: leaf.sharding, read[0])
    assert jax.tree.all(jax.tree.map(lambda a, b: a == b, shardings, trainer.shardings["params"]))
    assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(shardings))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_are_cast_to_the_type_of_the_model(
    continued, options, models, first_state, tmp_path, dtype
):
    other = "bfloat16" if dtype == "float32" else "float32"
    model = models["llama"]
    run = train(
        options(
            steps=2,
            model=replace(model, param_dtype=other),
            checkpoints=CheckpointOptions(count=1),
            directory=str(tmp_path / "other"),
        )
    )
    state = first_state(
        continued(model=replace(model, param_dtype=dtype), start=FromRun(run=str(run.path)))
    )
    expected = jax.tree.map(lambda leaf: leaf.astype(dtype), parameters(run, 2))
    assert_equal(state["params"], expected)
    if dtype == "bfloat16":  # the float32 copies of the optimizer equal the parameters
        assert_equal(
            state["optimizer"].params, jax.tree.map(lambda p: p.astype("float32"), expected)
        )


def test_numerics_of_the_model_may_differ(continued, origin, models, first_state):
    model = replace(
        models["llama"], remat="full", scan_layers=False, attention_implementation="reference",
        context_length=64, init_std=0.5, activation_dtype="bfloat16", vocab_multiple=8,
    )  # fmt: skip
    assert_equal(
        first_state(continued(model=model, context_length=32))["params"], parameters(origin, 3)
    )


def test_a_converted_public_model_is_trained_further(continued, origin, models, tmp_path):
    params = jax.tree.map(np.asarray, parameters(origin, 6))
    write_model(tmp_path / "hf", models["llama"], params)
    target = tmp_path / "public"
    convert(
        ConvertOptions(
            source=str(tmp_path / "hf"), target=str(target), step=10, tokens=1000,
            pretraining_data="web", vocabulary="bytes",
        )
    )  # fmt: skip
    theirs = RunDirectory.open(target)
    model = replace(models["llama"], norm_eps=theirs.config["model"]["norm_eps"])
    run = train(continued(model=model, start=FromRun(run=str(target))))
    facts = run.facts
    assert (facts["start_run"], facts["start_step"]) == ("public", 10)
    assert facts["start_tokens"] == 1000
    assert facts["start_flops"] == 1000 * theirs.facts["flops_per_token"]
    assert run.config["start"] == parameters_fingerprint(theirs, 10)
    assert run.kept_checkpoint_steps() == [2, 4]


# --- identity, facts, table -----------------------------------------------------------------------


def test_identity_contains_the_parameters_and_no_place(continued, options, origin, tmp_path):
    tree = identity(continued())
    assert tree["start"] == parameters_fingerprint(origin, 3)
    assert str(origin.path) not in json.dumps(tree)
    shutil.copytree(origin.path, tmp_path / "copy")
    moved = continued(start=FromRun(run=str(tmp_path / "copy"), step=3))
    assert moved.folder == continued().folder
    assert continued(start=FromRun(run=str(origin.path), step=6)).folder != continued().folder
    last = continued(start=FromRun(run=str(origin.path)))
    assert last.folder == continued(start=FromRun(run=str(origin.path), step=6)).folder


def test_runs_that_start_fresh_keep_their_names(options):
    """The name is that of the version before ``train.start`` existed; it must never change."""
    assert "start" not in identity(options())
    assert options().folder.name == "tiny-74fff74f"


def test_tokens_are_this_runs_part_and_start_tokens_those_of_the_whole_chain(
    continued, options, origin
):
    per_token = continued().flops_per_token
    first = train(continued())
    second = train(continued(start=FromRun(run=str(first.path), step=2), seed=6))
    columns = checkpoint_columns(second, 4)
    assert columns["tokens"] == 4 * 8 * 32 and columns["flops"] == columns["tokens"] * per_token
    assert (columns["start_run"], columns["start_step"]) == (first.name, 2)
    assert columns["start_tokens"] == (3 + 2) * 8 * 32
    assert columns["start_flops"] == (3 + 2) * 8 * 32 * per_token
    assert columns["option.start"] == parameters_fingerprint(first, 2)
    rows = from_rows([columns | {"eval_set": "a", "kind": "validation", "loss": 1.0}])
    assert rows.loc[0, "start_tokens"] == 1280 and rows.loc[0, "start_step"] == 2
    fresh = checkpoint_columns(origin, 6)
    assert all(fresh[name] is None for name in START)


def test_start_tokens_of_an_origin_without_them_are_empty(continued, origin, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(origin.path, copy)
    facts = {k: v for k, v in origin.facts.items() if k != "tokens_per_step"}
    (copy / "facts.json").write_text(json.dumps(facts))
    run = train(continued(start=FromRun(run=str(copy), step=3)))
    assert run.facts["start_run"] == "copy"
    assert run.facts["start_tokens"] is None and run.facts["start_flops"] is None
    # The tokens of the whole chain are unknown too.
    again = train(continued(start=FromRun(run=str(run.path)), seed=6))
    assert again.facts["start_tokens"] is None


# --- resume ---------------------------------------------------------------------------------------


def test_resume_is_bitwise_and_does_not_need_the_origin(continued, origin, killed_at, tmp_path):
    whole = train(continued(root=str(tmp_path / "whole")))
    copy = tmp_path / "copy" / origin.name
    shutil.copytree(origin.path, copy)
    chosen = continued(start=FromRun(run=str(copy), step=3))
    killed_at(3, chosen)
    shutil.rmtree(copy)
    run = train(chosen)
    assert run.name == whole.name and run.status.step == 4
    assert_equal(parameters(run, 4), parameters(whole, 4))
    assert run.facts["start_tokens"] == whole.facts["start_tokens"] == 768
    assert train(chosen).path == run.path  # a finished run is found too


def test_resume_in_a_given_directory_after_the_origin_was_deleted(
    continued, origin, killed_at, tmp_path
):
    copy = tmp_path / "copy" / origin.name
    shutil.copytree(origin.path, copy)
    chosen = continued(start=FromRun(run=str(copy)), directory=str(tmp_path / "here"))
    killed_at(3, chosen)
    shutil.rmtree(copy)
    with pytest.raises(UserError, match="belongs to another config: batch_size"):
        train(replace(chosen, batch_size=16))
    assert train(chosen).status.step == 4


def test_its_own_config_resumes_a_run_without_its_origin(continued, origin, killed_at, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(origin.path, copy)
    chosen = continued(start=FromRun(run=str(copy)))
    killed_at(3, chosen)
    folder = chosen.folder
    shutil.rmtree(copy)
    text = (folder / "config.gin").read_text()
    assert "from_run.step = 6" in text
    found = build_options("train", load(), gin_files=[folder / "config.gin"], bindings=[])
    assert found.folder == folder and train(found).status.step == 4


def test_before_its_first_checkpoint_a_run_needs_its_origin(continued, origin, killed_at, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(origin.path, copy)
    chosen = continued(start=FromRun(run=str(copy), step=3))
    killed_at(0, chosen)
    shutil.rmtree(copy)
    with pytest.raises(NotMadeYet, match=r"no run directory .*copy"):
        train(chosen)


# --- errors ---------------------------------------------------------------------------------------


def refused(chosen, match):
    """Check that a training is refused in one line, and writes nothing."""
    with pytest.raises(UserError, match=match) as error:
        train(chosen)
    assert "\n" not in str(error.value)
    root = Path(chosen.root)
    assert not root.exists() or not any(root.iterdir())


def test_missing_origins_and_checkpoints(continued, origin, options, killed_at, tmp_path):
    refused(continued(start=FromRun(run="nowhere")), "train.start: no run directory nowhere")
    refused(
        continued(start=FromRun(run=str(origin.path), step=4)),
        r"has no checkpoint 4 \(it has: 3, 6\)",
    )
    running = options(directory=str(tmp_path / "running"), steps=12)
    killed_at(5, running)
    refused(continued(start=FromRun(run=running.directory)), "has not finished")
    refused(continued(start=FromRun(run=running.directory, step=8)), "no checkpoint 8 yet")
    with pytest.raises(UserError, match=r"from_run.step = 0"):
        FromRun(run="a", step=0)
    with pytest.raises(UserError, match=r"from_run.run is empty"):
        FromRun(run="")


def test_a_corrupt_checkpoint(continued, origin, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(origin.path, copy)
    folder = copy / "checkpoints" / "3"
    victim = max((folder / "params").rglob("d/*"), key=lambda file: file.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[-9] ^= 64
    victim.write_bytes(content)
    start = FromRun(run=str(copy), step=3)
    refused(continued(start=start), "train.start: checkpoint .*copy/checkpoints/3 is corrupt")
    victim.unlink()
    refused(continued(start=start), "is missing")
    for text in ("{", "{}", '{"files": {}}', "[]"):
        (folder / "manifest.json").write_text(text)
        refused(continued(start=start), "manifest.json")
        refused(continued(start=replace(start, step=None)), "manifest.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 64}, r"width = 32, but llama.width = 64. Set llama.width = 32,"),
        ({"layers": 1}, "layers = 2"),
        ({"mlp_width": 32}, "mlp_width = 64"),
        ({"vocab_size": 270}, "vocab_size = 264"),
        ({"vocab_multiple": 5}, "vocab_multiple = 1"),
        ({"tie_embeddings": True}, "tie_embeddings = False"),
        # No shape differs, but the parameters mean something else.
        ({"heads": 2, "kv_heads": 2}, "heads = 4, .* Set llama.heads = 4, llama.kv_heads = 4"),
        ({"parallel": True}, "parallel = False"),
        ({"rope_theta": 5.0}, "rope_theta = 10000.0"),
    ],
)
def test_another_model(continued, models, changes, message):
    refused(continued(model=replace(models["llama"], **changes)), message)


def test_as_many_key_value_heads_as_heads_is_the_default(continued, models, origin):
    theirs = models["llama"]
    assert theirs.kv_heads == theirs.heads
    same = continued(model=replace(theirs, kv_heads=None))
    vocabulary = SimpleNamespace(hash=origin.facts["vocabulary_hash"])
    check_start(same.start, same.model, vocabulary)


def test_another_family(continued, models):
    refused(continued(model=models["mamba"]), "has a model llama, not mamba")


def test_learned_positions_limit_the_context(options, continued, tmp_path):
    model = GPTConfig(
        vocab_size=264, width=16, layers=1, heads=2, mlp_width=16, context_length=32,
        activation_dtype="float32",
    )  # fmt: skip
    run = train(
        options(
            model=model, steps=2, checkpoints=CheckpointOptions(count=1),
            directory=str(tmp_path / "gpt"),
        )
    )  # fmt: skip
    longer = replace(model, context_length=64)
    start = FromRun(run=str(run.path))
    refused(continued(model=longer, start=start), "context_length = 32, but gpt.context_length")


def test_another_vocabulary(continued, origin, tmp_path, store):
    copy = tmp_path / "copy"
    shutil.copytree(origin.path, copy)
    facts = origin.facts | {"vocabulary_hash": "0" * 64, "tokenizer": "bpe"}
    (copy / "facts.json").write_text(json.dumps(facts))
    refused(
        continued(start=FromRun(run=str(copy), step=3)),
        "was trained with vocabulary bpe .*train.store has bytes",
    )


def test_a_run_does_not_start_from_itself(continued, origin):
    before = sorted(origin.path.rglob("*"))
    refused(continued(directory=f"{origin.path}/../base"), "would start from itself")
    assert sorted(origin.path.rglob("*")) == before


def test_other_parameters_than_expected(continued, origin):
    start = FromRun(run=str(origin.path), step=3, parameters="a" * 64)
    refused(continued(start=start), "has parameters .* from_run.parameters = aaaaaaaaaaaa")


# --- studies, gin, compilation --------------------------------------------------------------------

GIN = """
train.model = @llama()
llama.vocab_size = 264
llama.width = 32
llama.layers = 2
llama.heads = 4
llama.mlp_width = 64
llama.context_length = 32
llama.activation_dtype = "float32"
train.batch_size = 8
train.steps = 10
train.start = @from_run()
"""


def test_a_study_plans_a_run_before_its_origin_exists(origin, store, tmp_path):
    file = tmp_path / "run.gin"
    file.write_text(GIN + f'train.store = "{store.location}"\ntrain.root = "{tmp_path}/runs"\n')
    base = tmp_path / "base"

    def plan(*more):
        return plan_run("arm", [str(file)], [f"from_run.run = '{base}'", *more])

    early = plan()
    assert early.folder.name == "run-?" and not early.fingerprint
    assert "no run directory" in early.missing
    shutil.copytree(origin.path, base)
    found = plan()
    assert not found.missing and found.folder.name == f"run-{found.fingerprint[:8]}"
    assert found.tokens == 10 * 8 * 32
    # A checkpoint that will never come is an error at once.
    with pytest.raises(UserError, match=r"run arm: train.start: run .* has no checkpoint 5"):
        plan("from_run.step = 5")


def test_a_step_is_compiled_without_its_origin(continued):
    chosen = continued(start=FromRun(run="nowhere"))
    trainer = make_trainer(chosen)
    with jax.set_mesh(trainer.mesh):
        jax.eval_shape(trainer.step, *step_arguments(chosen, trainer))


def test_gin_text_of_the_options_builds_them_again(continued, tmp_path):
    text = gin_text("train", continued(), COMPONENTS)
    (tmp_path / "config.gin").write_text(text)
    found = build_options("train", load(), gin_files=[tmp_path / "config.gin"], bindings=[])
    assert found.start == continued().start
    assert dataclasses.asdict(found.start)["step"] == 3
