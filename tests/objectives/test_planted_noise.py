"""Excess loss finds the learnable tokens of a noisy text, and training on them pays."""

import pytest

from objectives.planted_noise import LENGTH, NOISE, ROWS, nats_of, successors, text, train

STEPS, REFERENCE_STEPS = 120, 300


@pytest.fixture(scope="module")
def reference():
    """A reference that was trained on other clean text of the same chain.

    It is trained longer than the runs that it ranks for. Once a run predicts as well as its
    reference, excess losses are close to 0 and noise is selected more often.
    """
    return train(text("clean", REFERENCE_STEPS * ROWS, seed=100)[0], seed=100).params


def test_the_noise_is_what_it_says():
    for kind in ("tokens", "spans"):
        tokens, noise = text(kind, 2000, seed=1)
        assert noise[:, 1:].mean() == pytest.approx(NOISE, abs=0.02)
        follows = (successors()[0][tokens[:, :-1]] == tokens[:, 1:, None]).any(axis=-1)
        assert follows[~noise[:, 1:]].all()
        assert follows[noise[:, 1:]].mean() < 0.04  # three of 128, by chance


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", ["tokens", "spans"])
def test_excess_loss_selects_what_can_be_learned_and_helps_the_target(reference, kind, seed):
    tokens, noise = text(kind, STEPS * ROWS, seed=seed)
    learnable = ~noise[:, 1:].reshape(STEPS, ROWS, LENGTH)
    selective = train(tokens, seed=seed, share="0.6", reference=reference)
    plain = train(tokens, seed=seed)
    found = learnable[selective.selected].mean()
    target = text("clean", 200, seed=200)[0]
    losses = {
        "selective": nats_of(selective.params, target).mean(),
        "plain": nats_of(plain.params, target).mean(),
        "reference": nats_of(reference, target).mean(),
    }
    assert found >= 0.9
    assert losses["reference"] < losses["selective"] <= losses["plain"], losses
