"""Two processes evaluate and score as one, agree on every error, and end together."""

import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from evaluation.small_runs import LLAMA, MAMBA, corrupt, make_run, make_stores
from quick_compilation import QUICK_COMPILATION

from lossline import tables
from lossline.evaluation import options as evaluation_options
from lossline.evaluation.evaluator import AccuracyAt, EvaluateOptions, evaluate
from lossline.evaluation.sets import EvaluationSet
from lossline.runs.run_directory import RunDirectory
from lossline.scoring.score_pool import ScoreOptions, score
from lossline.scoring.token_scoring import TokenScoreOptions, score_tokens
from lossline.sharding import LaunchOptions, MeshOptions
from lossline.sharding.launch import Launch
from lossline.sharding.mesh import make_mesh
from lossline.stores.store_writer import write_store
from lossline.stores.token_scores import TokenScores
from lossline.tables.schema import SetKind
from lossline.vocabularies import ByteVocabulary
from scoring.test_score_pool import write_pool, write_pool_store

# What each of the two processes runs: three verbs, four errors of the second process that both must
# report, and an evaluation in which the second process is killed at its third measurement.
JOIN = """
import os, pickle, signal, sys
from dataclasses import replace
number = int(sys.argv[1])
evaluation, scoring, token_scoring, invisible, killed = pickle.load(sys.stdin.buffer)
from lossline.errors import UserError
from lossline.evaluation import evaluator
from lossline.evaluation.restoring import MeasurementFailed
from lossline.scoring.score_pool import score
from lossline.scoring.token_scoring import score_tokens
from lossline.sharding import process_group
from lossline.stores.token_store import TokenStore

def mine(options):
    return replace(options, launch=replace(options.launch, process_id=number))

evaluator.evaluate(mine(evaluation))
score(mine(scoring))
score_tokens(mine(token_scoring))

def attempt(options):
    try:
        evaluator.evaluate(mine(options))
    except UserError as error:
        print("refused:", error, flush=True)

attempt(replace(killed, context=None if number == 0 else 16))
attempt(replace(killed, batch_size=9))
here = os.getcwd()
os.chdir("first" if number == 0 else "second")
attempt(invisible)
os.chdir(here)
open_store = TokenStore.open.__func__
if number:
    TokenStore.open = classmethod(lambda cls, path: open_store(cls, path.with_name("other")))
attempt(killed)
TokenStore.open = classmethod(open_store)

nats_of, calls = evaluator.nats_of, []

def measured(*arguments):
    calls.append(1)
    if number and len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return nats_of(*arguments)

evaluator.nats_of = measured
process_group.SECONDS_BETWEEN_SIGNS = 0.5
evaluator.evaluate(mine(killed))
"""


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _make_runs(folder):
    """Runs of two families; a checkpoint of one is damaged."""
    make_run(folder / "llama", LLAMA, steps=(2, 4))
    corrupt(make_run(folder / "mamba", MAMBA, steps=(2, 4)), 2)


def _evaluation(runs, stores, **changes):
    sets = (
        EvaluationSet(name="wiki", path=f"{stores}/{{tokenizer}}/{{name}}-validation"),
        EvaluationSet(name="sky", path=f"{stores}/{{tokenizer}}/{{name}}", kind=SetKind.TASK),
    )
    shared = {"sets": sets, "accuracy": AccuracyAt.ALL, "batch_size": 16}
    return EvaluateOptions(runs=(str(runs),), compilation_cache="off", **(shared | changes))


def _losses(folder):
    """The tables of all runs, without the reasons of failures."""
    return {
        run.name: tables.read(run / "losses.parquet").drop(columns="message")
        for run in sorted(folder.iterdir())
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder of runs, stores and a pool; options of scoring pages and of scoring tokens."""
    folder = tmp_path_factory.mktemp("several")
    make_stores(folder / "stores")
    _make_runs(folder / "alone")
    for name in ("together", "killed", "one_device", "first/runs"):
        shutil.copytree(folder / "alone", folder / name)
    (folder / "second").mkdir()
    write_store(folder / "stores" / "bytes" / "other", ["other text"], ByteVocabulary())
    pool = write_pool(folder)
    write_pool_store(folder / "pool", pool)
    scoring = ScoreOptions(
        pool=pool,
        store=f"{folder}/pool/{{tokenizer}}/{{name}}/scored",
        runs=(str(folder / "alone" / "llama"),),
        out=str(folder / "scores_alone"),
        batch_size=16,
        shard_tokens=1000,
        compilation_cache="off",
    )
    token_scoring = TokenScoreOptions(
        run=str(folder / "alone" / "llama"),
        stores=(str(folder / "pool" / "bytes" / pool.name / "scored"),),
        out=str(folder / "tokens_alone"),
        batch_size=8,
        part_tokens=200,
        compilation_cache="off",
    )
    return folder, scoring, token_scoring


@pytest.fixture(scope="module")
def of_two(data):
    """Run ``JOIN`` in two processes of four devices each.

    Returns:
        Lines that each process printed, and its exit status.
    """
    folder, scoring, token_scoring = data
    launch = LaunchOptions(
        how=Launch.EXPLICIT,
        coordinator=f"127.0.0.1:{_free_port()}",
        processes=2,
        process_id=0,
        virtual_cpu_devices=4,
    )
    mesh = MeshOptions(fsdp=2)
    evaluation = _evaluation(folder / "together", folder / "stores", launch=launch, mesh=mesh)
    chosen = (
        evaluation,
        replace(scoring, out=str(folder / "scores_together"), launch=launch),
        replace(token_scoring, out=str(folder / "tokens_together"), launch=launch),
        replace(evaluation, runs=("runs",)),
        replace(evaluation, runs=(str(folder / "killed"),)),
    )
    environment = {
        **os.environ,
        "XLA_FLAGS": QUICK_COMPILATION,
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
        )
        for number in range(2)
    ]
    try:
        for process in processes:
            process.stdin.write(pickle.dumps(chosen))
            process.stdin.close()
        outputs = [process.stdout.read().decode().splitlines() for process in processes]
        return outputs, [process.wait() for process in processes]
    finally:
        for process in processes:
            process.kill()


def test_the_loss_tables_are_those_of_one_process_to_the_last_digit(data, of_two, monkeypatch):
    folder = data[0]
    together = _losses(folder / "together")
    assert (together["mamba"].set_index("step").loc[2, "status"] == "failed").all()
    assert (together["mamba"].set_index("step").loc[4, "status"] == "ok").all()
    assert (together["llama"]["status"] == "ok").all(), of_two
    evaluate(_evaluation(folder / "alone", folder / "stores", mesh=MeshOptions(fsdp=2)))
    # On one device: as many rows as each device had before.
    monkeypatch.setattr(
        evaluation_options, "make_mesh", lambda o: make_mesh(o, devices=jax.devices()[:1])
    )
    evaluate(_evaluation(folder / "one_device", folder / "stores", batch_size=2))
    for name in ("alone", "one_device"):
        for run, table in _losses(folder / name).items():
            assert table.equals(together[run]), (name, run)


def test_the_score_table_is_that_of_one_process_to_the_last_digit(data, of_two):
    folder, scoring, _ = data
    score(scoring)
    alone, together = (folder / f"scores_{name}" for name in ("alone", "together"))
    assert (alone / "scores.parquet").read_bytes() == (together / "scores.parquet").read_bytes()
    names = [sorted(p.name for p in f.glob("scores.shards/*/*")) for f in (alone, together)]
    assert names[0] == names[1] and len(names[0]) > 1


def test_the_scores_of_tokens_are_those_of_one_process(data, of_two):
    folder, _, token_scoring = data
    [alone] = score_tokens(token_scoring)
    together = TokenScores.open(folder / "tokens_together")
    assert together.manifest == alone.manifest
    assert alone.manifest.source.scored_tokens > 2 * token_scoring.part_tokens


def test_both_processes_report_an_error_of_one(of_two):
    outputs, _ = of_two
    refused = [[line for line in lines if line.startswith("refused: ")] for lines in outputs]
    parts = (
        "context is '16' in process 1, but 'None' in process 0. Start every process with the same",
        "evaluate.batch_size 9 is not divisible by devices along data × fsdp = 8",
        "run directory runs does not exist",
        "evaluation set wiki differs between processes",
    )
    assert [len(lines) for lines in refused] == [4, 4], outputs
    for first, second, part in zip(*refused, parts, strict=True):
        assert part in first and part in second
        assert first in (second, second.replace("refused: ", "refused: process 1: "))


def test_when_one_process_is_killed_the_other_ends_with_one_line(data, of_two):
    folder = data[0]
    outputs, statuses = of_two
    assert statuses == [1, -signal.SIGKILL], outputs
    assert outputs[0][-1] == (
        "lossline evaluate: error: process 1 was killed or has lost its connection. Finished work "
        "is kept; start all processes again to continue."
    )
    assert not any("Traceback" in line for lines in outputs for line in lines), outputs
    run = RunDirectory.open(folder / "killed" / "llama")
    assert set(tables.read(run.path / "losses.parquet")["step"]) == {2}
    evaluate(_evaluation(folder / "killed", folder / "stores", mesh=MeshOptions(fsdp=2)))
    together = _losses(folder / "together")
    for name, table in _losses(folder / "killed").items():
        assert table.equals(together[name])


def test_only_the_first_process_writes(of_two):
    outputs, _ = of_two
    assert any("2 runs: 6 measured; 2 failed" in line for line in outputs[0])
    assert not any("measured" in line or "scored" in line for line in outputs[1])
