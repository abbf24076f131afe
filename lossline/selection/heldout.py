"""Does a selection know better models? Predict the order of models that were left out.

Coefficients and weights are estimated on some models; each other model is predicted by the weighted
mean of its losses, or of the places of its losses among the models that were used. Predictions of
all folds together are compared with the measured errors by Spearman's correlation. This is the test
of the paper (Thrush et al., arXiv 2409.05816): it needs no training.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.seeds import check_seed
from lossline.selection.estimators import as_assumed, check_estimator, estimate
from lossline.selection.matrices import ScoreMatrix
from lossline.selection.projection import Projection, caps, check, fill

Array = np.ndarray


class Predictor(enum.StrEnum):
    """What is averaged over the selected domains to predict a model."""

    LOSSES = "losses"
    PLACES = "places"  # share of the models used that have a lower loss on the domain


class Folds(enum.StrEnum):
    """What is left out together."""

    MODELS = "models"
    FAMILIES = "families"  # harder: no model of the same family helps to predict one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """How models are predicted.

    Attributes:
        estimator: one of ``ESTIMATORS``.
        predictor: what is averaged.
        projection: how coefficients become weights.
        negative: whether domains with coefficients of 0 or below may get weight.
    """

    estimator: str = "sign"
    predictor: Predictor = Predictor.LOSSES
    projection: Projection = Projection.LINEAR
    negative: bool = False

    def __str__(self) -> str:
        """Return the method in words."""
        return f"{self.estimator}, {self.projection}, {self.predictor}"


PUBLISHED = Method()
"""The published procedure: the sign estimator and the weighted mean of bits per byte.

Its published correlations come back with a largest weight of 0.1, so ten documents of 263.
"""

CANDIDATES = tuple(
    Method(estimator=estimator, predictor=predictor)
    for estimator, predictor in itertools.product(
        ("sign", "sign_cdf", "sign_sign", "spearmanr"), Predictor
    )
)
"""Methods that ``heldout_ranks`` chooses from."""


def heldout_ranks(
    matrix: ScoreMatrix,
    *,
    methods: Sequence[Method] = CANDIDATES,
    limits: Array | None = None,
    folds: Folds | str = Folds.MODELS,
    parts: int = 5,
    splits: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """Return how well the order of left-out models is predicted, per benchmark.

    With several methods, each fold uses the one that predicts best when the models of the other
    folds are split once more (nested cross-validation): the models that are left out never decide.
    Folds may then use different methods, so a prediction becomes its place, interpolated, among the
    same prediction of the models used.

    Args:
        matrix: losses and errors.
        methods: method, or methods to choose from.
        limits: largest weight of each domain (D,). None: a tenth of equally large domains.
        folds: what is left out together.
        parts: number of folds.
        splits: number of random splits into folds.
        seed: seed of the splits.

    Returns:
        One row per benchmark: "benchmark"; "spearman", the mean over the splits, with "lowest" and
        "highest"; "mean_loss", the same for the unweighted mean of all domains; "method", the one
        used most often, and "share", how often; "folds", "models" and "splits".

    Raises:
        UserError: an option is out of range, or a benchmark has too few models or families.
    """
    check_seed(seed, "seed")
    if not methods:
        raise UserError("held-out ranks: give at least one method.")
    for method in methods:
        check_estimator(method.estimator)
    if limits is None:
        limits = caps(np.ones(len(matrix.domains)))
    check(np.zeros(len(matrix.domains)), limits, Projection.LINEAR)
    if splits < 1 or parts < 2:
        raise UserError(f"splits = {splits}, parts = {parts}: at least 1 and 2 are needed.")
    rows = [
        _benchmark(matrix, name, tuple(methods), limits, Folds(folds), parts, splits, seed)
        for name in matrix.benchmarks
    ]
    return pd.DataFrame(rows)


def _benchmark(
    matrix: ScoreMatrix,
    name: str,
    methods: Sequence[Method],
    limits: Array,
    folds: Folds,
    parts: int,
    splits: int,
    seed: int,
) -> dict[str, object]:
    errors = matrix.errors[:, matrix.benchmark(name)]
    known = ~np.isnan(errors)
    losses, errors = matrix.losses[known], errors[known]
    units = np.arange(len(errors))
    if folds is Folds.FAMILIES:
        families = np.asarray(matrix.families)[known]
        _, units = np.unique(families, return_inverse=True)
    if (count := len(np.unique(units))) < 2 * parts:
        raise UserError(
            f"held-out ranks: benchmark {name!r} has {count} {folds}, but {parts} folds need "
            f"{2 * parts}. Score more models, or leave out {Folds.MODELS}."
        )
    scores, baseline = [], []
    used: list[Method] = []
    for split in range(splits):
        rng = np.random.default_rng([seed, split])
        predicted, plain = np.full((2, len(errors)), np.nan)
        for rest in _folds(units, parts, rng):
            inside, outside = losses[~rest], losses[rest]
            if len(methods) == 1:
                used += methods
                predicted[rest] = predict(methods[0], inside, errors[~rest], outside, limits)
            else:
                used.append(_best(methods, inside, errors[~rest], units[~rest], limits, parts, rng))
                both = predict(used[-1], inside, errors[~rest], losses, limits)
                predicted[rest] = _place(both[rest], both[~rest])
            plain[rest] = _average(outside, np.ones(losses.shape[1]))
        scores.append(rank_correlation(predicted, errors))
        baseline.append(rank_correlation(plain, errors))
    most = max(methods, key=used.count)
    return {
        "benchmark": name,
        "spearman": float(np.mean(scores)),
        "lowest": float(np.min(scores)),
        "highest": float(np.max(scores)),
        "mean_loss": float(np.mean(baseline)),
        "method": str(most),
        "share": used.count(most) / len(used),
        "folds": str(folds),
        "models": len(errors),
        "splits": splits,
    }


def predict(method: Method, losses: Array, errors: Array, left_out: Array, limits: Array) -> Array:
    """Return predictions (m,) of left-out models: higher is worse, only their order has a meaning.

    Args:
        method: how.
        losses: (n, D) of the models to use, NaN where missing.
        errors: their errors (n,).
        left_out: losses (m, D) of the others.
        limits: largest weights (D,).
    """
    assumed = as_assumed(losses, errors[:, None], method.estimator)
    coefficients = estimate(*assumed, method.estimator)[:, 0]
    weights = fill(coefficients, limits, method.projection, negative=method.negative)
    chosen = np.flatnonzero(weights)
    values = left_out[:, chosen]
    if method.predictor is Predictor.PLACES:
        values = _places(losses[:, chosen], values)
    return _average(values, weights[chosen])


def rank_correlation(one: Array, other: Array) -> float:
    """Return Spearman's correlation of two columns, without missing values; NaN if constant."""
    known = ~np.isnan(one) & ~np.isnan(other)
    return float(estimate(one[known][:, None], other[known][:, None], "spearmanr")[0, 0])


def _best(
    methods: Sequence[Method],
    losses: Array,
    errors: Array,
    units: Array,
    limits: Array,
    parts: int,
    rng: np.random.Generator,
) -> Method:
    """Return the method that predicts these models best when they are split once more."""
    inner = list(_folds(units, parts, rng))
    scores = []
    for method in methods:
        predicted = np.full(len(errors), np.nan)
        for rest in inner:
            predicted[rest] = predict(method, losses[~rest], errors[~rest], losses[rest], limits)
        scores.append(rank_correlation(predicted, errors))
    return methods[int(np.argmax(np.nan_to_num(scores, nan=-1.0)))]


def _folds(units: Array, parts: int, rng: np.random.Generator) -> Iterator[Array]:
    """Yield masks (n,) of what is left out; models of one unit are left out together."""
    _, number = np.unique(units, return_inverse=True)
    fold = rng.permutation(int(number.max()) + 1)[number] % parts
    for part in range(parts):
        yield fold == part


def _places(used: Array, values: Array) -> Array:
    """Return the share of used models (n, d) below each value (m, d), ties as a half."""
    below = (used[None] < values[:, None]).sum(axis=1)
    equal = (used[None] == values[:, None]).sum(axis=1)
    known = (~np.isnan(used)).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.isnan(values), np.nan, (below + equal / 2) / known)


def _place(values: Array, used: Array) -> Array:
    """Return the place of values (m,) among those of the models used (n,), 0 to 1, interpolated."""
    ordered = np.sort(used[~np.isnan(used)])
    places = (np.arange(len(ordered)) + 0.5) / max(len(ordered), 1)
    return np.interp(values, ordered, places) if len(ordered) else np.full(len(values), np.nan)


def _average(values: Array, weights: Array) -> Array:
    """Return weighted means of the rows (m, d), without missing values; NaN if nothing is left."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, values, 0) @ weights / (known @ weights)
