"""Coefficients of domains with intervals, weights, and how sure the selection is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.run_order import run_numbers
from lossline.seeds import check_seed
from lossline.selection.bootstrap import bootstrap, intervals
from lossline.selection.estimators import as_assumed, check_estimator, estimate
from lossline.selection.matrices import ScoreMatrix, named, no_rank
from lossline.selection.projection import Projection, caps, check, fill, project
from lossline.selection.significance import family_p_values

Array = np.ndarray

# Columns of ``Correlations.table``, in order.
COLUMNS = (
    "benchmark",
    "domain",
    "estimate",  # the coefficient; NaN: the domain has no rank
    "low",  # interval at the level ``confidence``
    "high",
    "weight",  # share of the training tokens by the projection; NaN: impossible under the caps
    "selected",  # share of the resamples whose projection gives the domain weight
    "p_value",  # of its rank correlation, corrected for the number of domains
    "significant",  # whether p_value is at most ``significance``
    "models",  # models with both scores
    "missing",  # models that have the benchmark, but no loss on the domain
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Correlations:
    """Coefficients of all domains for all benchmarks.

    Attributes:
        table: one row per benchmark and domain (``COLUMNS``).
        estimator: name of the estimator.
        projection: how coefficients become weights.
        confidence: level of the intervals.
        significance: level of the test.
        resamples: number of resamples, and of permutations.
        families: number of families.
        seed: seed of both.
        failures: benchmark -> why its coefficients give no weights.
        notes: what is missing, has no rank or no weights, one sentence each.
    """

    table: pd.DataFrame
    estimator: str
    projection: Projection
    confidence: float
    significance: float
    resamples: int
    families: int
    seed: int
    failures: Mapping[str, str]
    notes: tuple[str, ...]

    def of(self, benchmark: str) -> pd.DataFrame:
        """Return the rows of one benchmark, largest coefficient first.

        Raises:
            UserError: unknown benchmark.
        """
        rows = self.table[self.table["benchmark"] == benchmark]
        if rows.empty:
            known = named(list(self.table["benchmark"].unique()), most=20)
            raise UserError(f"unknown benchmark {benchmark!r}. Choose from {known}.")
        return rows.sort_values("estimate", ascending=False, kind="stable")

    def weights(self, benchmark: str) -> dict[str, float]:
        """Return domain -> weight of the domains that a benchmark selects.

        Raises:
            UserError: unknown benchmark, or its coefficients give no weights under the caps.
        """
        rows = self.of(benchmark)
        if benchmark in self.failures:
            raise UserError(f"benchmark {benchmark!r}: {self.failures[benchmark]}")
        chosen = rows[rows["weight"] > 0]
        return dict(zip(chosen["domain"], chosen["weight"].astype(float), strict=True))


def correlate(
    matrix: ScoreMatrix,
    *,
    estimator: str = "spearmanr",
    limits: Array | None = None,
    projection: str = Projection.LINEAR,
    negative: bool = False,
    fewest_models: int = 5,
    resamples: int = 1000,
    confidence: float = 0.9,
    significance: float = 0.05,
    seed: int = 0,
) -> Correlations:
    """Return coefficients, their intervals, weights, and how often each domain is selected.

    Args:
        matrix: losses and errors.
        estimator: one of ``ESTIMATORS``.
        limits: largest weight of each domain (D,), see ``caps``. None: a tenth of the pool, whose
            domains are equally large.
        projection: ``linear`` or ``l2``.
        negative: whether domains with coefficients of 0 or below may get weight.
        fewest_models: models that a domain needs to get a rank.
        resamples: number of resamples, and of permutations of the test.
        confidence: level of the intervals.
        significance: level of the test.
        seed: seed of both.

    Raises:
        UserError: an option is out of range.
    """
    check_estimator(estimator)
    check_seed(seed, "seed")
    for words, value in (("confidence", confidence), ("significance", significance)):
        if not 0 < value < 1:
            raise UserError(f"{words} = {value:g} must lie between 0 and 1.")
    for words, count, least in (
        ("resamples", resamples, 20),
        ("fewest_models", fewest_models, 2),
    ):
        if count < least:
            raise UserError(f"{words} = {count} must be {least} or more.")
    if limits is None:
        limits = caps(np.ones(len(matrix.domains)))
    losses, errors = as_assumed(matrix.losses, matrix.errors, estimator)
    estimates = estimate(losses, errors, estimator, fewest=fewest_models)
    check(np.nan_to_num(estimates[:, 0]), limits, projection)
    counts = (~np.isnan(losses)).T.astype(int) @ (~np.isnan(errors)).astype(int)
    families = _family_numbers(matrix)
    draw, permute = np.random.default_rng(seed).spawn(2)
    low, high, selected = (np.full(estimates.shape, np.nan) for _ in range(3))
    for benchmark, draws, effective in bootstrap(
        losses, errors, families, estimator,
        resamples=resamples, rng=draw, fewest=fewest_models,
    ):  # fmt: skip
        low[:, benchmark], high[:, benchmark] = intervals(
            estimates[:, benchmark], draws, effective, estimator,
            models=counts[:, benchmark], confidence=confidence,
        )  # fmt: skip
        selected[:, benchmark] = _selected(draws, limits, projection, negative=negative)
    p_values = family_p_values(
        losses, errors, families, permutations=resamples, rng=permute, fewest=fewest_models
    )
    weights, failures = _weights(
        matrix, estimates, limits, projection, negative=negative, fewest=fewest_models
    )
    known = np.isfinite(estimates)
    columns = {
        "estimate": estimates,
        "low": low,
        "high": high,
        "weight": weights,
        "selected": np.where(known, selected, np.nan),
        "p_value": p_values,
        "significant": p_values <= significance,
        "models": counts,
        "missing": (~np.isnan(errors)).sum(axis=0) - counts,
    }
    return Correlations(
        table=pd.DataFrame(
            {
                "benchmark": np.repeat(matrix.benchmarks, len(matrix.domains)),
                "domain": np.tile(matrix.domains, len(matrix.benchmarks)),
                **{name: values.T.ravel() for name, values in columns.items()},
            }
        )[list(COLUMNS)],
        estimator=estimator,
        projection=Projection(projection),
        confidence=confidence,
        significance=significance,
        resamples=resamples,
        families=int(families.max()) + 1,
        seed=seed,
        failures=failures,
        notes=(
            *matrix.notes(),
            *_too_few(matrix, counts, fewest_models),
            *(f"Benchmark {name} gives no weights: {why}" for name, why in failures.items()),
        ),
    )


def _family_numbers(matrix: ScoreMatrix) -> Array:
    """Return the number of each model's family (N,), which depends on the scores only."""
    seen = ~np.isnan(matrix.losses)
    mean = np.where(seen, matrix.losses, 0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
    return run_numbers(matrix.families, mean, *matrix.errors.T)


def _selected(draws: Array, limits: Array, projection: str, *, negative: bool) -> Array:
    """Return how often each domain gets weight, a share of the resamples (D,)."""
    count = np.zeros(draws.shape[1], int)
    for row in draws:
        count += fill(row.astype(float), limits, projection, negative=negative) > 0
    return count / len(draws)


def _weights(
    matrix: ScoreMatrix,
    estimates: Array,
    limits: Array,
    projection: str,
    *,
    negative: bool,
    fewest: int,
) -> tuple[Array, dict[str, str]]:
    """Return weights (D, B), and benchmark -> why it has none."""
    weights = np.full(estimates.shape, np.nan)
    failures = {}
    for place, name in enumerate(matrix.benchmarks):
        if np.isnan(estimates[:, place]).all():
            failures[name] = _unranked(matrix, place, fewest)
            continue
        try:
            weights[:, place] = project(estimates[:, place], limits, projection, negative=negative)
        except UserError as mistake:
            failures[name] = str(mistake)
    return weights, failures


def _unranked(matrix: ScoreMatrix, place: int, fewest: int) -> str:
    """Return why no domain has a coefficient for a benchmark, and what to do."""
    scored = ~np.isnan(matrix.errors[:, place])
    if (reason := no_rank(matrix.errors[:, [place]])[0]) and scored.sum() != 1:
        return f"{reason}, so no domain can be ranked. Leave this benchmark out, or choose another."
    most = int((~np.isnan(matrix.losses[scored])).sum(axis=0).max())
    if most < fewest:
        return (
            f"no domain has {fewest} models with a loss and a score (the most is {most}), so none "
            "is ranked. Score more models."
        )
    return "no domain has losses that differ between models. Score models that differ."


def _too_few(matrix: ScoreMatrix, counts: Array, fewest: int) -> Iterator[str]:
    for place, name in enumerate(matrix.benchmarks):
        few = np.flatnonzero((counts[:, place] < fewest) & (counts[:, place] > 1))
        if len(few):
            names = named([matrix.domains[domain] for domain in few])
            yield (
                f"Benchmark {name}: {len(few)} domains have fewer than {fewest} models and are not "
                f"ranked: {names}."
            )
