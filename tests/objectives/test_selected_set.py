"""The set of tokens that a step trains on is the same wherever and however it runs."""

import itertools
import math

import jax
import numpy as np
import pytest

from lossline.objectives.options import Scope, Score
from lossline.sharding import MeshOptions, make_mesh
from objectives.table_model import (
    LENGTH,
    ROWS,
    TOKENS,
    VOCABULARY,
    WIDTH,
    expected_choice,
    table_batch,
    table_trainer,
    trained_on,
)


def splits(devices):
    """Return every mesh of ``devices`` devices."""
    return [
        make_mesh(
            MeshOptions(data=d, fsdp=f, sequence=s, tensor=t), devices=jax.devices()[:devices]
        )
        for d, f, s, t in itertools.product((1, 2, 4, 8), repeat=4)
        if d * f * s * t == devices
    ]


def planted(kind, seed=0):
    """Return parameters, batch, exact scores and candidates.

    Every hidden state is 0, so each token has ln V nats, exactly, on every mesh. Scores then differ
    only by the reference.
    """
    rng = np.random.default_rng(seed)
    reference = {
        "different": rng.permutation(TOKENS).reshape(ROWS, LENGTH) / 4 - 60,
        "ties": rng.integers(0, 4, (ROWS, LENGTH)),
        "equal": np.full((ROWS, LENGTH), 3.0),
    }[kind].astype(np.float16)
    reference[rng.random((ROWS, LENGTH)) < 0.05] = np.nan
    weights = np.arange(LENGTH) < rng.integers(1, LENGTH + 1, ROWS)[:, None]
    params = {
        "hidden": np.zeros((TOKENS, WIDTH), np.float32),
        "unembedding": rng.normal(size=(WIDTH, VOCABULARY)).astype(np.float32),
    }
    batch = table_batch(reference, weights, rng.integers(0, VOCABULARY, (ROWS, LENGTH)))
    return params, batch, -reference.astype(np.float64), weights & np.isfinite(reference)


KINDS = ("different", "ties", "equal")


def check(mesh, scope, microbatches):
    trainer = table_trainer(mesh, microbatches=microbatches, scope=scope)
    for kind in KINDS:
        params, batch, scores, candidates = planted(kind)
        found, metrics = trained_on(trainer, params, batch)
        expected = expected_choice(scores, candidates, "0.6", scope, microbatches)
        where = f"{kind}, {mesh.shape}, {scope}, {microbatches} microbatches"
        np.testing.assert_array_equal(found, expected, where)
        valid = batch["weights"].sum()
        assert metrics["selected_tokens"] == expected.sum()
        assert metrics["selected_share"] == pytest.approx(expected.sum() / valid, rel=1e-6)
        assert metrics["loss"] == pytest.approx(math.log(VOCABULARY), rel=1e-5)
        assert metrics["mean_excess"] == pytest.approx(
            math.log(VOCABULARY) + scores[expected].mean(), rel=1e-5
        )


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_the_batch_is_ranked_as_a_whole_on_every_mesh(devices):
    for mesh in splits(devices):
        for microbatches in (1, 4):
            check(mesh, Scope.BATCH, microbatches)


FEW = {
    "one": (MeshOptions(data=1), 1),
    "data": (MeshOptions(data=8), 8),
    "fsdp-sequence": (MeshOptions(data=2, fsdp=2, sequence=2), 8),
    "tensor": (MeshOptions(data=2, tensor=2), 4),
}


def few(name):
    options, devices = FEW[name]
    return make_mesh(options, devices=jax.devices()[:devices])


@pytest.mark.parametrize("mesh", FEW)
@pytest.mark.parametrize("microbatches", [1, 2, 4])
def test_microbatches_are_ranked_apart(mesh, microbatches):
    check(few(mesh), Scope.MICROBATCH, microbatches)


@pytest.mark.parametrize("mesh", FEW)
@pytest.mark.parametrize("microbatches", [1, 4])
def test_rows_are_ranked_apart(mesh, microbatches):
    check(few(mesh), Scope.SEQUENCE, microbatches)


@pytest.mark.parametrize("mesh", FEW)
def test_the_current_loss_ranks_by_the_nats_of_the_model(mesh):
    """Hidden states differ, so the expected nats are computed in float64."""
    params, batch, _, _ = planted("equal")
    del batch["reference"]
    rng = np.random.default_rng(1)
    params["hidden"] = rng.normal(size=params["hidden"].shape).astype(np.float32)
    logits = np.float64(params["hidden"]) @ np.float64(params["unembedding"])
    targets = batch["targets"].reshape(-1)
    nats = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(TOKENS), targets]
    nats, candidates = nats.reshape(ROWS, LENGTH), batch["weights"] > 0
    expected = expected_choice(nats, candidates, "0.6", Scope.BATCH)
    gap = nats[expected].min() - nats[candidates & ~expected].max()
    assert gap > 1e-4  # rounding cannot change the set
    for microbatches in (1, 2):
        trainer = table_trainer(few(mesh), score=Score.CURRENT_LOSS, microbatches=microbatches)
        found, metrics = trained_on(trainer, params, batch)
        np.testing.assert_array_equal(found, expected)
        assert metrics["selection_threshold"] == pytest.approx(nats[expected].min(), rel=1e-5)
        assert metrics["selected_loss"] == pytest.approx(nats[expected].mean(), rel=1e-5)
        others = nats[candidates & ~expected].mean()
        assert metrics["unselected_loss"] == pytest.approx(others, rel=1e-5)
        assert metrics["loss"] == pytest.approx(nats[candidates].mean(), rel=1e-5)


@pytest.mark.parametrize("mesh", FEW)
@pytest.mark.parametrize("score", [Score.REFERENCE_LOSS, Score.RANDOM])
def test_tokens_chosen_over_the_corpus_are_trained_on_as_they_are(mesh, score):
    params, batch, _, _ = planted("equal")
    del batch["reference"]
    chosen = np.random.default_rng(2).random((ROWS, LENGTH)) < 0.6
    expected = chosen & (batch["weights"] > 0)
    for microbatches in (1, 4):
        trainer = table_trainer(few(mesh), score=score, microbatches=microbatches)
        found, metrics = trained_on(trainer, params, {**batch, "selected": chosen})
        np.testing.assert_array_equal(found, expected)
        assert metrics["selected_tokens"] == expected.sum()


@pytest.mark.parametrize("share", ["0.07", "0.29", "0.6", "0.9999", "1"])
@pytest.mark.parametrize("scope", Scope)
def test_the_count_is_the_share_rounded_down(share, scope):
    """Also on one device, where the selected rows are cut out with a fixed number of places."""
    params, batch, scores, candidates = planted("ties")
    trainer = table_trainer(few("one"), share=share, scope=scope)
    found, metrics = trained_on(trainer, params, batch)
    expected = expected_choice(scores, candidates, share, scope)
    np.testing.assert_array_equal(found, expected)
    assert metrics["selected_tokens"] == expected.sum()


def test_a_batch_without_a_candidate_trains_on_nothing():
    params, batch, _, _ = planted("ties")
    for name, value in (("weights", 0), ("reference", np.nan)):
        empty = {**batch, name: np.full_like(batch[name], value)}
        found, metrics = trained_on(table_trainer(few("data")), params, empty)
        assert not found.any() and metrics["selected_tokens"] == 0
        assert np.isfinite(metrics["loss"])
