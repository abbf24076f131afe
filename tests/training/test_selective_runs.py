"""Trainings with a selective objective: what is selected, recorded, resumed and refused."""

from collections.abc import Callable

import pytest

from lossline.objectives.options import Score, Selective
from lossline.runs import checkpoints
from lossline.runs.run_directory import RunDirectory
from lossline.stores.token_store import TokenStore
from lossline.training.checkpoint_schedule import CheckpointOptions
from lossline.training.loop import train
from lossline.training.metrics import read_metrics
from lossline.training.options import TrainOptions

Options = Callable[..., TrainOptions]
CHECKPOINTS = CheckpointOptions(count=2)
LENGTH, TOKENS_PER_STEP = 32, 8 * 32


@pytest.fixture(scope="module")
def scores(store: TokenStore, written_scores: Callable[..., str]) -> str:
    return written_scores(store.location, context_length=LENGTH)


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
    assert ("reference step 5" in fact) == bool(score.quantities)
