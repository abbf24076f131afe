"""Runs on mixtures with losses of a known law."""

import dataclasses

import numpy as np

from lossline.mixtures.laws import Problem
from lossline.mixtures.runs import MixtureRuns

COMPONENTS = ("code", "web", "wiki")
SIZES, TOKENS = (1e8, 3e8, 1e9), (2e9, 6e9, 2e10)


def design(shares, *, sizes=SIZES, tokens=TOKENS, components=COMPONENTS, domains=("loss",)):
    """Return runs of every mixture at every size and token count; losses are 1."""
    grid = [(w, n, d) for w in np.asarray(shares, float) for n in sizes for d in tokens]
    w, n, d = (np.array([row[i] for row in grid]) for i in range(3))
    runs = [f"{np.round(row, 6).tolist()} {size:g}" for row, size, _ in grid]
    return MixtureRuns(
        components=components,
        domains=domains,
        shares=w,
        params=n,
        tokens=d,
        flops=6.0 * n * d,
        losses=np.ones((len(grid), len(domains))),
        runs=runs,
    )


def mixtures(count=12, components=3, seed=0, floor=0.05):
    """Return mixtures (count, components), each share at least ``floor``."""
    drawn = np.random.default_rng(seed).dirichlet(np.ones(components), size=count)
    return floor + (1 - components * floor) * drawn


def planted(law, theta, runs, *, noise=0.0, seed=0):
    """Return the runs with the losses of a law at theta (P,), times exp(noise)."""
    columns = Problem.of(law, runs).columns
    value, _ = law.log_loss(np.asarray(theta, float)[None], columns)
    error = noise * np.random.default_rng(seed).standard_normal((len(runs), len(runs.domains)))
    losses = np.exp(1.0 + value[0][:, None] + error)
    return dataclasses.replace(runs, losses=losses)


def at(runs):
    """Return the scale of runs as keyword arguments of ``predict``."""
    return {"params": runs.params, "tokens": runs.tokens, "flops": runs.flops}
