"""Rank domains by how their losses go along with benchmark errors, over many models at once.

Model k has loss x_kj on domain j and error y_k on a benchmark. The single-index model
y = f(<w, x> + noise) with an increasing f has these estimators of w, or of its order (Plan et al.
2016; Chen & Banerjee 2017; Thrush et al., arXiv 2409.05816). With n models, sums over pairs k < l,
ranks as midranks and sgn as the sign:

    product    mean of x_k y_k
    sign       2 / (n (n - 1)) Σ sgn(y_l - y_k) (x_l - x_k)
    sign_cdf   the same of ranks divided by n
    sign_sign  2 / (n (n - 1)) Σ sgn(y_l - y_k) sgn(x_l - x_k), Kendall's tau-a
    spearmanr  Pearson's correlation of the ranks of x and y
    gamma      2 Σ sgn(y_l - y_k) (rank x_l - rank x_k), section 4.1 of the paper

Because Σ sgn(y_l - y_k) (v_l - v_k) = Σ s_k v_k with s_k = Σ_l sgn(y_k - y_l), all but sign_sign
are one matrix product for all domains and benchmarks. s_k is the standing of model k
(``lossline.selection.ranks``): the centered midrank, doubled.

Without ties these are the numbers of the package ``perplexity-correlations`` 0.1.2. That package
breaks ties by position, ranks a constant domain first, and ranks NaN as the largest loss.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import numpy as np

from lossline.errors import UserError
from lossline.selection.parts import benchmark_groups, constant, parts
from lossline.selection.ranks import as_floats, standings
from lossline.tables.frames import nearest_name

Array = np.ndarray

_LINEAR = ("product", "sign")  # in the losses
_BLOCK = 4096  # columns at a time; a few megabytes


def product(losses: Array, errors: Array) -> Array:
    """Return the mean of x_k y_k, (d, b); for losses and errors of mean 0."""
    return (errors.T @ losses).T / len(losses)


def sign(losses: Array, errors: Array) -> Array:
    """Return the mean over pairs of sgn(y_l - y_k) (x_l - x_k), (d, b)."""
    models = len(losses)
    return (standings(errors).T.astype(float) @ losses).T * (2 / (models * (models - 1)))


def sign_cdf(losses: Array, errors: Array) -> Array:
    """Return the mean over pairs of sgn(y_l - y_k) (rank x_l - rank x_k) / n, (d, b)."""
    return gamma(losses, errors) / pairs_of_ranks(len(losses))


def gamma(losses: Array, errors: Array) -> Array:
    """Return the sum over ordered pairs of sgn(y_k - y_l) (rank x_k - rank x_l), (d, b)."""
    total = as_floats(standings(errors)).T @ as_floats(standings(losses))
    return total.T.astype(float)


def spearmanr(losses: Array, errors: Array) -> Array:
    """Return Pearson's correlation of midranks, (d, b)."""
    of_errors, of_losses = as_floats(standings(errors)), as_floats(standings(losses))
    total = (of_errors.T @ of_losses).T.astype(float)
    # One root of the whole product, so that equal ranks give 1 exactly.
    squares = np.outer(_squares(of_losses), _squares(of_errors))
    with np.errstate(invalid="ignore"):
        return total / np.sqrt(squares)


def sign_sign(losses: Array, errors: Array) -> Array:
    """Return the mean over pairs of sgn(y_l - y_k) sgn(x_l - x_k), (d, b)."""
    models = len(losses)
    ranks = standings(losses)
    found = np.empty((losses.shape[1], errors.shape[1]))
    for benchmark in range(errors.shape[1]):
        order = np.argsort(errors[:, benchmark])
        found[:, benchmark] = _concordance(ranks[order], errors[order, benchmark])
    return found * (2 / (models * (models - 1)))


ESTIMATORS: MappingProxyType[str, Callable[[Array, Array], Array]] = MappingProxyType(
    {
        "product": product,
        "sign": sign,
        "sign_cdf": sign_cdf,
        "sign_sign": sign_sign,
        "spearmanr": spearmanr,
        "gamma": gamma,
    }
)
"""Name -> estimator of losses (n, d) and errors (n, b) without missing cells."""


def estimate(losses: Array, errors: Array, name: str, *, fewest: int = 2) -> Array:
    """Return the coefficients (D, B) of all domains for all benchmarks.

    A model without a loss on a domain is left out of that domain, a model without a score on a
    benchmark out of that benchmark. A domain or benchmark on which all remaining models are equal,
    or that fewer than ``fewest`` have, gets NaN. ``gamma`` is a sum over pairs: where models are
    left out, it is scaled to all models that have the benchmark, so that domains can be compared.

    Args:
        losses: (N, D), NaN where missing.
        errors: (N, B), higher is worse, NaN where missing.
        name: one of ``ESTIMATORS``.
        fewest: models that a coefficient needs, at least 2.

    Raises:
        UserError: unknown estimator, or the numbers of models differ.
    """
    check_estimator(name)
    if losses.ndim != 2 or errors.ndim != 2 or len(losses) != len(errors):
        raise UserError(
            f"estimate: losses have shape {losses.shape}, errors {errors.shape}. Give (models, "
            "domains) and (models, benchmarks)."
        )
    found = np.full((losses.shape[1], errors.shape[1]), np.nan)
    for models, benchmarks in benchmark_groups(errors):
        if len(models) < fewest:
            continue
        left: Array | slice = slice(None)
        if name in _LINEAR and len(models) == len(losses):
            # All columns in one pass; a missing cell makes its coefficient NaN.
            found[:, benchmarks] = _of_part(losses, errors[:, benchmarks], name)
            left = np.flatnonzero(np.isnan(found[:, benchmarks]).any(axis=1))
        for part in parts(losses[:, left], models, benchmarks, block=_BLOCK, fewest=fewest):
            values = _of_part(part.losses, errors[np.ix_(part.models, benchmarks)], name)
            if name == "gamma":
                values *= pairs_of_ranks(len(models)) / pairs_of_ranks(len(part.models))
            columns = np.arange(losses.shape[1])[left][part.domains]
            found[np.ix_(columns, benchmarks)] = values
    return found


def as_assumed(losses: Array, errors: Array, name: str) -> tuple[Array, Array]:
    """Return losses and errors as an estimator assumes them: for ``product``, of mean 0.

    Differences and ranks, which the other estimators take, do not depend on a level. Without mean
    0, ``product`` would order domains by their mean losses.

    Args:
        losses: (N, D), NaN where missing.
        errors: (N, B), NaN where missing.
        name: one of ``ESTIMATORS``.
    """
    if name != "product":
        return losses, errors
    return _of_mean_zero(losses), _of_mean_zero(errors)


def _of_mean_zero(values: Array) -> Array:
    known = ~np.isnan(values)
    totals = np.where(known, values, 0.0).sum(axis=0)
    return values - totals / np.maximum(known.sum(axis=0), 1)


def _of_part(losses: Array, errors: Array, name: str) -> Array:
    """Return coefficients (d, b) without missing cells; NaN for constant columns."""
    values = ESTIMATORS[name](losses, errors)
    values[constant(losses)] = np.nan
    values[:, constant(errors)] = np.nan
    return values


def check_estimator(name: str) -> None:
    """Check the name of an estimator.

    Raises:
        UserError: unknown name.
    """
    if name not in ESTIMATORS:
        raise UserError(
            f"unknown estimator {name!r}{nearest_name(name, ESTIMATORS)}; choose from "
            f"{', '.join(ESTIMATORS)}."
        )


def pairs_of_ranks(models: int) -> float:
    """Return gamma / sign_cdf for n models: n² (n - 1)."""
    return float(models) * models * (models - 1)


def _concordance(ranks: Array, errors: Array) -> Array:
    """Return the concordant minus the discordant pairs of each column, (d,).

    Args:
        ranks: standings (n, d), models in order of their errors.
        errors: sorted (n,). Pairs of equal errors do not count.
    """
    above = np.searchsorted(errors, errors, side="right")  # the first model of a higher error
    pairs = int((len(errors) - above).sum())
    rising = _rising(ranks, above)
    found = 2.0 * rising - pairs
    tied = _tied(ranks)
    if tied.any():
        found[tied] = rising[tied] - _rising(-ranks[:, tied], above)
    return found


def _rising(ranks: Array, above: Array) -> Array:
    """Return the number of pairs (d,) that rise in rank, from k to any model from above[k] on."""
    # A model rises to at most n - 1 others: bytes hold that count for up to 256 models.
    count = np.uint8 if len(ranks) <= 256 else np.uint32
    buffer = np.empty(ranks.shape, bool)
    total = np.zeros(ranks.shape[1], np.int64)
    for model, first in enumerate(above):
        if first < len(ranks):
            higher = buffer[: len(ranks) - first]
            np.less(ranks[model], ranks[first:], out=higher)
            total += np.add.reduce(higher.view(np.uint8), axis=0, dtype=count)
    return total


def _tied(ranks: Array) -> Array:
    """Return which columns have tied models, (d,): only then is Σ t² below (n³ - n) / 3."""
    models = len(ranks)
    return _squares(as_floats(ranks)) < (models**3 - models) // 3


def _squares(values: Array) -> Array:
    """Return the sum of squares of each column (d,)."""
    return np.einsum("kj,kj->j", values, values).astype(float)
