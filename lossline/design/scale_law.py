"""The law of scale of one evaluation set, as ``lossline.predict`` fits it, at any models."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from lossline.design.asked import Places
from lossline.design.beliefs import Moments
from lossline.design.plan import DesignOptions
from lossline.errors import UserError
from lossline.prediction.backtest import backtest
from lossline.prediction.intervals import (
    Spread,
    distance,
    resampled_variance,
    run_weights,
    to_scale,
)
from lossline.prediction.methods import DEFAULT, FittedMethod, Refusal, fit_method, named
from lossline.prediction.observations import observe
from lossline.prediction.options import BelowChance, PredictOptions
from lossline.prediction.predict import rows_to_use
from lossline.prediction.results import Target, TargetKind

Array = np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaleLaw:
    """The default method of ``prediction``, fitted to one set.

    Attributes:
        fit: the fitted method and its resamples.
        spread: errors beyond the resamples, from backtests.
        metric: metric of the set.
        smallest: smallest C of the fitted runs, FLOPs.
        largest: largest C.
        runs: number of fitted runs.
    """

    fit: FittedMethod
    spread: Spread
    metric: str
    smallest: float
    largest: float
    runs: int

    @classmethod
    def of(
        cls, rows: pd.DataFrame, eval_set: str, metric: str, options: DesignOptions,
        *, tested: bool = True,
    ) -> ScaleLaw:  # fmt: skip
        """Fit the law.

        Args:
            rows: rows of a loss table, the runs to fit.
            eval_set: evaluation set.
            metric: "loss", "bits_per_byte" or "accuracy".
            options: resamples and seed.
            tested: whether backtests are made, for intervals.

        Raises:
            UserError: the set is not measured, or the runs do not determine the law.
        """
        asked = PredictOptions(tasks=(eval_set,), metric=metric, group_by=())
        seen = observe(rows_to_use(rows, asked), asked)[eval_set]
        if seen.problem:
            raise UserError(f"{eval_set}: {seen.problem}")
        method = named((DEFAULT,), metric, asked.emergence)[DEFAULT]
        weights = run_weights(len(seen.names), options.resamples, options.seed)
        found = fit_method(method, seen, weights, below_chance=BelowChance.PREDICT)
        if isinstance(found, Refusal):
            raise UserError(f"{eval_set}: no law of scale to design for: {found.reason}.")
        spread = Spread()
        if tested:
            spread = backtest({eval_set: seen}, {DEFAULT: method}).spread(DEFAULT, eval_set)
        return cls(
            fit=found,
            spread=spread,
            metric=metric,
            smallest=float(seen.run_flops.min()),
            largest=float(seen.run_flops.max()),
            runs=len(seen.names),
        )

    def at(self, places: Places) -> Moments:
        """Return the law at models, on the scale of ``to_scale``."""
        values = self.fit.predict(_models(places))
        moved = to_scale(values[1:], self.metric) - to_scale(values[:1], self.metric)
        variance = resampled_variance(values, self.metric, self.runs)
        above, below = distance(places.flops / self.largest), distance(self.smallest / places.flops)
        # The law is as wrong below the fitted runs as above them; backtests show the latter.
        return Moments(
            center=values[0],
            draws=np.where(np.isfinite(moved), moved, 0.0),
            deviation=self.spread.deviation(variance, 10.0 ** (above + below)),
            noise=np.full(len(values[0]), self.spread.tau),
            distance=above - below,
        )

    def interval(self, place: Places, level: float) -> tuple[float, float]:
        """Return low and high of the first place, natural units."""
        beyond, values = place.flops / self.largest, self.fit.predict(_models(place))
        variance = resampled_variance(values, self.metric, self.runs)
        low, high = self.spread.interval(values[0], variance, beyond, level, self.metric)
        return float(low[0]), float(high[0])


def _models(places: Places) -> list[Target]:
    """Return the models as targets of ``prediction``."""
    return [
        Target(name="", kind=TargetKind.PROJECTION, params=n, tokens=d, flops=c)
        for n, d, c in zip(places.params, places.tokens, places.flops, strict=True)
    ]
