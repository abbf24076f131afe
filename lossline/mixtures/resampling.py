"""Intervals of predicted losses: laws refitted to resampled runs, and backtests of the law.

    found = resample(law, runs)
    low, high = found.interval(shares, params=1e9, tokens=2e10, level=0.9)
    goals = [loss_goal(fit, targets, params=1e9, tokens=2e10) for fit in found.fits(100)]

The form of an interval is that of ``lossline.prediction.intervals``: the variance of the refits,
plus a part that backtests set and that grows with the distance extrapolated. Here the distance is
that in N plus that in D, as a checkpoint can be beyond all sizes and yet have little compute.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from lossline.errors import UserError
from lossline.mixtures.laws import Law, LawFit, Problem, predictions
from lossline.mixtures.runs import MixtureRuns
from lossline.prediction.intervals import Spread, learn, resampled_variance, run_weights
from lossline.seeds import check_seed

Array = np.ndarray

_METRIC = "loss"  # errors are compared as logarithms
# Refits start from the fit to all runs. They stop early: the rest is far below their spread.
_ITERATIONS, _TOLERANCE = 25, 1e-4
# Backtests. Cuts: most tokens over tokens at the cut. Sizes are cut as well, and mixtures in folds.
_CUTS = (1.5, 2.0, 2.5)
_FOLDS = 4
# Fewest token counts (to 1%) that show the curvature in D: its term has three parameters.
_FEWEST_COUNTS = 4
_FEWEST_RUNS = 3


@dataclasses.dataclass(frozen=True)
class Reach:
    """Largest N and D of the fitted checkpoints."""

    params: float
    tokens: float

    @classmethod
    def of(cls, runs: MixtureRuns) -> Reach:
        """Return the reach of runs."""
        return cls(float(runs.params.max()), float(runs.tokens.max()))

    def extrapolation(self, params: Any, tokens: Any) -> Array:
        """Return N over the largest times D over the most; each factor is at least 1."""
        by_n, by_d = (
            np.asarray(params, float) / self.params,
            np.asarray(tokens, float) / self.tokens,
        )
        return np.maximum(by_n, 1.0) * np.maximum(by_d, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resampled:
    """A fit with refits to resampled runs.

    Attributes:
        fit: fit to all runs.
        samples: parameters of the refits (B, J, P).
        n_runs: number of runs.
        spreads: error beyond what the refits show, by domain (J).
        reach: largest N and D.
    """

    fit: LawFit
    samples: Array
    n_runs: int
    spreads: tuple[Spread, ...]
    reach: Reach

    def fits(self, most: int | None = None) -> list[LawFit]:
        """Return the refits as fits of their own, up to ``most`` of them."""
        return [dataclasses.replace(self.fit, theta=theta) for theta in self.samples[:most]]

    def interval(
        self,
        shares: Any,
        *,
        params: Any,
        tokens: Any,
        flops: Any | None = None,
        level: float = 0.9,
    ) -> tuple[Array, Array]:
        """Return low and high (T, J) of one more measurement; arguments as ``LawFit.predict``.

        Raises:
            UserError: the level is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise UserError(f"level must lie between 0 and 1, not {level}")
        theta = np.concatenate([self.fit.theta[None], self.samples])
        draws = predictions(self.fit, theta, shares, params, tokens, flops)
        far = np.broadcast_to(self.reach.extrapolation(params, tokens), draws.shape[1:2])
        ends = np.full((2, *draws.shape[1:]), np.nan)
        for j, spread in enumerate(self.spreads):
            variance = resampled_variance(draws[:, :, j], _METRIC, self.n_runs)
            ends[:, :, j] = spread.interval(draws[0, :, j], variance, far, level, _METRIC)
        return ends[0], ends[1]


def resample(
    law: Law,
    runs: MixtureRuns,
    *,
    fit: LawFit | None = None,
    resamples: int = 200,
    seed: int = 0,
    backtest: bool = True,
) -> Resampled:
    """Refit a law to resampled runs, and backtest it.

    Args:
        law: the law.
        runs: the runs.
        fit: the law's fit to these runs; None: it is fitted here.
        resamples: number of resamples.
        seed: seed of the resampling.
        backtest: whether backtests are made; without them a cautious guess takes their place.

    Raises:
        UserError: fewer than three runs, fewer than two resamples, or the law cannot be fitted.
    """
    check_seed(seed, "seed")
    if resamples < 2:
        raise UserError(f"resamples must be at least 2, not {resamples}")
    number = runs.run_numbers
    count = int(number.max()) + 1 if len(number) else 0
    if count < _FEWEST_RUNS:
        raise UserError(
            f"{count} runs: an interval needs at least {_FEWEST_RUNS} runs to resample. Add runs."
        )
    fit = law.fit(runs) if fit is None else fit
    weights = run_weights(count, resamples, seed)[1:, number]
    spreads = _learned(law, runs) if backtest else (Spread(),) * len(fit.domains)
    return Resampled(
        fit=fit,
        samples=refits(law, runs, fit, weights, seed=seed),
        n_runs=count,
        spreads=spreads,
        reach=Reach.of(runs),
    )


def refits(law: Law, runs: MixtureRuns, fit: LawFit, weights: Array, *, seed: int = 0) -> Array:
    """Return parameters (B, J, P) of refits under weightings (B, M) of the checkpoints.

    All start from one fit and descend together, which takes a hundredth of the time of new fits.
    Each refit draws the centers that the ridge pulls to, within the law's stated doubt: what the
    runs leave open (the exponent of N from two sizes) must not look known.

    Args:
        law: the law.
        runs: the runs.
        fit: the law's fit to them.
        weights: weightings (B, M).
        seed: seed of the centers.
    """
    problem = Problem.of(law, runs)
    count, domains = len(weights), len(fit.domains)
    asked = problem.parameters
    guesses = np.random.default_rng(seed).standard_normal((count, len(asked.center)))
    ends = problem.descend(
        np.tile(fit.theta, (count, 1)),
        np.tile(np.arange(domains), count),
        np.asarray(weights, float),
        weighting=np.repeat(np.arange(count), domains),
        center=np.repeat(asked.center + asked.doubt * guesses, domains, axis=0),
        iterations=_ITERATIONS,
        tolerance=_TOLERANCE,
    )
    return ends.theta.reshape(count, domains, -1)


def _learned(law: Law, runs: MixtureRuns) -> tuple[Spread, ...]:
    """Return each domain's error beyond the refits, from backtests."""
    errors: list[Array] = []
    far: list[Array] = []
    for within in _parts(runs):
        try:
            fit = law.fit(runs[within])
        except UserError:
            continue
        others = runs[~within]
        scale = {"params": others.params, "tokens": others.tokens}
        predicted = fit.predict(others.shares, **scale, flops=others.flops)
        with np.errstate(all="ignore"):
            errors.append(np.log(predicted / others.losses))
        far.append(Reach.of(runs[within]).extrapolation(**scale))
    if not errors:
        return (Spread(),) * len(runs.domains)
    everywhere = np.concatenate(far).tolist()
    resampled = [0.0] * len(everywhere)
    return tuple(learn(e.tolist(), resampled, everywhere) for e in np.concatenate(errors).T)


def _parts(runs: MixtureRuns) -> Iterator[Array]:
    """Yield masks (M,) of checkpoints to fit: few tokens, small sizes, most mixtures."""
    for cut in _CUTS:
        within = runs.tokens <= runs.tokens.max() / cut
        if len(np.unique(np.round(np.log(runs.tokens[within]), 2))) >= _FEWEST_COUNTS:
            yield within
    for size in np.unique(runs.params)[1:-1]:
        yield runs.params <= size
    mixtures, number = np.unique(runs.shares, axis=0, return_inverse=True)
    if len(mixtures) >= _FOLDS:
        fold = np.random.default_rng(0).permutation(len(mixtures))[number.ravel()] % _FOLDS
        for k in range(_FOLDS):
            yield fold != k
