"""Losses of tokens with known trends and known noise."""

import numpy as np

from lossline.token_dynamics.results import RunCurves, TokenSample


def planted_nats(changes, noise, *, checkpoints=11, level=3.0, seed=0):
    """Losses [checkpoints, N] on straight lines that change by ``changes`` in all, plus noise."""
    changes, noise = np.broadcast_arrays(np.asarray(changes, float), np.asarray(noise, float))
    time = np.linspace(-0.5, 0.5, checkpoints)[:, None]
    scatter = np.random.default_rng(seed).normal(size=(checkpoints, len(changes)))
    return level + changes * time + noise * scatter


def sample_of(documents, *, pieces=None, token_ids=None, shown=()):
    """A sample of tokens in windows of ten."""
    documents = np.asarray(documents, np.int64)
    positions = np.arange(len(documents), dtype=np.int64)
    ids = np.zeros(len(documents), np.int32) if token_ids is None else token_ids
    return TokenSample(
        positions=positions, documents=documents, windows=positions // 10, token_ids=ids,
        pieces=pieces, store="planted", shown=shown,
    )  # fmt: skip


def curves_of(nats, name="run"):
    steps = tuple(range(0, 100 * len(nats), 100))
    return RunCurves(run=name, steps=steps, tokens=tuple(64 * s for s in steps), nats=nats)
