"""Token scores of a store: values, keys, resume after a kill, refusals, damage."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from evaluation.small_runs import LLAMA, SHAPE, corrupt, make_run, params_at
from quick_compilation import QUICK_COMPILATION

from lossline import score as verb
from lossline.batches.plans import BatchPlan, Windows
from lossline.errors import UserError
from lossline.evaluation.token_values import TokenMeasurer
from lossline.models import GPTConfig
from lossline.objectives.plain import PlainLoss
from lossline.runs.checkpoints import CheckpointWriter, parameters_fingerprint
from lossline.runs.restoring import load_model
from lossline.scoring.token_scoring import TokenScoreOptions, score_tokens, training_flops
from lossline.sharding import MeshOptions
from lossline.stores.store_writer import write_store
from lossline.stores.token_scores import TokenScores
from lossline.training.options import Documents
from lossline.vocabularies import ByteVocabulary

FLOAT32 = replace(LLAMA, activation_dtype="float32")
TEXTS = [f"Document {i}. " + "some words, é, " * (i % 4) for i in range(40)]
L = 16
BOTH = ("nats", "entropy")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "reference", FLOAT32, steps=(2, 4))


@pytest.fixture
def store(tmp_path):
    return write_store(tmp_path / "stores" / "web", TEXTS, ByteVocabulary())


def options(run, store, **changes):
    defaults = {
        "stores": (store.location,),
        "context_length": L,
        "batch_size": 8,
        "part_tokens": 300,
        "compilation_cache": "off",
    }
    return TokenScoreOptions(run=str(run.path), **(defaults | changes))


def scored(run, store, **changes):
    [scores] = score_tokens(options(run, store, **changes))
    return scores


def content(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(Path(folder).rglob("*"))
        if p.is_file()
    }


def definition(run, step, store, documents):
    """Nats and entropy of every token in float64, from all logits of the restored model."""
    windows = Windows(store, context_length=L, seed=3)
    batch = windows.read(np.arange(windows.count))
    segments = jnp.asarray(batch.segment_ids) if documents == "separate" else None
    logits = np.asarray(load_model(run, step)(jnp.asarray(batch.inputs), segments), np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats = -np.take_along_axis(logp, batch.targets[..., None], -1)
    return {"nats": nats.ravel(), "entropy": -(np.exp(logp) * logp).sum(-1).ravel()}


@pytest.mark.parametrize("documents", Documents, ids=str)
def test_scores_stand_at_the_tokens_of_the_store(run, store, documents):
    scores = scored(run, store, documents=documents, quantities=BOTH, step=2)
    name = f"reference-step2-{documents.value}{L}"
    assert scores.location == f"{store.location}.token_scores/{name}"
    want = definition(run, 2, store, documents.value)
    count = store.num_tokens // L * L
    assert store.num_tokens - count > 0  # so some tokens are in no window
    for quantity in BOTH:
        got = scores.read(quantity, np.array([0]), store.num_tokens)[0]
        assert got.dtype == np.float32 and np.isnan(got[count:]).all()
        np.testing.assert_allclose(got[:count], want[quantity], rtol=6e-4, atol=1e-5)  # float16
        assert scores.manifest.means[quantity] == pytest.approx(want[quantity].mean(), rel=1e-4)
        pieces = list(scores.whole(quantity))
        np.testing.assert_array_equal(np.concatenate([p for _, p in pieces]), got.astype("float16"))
        assert pieces[0][0] == 0 and pieces[0][1].dtype == np.float16
    # As training reads them: by the windows of a batch.
    windows = Windows(store, context_length=L, seed=0)
    order = windows.order(np.arange(5))
    rows = scores.read("nats", order * L, L)
    np.testing.assert_allclose(rows, want["nats"].reshape(-1, L)[order], rtol=6e-4, atol=1e-5)


@pytest.mark.parametrize("documents", Documents, ids=str)
def test_the_mean_score_of_a_batch_is_the_loss_of_a_training_step(run, store, documents):
    plan = BatchPlan(store, context_length=L, batch_size=8, seed=5)
    scores = scored(run, store, documents=documents, step=2)
    loss, model = PlainLoss(vocab_size=FLOAT32.vocab_size), load_model(run, 2)
    for k in (0, 13):  # 13: of a later epoch
        batch = asdict(plan.batch(k))
        if documents is Documents.JOINED:
            del batch["segment_ids"]
        _, nats = loss(model, batch, jnp.float32(8 * L))
        windows = plan.windows.order(np.arange(8 * k, 8 * k + 8))
        mean = scores.read("nats", windows * L, L).mean(dtype=np.float64)
        assert mean == pytest.approx(float(np.ravel(nats)[0]), rel=1e-4)


def test_the_manifest_says_what_and_at_what_cost(run, store):
    scores = scored(run, store, quantities=BOTH, step=4)
    assert scores.reference == "reference step 4" and scores.documents == "joined"
    assert scores.parameters == parameters_fingerprint(run, 4)
    assert scores.context_length == L and scores.quantities == BOTH
    assert scores.store_fingerprint == store.manifest.fingerprint
    assert scores.vocabulary_hash == store.manifest.vocabulary.hash
    assert scores.reference_flops == 64 * 4 * FLOAT32.flops_per_token(32)
    count = store.num_tokens // L * L
    assert scores.scoring_flops == pytest.approx(FLOAT32.flops_per_token(L) / 3 * count)
    other = scored(run, store, quantities=BOTH, step=2)
    assert other.location != scores.location and other.fingerprint != scores.fingerprint
    assert scored(run, store, step=4, out=f"{store.location}-own").quantities == ("nats",)


@pytest.mark.parametrize(
    ("facts", "flops"),
    [
        ({}, 180.0),
        ({"start_run": "a", "start_flops": 7.0}, 180.0),
        ({"start_run": "a"}, 180.0),
        ({"tokens_per_step": None}, None),  # 0 would count it as free
    ],
)
def test_flops_of_the_reference(facts, flops):
    assert training_flops({"tokens_per_step": 10, "flops_per_token": 6.0} | facts, 3) == flops


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 64},
        {"part_tokens": 10**9},
        {"mesh": MeshOptions(data=2, fsdp=2, tensor=2)},
        {"mesh": MeshOptions(data=8)},
    ],
    ids=str,
)
def test_batches_parts_and_devices_change_only_the_last_rounding(run, store, changes):
    base = scored(run, store, quantities=BOTH)
    other = scored(run, store, quantities=BOTH, out=f"{store.location}-other", **changes)
    for quantity in BOTH:
        a, b = (s.read(quantity, np.array([0]), store.num_tokens) for s in (base, other))
        np.testing.assert_allclose(a, b, rtol=1.1e-3, atol=1e-6, equal_nan=True)


def test_defaults_are_those_of_the_references_training(tmp_path, store):
    run = make_run(tmp_path / "separate", FLOAT32, steps=(2, 6))
    config = json.loads((run.path / "config.json").read_text())
    (run.path / "config.json").write_text(json.dumps({**config, "documents": "separate"}))
    scores = scored(run, store, context_length=None)
    assert (scores.context_length, scores.documents) == (32, "separate")
    assert scores.reference.endswith("step 6")


def test_a_second_start_does_nothing(run, store, capsys, monkeypatch):
    first = content(scored(run, store, quantities=BOTH).location)
    monkeypatch.setattr(TokenMeasurer, "stream", None)  # any use fails
    for quantities in (BOTH, ("nats",), ("entropy", "nats")):
        assert content(scored(run, store, quantities=quantities).location) == first
        assert "nothing to do" in capsys.readouterr().out


def test_a_killed_scoring_continues_and_ends_the_same(run, store, monkeypatch):
    whole = content(scored(run, store, quantities=BOTH, out=f"{store.location}-whole").location)
    out, original, rows = Path(f"{store.location}-out"), TokenMeasurer.stream, []

    def dying(self, state, batches, quantities, *, after=7):
        for number, values in enumerate(original(self, state, batches, quantities)):
            if number == after:
                raise KeyboardInterrupt
            rows.append(len(values["nats"]))
            yield values

    monkeypatch.setattr(TokenMeasurer, "stream", dying)
    with pytest.raises(KeyboardInterrupt):
        scored(run, store, quantities=BOTH, out=str(out))
    done = sum(rows)
    assert not out.exists()  # nothing that looks finished
    parts = sorted(out.with_name(f"{out.name}.partial").rglob("*.npz"))
    assert len(parts) == 2
    # A damaged part is computed again.
    damaged = bytearray(parts[0].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    parts[0].write_bytes(damaged)
    rows.clear()
    monkeypatch.setattr(TokenMeasurer, "stream", lambda *a: dying(*a, after=10**9))
    assert content(scored(run, store, quantities=BOTH, out=str(out)).location) == whole
    windows = store.num_tokens // L
    assert sum(rows) == windows - 24 < windows and done > 24
    assert not out.with_name(f"{out.name}.partial").exists()


def test_kill_9_and_a_second_start(run, store):
    """A child process is killed after its first part; the next start finishes its work."""
    out = Path(f"{store.location}-out")
    program = (
        "import sys, time; from lossline.scoring import token_scoring as t\n"
        "keep = t.ScoreParts.keep\n"
        "def slow(self, part, scores): keep(self, part, scores); print('kept', flush=True); "
        "time.sleep(60)\n"
        "t.ScoreParts.keep = slow\n"
        "from lossline.score import main; main(sys.argv[1:])\n"
    )
    words = [
        "--tokens", "--run", str(run.path), "--stores", store.location, "--out", str(out),
        f"--gin.token_scores.context_length={L}", "--gin.token_scores.batch_size=8",
        "--gin.token_scores.part_tokens=300", "--gin.token_scores.compilation_cache=off",
    ]  # fmt: skip
    environment = {**os.environ, "XLA_FLAGS": QUICK_COMPILATION, "JAX_PLATFORMS": "cpu"}
    child = subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line == "kept\n":
            break
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL and not out.exists()
    kept = list(out.with_name(f"{out.name}.partial").rglob("*.npz"))
    assert len(kept) == 1
    verb.main(words)
    other = scored(run, store, out=f"{store.location}-whole")
    assert TokenScores.open(out).manifest.source == other.manifest.source
    got, want = (
        s.read("nats", np.array([0]), store.num_tokens) for s in (TokenScores.open(out), other)
    )
    np.testing.assert_allclose(got, want, rtol=1.1e-3, equal_nan=True)


# --- refusals: one line, nothing written -----------------------------------------------------


def refused(match, run, store, **changes):
    """Check that a scoring is refused in one line and leaves no file beside the store."""
    before = content(store.location), sorted(Path(store.location).parent.iterdir())
    with pytest.raises(UserError, match=match) as error:
        scored(run, store, **changes)
    assert "\n" not in str(error.value)
    assert (content(store.location), sorted(Path(store.location).parent.iterdir())) == before


def test_unknown_things_are_refused(run, store, tmp_path):
    refused(r"has no checkpoint 3\. Choose one of 2, 4", run, store, step=3)
    refused(r"token_scores.step = 'first'", run, store, step="first")
    refused(
        r"quantities = \('bits',\): give 'nats', 'entropy' or both",
        run,
        store,
        quantities=("bits",),
    )
    refused("quantities = ", run, store, quantities=())
    refused("stores is empty", run, store, stores=())
    refused("context_length = 0", run, store, context_length=0)
    refused(
        "tokens are fewer than token_scores.context_length = 1000000",
        run,
        store,
        context_length=10**6,
    )
    refused("no such store", run, store, stores=(str(tmp_path / "nowhere"),))
    refused("one folder, but 2 stores", run, store, stores=(store.location,) * 2, out="x")
    refused("is a URL", run, store, out="gs://bucket/x")
    with pytest.raises(UserError, match="does not exist"):
        score_tokens(replace(options(run, store), run=str(tmp_path / "no-run")))


def test_another_vocabulary_is_refused(run, tmp_path):
    store = write_store(tmp_path / "web", TEXTS, ByteVocabulary())
    facts = json.loads((run.path / "facts.json").read_text())
    other = make_run(tmp_path / "other", FLOAT32, steps=(2,))
    facts["vocabulary_hash"] = "0" * 64
    (other.path / "facts.json").write_text(json.dumps(facts))
    refused("made with vocabulary", other, store)


def test_a_context_longer_than_learned_positions_is_refused(tmp_path, store):
    gpt = make_run(tmp_path / "gpt", GPTConfig(**SHAPE, heads=2, mlp_width=24), steps=(2,))
    refused(
        "token_scores.context_length = 33: the model has only 32", gpt, store, context_length=33
    )
    assert scored(gpt, store, context_length=32).context_length == 32


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e5])
def test_values_that_float16_cannot_hold_write_no_scores(tmp_path, store, value):
    run = make_run(tmp_path / "broken", FLOAT32, steps=(2,))
    shutil.rmtree(run.path / "checkpoints")
    params = params_at(FLOAT32, 2)
    params["unembed"] = params["unembed"] * value
    writer = CheckpointWriter(run, data="data")
    writer.save(2, {"params": params, "optimizer": {}}, kept=True)
    writer.close()
    refused("broken step 2: the nats of a token is", run, store)


def test_a_damaged_checkpoint_is_refused(tmp_path, store):
    run = make_run(tmp_path / "damaged", FLOAT32, steps=(2,))
    corrupt(run, 2)
    refused("checkpoint .* is corrupt", run, store)


def test_a_folder_with_other_contents_is_left_alone(run, store, tmp_path):
    out = Path(scored(run, store, step=2).location)
    first = content(out)
    for what, changes in {
        "parameters": {"step": 4},
        "context_length 16 instead of 8": {"context_length": 8},
        "documents joined instead of separate": {"documents": Documents.SEPARATE},
        "activations": {"activations": "bfloat16"},
        "contains only nats": {"quantities": ("entropy",)},
    }.items():
        refused(what, run, store, **({"step": 2, "out": str(out)} | changes))
    assert content(out) == first
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    refused("contains no token scores", run, store, out=str(foreign))
    assert content(foreign) == {"notes.txt": b"mine"}


def test_several_stores_get_a_folder_each(run, tmp_path):
    stores = [
        write_store(tmp_path / name, TEXTS[:n], ByteVocabulary())
        for name, n in (("a", 9), ("b", 20))
    ]
    found = score_tokens(
        replace(options(run, stores[0]), stores=tuple(store.location for store in stores))
    )
    for scores, store in zip(found, stores, strict=True):
        assert scores.store_fingerprint == store.manifest.fingerprint
        assert Path(scores.location).parent == Path(f"{store.location}.token_scores")
        scores.require(store, context_length=L, documents="joined", quantities=("nats",))


# --- the reader ------------------------------------------------------------------------------


def test_scores_of_something_else_are_refused(run, store, tmp_path):
    scores = scored(run, store)
    wanted = {"context_length": L, "documents": "joined", "quantities": ("nats",)}
    scores.require(store, **wanted)
    other = write_store(tmp_path / "other", TEXTS[:9], ByteVocabulary())
    for of, changes, match in (
        (other, {}, "of another store"),
        (store, {"context_length": 32}, "of another context length: 16, but training uses 32"),
        (store, {"documents": "separate"}, "of another document rule: joined, .* separate"),
        (store, {"quantities": BOTH}, "contains nats .* but entropy is needed"),
    ):
        with pytest.raises(UserError, match=match) as error:
            scores.require(of, **(wanted | changes))
        assert "\n" not in str(error.value)


def damage(name):
    """Return a function that damages one thing in a folder of scores."""

    def file(folder):
        return next(p for p in (folder / "nats").rglob("0") if p.is_file())

    def cut(folder):
        file(folder).write_bytes(file(folder).read_bytes()[:-9])

    def flip(folder):
        changed = bytearray(file(folder).read_bytes())
        changed[7] ^= 4
        file(folder).write_bytes(changed)

    def edit(folder):
        text = (folder / "manifest.json").read_text()
        (folder / "manifest.json").write_text(text.replace('"joined"', '"separate"'))

    def store_manifest(folder):
        shutil.copy(folder.parent.parent / "web" / "manifest.json", folder / "manifest.json")

    return {
        "cut": cut,
        "flip": flip,
        "edit": edit,
        "store": store_manifest,
        "remove": lambda folder: file(folder).unlink(),
        "unfinished": lambda folder: (folder / "manifest.json").unlink(),
        "not json": lambda folder: (folder / "manifest.json").write_text("[]"),
    }[name]


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("cut", "truncated or changed"),
        ("flip", "damaged"),
        ("edit", "changed after it was written"),
        ("store", "not the manifest of a folder of token scores"),
        ("remove", "missing"),
        ("unfinished", "no manifest.json there"),
        ("not json", "not the manifest"),
    ],
)
def test_damage_is_found_at_opening(run, store, what, match):
    folder = Path(scored(run, store).location)
    damage(what)(folder)
    with pytest.raises(UserError, match=match) as error:
        TokenScores.open(folder)
    assert "\n" not in str(error.value) and "Prepare the store" not in str(error.value)


def test_nothing_at_a_location_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no such folder of token scores\. Run python -m lossline"):
        TokenScores.open(tmp_path / "nowhere")


# --- the command line ------------------------------------------------------------------------


def test_the_command_line_scores_and_refuses(run, store, capsys):
    words = [
        "--tokens", "--run", str(run.path), "--stores", store.location,
        f"--gin.token_scores.context_length={L}", "--gin.token_scores.compilation_cache=off",
    ]  # fmt: skip
    verb.main([*words, "--gin.token_scores.documents=separate"])
    assert "mean nats" in capsys.readouterr().out
    for more, match in (
        ("--gin.token_scores.step=3", "has no checkpoint 3"),
        ("--gin.token_scores.quantities=('bits',)", "must be one of 'nats', 'entropy'"),
        ("--gin.token_scores.steps=3", "did you mean token_scores.step?"),
        ("--runs=x", "unknown argument --runs=x"),
    ):
        with pytest.raises(SystemExit) as stop:
            verb.main([*words, more])
        said = capsys.readouterr().err
        assert stop.value.code == 2 and said.count("\n") == 1 and match in said
        assert said.startswith("lossline score: error: ")


def test_help_of_both_forms(capsys):
    for words, flag in ((["--help"], "--runs"), (["--tokens", "--help"], "--stores")):
        with pytest.raises(SystemExit):
            verb.main(words)
        said = capsys.readouterr().out
        assert flag in said and "--tokens" in said


@pytest.mark.parametrize("word", ["--run", "--run=runs/reference", "--stores"])
def test_flags_of_token_scores_without_tokens_name_the_switch(word, capsys):
    with pytest.raises(SystemExit) as stop:
        verb.main([word, "runs/reference"])
    said = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(said) == 1 and "Add --tokens" in said[0]
