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

from lossline import study, tables
from lossline.cli.configuration import run_verb

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
lines.resamples = 1
fit.law_resamples = 0
fit.attribution = @attribution()
attribution.resamples = 0
"""

STUDY = """
study.name = "small"
study.processes = 2
study.before = [@stores/command()]
stores/command.verb = "prepare"
stores/command.title = "prepare"
stores/command.gin_file = "stores.gin"
study.run_gin_file = "run.gin"
study.grid = @axis()
axis.factor = "case"
axis.levels = {
    "s-asyncio": {"train.store": "data/stores/bytes/asyncio/train"},
    "m-asyncio": {"train.store": "data/stores/bytes/asyncio/train", "llama.width": 64},
    "s-encodings": {"train.store": "data/stores/bytes/encodings/train"},
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


# Run the study undisturbed in one process up to its loss table, on as many cores as a child gets.
UNDISTURBED = """
import os, sys
from importlib import import_module
from lossline.cli.configuration import run_verb
from lossline.studies import processes, study

cores = processes.core_shares(2)[0]
if cores:
    os.sched_setaffinity(0, cores)

def call(job):
    if job.verb != "fit":
        verb = import_module(f"lossline.{job.verb}")
        run_verb(job.verb, verb.__doc__, verb.load, flags=verb.FLAGS, argv=list(job.arguments))

def call_many(jobs, **how):
    for job in jobs:
        call(job)

study.run, study.run_many = call, call_many
verb = import_module("lossline.study")
run_verb("study", verb.__doc__, verb.load, flags=verb.FLAGS, argv=sys.argv[1:])
"""


def start(folder: Path, root: str, *program: str, file: str = "study.gin") -> subprocess.Popen[str]:
    """Start the study, or a program with the same arguments."""
    environment = {**os.environ, "XLA_FLAGS": QUICK_COMPILATION, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [
            sys.executable,
            *(program or ("-m", "lossline.study")),
            f"--gin_file={file}",
            f"--gin.study.root={root}",
        ],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def study_here(*arguments: str) -> None:
    """Run the verb in this process."""
    run_verb("study", study.__doc__, study.load, flags=study.FLAGS, argv=arguments)


def losses(folder: Path, root: str) -> pd.DataFrame:
    table = tables.read(folder / root / "small" / "losses.parquet")
    order = ["architecture", "params", "pretraining_data", "step", "eval_set"]
    return table.sort_values(order, ignore_index=True)


@pytest.mark.slow
def test_killed_study_ends_with_the_same_loss_table(
    workshop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = start(workshop, "plain", "-c", UNDISTURBED)
    output, _ = plain.communicate(timeout=900)
    assert plain.returncode == 0, output

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
        output, _ = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, output
    last = start(workshop, "killed")
    output, _ = last.communicate(timeout=900)
    assert last.returncode == 0, output
    assert "report.html" in output

    pd.testing.assert_frame_equal(
        losses(workshop, "plain"), losses(workshop, "killed"), check_exact=True
    )

    monkeypatch.chdir(workshop)
    study_here("--gin_file=study.gin", "--gin.study.root=killed")
    assert capsys.readouterr().out.count("done before") == 4


def test_error_in_any_run_is_raised_before_anything_starts(
    workshop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (workshop / "wrong.gin").write_text(STUDY.replace("llama.width", "llama.widht"))
    monkeypatch.chdir(workshop)
    with pytest.raises(SystemExit) as stop:
        study_here("--gin_file=wrong.gin", "--gin.study.root=wrong")
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "run m-asyncio: " in said and "did you mean llama.width" in said
    assert len(said.strip().splitlines()) == 1
    assert not (workshop / "wrong").exists()


ONE_RUN = '{"s-asyncio": {"train.store": "data/stores/bytes/asyncio/train"}}'
NESTED = """
study.before = [@stores/command(), @inner/command()]
inner/command.verb = "study"
inner/command.title = "the study before"
inner/command.gin_file = "inner.gin"
inner/command.bindings = {"study.root": "{study}", "study.name": "inner"}
"""


def outer_study(folder: Path, inner: str) -> None:
    """Write a study of one run after another study of one run."""
    one = f"{STUDY}axis.levels = {ONE_RUN}\n"
    (folder / "inner.gin").write_text(one + inner)
    (folder / "outer.gin").write_text(one + NESTED + "axis.factor = 'outer'\n")


@pytest.mark.slow
def test_killed_study_continues_inside_the_study_before_it(workshop: Path) -> None:
    outer_study(workshop, "")

    def begin() -> subprocess.Popen[str]:
        return start(workshop, "nested", file="outer.gin")

    runs = workshop / "nested" / "small" / "inner" / "runs"
    process = begin()
    while not any(runs.glob("*/metrics.jsonl")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.communicate(timeout=60)[0].count("the study before") == 1
    last = begin()
    output, _ = last.communicate(timeout=900)
    assert last.returncode == 0, output
    [log] = runs.parent.glob("logs/s-asyncio.log")
    assert log.read_text().count("$ ") == 2  # killed with its study, and started again
    assert output.index("[2/5] the study before") < output.index("[2/4] train 1 runs")
    assert output.count("report.html") >= 2
    assert len(tables.read(runs.parent / "losses.parquet")) == 5 * 2


def test_refusal_of_the_study_before_ends_the_study_with_its_line(
    workshop: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    outer_study(workshop, "axis.fcator = 'x'\n")
    monkeypatch.chdir(workshop)
    with pytest.raises(SystemExit) as stop:
        study_here("--gin_file=outer.gin", "--gin.study.root=refused")
    assert stop.value.code == 2
    *_, first, last = capfd.readouterr().err.splitlines()
    assert "inner.gin" in first and "fcator" in first
    assert "the step study refused its input" in last
