"""Which domains go along with a benchmark by more than chance: permutation of families.

Models of one family resemble each other, so they are no independent evidence. Standings of losses
and of errors are therefore averaged over each family, and the averages of the errors are dealt to
the families anew. A domain is compared with the largest correlation of any domain in each such
permutation (Westfall & Young 1993): among random labels, the probability that even one domain of a
benchmark is called significant is at most the level. Without families (one model each), the test
is exact.
"""

from __future__ import annotations

import numpy as np

from lossline.selection.parts import benchmark_groups, constant, parts
from lossline.selection.ranks import standings

Array = np.ndarray

_BLOCK = 4096  # domains at a time


def family_p_values(
    losses: Array,
    errors: Array,
    families: Array,
    *,
    permutations: int,
    rng: np.random.Generator,
    fewest: int = 2,
) -> Array:
    """Return p-values (D, B), corrected for the number of domains.

    They test rank correlation, whatever the estimator. NaN where there is no rank, or fewer than 3
    families.

    Args:
        losses: (N, D), NaN where missing.
        errors: (N, B), NaN where missing.
        families: number of each model's family (N,), 0 to F - 1.
        permutations: number of random permutations.
        rng: generator.
        fewest: models that a domain needs.
    """
    found = np.full((losses.shape[1], errors.shape[1]), np.nan)
    # Families that lack a domain are left out of each permutation; the others keep their order.
    keys = rng.random((permutations, int(families.max()) + 1))
    for models, benchmarks in benchmark_groups(errors):
        largest = np.zeros((permutations, len(benchmarks)))
        strength = np.full((losses.shape[1], len(benchmarks)), np.nan)
        for part in parts(losses, models, benchmarks, block=_BLOCK, fewest=fewest):
            present = np.unique(families[part.models])
            if len(present) < 3:
                continue
            member = (families[part.models] == present[:, None]).astype(float)
            member /= member.sum(axis=1, keepdims=True)
            of_losses = _unit(member @ standings(part.losses))
            of_errors = _unit(member @ standings(errors[np.ix_(part.models, benchmarks)]))
            of_losses[:, constant(part.losses)] = np.nan
            strength[part.domains] = np.abs(of_losses.T @ of_errors)
            order = np.argsort(keys[:, present], axis=1)
            ranked = of_losses[:, ~np.isnan(of_losses).any(axis=0)]
            for column in range(len(benchmarks)):
                chance = np.abs(of_errors[order, column] @ ranked)
                np.maximum(largest[:, column], chance.max(axis=1, initial=0), largest[:, column])
        found[:, benchmarks] = _p_values(strength, largest)
    return found


def _unit(means: Array) -> Array:
    """Return columns (F, C) with mean 0 and length 1; NaN for constant ones."""
    means = means - means.mean(axis=0)
    length = np.sqrt((means**2).sum(axis=0))
    return means / np.where(length > 1e-9, length, np.nan)


def _p_values(strength: Array, largest: Array) -> Array:
    """Return the share of permutations whose largest value reaches each (D, B)."""
    permutations = len(largest)
    values = np.full(strength.shape, np.nan)
    for column, chance in enumerate(np.sort(largest, axis=0).T):
        known = ~np.isnan(strength[:, column])
        # Rounding must not make the observed order of the families beat itself.
        reached = np.searchsorted(chance, strength[known, column] - 1e-9)
        values[known, column] = (1 + permutations - reached) / (1 + permutations)
    return values
