"""Coefficients and weights of domains for every target and every estimator of a selection."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from lossline.choices.correlation_method import PerplexityCorrelations
from lossline.choices.options import ChooseOptions
from lossline.choices.targets import Target
from lossline.errors import UserError
from lossline.selection.correlations import correlate
from lossline.selection.heldout import Folds, Method, heldout_ranks
from lossline.selection.matrices import ScoreMatrix, score_matrix
from lossline.selection.projection import Projection

COEFFICIENTS = (
    "target", "method", "domain", "estimate", "low", "high", "selected", "p_value", "significant",
    "models", "missing", "cap", "weight", "included",
)  # fmt: skip
HELDOUT = ("target", "method", "spearman", "lowest", "highest", "by_family", "mean_loss", "models")


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """Coefficients and weights.

    Attributes:
        coefficients: one row per target, method and domain: estimate, interval (low, high), share
            of resamples in which the domain is selected, p_value (corrected for the number of
            domains), significant, models, cap of the weight, weight, included.
        heldout: one row per target and method: rank correlation of held-out models (mean, lowest
            and highest of the splits), the same with families held out, and by the mean loss.
        fingerprint: hash of the scores.
        notes: what is missing, one sentence each.
    """

    coefficients: pd.DataFrame
    heldout: pd.DataFrame
    fingerprint: str = ""
    notes: tuple[str, ...] = ()
    _weights: Mapping[tuple[str, str], dict[str, float]] = field(default_factory=dict)

    def weights_of(self, target: str, method: str) -> dict[str, float]:
        """Return domain -> weight of a target by a method."""
        return self._weights[target, method]


NO_ESTIMATES = Estimates(
    coefficients=pd.DataFrame(columns=list(COEFFICIENTS)),
    heldout=pd.DataFrame(columns=list(HELDOUT)),
)


def estimate_domains(
    options: ChooseOptions,
    scores: pd.DataFrame,
    losses: pd.DataFrame | None,
    domains: pd.DataFrame,
    pool_fingerprint: str,
) -> Estimates:
    """Estimate the coefficients of all domains for all targets.

    Args:
        options: options of the selection.
        scores: score table.
        losses: loss table of the scored models.
        domains: one row per domain of the pool with its bytes; empty without a pool.
        pool_fingerprint: fingerprint of the pool; "" without a pool.

    Raises:
        UserError: the scores belong to another pool, or a benchmark is unknown.
    """
    if pool_fingerprint:
        _check_pool(options, scores, pool_fingerprint)
    names = [name for target in options.targets for name in target.benchmarks]
    matrix = score_matrix(scores, losses, benchmarks=tuple(dict.fromkeys(names)))
    matrix = matrix.in_order_of_names()
    targets = options.targets or [Target(name=n, benchmarks=(n,)) for n in matrix.benchmarks]
    sizes = _sizes(matrix, domains, options)
    rows, heldout, weights, notes = [], [], {}, list(matrix.notes())
    for target in targets:
        mine = _of_target(matrix, target)
        for name, method in options.methods.items():
            if not isinstance(method, PerplexityCorrelations):
                continue
            try:
                found, more = _coefficients(mine, method, sizes, options)
            except UserError as error:
                raise UserError(f"target {target.name}, {name}: {error}") from error
            rows.append(found.assign(target=target.name, method=name))
            notes += more
            if found["p_value"].isna().all():
                notes.append(
                    f"{target.name}, {name}: no coefficient could be tested against chance. Score "
                    "models of several families."
                )
            elif found["included"].any() and not found["significant"].any():
                notes.append(
                    f"{target.name}, {name}: no domain has a coefficient beyond chance, so which "
                    "are included is arbitrary. Score more models, or models that differ more."
                )
            weights[target.name, name] = dict(zip(found["domain"], found["weight"], strict=True))
            heldout.append(_heldout(mine, method, sizes, options) | {"method": name})
    return Estimates(
        coefficients=pd.concat(rows, ignore_index=True).loc[:, list(COEFFICIENTS)],
        heldout=pd.DataFrame(heldout, columns=list(HELDOUT)),
        fingerprint=_fingerprint(matrix),
        notes=tuple(dict.fromkeys((*notes, *_notes(matrix, domains)))),
        _weights=weights,
    )


def _check_pool(options: ChooseOptions, scores: pd.DataFrame, fingerprint: str) -> None:
    """Raise UserError if the scores were measured on another pool."""
    pools = set(scores["pool"].dropna().astype(str)) - {""}
    if pools - {fingerprint}:
        assert options.pool is not None
        raise UserError(
            f"select.scores: measured on pool {next(iter(pools - {fingerprint}))[:12]}, but pool "
            f"{options.pool.name} is {fingerprint[:12]} now: its pages or domains were changed. "
            "Prepare and score the pool again, or restore it."
        )


def _sizes(matrix: ScoreMatrix, domains: pd.DataFrame, options: ChooseOptions) -> np.ndarray:
    """Return the bytes of each domain of the matrix; equal sizes without a pool."""
    if options.pool is None:
        return np.ones(len(matrix.domains))
    known = dict(zip(domains["domain"], domains["bytes"], strict=True))
    sizes = np.array([float(known.get(name, 0)) for name in matrix.domains])
    if not sizes.any():
        raise UserError(
            f"select.scores: none of their {len(sizes)} domains is in pool {options.pool.name}. "
            "Score this pool, or give the pool that was scored."
        )
    return sizes


def _of_target(matrix: ScoreMatrix, target: Target) -> ScoreMatrix:
    """Return the matrix with the target as its only benchmark."""
    name = target.name
    if len(target.benchmarks) > 1:
        matrix = matrix.averaged(f"target {name}", target.benchmarks)
        column = len(matrix.benchmarks) - 1
    else:
        column = matrix.benchmark(target.benchmarks[0])
    return ScoreMatrix(
        models=matrix.models,
        families=matrix.families,
        domains=matrix.domains,
        benchmarks=(name,),
        losses=matrix.losses,
        errors=matrix.errors[:, [column]],
        measures=(matrix.measures[column],),
    )


def _notes(matrix: ScoreMatrix, domains: pd.DataFrame) -> Iterator[str]:
    if domains.empty:
        return
    unscored = sorted(set(domains["domain"]) - set(matrix.domains))
    if unscored:
        yield f"Domains of the pool without scores get no weight: {', '.join(unscored)}."
    absent = sorted(set(matrix.domains) - set(domains["domain"]))
    if absent:
        yield f"Scored domains that are not in the pool get no weight: {', '.join(absent)}."


def _fingerprint(matrix: ScoreMatrix) -> str:
    digest = hashlib.sha256()
    for names in (matrix.models, matrix.families, matrix.domains, matrix.benchmarks):
        digest.update("\0".join(names).encode() + b"\1")
    for array in (matrix.losses, matrix.errors):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _coefficients(
    matrix: ScoreMatrix, method: PerplexityCorrelations, sizes: np.ndarray, options: ChooseOptions
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the rows of one target and method, and what to know about them."""
    caps = method.caps(sizes)
    found = correlate(
        matrix,
        estimator=method.estimator,
        limits=caps,
        projection=method.projection,
        negative=method.negative,
        resamples=options.resamples,
        confidence=options.confidence,
        seed=options.seed,
    )
    name = matrix.benchmarks[0]
    # Without a pool nothing is selected: the notes say which benchmark gives no weights.
    weights = {} if name in found.failures and options.pool is None else found.weights(name)
    rows = found.table.assign(
        cap=found.table["domain"].map(dict(zip(matrix.domains, caps, strict=True)))
    )
    rows["weight"] = rows["domain"].map(weights).fillna(0.0)
    return rows.assign(included=rows["weight"] > 0), found.notes


def _heldout(
    matrix: ScoreMatrix, method: PerplexityCorrelations, sizes: np.ndarray, options: ChooseOptions
) -> dict[str, object]:
    """Return a row of ``HELDOUT``; too few models or families leave a number out."""
    how = Method(
        estimator=method.estimator,
        projection=Projection(method.projection),
        negative=method.negative,
    )
    row: dict[str, object] = {"target": matrix.benchmarks[0]}
    several = len(set(matrix.families)) < len(matrix.models)
    for folds in (Folds.MODELS, Folds.FAMILIES) if several else (Folds.MODELS,):
        try:
            found = heldout_ranks(
                matrix, methods=(how,), limits=method.caps(sizes), folds=folds, seed=options.seed
            ).iloc[0]
        except UserError:  # too few; said by the missing number
            continue
        if folds is Folds.FAMILIES:
            row["by_family"] = found["spearman"]
        else:
            names = ("spearman", "lowest", "highest", "mean_loss", "models")
            row |= {name: found[name] for name in names}
    return row
