"""Intervals of predicted losses: runs are resampled, and doubt grows with the distance.

    spread = resample(law, runs)
    low, high = spread.interval(shares, params=1e9, tokens=2e10, level=0.9)

Three parts add up, as variances of the log loss:

1. the law: it is refitted to runs drawn with replacement. Each refit also draws the centers that
   the ridge pulls to, within the law's stated doubt about them: what the runs leave open (the
   exponent of N from two sizes) must not look known;
2. one more measurement: the residuals of the fit;
3. the form: an error that grows in proportion to the distance from the fitted runs, log(N / largest
   N) + log(D / most tokens), each at least 0. Its size comes from rolling backtests: the law is
   fitted below several cuts in D and N, and judged beyond them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import stats

from lossline.errors import UserError
from lossline.mixtures.laws import Law, LawFit, Problem, predictions
from lossline.mixtures.runs import MixtureRuns
from lossline.seeds import check_seed

Array = np.ndarray

# Refits start from the fit to all runs. They stop early: the rest is far below their spread.
_ITERATIONS, _TOLERANCE = 25, 1e-4
# Cuts of the rolling backtests: most tokens over tokens at the cut. Sizes are cut as well.
_CUTS = (1.5, 2.0, 2.5)
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

    def distance(self, params: Any, tokens: Any) -> Array:
        """Return log N beyond the largest plus log D beyond the most, each at least 0."""
        by_n, by_d = (
            np.asarray(params, float) / self.params,
            np.asarray(tokens, float) / self.tokens,
        )
        return np.log(np.maximum(by_n, 1.0)) + np.log(np.maximum(by_d, 1.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """A fit with refits to resampled runs.

    Attributes:
        fit: fit to all runs.
        samples: parameters of the refits (B, J, P).
        n_runs: number of runs G.
        inflation: factor of the refits' deviations, because a fit is closer to its own data than to
            the truth.
        growth: standard deviation of the log error per unit of distance (J,); NaN if no backtest
            was possible.
        reach: largest N and D.
        seed: seed of the resampling.
    """

    fit: LawFit
    samples: Array
    n_runs: int
    inflation: float
    growth: Array
    reach: Reach
    seed: int

    def fits(self, most: int | None = None) -> list[LawFit]:
        """Return the refits as fits of their own, up to ``most`` of them."""
        return [dataclasses.replace(self.fit, theta=theta) for theta in self.samples[:most]]

    def predict(self, shares: Any, *, params: Any, tokens: Any, flops: Any | None = None) -> Array:
        """Return the losses (B, T, J) that the refits predict; arguments as ``LawFit.predict``."""
        return predictions(self.fit, self.samples, shares, params, tokens, flops)

    def deviation(
        self, shares: Any, *, params: Any, tokens: Any, flops: Any | None = None
    ) -> Array:
        """Return the standard deviation of the log loss of one more measurement (T, J)."""
        with np.errstate(all="ignore"):
            center = np.log(self.fit.predict(shares, params=params, tokens=tokens, flops=flops))
            draws = np.log(self.predict(shares, params=params, tokens=tokens, flops=flops))
            law = self.inflation**2 * np.mean((draws - center) ** 2, axis=0)
        beyond = np.broadcast_to(self.reach.distance(params, tokens), (len(center),))
        form = np.nan_to_num(self.growth) * beyond[:, None]
        return np.sqrt(law + (self.inflation * self.fit.scatter) ** 2 + form**2)

    def interval(
        self,
        shares: Any,
        *,
        params: Any,
        tokens: Any,
        flops: Any | None = None,
        level: float = 0.9,
    ) -> tuple[Array, Array]:
        """Return low and high (T, J) of one more measurement.

        Raises:
            UserError: the level is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise UserError(f"level must lie between 0 and 1, not {level}")
        center = self.fit.predict(shares, params=params, tokens=tokens, flops=flops)
        width = self.deviation(shares, params=params, tokens=tokens, flops=flops)
        factor = np.exp(stats.t.ppf((1 + level) / 2, self.n_runs - 1) * width)
        return center / factor, center * factor


def resample(
    law: Law,
    runs: MixtureRuns,
    *,
    fit: LawFit | None = None,
    resamples: int = 200,
    seed: int = 0,
    backtest: bool = True,
) -> Spread:
    """Refit a law to resampled runs.

    Args:
        law: the law.
        runs: the runs.
        fit: the law's fit to these runs; None: it is fitted here.
        resamples: number of resamples.
        seed: seed of the resampling.
        backtest: whether the growth with distance is measured; it costs three more fits.

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
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)[:, number]
    size = fit.theta.shape[1]
    return Spread(
        fit=fit,
        samples=_refits(
            law, runs, fit, drawn.astype(float), rng.standard_normal((resamples, size))
        ),
        n_runs=count,
        inflation=_inflation(count, len(runs), size),
        growth=_growth(law, runs) if backtest else np.full(len(fit.domains), np.nan),
        reach=Reach.of(runs),
        seed=seed,
    )


def _refits(law: Law, runs: MixtureRuns, fit: LawFit, weights: Array, guesses: Array) -> Array:
    """Return parameters (B, J, P) of the refits under weightings (B, M).

    Args:
        law: the law.
        runs: the runs.
        fit: the fit to all runs, where all refits start.
        weights: weightings (B, M).
        guesses: normal deviates for the ridge's centers (B, P); all domains share them.
    """
    problem = Problem.of(law, runs)
    count, domains = len(weights), len(fit.domains)
    asked = problem.parameters
    ends = problem.descend(
        np.tile(fit.theta, (count, 1)),
        np.tile(np.arange(domains), count),
        weights,
        weighting=np.repeat(np.arange(count), domains),
        center=np.repeat(asked.center + asked.doubt * guesses, domains, axis=0),
        iterations=_ITERATIONS,
        tolerance=_TOLERANCE,
    )
    return ends.theta.reshape(count, domains, -1)


def _growth(law: Law, runs: MixtureRuns) -> Array:
    """Return the standard deviation of the log error per unit of distance (J,).

    Squares are added over all checkpoints beyond all cuts, less the part that the fit's own
    residuals explain. All domains are pooled half and half with each one.
    """
    squares, steps = np.zeros(len(runs.domains)), np.zeros(len(runs.domains))
    for within in _cuts(runs):
        try:
            fit = law.fit(runs[within])
        except UserError:
            continue
        beyond = runs[~within]
        scale = {"params": beyond.params, "tokens": beyond.tokens}
        predicted = fit.predict(beyond.shares, **scale, flops=beyond.flops)
        with np.errstate(all="ignore"):
            error = np.log(predicted / beyond.losses)
        known = np.isfinite(error)
        far = Reach.of(runs[within]).distance(**scale)[:, None] * known
        squares += np.maximum(np.where(known, error**2, 0.0) - known * fit.scatter**2, 0).sum(
            axis=0
        )
        steps += (far**2).sum(axis=0)
    if not steps.any():
        return np.full(len(runs.domains), np.nan)
    pooled = squares.sum() / steps.sum()
    own = np.divide(squares, steps, out=np.full(len(steps), pooled), where=steps > 0)
    return np.sqrt(0.5 * (own + pooled))


def _cuts(runs: MixtureRuns) -> Iterator[Array]:
    """Yield masks (M,) of checkpoints to fit: few tokens, or small sizes (two at least)."""
    for cut in _CUTS:
        within = runs.tokens <= runs.tokens.max() / cut
        if len(np.unique(np.round(np.log(runs.tokens[within]), 2))) >= _FEWEST_COUNTS:
            yield within
    for size in np.unique(runs.params)[1:-1]:
        yield runs.params <= size


def _inflation(runs: int, points: int, size: int) -> float:
    """Return sqrt(G / (G - 1) (n - 1) / (n - p)), as ``lossline.laws.bootstrap`` does."""
    return float(np.sqrt(runs / (runs - 1) * (points - 1) / max(1, points - size)))
