"""The convert command: a foreign model becomes a run that can be measured, and is written
unchanged.
"""

import contextlib
import dataclasses
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lossline import tables
from lossline.cli.configuration import build_options
from lossline.conversion.runs import ConvertOptions, convert
from lossline.convert import load
from lossline.errors import UserError
from lossline.evaluation.evaluator import EvaluateOptions, evaluate
from lossline.evaluation.harness import RequestScorer
from lossline.evaluation.sets import EvaluationSet
from lossline.places import to_path
from lossline.runs.run_directory import RunDirectory, RunState
from lossline.stores.store_writer import write_store
from lossline.vocabularies import ByteVocabulary

from .numpy_models import LLAMA, llama, llama_shapes
from .test_huggingface import make_folder

TREE = LLAMA | {"vocab_size": 259}


@pytest.fixture
def folder(tmp_path):
    """Return a Hugging Face folder of a byte-level Llama."""
    path = tmp_path / "hf"
    path.mkdir()
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.normal(0, 0.3, shape).astype(np.float32)
        for name, shape in llama_shapes(TREE).items()
    }
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(TREE))
    return path


def reading(folder, target, **changes):
    options = ConvertOptions(
        source=str(folder),
        target=str(target),
        pretraining_data="stories",
        tokens=1000,
        vocabulary="bytes",
        step=10,
    )
    return dataclasses.replace(options, **changes)


def test_a_foreign_model_is_measured_like_any_run(folder, tmp_path):
    convert(reading(folder, tmp_path / "runs" / "foreign"))
    run = RunDirectory.open(tmp_path / "runs" / "foreign")
    assert run.status.state is RunState.FINISHED and run.kept_checkpoint_steps() == [10]
    text = "A text of 24 bytes here."
    write_store(tmp_path / "store", [text], ByteVocabulary(), name="text")
    sets = (EvaluationSet(name="text", path=str(tmp_path / "store")),)
    evaluate(
        EvaluateOptions(runs=(str(run.path),), sets=sets, batch_size=8, compilation_cache="off")
    )
    row = tables.read(run.path / "losses.parquet").iloc[0]
    ids = [byte + 3 for byte in text.encode()]
    logits = llama(load_file(folder / "model.safetensors"), TREE, [1, *ids[:-1]])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert row["nats"] == pytest.approx(-log_p[np.arange(len(ids)), ids].sum(), rel=1e-5)
    assert (row["tokens"], row["step"], row["target_bytes"]) == (1000, 10, 24)
    assert (row["run_id"], row["architecture"]) == ("foreign", "llama")
    assert row["pretraining_data"] == "stories"


def test_a_model_read_and_written_has_the_same_bytes(folder, tmp_path):
    convert(reading(folder, tmp_path / "run"))
    back = tmp_path / "back"
    convert(ConvertOptions(source=str(tmp_path / "run"), target=str(back)))
    before, after = (load_file(f / "model.safetensors") for f in (folder, back))
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_models_and_runs_in_a_bucket_are_converted_whole_or_not_at_all(
    folder, tmp_path, bucket, emulator
):
    run, back = f"{bucket}/runs/foreign", to_path(f"{bucket}/back")
    convert(reading(folder, run))
    emulator.fail("refused", lambda r: r.name == "back/config.json", times=99, status=403)
    with pytest.raises(UserError, match="no permission"):
        convert(ConvertOptions(source=run, target=str(back)))
    emulator.faults.clear()
    assert not back.exists()
    convert(ConvertOptions(source=run, target=str(back)))
    with pytest.raises(UserError, match="already exists"):
        convert(ConvertOptions(source=run, target=str(back)))
    convert(reading(back, tmp_path / "again"))
    convert(ConvertOptions(source=str(tmp_path / "again"), target=str(tmp_path / "here")))
    for name in ("model.safetensors", "config.json"):
        assert (back / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    scorer = RequestScorer(RunDirectory.open(run), ByteVocabulary(), batch_size=8)
    local = RequestScorer(RunDirectory.open(tmp_path / "again"), ByteVocabulary(), batch_size=8)
    assert scorer.loglikelihood([("a", "bc")]) == local.loglikelihood([("a", "bc")])


def test_a_second_checkpoint_is_added_to_the_run(folder, tmp_path):
    convert(reading(folder, tmp_path / "run"))
    convert(reading(folder, tmp_path / "run", step=20, tokens=2000))
    run = RunDirectory.open(tmp_path / "run")
    assert run.kept_checkpoint_steps() == [10, 20] and run.status.step == 20
    with pytest.raises(UserError, match="already has a checkpoint 20"):
        convert(reading(folder, tmp_path / "run", step=20, tokens=2000))
    with pytest.raises(UserError, match="tokens_per_step"):
        convert(reading(folder, tmp_path / "run", step=30))
    with pytest.raises(UserError, match="pretraining_data = 'stories'"):
        convert(reading(folder, tmp_path / "run", step=30, tokens=3000, pretraining_data="c4"))


def test_a_refused_import_writes_nothing(folder, tmp_path):
    target = tmp_path / "run"

    def refused(match, **changes):
        with pytest.raises(UserError, match=match):
            convert(reading(folder, target, **changes))
        assert not target.exists()

    refused("no folder", source=str(tmp_path / "nowhere"))
    refused("convert.tokens is not bound", tokens=None)
    refused("convert.pretraining_data is not bound", pretraining_data=None)
    refused("has no tokenizer.json", vocabulary=None)
    refused("float32 or bfloat16", dtype="float16")
    refused("Give 'bytes'", vocabulary="no such")
    (folder / "config.json").write_text(json.dumps(TREE | {"vocab_size": 100}))
    refused("shape")
    with pytest.raises(UserError, match=r"convert.dtype = 'int8'"):
        reading(folder, target, dtype="int8")
    with pytest.raises(UserError, match=r"convert.step = 0"):
        reading(folder, target, step=0)


def test_a_vocabulary_larger_than_the_embeddings_is_refused(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:100]
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(TREE | {"vocab_size": 100}))
    with pytest.raises(UserError, match="100 embeddings do not cover the 259 ids"):
        convert(reading(folder, tmp_path / "run"))


def test_a_failed_import_writes_nothing_and_a_killed_one_can_be_repeated(
    folder, tmp_path, monkeypatch
):
    def end(error):
        def ended(*_, **__):
            raise error

        return ended

    target = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(
            "lossline.conversion.runs.write_manifest", end(OSError(28, "No space left"))
        )
        with pytest.raises(OSError, match="No space"):
            convert(reading(folder, target))
        assert not target.exists()
        # A killed process does not clean up.
        patched.setattr("lossline.conversion.runs._removed_if_it_fails", contextlib.nullcontext)
        with pytest.raises(OSError, match="No space"):
            convert(reading(folder, target))
    assert RunDirectory.open(target).checkpoint_steps() == []
    convert(reading(folder, target))
    assert RunDirectory.open(target).checkpoint_steps() == [10]


def test_too_little_disk_space_is_refused_before_writing(folder, tmp_path, monkeypatch):
    convert(reading(folder, tmp_path / "run"))
    out = ConvertOptions(source=str(tmp_path / "run"), target=str(tmp_path / "deep" / "out"))
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("lossline.conversion.runs.shutil.disk_usage", lambda _: usage)
    for again, target in ((reading(folder, tmp_path / "more"), "more"), (out, "deep")):
        with pytest.raises(UserError, match=r"GB, but .* has 0.000 GB left; free some space there"):
            convert(again)
        assert not (tmp_path / target).exists()


def test_a_context_longer_than_the_learned_positions_is_refused(tmp_path):
    make_folder(tmp_path / "gpt", "gpt2", vocab_size=259)
    convert(reading(tmp_path / "gpt", tmp_path / "short", context_length=24))
    assert RunDirectory.open(tmp_path / "short").facts["context_length"] == 24
    with pytest.raises(UserError, match=r"context_length = 25: .* has only 24 learned positions"):
        convert(reading(tmp_path / "gpt", tmp_path / "long", context_length=25))
    assert not (tmp_path / "long").exists()


def test_export_refuses_existing_targets_and_missing_sources(folder, tmp_path):
    convert(reading(folder, tmp_path / "run"))
    out = ConvertOptions(source=str(tmp_path / "run"), target=str(tmp_path / "out"))
    with pytest.raises(UserError, match=r"has no checkpoint 7\. Choose one of 10\."):
        convert(dataclasses.replace(out, step=7))
    with pytest.raises(UserError, match="no file"):
        convert(dataclasses.replace(out, vocabulary="nowhere.json"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="exists"):
        convert(dataclasses.replace(out, target=str(folder)))
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match=r"has no complete checkpoint yet\. Train"):
        convert(out)


@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan")])
def test_sizes_must_be_positive_and_finite(value):
    with pytest.raises(UserError, match=f"shard_gigabytes = {value}: must be positive and finite"):
        ConvertOptions(source="a", target="b", shard_gigabytes=value)


def test_options_resolve_from_bindings():
    bindings = ["convert.source = 'a'", "convert.target = 'b'", "convert.tokens = 5"]
    assert build_options("convert", load(), bindings=bindings).tokens == 5
