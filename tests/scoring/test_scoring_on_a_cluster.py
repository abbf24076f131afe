"""Workers of a cluster give the scores of one process, bit for bit, and what failed is the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from evaluation.small_runs import LLAMA, corrupt, make_run
from standing_cluster import StandingCluster

from lossline.errors import UserError
from lossline.evaluation.progress import EvaluationProgress
from lossline.scoring import score_pool
from lossline.scoring.score_pool import score
from lossline.scoring.token_scoring import TokenScoreOptions, score_tokens
from lossline.stores.store_writer import write_store
from lossline.vocabularies import ByteVocabulary
from scoring.test_score_pool import options, write_pool, write_pool_store


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def test_scores_of_a_pool(dask_cluster: StandingCluster, tmp_path: Path) -> None:
    pool = write_pool(tmp_path)
    write_pool_store(tmp_path / "stores", pool)
    data = (pool, tmp_path / "stores")
    runs = tmp_path / "runs"
    make_run(runs / "good", LLAMA, steps=(2,))
    damaged = make_run(runs / "damaged", LLAMA, steps=(2,))
    corrupt(damaged, 2)
    here = score(options(runs, data, tmp_path / "here"))
    there = score(
        options(runs, data, tmp_path / "there", cluster=dask_cluster.address)
    )  # fmt: skip
    assert here is not None and there is not None and set(here["status"]) == {"ok", "failed"}
    pd.testing.assert_frame_equal(here, there)
    shards = (files(tmp_path / name / "scores.shards") for name in ("here", "there"))
    assert next(shards) == next(shards) != {}
    # Only what is missing is computed again.
    kept = sorted((tmp_path / "there" / "scores.shards").rglob("*.npy"))
    times = {path: path.stat().st_mtime_ns for path in kept[1:]}
    kept[0].unlink()
    again = score(options(runs, data, tmp_path / "there", cluster=dask_cluster.address))
    pd.testing.assert_frame_equal(here, again)
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_a_killed_worker_changes_no_score(
    dask_cluster: StandingCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = write_pool(tmp_path)
    write_pool_store(tmp_path / "stores", pool)
    data = (pool, tmp_path / "stores")
    make_run(tmp_path / "runs" / "one", LLAMA, steps=(2,))
    here = score(options(tmp_path / "runs", data, tmp_path / "here"))
    victim = dask_cluster.workers[-1]

    class Killing(EvaluationProgress):
        def advance(self, amount: int, what: str) -> None:
            victim.kill()
            victim.wait()

    monkeypatch.setattr(score_pool, "SHARDS", 1)
    there = score_pool.PoolScorer(
        options(tmp_path / "runs", data, tmp_path / "there", cluster=dask_cluster.address),
        progress=Killing(label="score", quiet=True),
    ).run()
    dask_cluster.start_worker()
    pd.testing.assert_frame_equal(here, there)


def test_scores_of_tokens(dask_cluster: StandingCluster, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LLAMA, steps=(2,))
    texts = [f"Document {number}. " + "some words, é, " * (number % 4) for number in range(90)]
    store = write_store(tmp_path / "web", texts, ByteVocabulary())
    found = []
    for cluster in ("local", dask_cluster.address):
        [scores] = score_tokens(
            TokenScoreOptions(
                run=str(run.path), stores=(store.location,), context_length=16, batch_size=8,
                part_tokens=200, compilation_cache="off", cluster=cluster,
            )
        )  # fmt: skip
        found.append(files(Path(scores.location)))
        shutil.rmtree(scores.location)
    assert found[0] == found[1] != {}


def test_a_malformed_address_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give 'local', or the address of a Dask scheduler"):
        TokenScoreOptions(run="r", stores=("s",), cluster="nowhere")
