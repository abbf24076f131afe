"""The question "prediction" for runs on mixtures: a loss at N, D and shares.

Runs of one N and D: the Gaussian process of ``mixtures.process_law``, whose posterior covariance is
exact. Runs of several: the law in shares, N and D, with its refits.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lossline.design.asked import Asked, Places, single
from lossline.design.beliefs import Belief, Moments
from lossline.design.candidates import flops_ratio, model_asked, runs_of
from lossline.design.plan import Candidate, DesignOptions, Interval, Target
from lossline.errors import UserError
from lossline.mixtures.catalogue import DEFAULT
from lossline.mixtures.laws import predictions
from lossline.mixtures.process_law import ProcessLaw
from lossline.mixtures.resampling import resample
from lossline.mixtures.runs import MixtureRuns, shares_of
from lossline.prediction.intervals import distance, resampled_variance
from lossline.tables.schema import SHARE, Unit

Array = np.ndarray

_METRIC = "loss"
_MIXTURES = 40  # of the table, at most, to choose from
_SAME_SCALE = 0.01
_STEPS = (0.0, 0.5, 1.0)  # from a mixture of the table to the one asked about


def ask_mixture(
    rows: pd.DataFrame, target: Target, candidates: Sequence[Candidate], options: DesignOptions
) -> Asked:
    """Return the question with numbers.

    Args:
        rows: measured rows of a loss table with shares.
        target: the question.
        candidates: runs to choose from; facts ``share.<component>`` are their mixtures.
        options: options of the design.

    Raises:
        UserError: the law cannot be fitted, shares or the set are not in the table, or all runs
            are of one scale and the model asked about is of another.
    """
    runs = mixture_runs(rows, target)
    metric = target.metric or str(target.unit)
    shares = shares_of(target.shares, runs.components, "target.shares")
    each = [shares_of(mixture_of(c), runs.components, "candidates") for c in candidates]
    whole = np.concatenate([shares, *each])
    model = model_asked(runs_of(rows), target)
    one = one_scale(runs)
    if model is None and not one:
        raise UserError("target: a prediction needs a model. Give params and tokens, or flops.")
    if one and model is not None:
        _check_scale(runs, model.params, model.tokens)
    law = _at_one_scale if one else _at_scales
    belief, now = law(runs, whole, model, candidates, options)
    where = ", ".join(f"{name} {share:.3g}" for name, share in target.shares.items() if share)
    size = "" if model is None else f" of {model.params:.3g} parameters, {model.tokens:.3g} tokens"
    return Asked(
        words=f"the {metric} on {target.y_set} of one more run{size} on the mixture {where}, by "
        f"{len(runs)} runs",
        unit=Unit(metric).words,
        now=now,
        belief=belief,
        choices=single(candidates),
    )


def mixture_runs(rows: pd.DataFrame, target: Target) -> MixtureRuns:
    """Return the last checkpoints of the runs with their losses on the set asked about.

    Raises:
        UserError: the table has no such set, or no loss in the target's unit on it.
    """
    metric = target.metric or str(target.unit)
    if metric not in set(map(str, Unit)):
        raise UserError(
            f"target.metric = {metric}: runs on mixtures are planned for a loss. Give loss or "
            "bits_per_byte."
        )
    return MixtureRuns.from_table(rows, domains=[(target.y_set, Unit(metric))]).last_checkpoints


def mixture_of(candidate: Candidate) -> dict[str, float]:
    """Return the shares of a candidate, by component.

    Raises:
        UserError: a share is no number.
    """
    found = {}
    for name, value in candidate.facts.items():
        if name.startswith(SHARE):
            try:
                found[name.removeprefix(SHARE)] = float(value)
            except ValueError:
                raise UserError(f"candidates: {name} = {value!r}: must be a number.") from None
    return found


def one_scale(runs: MixtureRuns) -> bool:
    """Return whether all runs have one N and one D."""
    return all(np.ptp(np.log(values)) < _SAME_SCALE for values in (runs.params, runs.tokens))


def _check_scale(runs: MixtureRuns, params: float, tokens: float) -> None:
    """Raise UserError if a model asked about is of another scale than runs of one scale."""
    for name, asked, known in (
        ("params", params, runs.params), ("tokens", tokens, runs.tokens)
    ):  # fmt: skip
        if abs(np.log(asked / known[0])) > _SAME_SCALE:
            raise UserError(
                f"target: {name} {asked:.3g}: all runs have {known[0]:.3g}, and mixtures of one "
                "scale say nothing about another. Leave the model out."
            )


def mixture_candidates(rows: pd.DataFrame, target: Target) -> list[Candidate]:
    """Return runs at the table's sizes and tokens, on the mixture asked about and towards it.

    Towards it: half way from mixtures of the table, and these mixtures themselves.
    """
    runs = mixture_runs(rows, target)
    asked = shares_of(target.shares, runs.components, "target.shares")[0]
    known = np.unique(runs.shares, axis=0)
    known = known[np.linspace(0, len(known) - 1, min(len(known), _MIXTURES)).astype(int)]
    mixtures = {
        tuple(np.round(mixture + step * (asked - mixture), 6))
        for mixture in known
        for step in _STEPS
    }
    scales = runs_of(rows)
    ratio = flops_ratio(scales)
    places = {(float(n), float(d)) for n, d in scales[["params", "tokens"]].to_numpy()}
    return [
        Candidate(
            params=n,
            tokens=d,
            flops=6.0 * ratio * n * d,
            facts={SHARE + c: f"{s:.6g}" for c, s in zip(runs.components, mixture, strict=True)},
        )
        for (n, d), mixture in itertools.product(sorted(places), sorted(mixtures))
    ]


def _at_one_scale(
    runs: MixtureRuns, shares: Array, model: Candidate | None, candidates: Sequence[Candidate],
    options: DesignOptions,
) -> tuple[Belief, Interval]:  # fmt: skip
    """Return belief and interval by the Gaussian process."""
    other = [c for c in candidates if abs(np.log(c.params / runs.params[0])) > _SAME_SCALE]
    if other or (model and abs(np.log(model.params / runs.params[0])) > _SAME_SCALE):
        raise UserError(
            f"the runs on mixtures have one size, {runs.params[0]:.3g} parameters: nothing tells "
            "about another size. Ask about this size, or add runs of another one to the table."
        )
    fit = ProcessLaw().fit(runs)
    (domain,) = fit.domains
    covariance, noise = fit.covariance(shares, domain)
    low, high = fit.intervals(shares[:1], options.level)
    value = float(fit.predict(shares[:1])[0, 0])
    belief = Belief(covariance=covariance, noise=np.full(len(candidates), noise), floor=noise)
    return belief, Interval(value=value, low=float(low[0, 0]), high=float(high[0, 0]))


def _at_scales(
    runs: MixtureRuns, shares: Array, model: Candidate | None, candidates: Sequence[Candidate],
    options: DesignOptions,
) -> tuple[Belief, Interval]:  # fmt: skip
    """Return belief and interval by the law in shares, N and D."""
    assert model is not None
    found = resample(DEFAULT(), runs, resamples=options.resamples, seed=options.seed)
    at = dataclasses.asdict(Places.of([model, *candidates]))
    theta = np.concatenate([found.fit.theta[None], found.samples])
    draws = predictions(found.fit, theta, shares, at["params"], at["tokens"], at["flops"])[:, :, 0]
    if not np.isfinite(draws[0]).all():
        raise UserError(
            "the law has no number at the target or a candidate: all runs have one size, or a "
            "share is 0 where the law has none. Add runs, or leave that mixture out."
        )
    beyond = found.reach.extrapolation(at["params"], at["tokens"])
    spread = found.spreads[0]
    moments = Moments(
        center=draws[0],
        draws=np.log(draws[1:] / draws[:1]),
        deviation=spread.deviation(resampled_variance(draws, _METRIC, found.n_runs), beyond),
        noise=np.full(len(draws[0]), spread.tau),
        distance=distance(beyond),
    )
    low, high = found.interval(
        shares[:1], params=at["params"][:1], tokens=at["tokens"][:1], flops=at["flops"][:1],
        level=options.level,
    )  # fmt: skip
    belief = Belief.of(moments, options.roughness)
    return belief, Interval(value=float(draws[0, 0]), low=float(low[0, 0]), high=float(high[0, 0]))
