"""A small study on real text that is killed three times ends with the same loss table."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pandas as pd
import pytest
from quick_compilation import QUICK_COMPILATION

from lossline import tables

REPOSITORY = Path(__file__).resolve().parents[2]

# Text that every Python installation has: three packages of its standard library.
STORES = """
prepare.root = "data"
prepare.stores = (@store(),)
store.vocabulary = @bytes()
store.sets = (@asyncio/files(), @encodings/files(), @email/files())
asyncio/files.name = "asyncio"
asyncio/files.train = ("{library}/asyncio/[a-s]*.py",)
asyncio/files.validation = ("{library}/asyncio/[t-z]*.py",)
encodings/files.name = "encodings"
encodings/files.train = ("{library}/encodings/cp*.py",)
encodings/files.validation = ("{library}/encodings/[u-z]*.py",)
email/files.name = "email"
email/files.train = ("{library}/email/[a-e]*.py",)
email/files.validation = ("{library}/email/[f-h]*.py",)
store.max_document_kilobytes = 8.0
"""

RUN = """
train.store = %gin.REQUIRED
train.model = @llama()
llama.vocab_size = {vocab_size}
llama.context_length = 64
llama.width = 32
llama.layers = 1
llama.heads = 2
llama.mlp_width = 64
train.batch_size = 4
train.steps = 40
train.checkpoints = @checkpoints()
checkpoints.count = 5
train.compilation_cache = "{cache}"
"""

EVALUATION = """
evaluate.runs = %gin.REQUIRED
evaluate.compilation_cache = "{cache}"
evaluate.sets = (@asyncio/evaluation_set(), @email/evaluation_set())
asyncio/evaluation_set.name = "asyncio"
asyncio/evaluation_set.path = "data/stores/{tokenizer}/{name}/validation"
asyncio/evaluation_set.max_documents = 3
email/evaluation_set.name = "email"
email/evaluation_set.path = "data/stores/{tokenizer}/{name}/validation"
email/evaluation_set.max_documents = 3
"""

FIT = """
fit.table = %gin.REQUIRED
fit.out = %gin.REQUIRED
fit.replace = True
fit.lines = @lines()
lines.resamples = 20
"""

STUDY = """
study.name = "small"
study.processes = 2
study.before = [@stores/command()]
stores/command.verb = "prepare"
stores/command.title = "prepare"
stores/command.gin_file = "stores.gin"
study.run_gin_file = "run.gin"
study.grid = @product()
product.parts = [@size/axis(), @data/axis()]
size/axis.factor = "size"
size/axis.levels = {"s": {}, "m": {"llama.width": 64}}
data/axis.factor = "data"
data/axis.levels = {
    "asyncio": {"train.store": "data/stores/bytes/asyncio/train"},
    "encodings": {"train.store": "data/stores/bytes/encodings/train"},
}
study.evaluate = @measure/command()
measure/command.verb = "evaluate"
measure/command.title = "measure"
measure/command.gin_file = "evaluation.gin"
study.fit = @fit/command()
fit/command.verb = "fit"
fit/command.title = "fit"
fit/command.gin_file = "fit.gin"
"""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the study's gin files and its stores, made once."""
    from lossline.vocabularies import ByteVocabulary

    folder = tmp_path_factory.mktemp("study")
    library = sysconfig.get_path("stdlib")
    cache = str(folder / "compiled")  # one for all studies: the same programs
    files = {
        "stores.gin": STORES.replace("{library}", library),
        "run.gin": RUN.format(vocab_size=ByteVocabulary().vocab_size, cache=cache),
        "evaluation.gin": EVALUATION.replace("{cache}", cache),
        "fit.gin": FIT,
        "study.gin": STUDY,
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def start(folder: Path, root: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "XLA_FLAGS": QUICK_COMPILATION, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "lossline.study",
            "--gin_file=study.gin",
            f"--gin.study.root={root}",
        ],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def losses(folder: Path, root: str) -> pd.DataFrame:
    table = tables.read(folder / root / "small" / "losses.parquet")
    order = ["architecture", "params", "pretraining_data", "step", "eval_set"]
    return table.sort_values(order, ignore_index=True)


@pytest.mark.slow
def test_killed_study_ends_with_the_same_loss_table(workshop: Path) -> None:
    plain = start(workshop, "plain")
    output, _ = plain.communicate(timeout=900)
    assert plain.returncode == 0, output
    assert "report.html" in output

    runs = workshop / "killed" / "small" / "runs"
    states = [
        lambda: any(runs.glob("*/metrics.jsonl")),  # during the first trainings
        lambda: any(runs.glob("*/checkpoints/24*")),  # between two checkpoints
        lambda: any(runs.glob("*/losses.parquet")),  # during the evaluation
    ]
    for reached in states:
        process = start(workshop, "killed")
        while not reached() and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    last = start(workshop, "killed")
    output, _ = last.communicate(timeout=900)
    assert last.returncode == 0, output

    pd.testing.assert_frame_equal(
        losses(workshop, "plain"), losses(workshop, "killed"), check_exact=True
    )

    again = start(workshop, "killed")
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0
    assert output.count("done before") == 4, output


def test_error_in_any_run_is_raised_before_anything_starts(workshop: Path) -> None:
    (workshop / "wrong.gin").write_text(STUDY.replace("llama.width", "llama.widht"))
    result = subprocess.run(
        [sys.executable, "-m", "lossline.study", "--gin_file=wrong.gin", "--gin.study.root=wrong"],
        cwd=workshop,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "run m-asyncio: " in result.stderr and "did you mean llama.width" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (workshop / "wrong").exists()
