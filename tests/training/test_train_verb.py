"""``python -m lossline.train``: from a gin file to a finished run.

User errors are one line with exit status 2.
"""

import re
import subprocess
import sys

import pytest

import lossline.train as verb
from lossline.cli.configuration import run_verb
from lossline.compilation import dry_run
from lossline.runs.run_directory import RunDirectory, RunState

MODEL = """
train.model = @llama()
llama.vocab_size = 264
llama.width = 16
llama.layers = 1
llama.heads = 2
llama.mlp_width = 32
llama.context_length = 32
llama.activation_dtype = "float32"
"""


@pytest.fixture
def call(tmp_path, store, cache, repository):
    """``call(*arguments)``: run the verb in this process on the shipped quickstart file."""
    model = tmp_path / "model.gin"
    model.write_text(MODEL)
    arguments = [
        f"--gin_file={repository / 'gin_configs/runs/quickstart.gin'}",
        f"--gin_file={model}",
        f"--gin.train.store={store.location}",
        "--gin.train.tokens=10000",
        f"--gin.train.root={tmp_path / 'runs'}",
        f"--gin.train.compilation_cache={cache}",
    ]
    return lambda *more: run_verb(
        "train", verb.__doc__, verb.load, flags=verb.FLAGS, argv=[*arguments, *more]
    )


def test_shipped_run_file_trains(call, tmp_path, capsys):
    call(
        "--gin.train.batch_size=8",
        "--gin.checkpoints.count=3",
        "--gin.train.mesh=@mesh()",
        "--gin.mesh.data=8",
    )
    (folder,) = (tmp_path / "runs").iterdir()
    run = RunDirectory.open(folder)
    assert run.name.startswith("quickstart-") and run.status.state is RunState.FINISHED
    assert len(run.kept_checkpoint_steps()) == 3
    assert "adamw.learning_rate = 0.003" in (folder / "config.gin").read_text()
    said = capsys.readouterr().out
    assert (
        f"training {folder}" in said and f"step {run.status.step}/{run.status.step}  loss" in said
    )
    assert any((folder / "tensorboard").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gin_file=nowhere.gin"], "no file nowhere.gin"),
        (["--gin.train.stepz=3"], "train has no option 'stepz'; did you mean train.steps?"),
        (["--gin.train.batch_size=many"], "train.batch_size = 'many': must be a whole number"),
        (["--gin.mamba.width=3"], "unused binding: mamba.width"),
        (["--gin.train.optimizer=@adamm()"], "adamm"),
        (["--gin.train.schedule=@wsd()", "--gin.wsd.shape=round"], "'linear', 'sqrt', 'cosine'"),
        (["--gin.train.store=nowhere"], "nowhere: no such store"),
        (["--gin.train.steps=3"], "train.steps and train.tokens: exactly one"),
        (["--profile_steps=later"], "must be first:last"),
        (["--gin.llama.heads=3"], "does not divide"),
        (["--gin.train.root=s3://bucket/runs"], "s3:// is not supported"),
    ],
)
def test_user_errors_are_one_line_with_status_2(call, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        call(*arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("lossline train: error: ") and said.count("\n") == 1
    assert message in said
    assert not (tmp_path / "runs").exists()


def test_dry_run_says_the_cost_and_writes_nothing(call, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(dry_run, "_SECONDS_TRIED", 0.1)
    before = sorted(tmp_path.iterdir())
    mesh = ["--gin.train.batch_size=8", "--gin.train.mesh=@mesh()", "--gin.mesh.data=8"]
    call("--dry_run", *mesh)
    said = capsys.readouterr().out
    for line in (
        r"run +\S+/runs/quickstart-\w+: new",
        r"model +llama, [\d,]+ parameters \([\d,]+ without embeddings\)",
        r"training +\d+ steps of \d+ × 32 tokens: 0\.01M tokens, \S+ FLOPs \(\S+ per token\)",
        r"device +8 × \S+, a matrix product reaches [\d,]+ GFLOP/s",
        r"memory +\d\.\d\d GiB of \S+ GiB a device",
        r"speed +about [\d,]+ tokens/s \(measured on \d+ steps\)",
        r"time +about .*: compilation .*, training ",
        r"disk +at most 0\.\d MB: \d+ checkpoints; [\d,]+ MB are free",
        r"nothing was written",
    ):
        assert re.search(f"(?m)^{line}", said), (line, said)
    assert sorted(tmp_path.iterdir()) == before
    monkeypatch.setattr(dry_run, "measure", lambda *_: None)
    monkeypatch.setattr(dry_run, "_cost_lines", lambda *_: [])
    call("--dry_run", *mesh, "--gin.train.store=nowhere")
    assert "quickstart: cannot start yet: nowhere: no such store" in capsys.readouterr().out


def test_missing_binding_is_named(capsys, repository):
    with pytest.raises(SystemExit) as stop:
        run_verb(
            "train",
            verb.__doc__,
            verb.load,
            argv=[f"--gin_file={repository / 'gin_configs/runs/quickstart.gin'}"],
        )
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "missing binding" in said and "train.model" in said and "train.store" in said


def test_diverged_run_exits_with_status_1(call):
    with pytest.raises(SystemExit) as stop:
        call(
            "--gin.train.batch_size=8",
            "--gin.train.optimizer=@adamw()",
            "--gin.adamw.learning_rate=1e38",
            "--gin.checkpoints.count=1",
            "--gin.train.mesh=@mesh()",
            "--gin.mesh.data=8",
        )
    assert str(stop.value.code).startswith("lossline train: failed: ")
    assert "\n" not in stop.value.code


def test_help_does_not_import_jax():
    code = (
        "import runpy, sys; sys.argv = ['train', '--help']\n"
        "try: runpy.run_module('lossline.train', run_name='__main__')\n"
        "except SystemExit: sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode
        == 0
    )


def test_training_does_not_import_pandas():
    code = "import sys, lossline.training.loop; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["adamw_cosine", "adamw_wsd", "adam_constant", "sgd_cosine"])
def test_shipped_optimizer_files_resolve(name, tmp_path, repository, store):
    from lossline.cli.configuration import build_options

    (tmp_path / "model.gin").write_text(MODEL)
    options = build_options(
        "train",
        verb.load(),
        gin_files=[tmp_path / "model.gin", repository / f"gin_configs/optimizers/{name}.gin"],
        bindings=[f"train.store = '{store.location}'", "train.batch_size = 8", "train.steps = 10"],
    )
    assert (options.optimizer.family, options.schedule.family) == tuple(name.split("_"))


@pytest.mark.parametrize("option", ["seed", "data_seed"])
@pytest.mark.parametrize("seed", [-1, 2**63, 2**64 - 1, 2**64])
def test_seeds_outside_the_range_are_refused(call, tmp_path, capsys, option, seed):
    with pytest.raises(SystemExit) as stop:
        call(f"--gin.train.{option}={seed}")
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1
    assert said.startswith(
        f"lossline train: error: train.{option} = {seed}: must be a whole number"
    )
    assert not (tmp_path / "runs").exists()
