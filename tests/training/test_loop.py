"""Whole trainings: a resumed run is bitwise identical to an uninterrupted one."""

import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from logged_losses import losses

from lossline.batches.plans import BatchPlan
from lossline.errors import UserError
from lossline.models import LlamaConfig, config_from_dict
from lossline.objectives.plain import PlainLoss
from lossline.options.identity import identity
from lossline.runs.checkpoints import CheckpointWriter, restore_state
from lossline.runs.restoring import load_model
from lossline.runs.run_directory import RunDirectory, RunState
from lossline.sharding import MeshOptions, make_mesh, make_rules
from lossline.stores.sealed_json import NoStore
from lossline.stores.store_writer import write_store
from lossline.training import loop
from lossline.training.checkpoint_schedule import CheckpointOptions
from lossline.training.loop import TrainingFailed, train, use_compilation_cache
from lossline.training.metrics import read_metrics
from lossline.training.optimizer import AdamW
from lossline.training.options import Documents
from lossline.training.schedule import ConstantSchedule
from lossline.training.step import Trainer
from lossline.vocabularies import ByteVocabulary


class Killed(Exception):
    """Raised by a test to stop a run."""


@pytest.fixture
def stopped_at(monkeypatch):
    """``stopped_at(k, act)``: call ``act`` when batch k is read."""
    batch = BatchPlan.batch

    def arrange(k, act):
        def read(self, number, rows=None):
            if number == k:
                act()
            return batch(self, number, rows)

        monkeypatch.setattr(BatchPlan, "batch", read)

    yield arrange


def fail():
    raise Killed("here")


def state_of(run, options, step):
    """Return the training state of a checkpoint as NumPy arrays."""
    trainer = Trainer(
        model=options.model,
        objective=PlainLoss(vocab_size=options.model.vocab_size),
        optimizer=options.optimizer,
        mesh=make_mesh(options.mesh),
        rules=make_rules(),
    )
    data = json.loads((run.path / "facts.json").read_text())["store_fingerprint"]
    return jax.tree.map(np.asarray, restore_state(run, step, trainer.abstract_state, data=data))


def assert_same_run(run, reference, options):
    assert losses(run) == losses(reference)
    assert run.kept_checkpoint_steps() == reference.kept_checkpoint_steps()
    last = options.total_steps
    states = (state_of(each, options, last) for each in (run, reference))
    jax.tree.map(np.testing.assert_array_equal, *states)


@pytest.fixture(scope="module")
def reference(base_options, tmp_path_factory):
    """An uninterrupted run; tests only read it."""
    return train(replace(base_options, root=str(tmp_path_factory.mktemp("reference"))))


def test_unavailable_implementation_is_refused_before_anything_is_written(options):
    chosen = options()
    for changes, words in (
        (
            {"model": replace(chosen.model, attention_implementation="splash")},
            "needs tpu, but this",
        ),
        ({"cross_entropy": "fused"}, "no implementation 'fused'"),
    ):
        lacking = replace(chosen, **changes)
        with pytest.raises(UserError, match=words):
            train(lacking)
        assert not lacking.folder.exists()


def test_the_step_is_traced_only_once(options, monkeypatch, known_trainers):
    known_trainers.clear()
    traces = []
    objective = PlainLoss.__call__
    monkeypatch.setattr(
        PlainLoss, "__call__", lambda *a, **k: traces.append(1) or objective(*a, **k)
    )
    train(options(steps=3))
    assert len(traces) == 1


def test_contents_of_a_finished_run_directory(options, store, monkeypatch):
    chosen = options(steps=40, mesh=MeshOptions(data=2, fsdp=2, tensor=2))
    monkeypatch.setattr("lossline.training.loop.peak_flops", lambda device: 1e12)
    run = train(chosen)
    assert run.path == chosen.folder
    assert run.status.state is RunState.FINISHED and run.status.step == 40
    assert run.kept_checkpoint_steps() == [13, 27, 40]
    rows = read_metrics(run.path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 41))
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5
    assert rows[-1]["tokens"] == 40 * 8 * 32
    assert rows[-1]["flops"] == rows[-1]["tokens"] * chosen.model.flops_per_token(32)
    of_eight = rows[-1]["tokens_per_second"] / (8 * 1e12)
    assert rows[-1]["mfu"] == pytest.approx(of_eight * chosen.model.flops_per_token(32))
    assert rows[-1]["mfu_causal"] == pytest.approx(of_eight * chosen.causal_flops_per_token)
    facts = run.facts
    assert facts["architecture"] == "llama" and facts["pretraining_data"] == "sentences"
    assert facts["tokenizer"] == "bytes"
    assert facts["mesh"] == {"data": 2, "fsdp": 2, "sequence": 1, "tensor": 2}
    assert facts["params"] == chosen.model.num_params().total
    assert run.config == identity(chosen)
    assert config_from_dict(run.config["model"]) == chosen.model
    assert "blocks/mlp/gate" in (run.path / "model.txt").read_text()


def test_loaded_model_reproduces_the_loss_of_the_next_step(options, reference, store):
    model = load_model(reference, 4)
    batch = BatchPlan(store, context_length=32, batch_size=8, seed=0).batch(4)
    log_probs = jax.nn.log_softmax(jax.jit(model)(batch.inputs))
    nats = -np.take_along_axis(np.asarray(log_probs), batch.targets[..., None], axis=-1)
    step, loss, _ = losses(reference)[4]
    assert step == 5 and nats.mean() == pytest.approx(loss, rel=1e-5)


def test_finished_run_is_not_trained_again(options, reference, capsys, monkeypatch):
    monkeypatch.setattr("lossline.training.loop._prepare", fail)
    before = {f: f.stat().st_mtime_ns for f in reference.path.rglob("*")}
    train(options(root=str(reference.path.parent)))
    assert "is finished (12 steps): nothing to do" in capsys.readouterr().out
    assert before == {f: f.stat().st_mtime_ns for f in reference.path.rglob("*")}


def test_run_whose_last_step_is_saved_compiles_nothing(options, reference, monkeypatch, tmp_path):
    shutil.copytree(reference.path, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    run.write_status(replace(run.status, state=RunState.RUNNING))  # killed after its last save
    monkeypatch.setattr(Trainer, "compiled", fail)
    done = train(options(directory=str(tmp_path / "run")))
    assert done.status.state is RunState.FINISHED


def test_size_of_the_buffers_decides_what_memory_is_kept(options, monkeypatch):
    seen, free = [], 12_345
    monkeypatch.setattr(loop, "free_bytes", lambda: free)
    monkeypatch.setattr(loop, "limit_kept_memory", lambda step_bytes: seen.append(step_bytes))
    monkeypatch.setattr(loop, "give_back_above", lambda most: seen.append(most))
    train(options(steps=4))
    buffers, *saves = seen
    assert buffers > 1000
    assert saves
    # Else each save would give the reserved holes back, which are free and not resident.
    assert set(saves) == {free + buffers}


# Before the first step, before the first checkpoint, after one.
@pytest.mark.parametrize("k", [0, 3, 6])
def test_resume_after_a_crash_is_bitwise_identical(options, reference, stopped_at, monkeypatch, k):
    stopped_at(k, fail)
    with pytest.raises(Killed):
        train(options())
    monkeypatch.undo()
    run = train(options())
    assert_same_run(run, reference, options())


def test_signal_saves_a_checkpoint_and_stops(options, reference, stopped_at, monkeypatch, capsys):
    stopped_at(6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        train(options())
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    said = capsys.readouterr().out
    assert "stopped by a signal at step" in said
    run = train(options())
    assert "continuing from checkpoint" in capsys.readouterr().out
    assert_same_run(run, reference, options())


def test_resume_on_another_mesh(options, reference, stopped_at, monkeypatch):
    stopped_at(6, fail)
    with pytest.raises(Killed):
        train(options())
    monkeypatch.undo()
    run = train(options(mesh=MeshOptions(data=2, fsdp=2, tensor=2)))
    np.testing.assert_allclose(losses(run), losses(reference), rtol=1e-4)


def test_corrupt_newest_checkpoint_falls_back_to_the_previous(
    options, reference, stopped_at, monkeypatch, capsys
):
    stopped_at(11, fail)
    with pytest.raises(Killed):
        train(options())
    monkeypatch.undo()
    folder = options().folder / "checkpoints" / "8"
    victim = max(folder.rglob("d/*"), key=lambda f: f.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[-9] ^= 64
    victim.write_bytes(content)
    run = train(options())
    said = capsys.readouterr().out
    assert "checkpoints/8 is corrupt" in said and "continuing from checkpoint 4" in said
    assert_same_run(run, reference, options())


# --- kill -9 ------------------------------------------------------------------------------------

KILL = """
import os, pickle, signal, sys
from lossline.runs import checkpoints
from lossline.training.loop import train

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def arrange(where):
    if where == "while Orbax writes":
        finish = checkpoints.CheckpointWriter._finish
        def _finish(self, step, *rest):
            if step == 8:
                die()
            finish(self, step, *rest)
        checkpoints.CheckpointWriter._finish = _finish
    elif where == "before the manifest":
        write = checkpoints.write_manifest
        checkpoints.write_manifest = lambda f, **k: die() if k["step"] == 8 else write(f, **k)
    elif where == "while dropping an old optimizer":
        checkpoints.remove_folder = die

# One import for all: JAX has no threads before it uses a device, so the process can still fork.
for where, options in pickle.load(sys.stdin.buffer).items():
    child = os.fork()
    if not child:
        arrange(where)
        train(options)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, where
"""
MOMENTS = ("while Orbax writes", "before the manifest", "while dropping an old optimizer")


@pytest.fixture(scope="module")
def killed(base_options, tmp_path_factory):
    """Options of three trainings, each killed at another moment of a save."""
    folder = tmp_path_factory.mktemp("killed")
    chosen = {where: replace(base_options, root=str(folder / where)) for where in MOMENTS}
    done = subprocess.run(
        [sys.executable, "-c", KILL], input=pickle.dumps(chosen), check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    return chosen


@pytest.mark.parametrize("where", MOMENTS)
def test_resume_after_kill_during_a_save_is_bitwise_identical(killed, reference, where):
    chosen = killed[where]
    run = train(chosen)
    assert_same_run(run, reference, chosen)
    leftovers = [f.name for f in (run.path / "checkpoints").iterdir() if not f.name.isdigit()]
    assert not leftovers


# --- failures ----------------------------------------------------------------------------


def test_nan_in_the_first_step_stops_the_run(options, capsys):
    chosen = options(
        optimizer=AdamW(learning_rate=1e38),
        schedule=ConstantSchedule(),
        checkpoints=CheckpointOptions(count=0, every=1),
    )
    with pytest.raises(TrainingFailed, match=r"step 1 gave .*Decrease the learning rate"):
        train(chosen)
    status = chosen_status(chosen)
    assert status["state"] == "failed" and "step 1 gave" in status["message"]
    assert not (chosen.folder / "checkpoints" / "1").exists()


def test_nan_keeps_the_last_good_checkpoint(options, monkeypatch):
    monkeypatch.setattr(ConstantSchedule, "factor", lambda self, k, steps: 1.0 if k < 7 else 1e38)
    chosen = options(schedule=ConstantSchedule(), optimizer=AdamW(learning_rate=1e-3))
    with pytest.raises(TrainingFailed, match="the last good checkpoint is 4"):
        train(chosen)
    state = state_of(RunDirectory(chosen.folder), chosen, 4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert [p.name for p in (chosen.folder / "checkpoints").iterdir()] == ["4"]


def chosen_status(chosen):
    return json.loads((chosen.folder / "status.json").read_text())


def test_changed_data_at_the_same_path_is_another_run(options, stopped_at, monkeypatch, tmp_path):
    store = tmp_path / "store"
    write_store(store, ["one text, " * 400], ByteVocabulary(), name="one")
    chosen = options(store=str(store), directory=str(tmp_path / "run"))
    before = options(store=str(store)).folder
    stopped_at(6, fail)
    with pytest.raises(Killed):
        train(chosen)
    monkeypatch.undo()
    store.rename(tmp_path / "old")
    write_store(store, ["another text, " * 400], ByteVocabulary(), name="one")
    assert options(store=str(store)).folder != before
    with pytest.raises(UserError, match=r"another config: store was '[0-9a-f]{12}…'"):
        train(chosen)
    # If the config was edited, the manifest of the checkpoint still refuses the other data.
    (tmp_path / "run/config.json").write_text(json.dumps(identity(chosen)))
    with pytest.raises(UserError, match="trained on data with fingerprint"):
        train(chosen)


def test_moved_store_is_the_same_run(options, reference, store, tmp_path, monkeypatch, capsys):
    """Relative, absolute and moved paths of one store find the same finished run."""
    moved = tmp_path / "elsewhere"
    shutil.copytree(store.location, moved)
    monkeypatch.chdir(tmp_path)
    for path in ("elsewhere", "./elsewhere/", str(moved)):
        chosen = options(store=path, root=str(reference.path.parent))
        assert train(chosen).path == reference.path
        assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch_size": 12},
            r"train.batch_size 12 .* = 8; nearest that work: .* 8 or 16, or .* = 4 \(",
        ),
        ({"mesh": MeshOptions(data=3)}, "needs 3 devices, but 8 exist"),
        ({"mesh": MeshOptions(data=1, tensor=8)}, "heads' of size 4 is not divisible by .* = 8"),
        (
            {
                "model": LlamaConfig(
                    vocab_size=100, width=8, layers=1, heads=1, mlp_width=8, context_length=32
                )
            },
            "vocab_size = 100 is smaller than the vocabulary of .* 259 tokens",
        ),
    ],
)
def test_wrong_options_write_nothing(options, changes, message):
    chosen = options(**changes)
    with pytest.raises(UserError, match=message):
        train(chosen)
    assert not chosen.folder.exists()


def test_missing_store_is_refused(options):
    chosen = options(store="nowhere")
    with pytest.raises(NoStore, match="nowhere: no such store"):
        train(chosen)
    assert not os.path.exists(chosen.root)


def test_context_longer_than_the_store_is_refused(options, tmp_path):
    write_store(tmp_path / "short", ["short"], ByteVocabulary(), name="short")
    with pytest.raises(UserError, match="fewer than context_length 32"):
        train(options(store=str(tmp_path / "short")))


def test_directory_of_another_config_is_refused(options, reference):
    with pytest.raises(UserError, match="another config: seed was 0 and is now 1"):
        train(options(seed=1, directory=str(reference.path)))


def test_second_writer_is_refused(options):
    chosen = options()
    chosen.folder.mkdir(parents=True)
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
        "print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(chosen.folder / "lock")], stdout=subprocess.PIPE
    )
    try:
        holder.stdout.readline()
        with pytest.raises(UserError, match="is being written by process"):
            train(chosen)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_wrong_options_raise_user_error(options):
    for changes, message in (
        ({"tokens": 100}, "train.steps and train.tokens: exactly one"),
        ({"steps": None}, "train.steps and train.tokens: exactly one"),
        ({"context_length": 64}, "more than the model's context_length 32"),
        ({"name": "a/b"}, "train.name"),
        ({"batch_size": 0}, "train.batch_size = 0"),
        ({"profile_steps": "3"}, None),
        ({"profile_steps": "5:3"}, "first must be at least 1, and last"),
        ({"profile_steps": "x:y"}, "must be first:last"),
        ({"profile_steps": "9:13"}, "the run has only steps 1 to 12. Choose"),
    ):
        if message is None:
            assert options(**changes).profiled_steps == (3, 3)
            continue
        with pytest.raises(UserError, match=message):
            options(**changes)


def test_only_options_of_the_experiment_change_the_run_name(options):
    base = options().folder
    for same in (
        {"mesh": MeshOptions(fsdp=8, data=1)},
        {"compilation_cache": "off"},
        {"profile_steps": "1:2"},
        {"checkpoints": CheckpointOptions(count=3, minutes=1, optimizer_states=1)},
    ):
        assert options(**same).folder == base
    for other in ({"seed": 1}, {"steps": 13}, {"documents": Documents.SEPARATE}, {"z_loss": 0.1}):
        assert options(**other).folder.name != base.name
    assert options(name="other").folder.name == "other-" + base.name.split("-")[1]
    assert options(steps=None, tokens=12 * 8 * 32 - 5).total_steps == 12


def test_separate_documents_and_data_seed_change_the_losses(options, tmp_path):
    texts = ["a text. ", "another one! "] * 100
    store = str(write_store(tmp_path / "store", texts, ByteVocabulary(), name="short").location)
    chosen = {"store": store, "steps": 1, "checkpoints": CheckpointOptions(count=0)}
    first, separate, other = (
        losses(train(options(**chosen, **changes)))[0]
        for changes in ({}, {"documents": Documents.SEPARATE}, {"data_seed": 5})
    )
    assert len({first, separate, other}) == 3


def test_all_bits_of_both_seeds_are_used(options):
    """JAX drops the upper bits of 2^32 + 5, which would give the parameters of seed 5."""
    chosen = {"steps": 1, "checkpoints": CheckpointOptions(count=0)}
    small, large, other_data = (
        losses(train(options(**chosen, seed=seed, data_seed=data_seed)))[0]
        for seed, data_seed in ((5, 1), (2**32 + 5, 1), (5, 2**32 + 1))
    )
    assert len({small, large, other_data}) == 3


def test_profile_covers_only_steps_of_this_start(options, capsys, stopped_at):
    """Traces that end with the run, that begin with the start and end at their last step, none."""
    chosen = options(steps=5, checkpoints=CheckpointOptions(steps=(2,), count=0))
    for batch, asked, said in (
        (2, "2:4", "profile of steps 2 to 2 in"),
        (4, "1:4", "profile of steps 3 to 4 in"),
        (
            9,
            "1:2",
            "no profile: steps 1 to 2 finished in an earlier start. Choose steps from 3 on.",
        ),
    ):
        stopped_at(batch, fail)
        with pytest.raises(Killed) if batch < 5 else contextlib.nullcontext():
            train(replace(chosen, profile_steps=asked))
        assert said in capsys.readouterr().out
    traces = (chosen.folder / "profile").rglob("*.xplane.pb")
    assert {trace.stat().st_size > 0 for trace in traces} == {True}


def test_unwritable_cache_folder_is_refused_before_compilation(options, recwarn):
    """JAX would only warn about each program that it cannot cache."""
    with pytest.raises(FileNotFoundError):
        train(options(directory="/proc/x/run", compilation_cache=None))
    assert not [each for each in recwarn if "compilation cache" in str(each.message)]


def test_replaceable_checkpoints_are_replaced(options, monkeypatch):
    seen = []
    retire = CheckpointWriter._retire

    def watch(self, newest):
        retire(self, newest)
        seen.append(self._run.checkpoint_steps())

    monkeypatch.setattr(CheckpointWriter, "_retire", watch)
    run = train(options(checkpoints=CheckpointOptions(count=3, minutes=1e-9)))
    assert seen[:6] == [[1], [2], [3], [4], [4, 5], [4, 6]]
    assert run.checkpoint_steps() == run.kept_checkpoint_steps() == [4, 8, 12]


@pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")
def test_damaged_compilation_cache_entry_does_not_break_a_run(
    options, tmp_path, cache, known_trainers
):
    """A process killed while it writes a cache entry must not break later runs."""
    folder = tmp_path / "torn"
    chosen = options(compilation_cache=str(folder), steps=3)
    torn = pytest.warns(UserWarning, match="Error reading .* cache entry for 'jit_run'")
    runs = []
    try:
        for root, seen in (("first", contextlib.nullcontext()), ("second", torn)):
            known_trainers.clear()
            jax.clear_caches()  # as in a new process
            use_compilation_cache(folder)
            compilation_cache.reset_cache()
            with seen:
                runs.append(train(replace(chosen, root=str(tmp_path / root))))
            entries = list(folder.glob("*-cache"))
            assert entries
            for entry in entries:
                entry.write_bytes(entry.read_bytes()[: entry.stat().st_size // 2])
    finally:
        use_compilation_cache(cache)
        compilation_cache.reset_cache()
    assert losses(runs[0]) == losses(runs[1])
