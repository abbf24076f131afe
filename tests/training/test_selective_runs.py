"""Trainings with a selective objective: what is selected, recorded, resumed and refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from lossline.errors import UserError
from lossline.objectives.options import Scope, Score, Selective
from lossline.options.identity import identity
from lossline.runs import checkpoints
from lossline.runs.run_directory import RunDirectory
from lossline.sharding import MeshOptions
from lossline.stores import arrays
from lossline.stores.token_scores import ScoreManifest, ScoreSource, TokenScores, write_manifest
from lossline.stores.token_store import TokenStore
from lossline.training import loop
from lossline.training.checkpoint_schedule import CheckpointOptions
from lossline.training.loop import train
from lossline.training.metrics import read_metrics
from lossline.training.options import TrainOptions

Options = Callable[..., TrainOptions]
CHECKPOINTS = CheckpointOptions(count=2)
LENGTH, TOKENS_PER_STEP = 32, 8 * 32


def write_scores(
    folder: Path, store: TokenStore, *, seed: int = 0, run_id: str = "reference-00000000"
) -> str:
    """Write random token scores of a store, as ``lossline.score --tokens`` would."""
    random = np.random.default_rng(seed)
    size = store.num_tokens
    found = {}
    for name in ("nats", "entropy"):
        values = random.gamma(2.0, 1.5, size).astype(np.float16)
        values[size // LENGTH * LENGTH :] = np.nan
        found[name] = arrays.write(folder / name, [values], dtype="float16", size=size)
    source = ScoreSource(
        store_fingerprint=store.manifest.fingerprint,
        vocabulary_hash=store.manifest.vocabulary.hash,
        tokens=size,
        run_id=run_id,
        step=5,
        parameters="p" * 64,
        context_length=LENGTH,
        documents="joined",
        quantities=("nats", "entropy"),
        activations="float32",
    )
    manifest = ScoreManifest(
        source=source,
        store=store.location,
        reference_flops=1e9,
        scoring_flops=2e6,
        means={"nats": 3.0, "entropy": 3.0},
        arrays=found,
    )
    write_manifest(folder, manifest)
    return str(folder)


@pytest.fixture(scope="module")
def scores(store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_scores(tmp_path_factory.mktemp("scores") / "scores", store)


def rows(run: RunDirectory) -> list[dict[str, float]]:
    return read_metrics(run.path / "metrics.jsonl")


@pytest.mark.parametrize("score", list(Score))
def test_every_score_trains_and_records_its_selection(options: Options, scores: str, score: Score):
    chosen = Selective(share=0.6, score=score, scores=scores if score.quantities else None)
    run = train(options(objective=chosen, steps=4, checkpoints=CHECKPOINTS))
    metrics = rows(run)
    for row in metrics:
        selected = row["selected_share"]
        mean = selected * row["selected_loss"] + (1 - selected) * row["unselected_loss"]
        assert row["loss"] == pytest.approx(mean, rel=1e-5)
        if score.needs_current_model:
            assert row["selected_tokens"] == int(0.6 * TOKENS_PER_STEP)
            assert ("mean_excess" in row) == (score is Score.EXCESS_LOSS)
        else:
            assert selected == pytest.approx(0.6, abs=0.15)  # a batch is a sample of the corpus
    trained = checkpoints.trained_tokens(run, 4)
    assert trained == sum(row["selected_tokens"] for row in metrics)
    fact = run.facts["token_selection"]
    assert fact.startswith(f"{score.words} 60% of the {chosen.selects_in}")
    assert ("reference-00000000 step 5" in fact) == bool(score.quantities)
