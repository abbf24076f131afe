"""Trainings with a selective objective: what is selected, recorded, resumed and refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from lossline.batches.mixture import Mixture
from lossline.errors import UserError
from lossline.evaluation.measured_runs import checkpoint_columns
from lossline.objectives.columns import token_columns
from lossline.objectives.options import Scope, Score, Selective
from lossline.options.identity import identity
from lossline.runs.checkpoints import parameters_fingerprint
from lossline.runs.origin import FromRun
from lossline.runs.restoring import load_model
from lossline.runs.run_directory import RunDirectory
from lossline.sharding import MeshOptions
from lossline.stores.store_writer import write_store
from lossline.stores.token_scores import TokenScores
from lossline.stores.token_store import TokenStore
from lossline.training.batch_contents import batch_plan, token_scores
from lossline.training.checkpoint_schedule import CheckpointOptions
from lossline.training.interruption import Interruption
from lossline.training.loop import train
from lossline.training.make_trainer import make_trainer
from lossline.training.metrics import read_metrics
from lossline.training.options import Documents, TrainOptions
from lossline.training.text import TrainingText
from lossline.vocabularies import ByteVocabulary

Options = Callable[..., TrainOptions]
CHECKPOINTS, LAST = CheckpointOptions(count=2), CheckpointOptions(count=1)
LENGTH, TOKENS_PER_STEP = 32, 8 * 32


@pytest.fixture(scope="module")
def scores(store: TokenStore, written_scores: Callable[..., str]) -> str:
    return written_scores(store.location, context_length=LENGTH)


def parameters(run: RunDirectory, step: int) -> list[np.ndarray]:
    return jax.tree.leaves(jax.tree.map(np.asarray, nnx.state(load_model(run, step))))


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
    trained = run.trained_tokens(4)
    assert trained == sum(row["selected_tokens"] for row in metrics)
    fact = run.facts["token_selection"]
    assert fact.startswith(f"{score.words} 60% of the {chosen.selects_in}")
    assert ("reference step 5" in fact) == bool(score.quantities)


def test_plain_runs_keep_their_identity_and_their_facts(options: Options):
    assert "objective" not in identity(options())
    run = train(options(steps=4, checkpoints=CHECKPOINTS))
    assert run.facts["token_selection"] == "all"
    assert run.trained_tokens(4) is None
    columns = checkpoint_columns(run, 4)
    assert columns["trained_tokens"] == columns["tokens"] == 4 * TOKENS_PER_STEP
    assert columns["selection_flops"] == 0


def test_loss_table_tells_trained_tokens_from_seen_tokens(options: Options, scores: str):
    chosen = Selective(share=0.25, scores=scores)
    run = train(options(objective=chosen, steps=4, checkpoints=CHECKPOINTS))
    columns = checkpoint_columns(run, 4)
    assert columns["tokens"] == 4 * TOKENS_PER_STEP
    assert columns["trained_tokens"] == TOKENS_PER_STEP
    projection = 2 * 32 * 264  # width × vocabulary, multiply and add
    assert columns["selection_flops"] == 1e9 + 2e6 + 4 * TOKENS_PER_STEP * projection
    assert columns["token_selection"] == "excess loss 25% of the batch, reference reference step 5"
    assert columns["option.objective.share"] == "0.25"
    assert columns["option.objective.scores"] == TokenScores.open(scores).fingerprint


def test_the_cost_of_a_selection_is_empty_if_that_of_its_reference_is_unknown(
    options: Options, store: TokenStore, written_scores
):
    place = written_scores(store.location, context_length=LENGTH, reference_flops=None)
    chosen = Selective(share=0.25, scores=place)
    run = train(options(objective=chosen, steps=4, checkpoints=CHECKPOINTS))
    assert checkpoint_columns(run, 4)["selection_flops"] is None


def test_reference_costs_what_it_does_not_share_with_the_run(
    options: Options, store: TokenStore, written_scores
):
    """What was spent before the reference's start counts, unless the run starts there too."""
    origin = train(options(steps=4, checkpoints=CHECKPOINTS))
    start = FromRun(run=str(origin.path))

    def cost(reference_start: str | None, seed: int) -> float:
        place = written_scores(
            store.location, context_length=LENGTH, seed=seed, reference_start=reference_start
        )
        chosen = Selective(share=0.5, score=Score.REFERENCE_LOSS, scores=place)
        run = train(options(objective=chosen, start=start, steps=2, checkpoints=LAST, name="c"))
        return checkpoint_columns(run, 2)["selection_flops"] - 2e6

    assert cost(parameters_fingerprint(origin, 4), 1) == 1e9
    assert cost("another base", 2) == 1e9 + 7e9
    assert cost(None, 3) == 1e9  # trained from fresh parameters


def test_identity_contains_contents_of_scores_not_places(
    options: Options, scores: str, tmp_path: Path
):
    moved = shutil.copytree(scores, tmp_path / "moved")
    one = options(objective=Selective(share=0.5, scores=scores))
    other = options(objective=Selective(share=0.5, scores=str(moved)))
    assert identity(one) == identity(other)
    share = options(objective=Selective(share=0.6, scores=scores))
    assert identity(one) != identity(share)


def test_the_default_scope_written_out_is_the_same_run(options: Options, scores: str):
    """Two names for one training would double it, and split its seeds in the loss table."""
    default, batch, row = (
        identity(options(objective=Selective(share=0.5, scores=scores, scope=scope)))
        for scope in (None, Scope.BATCH, Scope.SEQUENCE)
    )
    assert default == batch != row


@pytest.mark.parametrize("score", [Score.EXCESS_LOSS, Score.INTERSECTION])
def test_resume_is_bitwise_and_counts_on(
    options: Options, scores: str, tmp_path: Path, monkeypatch, score: Score
):
    """Stopped after 8 of 12 steps and started again: parameters and counts are those of one go."""
    chosen = Selective(share=0.6, score=score, scores=scores)
    whole = train(options(objective=chosen, root=str(tmp_path / "whole")))
    stopped = options(objective=chosen, root=str(tmp_path / "stopped"))
    step, calls = Interruption.asked, []

    def asked(self: Interruption, number: int) -> bool:
        calls.append(number)
        return (number == 8 and calls.count(8) == 1) or step(self, number)

    monkeypatch.setattr(Interruption, "asked", asked)
    with pytest.raises(KeyboardInterrupt):
        train(stopped)
    resumed = train(stopped)
    assert calls.count(9) == 1  # steps 9 to 12 come from the second start
    for one, other in zip(*(parameters(run, 12) for run in (whole, resumed)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert resumed.trained_tokens(12) == whole.trained_tokens(12)
    same = [
        [{k: v for k, v in r.items() if "per_second" not in k} for r in rows(run)]
        for run in (whole, resumed)
    ]
    assert same[0] == same[1]


def test_share_one_equals_plain_training(options: Options, scores: str, tmp_path: Path):
    plain = train(options(steps=4, checkpoints=CHECKPOINTS))
    every = Selective(share=1.0, scores=scores)
    run = train(options(objective=every, steps=4, checkpoints=CHECKPOINTS))
    for one, other in zip(rows(plain), rows(run), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-6)
        assert other["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-6)
        assert "unselected_loss" not in other


def test_random_tokens_are_the_share_of_every_epoch(store: TokenStore):
    count = store.num_tokens // LENGTH
    [column] = token_columns(
        Selective(share=0.3, score=Score.RANDOM),
        [store],
        [],
        weights=[1],
        context_length=LENGTH,
        seed=3,
    )
    chosen = column.read(np.arange(count) * LENGTH, LENGTH)
    assert chosen.sum() == int(0.3 * count * LENGTH)
    shares = chosen.mean(axis=0)  # no position of the window is favoured
    assert np.abs(shares - 0.3).max() < 5 * np.sqrt(0.21 / count)


def test_random_tokens_depend_on_the_seed_of_the_data_order(store: TokenStore):
    def chosen(seed: int) -> np.ndarray:
        options = Selective(share=0.3, score=Score.RANDOM)
        [column] = token_columns(
            options, [store], [], weights=[1], context_length=LENGTH, seed=seed
        )
        return column.read(np.arange(20) * LENGTH, LENGTH)

    np.testing.assert_array_equal(chosen(3), chosen(3))
    # Two independent choices of 30% agree on 58% of the tokens.
    assert (chosen(3) == chosen(4)).mean() == pytest.approx(0.58, abs=0.1)


@pytest.mark.parametrize("score", [Score.REFERENCE_LOSS, Score.REFERENCE_ENTROPY])
def test_batches_say_which_of_their_tokens_were_chosen_over_the_corpus(
    options: Options, scores: str, score: Score
):
    """The selected targets of a batch are those with the smallest scores of the whole store."""
    chosen = options(objective=Selective(share=0.6, score=score, scores=scores))
    text = TrainingText.open(chosen.store)
    plan = batch_plan(chosen, text, token_scores(chosen, text))
    [quantity] = (name.value for name in score.quantities)
    opened = TokenScores.open(scores)
    whole = np.concatenate([block for _, block in opened.whole(quantity)])
    scored = np.isfinite(whole).sum()
    expected = np.zeros(len(whole), bool)
    expected[np.argsort(whole, kind="stable")[: int(0.6 * scored)]] = True
    for k in range(3):
        windows = plan.windows.order(np.arange(8 * k, 8 * k + 8))
        positions = windows[:, None] * LENGTH + np.arange(LENGTH)
        np.testing.assert_array_equal(plan.batch(k).selected, expected[positions])


def refused(make: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        make()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"share": 0.0}, "must be above 0 and at most 1"),
        ({"share": 1.5}, "must be above 0 and at most 1"),
        ({"share": float("nan")}, "must be above 0 and at most 1"),
        ({"share": 0.33333}, "more than 4 decimals. Round it, such as 0.3333."),
        ({"share": 0.00001}, "more than 4 decimals. Round it, such as 0.0001."),
        ({"score": Score.RANDOM}, "reads no token scores"),
        ({"score": Score.RANDOM, "scores": ""}, "reads no token scores"),
        ({"scores": None}, "lossline.score --tokens"),
        ({"score": Score.REFERENCE_LOSS, "scope": Scope.BATCH}, "selects once over the corpus"),
    ],
)
def test_wrong_options_are_refused(wrong: dict, words: str):
    assert words in refused(lambda: Selective(**{"share": 0.6, "scores": "scores", **wrong}))


def test_wrong_scores_are_refused_and_nothing_is_written(
    options: Options, scores: str, store: TokenStore, written_scores, tmp_path: Path
):
    def message(place: str, **changes: object) -> str:
        chosen = Selective(share=0.6, scores=place)
        return refused(lambda: train(options(objective=chosen, **changes)))

    assert "context length" in message(written_scores(store.location, context_length=16))
    assert "document rule" in message(scores, documents=Documents.SEPARATE)
    other = write_store(tmp_path / "other", ["another text. " * 90], ByteVocabulary(), name="o")
    assert "another store" in message(written_scores(str(other.location), context_length=LENGTH))
    assert "no such folder" in message(str(tmp_path / "nothing"))
    cut = Path(shutil.copytree(scores, tmp_path / "cut"))
    largest = max(cut.rglob("*"), key=lambda file: file.stat().st_size if file.is_file() else 0)
    largest.write_bytes(largest.read_bytes()[:-100])
    assert "cut" in message(str(cut))
    mixed = Mixture(components={"a": store.location, "b": "none"}, shares={"a": 1, "b": 0})
    assert "'typo' is no component of train.store (a, b)" in refused(
        lambda: train(
            options(
                store=mixed,
                objective=Selective(share=0.6, scores={"a": scores, "typo": scores}),
            )
        )
    )
    entropy = Selective(share=0.6, scores={"text": scores})
    assert "single store" in refused(lambda: train(options(objective=entropy)))
    assert not Path(options().root).exists()


def test_too_small_groups_are_refused(options: Options, scores: str):
    tiny = Selective(share=0.01, scores=scores, scope=Scope.SEQUENCE)
    assert "less than one of the 32 targets" in refused(lambda: train(options(objective=tiny)))
    rare = Selective(share=0.0001, score=Score.RANDOM)
    assert "of the 256 targets of a batch" in refused(lambda: train(options(objective=rare)))
    one = options(
        objective=Selective(share=1.0, scores=scores),
        batch_size=1,
        context_length=4,
        mesh=MeshOptions(data=1, tensor=8),
    )
    assert "fewer than the 8 devices" in refused(lambda: make_trainer(one))


def test_excess_over_the_start_itself_is_refused(
    options: Options, store: TokenStore, written_scores
):
    """Some ports compare the model with itself: at the first step all scores are 0."""
    origin = train(options(steps=4, checkpoints=CHECKPOINTS))
    own = parameters_fingerprint(origin, 4)
    place = written_scores(store.location, context_length=LENGTH, parameters=own)
    start = FromRun(run=str(origin.path))

    def continued(score: Score) -> TrainOptions:
        chosen = Selective(share=0.6, score=score, scores=place)
        return options(objective=chosen, start=start, name="continued", steps=4)

    excess = continued(Score.EXCESS_LOSS)
    assert "has the parameters that the run starts from" in refused(lambda: train(excess))
    assert not excess.folder.exists()
    train(continued(Score.REFERENCE_LOSS))  # ranks the corpus, not the excess
    files = {file: file.stat().st_mtime_ns for file in origin.path.rglob("*")}
    itself = options(objective=Selective(share=0.6, scores=place), directory=str(origin.path))
    assert "belongs to another config" in refused(lambda: train(itself))
    assert files == {file: file.stat().st_mtime_ns for file in origin.path.rglob("*")}
