"""Bootstrap of coefficients over families of models, and intervals from it.

Models of one family share data and training, so whole families are drawn with replacement (the
cluster bootstrap). An interval takes the percentiles of the resampled coefficients, on Fisher's
scale atanh(r) for coefficients that are bounded by 1, and stretches their distance from the
coefficient by t / z: Student's quantile over the normal one, with one degree of freedom less than
the effective number of families, N² / Σ size².

Percentile, basic, BCa and jackknife intervals were compared by their coverage on planted models,
8 to 90 of them, in families of equal and of very unequal size. At a level of 90%, these cover 86%
to 96%; basic and BCa intervals fall below 82%.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import special

from lossline.selection.estimators import pairs_of_ranks
from lossline.selection.parts import benchmark_groups, constant, parts
from lossline.selection.resampled import Resamples

Array = np.ndarray

_BLOCK = 4096  # domains at a time
_DRAWS_BYTES = 320 * 2**20  # resampled coefficients in memory, float32
_EDGE = 0.9999  # Fisher's scale ends here
_DETERMINED = 0.8  # share of the resamples that must give a coefficient, else there is no interval


def bootstrap(
    losses: Array,
    errors: Array,
    families: Array,
    name: str,
    *,
    resamples: int,
    rng: np.random.Generator,
    fewest: int = 2,
) -> Iterator[tuple[int, Array, Array]]:
    """Yield (benchmark, coefficients (R, D), effective number of families (D,)).

    A coefficient is NaN where a domain has no rank or a resample does not determine it. All
    domains of a benchmark share their resamples.

    Args:
        losses: (N, D), NaN where missing.
        errors: (N, B), NaN where missing.
        families: number of each model's family (N,).
        name: estimator.
        resamples: number R of resamples.
        rng: generator.
        fewest: models that a domain needs.
    """
    domains = losses.shape[1]
    at_once = max(1, _DRAWS_BYTES // (4 * resamples * domains))
    for models, group in benchmark_groups(errors):
        if len(models) < fewest:
            continue
        weights = _drawn(families[models], resamples, rng)
        for start in range(0, len(group), at_once):
            benchmarks = group[start : start + at_once]
            draws = np.full((resamples, len(benchmarks), domains), np.nan, np.float32)
            effective = np.full(domains, np.nan)
            shared: dict[bytes, Resamples] = {}
            for part in parts(losses, models, benchmarks, block=_BLOCK, fewest=fewest):
                key = part.models.tobytes()
                if key not in shared:
                    inside = np.searchsorted(models, part.models)
                    target = errors[np.ix_(part.models, benchmarks)]
                    shared = {key: Resamples(target, weights[:, inside])}
                found = shared[key].of(part.losses, name)
                if name == "gamma":
                    found *= pairs_of_ranks(len(models)) / pairs_of_ranks(len(part.models))
                found[:, :, constant(part.losses)] = np.nan
                draws[:, :, part.domains] = found
                sizes = np.bincount(families[part.models])
                effective[part.domains] = len(part.models) ** 2 / (sizes**2).sum()
            draws[:, constant(errors[np.ix_(models, benchmarks)])] = np.nan
            for place, benchmark in enumerate(benchmarks):
                yield int(benchmark), draws[:, place], effective


def _drawn(families: Array, resamples: int, rng: np.random.Generator) -> Array:
    """Return how often each model is drawn (R, n): as often as its family."""
    _, member = np.unique(families, return_inverse=True)
    count = int(member.max()) + 1
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples)[:, member]


def intervals(
    estimates: Array,
    draws: Array,
    effective: Array,
    name: str,
    *,
    models: Array,
    confidence: float,
) -> tuple[Array, Array]:
    """Return the ends of the intervals, (D,) each; NaN where too few resamples are determined.

    Args:
        estimates: coefficients (D,).
        draws: their resamples (R, D).
        effective: effective number of families (D,).
        name: estimator.
        models: models behind each coefficient (D,).
        confidence: level.
    """
    middle = _to_scale(estimates, name, models)
    tail = (1 - confidence) / 2
    with np.errstate(invalid="ignore"):
        stretch = special.stdtrit(effective - 1, 1 - tail) / special.ndtri(1 - tail)
    ends = []
    for quantile in _quantiles(draws, tail):
        end = middle + stretch * (_to_scale(quantile, name, models) - middle)
        ends.append(_from_scale(end, name, models))
    # An interval holds its own coefficient, even where all resamples lie on one side of it.
    return np.fmin(ends[0], estimates) + 0 * ends[0], np.fmax(ends[1], estimates) + 0 * ends[1]


def _quantiles(draws: Array, tail: float) -> Array:
    """Return the two quantiles of each column (R, D), without its NaN, (2, D)."""
    found = np.empty((2, draws.shape[1]))
    for start in range(0, draws.shape[1], _BLOCK):
        block = np.sort(np.ascontiguousarray(draws[:, start : start + _BLOCK].T), axis=1)
        known = np.count_nonzero(~np.isnan(block), axis=1)  # NaN are last
        last = np.maximum(known - 1, 0)
        rows = np.arange(len(block))
        for end, share in enumerate((tail, 1 - tail)):
            below = np.floor(share * last).astype(int)
            low = block[rows, below].astype(float)
            high = block[rows, np.minimum(below + 1, last)]
            value = low + (share * last - below) * (high - low)
            enough = known >= _DETERMINED * len(draws)
            found[end, start : start + _BLOCK] = np.where(enough, value, np.nan)
    return found


def _largest(name: str, models: Array) -> Array | float | None:
    """Return the largest coefficient that n models can give; None without a bound."""
    with np.errstate(divide="ignore", invalid="ignore"):
        of_ranks = (models + 1) / (3 * models)
        bounds = {
            "sign_cdf": of_ranks,
            "gamma": of_ranks * models**2 * (models - 1),
            "sign_sign": 1.0,
            "spearmanr": 1.0,
        }
    return bounds.get(name)


def _to_scale(values: Array, name: str, models: Array) -> Array:
    bound = _largest(name, models)
    if bound is None:
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.arctanh(np.clip(values / bound, -_EDGE, _EDGE))


def _from_scale(values: Array, name: str, models: Array) -> Array:
    bound = _largest(name, models)
    return values if bound is None else np.tanh(values) * bound
