"""The verb dynamics, from run directories and a store to a folder: numbers, files, refusals."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from evaluation.small_runs import LLAMA, MAMBA, corrupt, make_run, params_at
from flax import nnx

from lossline import dynamics, models
from lossline.cli.configuration import run_verb
from lossline.files import write_json
from lossline.runs.checkpoints import CheckpointWriter
from lossline.runs.run_directory import RunDirectory
from lossline.stores.store_writer import write_store
from lossline.vocabularies import ByteVocabulary

STEPS = (0, 10, 20, 30, 40, 50)
TEXTS = [f"Page {n}: " + "é語😀 some words " * (1 + n % 4) for n in range(30)]
LENGTH = LLAMA.context_length


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs a, b (of one start, towards different ends), a reference and a store; never changed."""
    folder = tmp_path_factory.mktemp("dynamics")
    for number, name in enumerate("ab"):
        run = make_run(folder / "runs" / name, LLAMA, steps=())
        writer = CheckpointWriter(run, data="data")
        for step in STEPS:
            writer.save(step, {"params": params(number, step), "optimizer": {}}, kept=True)
        writer.close()
    make_run(folder / "reference", MAMBA, steps=(5, 7))
    write_store(folder / "stores" / "bytes" / "wiki", TEXTS, ByteVocabulary(), name="wiki")
    return folder


def params(number, step):
    """Parameters on the way from those of step 0 to those of step 50 + number."""
    part = 0.4 * step / 50
    first, last = params_at(LLAMA, 0), params_at(LLAMA, 50 + number)
    return jax.tree.map(lambda x, y: (1 - part) * x + part * y, first, last)


@pytest.fixture
def world(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    return tmp_path / "world"


def run(*arguments):
    argv = [
        "--runs", "runs", "--out", "out", "--gin.dynamics.store='stores/{tokenizer}/wiki'",
        "--gin.dynamics.tokens=400", "--gin.dynamics.resamples=100",
        "--gin.dynamics.compilation_cache='off'", "--gin.dynamics.batch_size=8", *arguments,
    ]  # fmt: skip
    run_verb("dynamics", dynamics.__doc__, dynamics.load, flags=dynamics.FLAGS, argv=argv)


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2 and not Path("out").exists()
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def direct_nats(config, parameters, tokens, starts, documents=None):
    """Nats of the windows' targets by a forward pass of the whole model."""
    exact = dataclasses.replace(config, activation_dtype="float32")
    graphdef, state = models.abstract_state(exact)
    nnx.replace_by_pure_dict(state, parameters)
    model = nnx.merge(graphdef, state)
    at = starts[:, None] + np.arange(LENGTH)  # ``tokens`` begins with the eos before all
    segments = None if documents is None else documents[at]
    hidden = model.hidden(tokens[at], segments)
    logits = np.asarray(hidden @ model.unembedding(), np.float64)[..., : config.vocab_size]
    peak = logits.max(axis=-1, keepdims=True)
    log_sums = np.log(np.exp(logits - peak).sum(axis=-1)) + peak[..., 0]
    return (log_sums - np.take_along_axis(logits, tokens[at + 1][..., None], -1)[..., 0]).ravel()


def stream():
    """All tokens of the store after an eos, and the document of each target."""
    vocabulary = ByteVocabulary()
    parts = [[*vocabulary.encode(text), vocabulary.eos_id] for text in TEXTS]
    documents = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return np.concatenate([[vocabulary.eos_id], *parts]).astype(np.int32), documents


@pytest.mark.parametrize("separate", [False, True])
def test_numbers_are_those_of_direct_forward_passes(world, separate):
    rule = "separate" if separate else "joined"
    run(
        "--reference", "reference", "--gin.dynamics.reference_step=5",
        "--gin.dynamics.report=False", f"--gin.dynamics.documents='{rule}'",
    )  # fmt: skip
    rows = pd.read_parquet("out/tokens.parquet")
    tokens, documents = stream()
    starts = np.unique(rows["window"]) * LENGTH
    given = documents + 1 if separate else None
    reference = direct_nats(MAMBA, params_at(MAMBA, 5), tokens, starts, given)
    assert rows["run"].unique().tolist() == ["a", "b"] and len(rows) == 2 * 13 * LENGTH
    for number, name in enumerate("ab"):
        part = rows[rows["run"] == name]
        positions = part["position"].to_numpy()
        assert np.array_equal(positions, (starts[:, None] + np.arange(LENGTH)).ravel())
        assert np.array_equal(part["token_id"], tokens[1:][positions])
        assert np.array_equal(part["document"], documents[positions])
        nats = np.stack(
            [direct_nats(LLAMA, params(number, s), tokens, starts, given) for s in STEPS]
        )
        close = {"rtol": 2e-4, "atol": 2e-5}
        np.testing.assert_allclose(part["nats_first"], nats[0], **close)
        np.testing.assert_allclose(part["nats_last"], nats[-1], **close)
        slopes = np.polyfit(np.arange(6), nats, 1)[0]
        np.testing.assert_allclose(part["slope"], slopes, **close)
        np.testing.assert_allclose(part["change"], 5 * slopes, **close)
        np.testing.assert_allclose(
            part["mean_excess"], (nats - reference).mean(axis=0), rtol=1e-3, atol=1e-4
        )
        classes = np.select(
            [5 * slopes < -0.2, 5 * slopes > 0.2, nats[-1] <= nats[-1].mean()],
            ["H→L", "L→H", "L→L"],
            "H→H",
        )
        assert (part["class_fixed"] != classes).mean() < 0.005  # rounding at a threshold
        shares = pd.read_csv("out/classes.csv").set_index(["run", "rule", "class"])
        for rule_name in ("fixed", "noise"):
            counted = part[f"class_{rule_name}"].value_counts(normalize=True)
            for label, share in counted.items():
                assert shares.loc[(name, rule_name, label), "share"] == pytest.approx(share)
        order = np.argsort(-(nats - reference), axis=1, kind="stable")
        expected = np.zeros(nats.shape)
        np.put_along_axis(expected, order[:, : int(0.6 * nats.shape[1])], 1.0, axis=1)
        differing = np.abs(part["selection_frequency"] - expected.mean(axis=0)) > 1e-9
        assert differing.mean() < 0.02


def test_the_folder_has_everything_and_a_second_run_does_nothing(world, capsys):
    run("--reference", "reference")
    printed = capsys.readouterr().out
    assert "416 tokens of wiki" in printed and "over 6 checkpoints of 2 runs" in printed
    assert "Published, threshold 0.2 nats: H→H 11%, L→H 12%, H→L 26%, L→L 51%" in printed
    assert "a and b, classes by the fixed threshold" in printed
    assert "mean excess loss over reference step 7" in printed
    out = Path("out")
    for name in (
        "tokens.parquet", "classes.csv", "curves.csv", "excess.csv", "agreement.csv", "runs.csv",
        "summary.txt", "settings.json", "dynamics.json", "report.html", "text.html",
        "figures/shares.png", "figures/curves.png", "figures/excess.png",
    ):  # fmt: skip
        assert (out / name).is_file(), name
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    run("--reference", "reference")
    assert "out is up to date" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(SystemExit):
        run()  # other inputs: no reference
    assert "add --replace" in capsys.readouterr().err
    run("--replace")
    assert not (out / "excess.csv").exists()
    assert pd.read_parquet("out/tokens.parquet")["mean_excess"].isna().all()


def test_the_same_inputs_give_the_same_numbers_on_any_devices(world):
    run("--gin.dynamics.report=False")
    first = Path("out/tokens.parquet").read_bytes()
    tables = {path.name: path.read_bytes() for path in Path("out").glob("*.csv")}
    shutil.rmtree("out")
    run("--gin.dynamics.report=False")
    assert Path("out/tokens.parquet").read_bytes() == first
    assert tables == {path.name: path.read_bytes() for path in Path("out").glob("*.csv")}
    whole = pd.read_parquet("out/tokens.parquet")
    shutil.rmtree("out")
    run(
        "--gin.dynamics.report=False", "--gin.dynamics.mesh=@mesh()", "--gin.mesh.data=4",
        "--gin.mesh.fsdp=2",
    )  # fmt: skip
    split = pd.read_parquet("out/tokens.parquet")
    np.testing.assert_allclose(split["change"], whole["change"], rtol=1e-4, atol=1e-5)


def test_another_seed_draws_other_windows_and_more_tokens_than_there_are_draw_all(world, capsys):
    seen = []
    for seed in (0, 1):
        run(f"--gin.dynamics.seed={seed}", "--gin.dynamics.report=False", "--replace")
        seen.append(set(pd.read_parquet("out/tokens.parquet")["window"]))
    assert len(seen[0]) == len(seen[1]) == 13 and seen[0] != seen[1]
    capsys.readouterr()
    run("--gin.dynamics.tokens=320_000", "--gin.dynamics.report=False", "--replace")
    tokens = len(stream()[0]) - 1
    whole = tokens // LENGTH * LENGTH
    assert len(pd.read_parquet("out/tokens.parquet")) == 2 * whole
    assert f"The store has only {whole:,} tokens in whole windows" in capsys.readouterr().out


def test_a_damaged_checkpoint_is_left_out_by_name_and_tried_again(world, capsys):
    make_run(world / "runs" / "c", LLAMA, steps=(1, 2, 3, 4, 5, 6))
    corrupt(RunDirectory(world / "runs" / "c"), 3)
    run("--gin.dynamics.report=False")
    printed = capsys.readouterr().out
    assert re.search(r"Left out: c step 3: .*corrupt", printed)
    runs = pd.read_csv("out/runs.csv").set_index("run")
    assert runs["checkpoints"].to_dict() == {"a": 6, "b": 6, "c": 5}
    curves = pd.read_csv("out/curves.csv")
    assert sorted(curves.loc[curves["run"] == "c", "step"].unique()) == [1, 2, 4, 5, 6]
    with pytest.raises(SystemExit):
        run("--gin.dynamics.report=False")
    assert "add --replace" in capsys.readouterr().err


def test_too_many_damaged_checkpoints_stop_it(world, capsys):
    make_run(world / "runs" / "c", LLAMA, steps=(1, 2, 3, 4, 5))
    corrupt(RunDirectory(world / "runs" / "c"), 3)
    message = refusal(capsys)
    assert "runs/c: only 4 checkpoints can be measured" in message and "step 3" in message


def test_losses_that_are_not_finite_are_left_out(world, capsys):
    run_ = RunDirectory(world / "runs" / "a")
    bad = jax.tree.map(lambda p: p * np.nan, params(0, 60))
    writer = CheckpointWriter(run_, data="data")
    writer.save(60, {"params": bad, "optimizer": {}}, kept=True)
    writer.close()
    run("--gin.dynamics.report=False")
    assert "Left out: a step 60: the loss is nan" in capsys.readouterr().out


def test_bad_input_is_refused_before_anything_is_measured(world, capsys, monkeypatch):
    monkeypatch.setattr("lossline.evaluation.token_values.TokenMeasurer.measure", None)
    assert "reference: runs/a step 50 is run runs/a itself" in refusal(
        capsys, "--reference", "runs/a"
    )
    shutil.copytree("runs/a", "copy")
    assert "copy step 20 is run runs/a itself or one of its checkpoints" in refusal(
        capsys, "--reference", "copy", "--gin.dynamics.reference_step=20"
    )
    assert "reference has no kept checkpoint 6. It has 5, 7." in refusal(
        capsys, "--reference", "reference", "--gin.dynamics.reference_step=6"
    )
    assert "does not exist" in refusal(capsys, "--reference", "nowhere")
    assert "without dynamics.reference" in refusal(capsys, "--gin.dynamics.reference_step=6")
    assert "no kept checkpoint 15. It has 0, 10" in refusal(
        capsys, "--gin.dynamics.steps=(0, 10, 15, 20, 30)"
    )
    assert "names 3 checkpoints: a slope needs at least 5" in refusal(
        capsys, "--gin.dynamics.steps=(0, 10, 20)"
    )
    assert "must be at least 1" in refusal(capsys, "--gin.dynamics.tokens=0")
    assert "no such store" in refusal(capsys, "--gin.dynamics.store='stores/no'")
    assert "fewer than a window" in refusal(capsys, "--gin.dynamics.context_length=1_000_000")
    assert "vocabulary 'no': not below" in refusal(capsys, "--gin.dynamics.vocabulary='no'")
    make_run(world / "runs" / "c", LLAMA, steps=(1, 2, 3, 4))
    assert "runs/c has 4 kept checkpoints" in refusal(capsys)
    shutil.rmtree("runs/c")
    make_run(world / "runs" / "c", LLAMA, steps=STEPS)
    facts = json.loads(Path("runs/c/facts.json").read_text())
    write_json(Path("runs/c/facts.json"), facts | {"context_length": 16})
    assert "context_length: the runs have 16, 32" in refusal(capsys)
    write_json(Path("runs/c/facts.json"), facts | {"vocabulary_hash": "0" * 64})
    assert "was made with vocabulary" in refusal(capsys)
    shutil.copytree("runs/a", "more/a")
    assert "both named 'a'" in refusal(capsys, "--runs", "runs/a", "more/a")
