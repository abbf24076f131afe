"""Planted losses and errors of many models, with a known truth."""

import numpy as np


def single_index(models, weights, *, noise=0.0, seed=0):
    """Return losses (N, D) ~ N(0, 1) and errors (N, 1) = exp(<w, x> + noise), |w| = 1."""
    rng = np.random.default_rng(seed)
    weights = np.asarray(weights, float) / np.linalg.norm(weights)
    losses = rng.standard_normal((models, len(weights)))
    index = losses @ weights + noise * rng.standard_normal(models)
    return losses, np.exp(index)[:, None], weights


def with_families(families, domains, *, shared, signal, seed):
    """Return losses (N, D), errors (N, 1) and the family of each of N models.

    Losses and the index of the errors are normal; ``shared`` is the share of their variance that
    models of one family have in common. Domain j's correlation with the index is ``signal[j]``.

    Args:
        families: number of models of each family.
        domains: number of domains D.
        shared: share of the variance, 0 to 1.
        signal: correlations (D,).
        seed: seed.
    """
    rng = np.random.default_rng(seed)
    family = np.repeat(np.arange(len(families)), families)

    def normal(columns):
        common = rng.standard_normal((len(families), columns))[family]
        own = rng.standard_normal((len(family), columns))
        return np.sqrt(shared) * common + np.sqrt(1 - shared) * own

    index = normal(1)
    signal = np.broadcast_to(signal, domains)
    losses = signal * index + np.sqrt(1 - signal**2) * normal(domains)
    return losses, np.exp(index), tuple(f"family {f}" for f in family)
