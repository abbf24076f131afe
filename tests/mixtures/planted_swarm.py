"""Planted swarms: runs of one size on random mixtures with exact zero shares."""

import numpy as np

from lossline.mixtures.runs import MixtureRuns


def mixtures(count, components, seed=0):
    """Return shares (count, components); about half of them are exactly 0."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(components, 0.6), count)
    shares[shares < np.median(shares)] = 0.0
    return shares / shares.sum(axis=1, keepdims=True)


def swarm(shares, losses, params=1e6):
    """Return runs of one size."""
    count, components = shares.shape
    return MixtureRuns(
        components=tuple(f"source{k}" for k in range(components)),
        domains=tuple(f"domain{j}" for j in range(losses.shape[1])),
        shares=shares,
        params=np.full(count, params),
        tokens=np.full(count, 1e9),
        flops=np.full(count, np.nan),
        losses=losses,
        runs=np.arange(count),
    )


def power_losses(shares, domains, noise=0.0, seed=1):
    """Return losses (M, J) that fall with the effective data of each domain, with an E."""
    rng = np.random.default_rng(seed)
    value = rng.dirichlet(np.full(shares.shape[1], 0.3), domains)
    losses = 2 + 0.8 * (np.sqrt(shares) @ value.T + 0.05) ** -0.3
    return losses * np.exp(noise * rng.standard_normal(losses.shape))
