"""From the losses of a sample of tokens to classes, shares, curves, excess loss and agreement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from lossline.token_dynamics.agreement import agreement
from lossline.token_dynamics.classes import CLASSES, Rule, classify, threshold_of
from lossline.token_dynamics.options import AnalysisOptions
from lossline.token_dynamics.resampling import DocumentBootstrap
from lossline.token_dynamics.results import RunCurves, TokenDynamics, TokenSample
from lossline.token_dynamics.selected import selected_tokens
from lossline.token_dynamics.trends import Trends, fit_trends

Array = np.ndarray

ALL = "all"  # in place of a class: all tokens
_RULES = tuple(Rule)
_LAG_TO_SAY = 0.2  # correlation of neighboring residuals that a note mentions
_UNEVEN = 1.5  # ratio of the largest to the smallest gap that a note mentions


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One run with what is derived from its losses."""

    curves: RunCurves
    trends: Trends
    classes: dict[Rule, Array]
    thresholds: dict[Rule, Array]
    excess: Array | None
    selected: Array | None

    @property
    def name(self) -> str:
        return self.curves.run


def analyze(
    sample: TokenSample,
    runs: Sequence[RunCurves],
    options: AnalysisOptions,
    *,
    reference: str = "",
    reference_nats: Array | None = None,
    notes: Sequence[str] = (),
) -> TokenDynamics:
    """Return the dynamics of a sample of tokens.

    Classes and thresholds are those of the whole sample in every resample.

    Args:
        sample: the tokens.
        runs: their losses under the checkpoints of each run.
        options: options.
        reference: run and step of the reference, in words; "" for none.
        reference_nats: losses under the reference, [N].
        notes: what to know about the measuring.
    """
    bootstrap = DocumentBootstrap(
        sample.documents,
        resamples=options.resamples,
        confidence=options.confidence,
        seed=options.seed,
    )
    analyzed = [_analyzed(curves, reference_nats, options) for curves in runs]
    return TokenDynamics(
        sample=sample,
        tokens=pd.concat([_token_rows(run, sample) for run in analyzed], ignore_index=True),
        classes=pd.DataFrame([row for run in analyzed for row in _shares(run, bootstrap)]),
        curves=pd.DataFrame([row for run in analyzed for row in _curves(run, bootstrap)]),
        excess=pd.DataFrame([row for run in analyzed for row in _excess(run, bootstrap)]),
        agreement=pd.DataFrame(_agreements(analyzed, bootstrap)),
        runs=pd.DataFrame([_run_row(run) for run in analyzed]),
        reference=reference,
        notes=(*notes, *(note for run in analyzed for note in _notes(run))),
    )


def _analyzed(curves: RunCurves, reference: Array | None, options: AnalysisOptions) -> _Run:
    trends = fit_trends(curves.nats)
    thresholds = {rule: threshold_of(rule, trends, options) for rule in _RULES}
    excess = None if reference is None else curves.nats - reference
    return _Run(
        curves=curves,
        trends=trends,
        classes={rule: classify(trends, thresholds[rule]) for rule in _RULES},
        thresholds=thresholds,
        excess=excess,
        selected=None if excess is None else selected_tokens(excess, options.share),
    )


def _token_rows(run: _Run, sample: TokenSample) -> pd.DataFrame:
    names = np.array(CLASSES)
    nothing = np.full(len(sample.positions), np.nan, np.float32)
    return pd.DataFrame(
        {
            "run": run.name,
            "window": sample.windows,
            "document": sample.documents,
            "position": sample.positions,
            "token_id": sample.token_ids,
            "text": _texts(sample),
            "slope": run.trends.slope,
            "change": run.trends.change,
            "error": run.trends.error,
            "threshold_noise": run.thresholds[Rule.NOISE],
            **{f"class_{rule.value}": names[run.classes[rule]] for rule in _RULES},
            "nats_first": run.curves.nats[0],
            "nats_last": run.curves.nats[-1],
            "mean_excess": nothing if run.excess is None else run.excess.mean(axis=0),
            "selection_frequency": nothing if run.selected is None else run.selected.mean(axis=0),
        }
    )


def _texts(sample: TokenSample) -> Array | None:
    """Return the text of each token; bytes that are no UTF-8 by themselves as escapes (\\xc3)."""
    if sample.pieces is None:
        return None
    ids, place = np.unique(sample.token_ids, return_inverse=True)
    texts = [sample.pieces[token].decode("utf-8", errors="backslashreplace") for token in ids]
    return np.array(texts, object)[place]


def _members(run: _Run, rule: Rule) -> Array:
    """Return whether each token is in each class, float64 [N, classes]."""
    return (run.classes[rule][:, None] == np.arange(len(CLASSES))).astype(np.float64)


def _members_and_all(run: _Run, rule: Rule) -> Array:
    members = _members(run, rule)
    return np.concatenate([members, np.ones((len(members), 1))], axis=1)


def _shares(run: _Run, bootstrap: DocumentBootstrap) -> Iterator[dict[str, Any]]:
    for rule in _RULES:
        members = _members(run, rule)
        found = bootstrap.ratios(members, np.ones((len(members), 1)))
        counts = members.sum(axis=0).astype(int)
        low, high = np.clip([found.low, found.high], 0, 1)
        for place, name in enumerate(CLASSES):
            yield {
                "run": run.name, "rule": rule.value, "class": name, "share": found.value[place],
                "low": low[place], "high": high[place], "tokens": counts[place],
            }  # fmt: skip


def _curves(run: _Run, bootstrap: DocumentBootstrap) -> Iterator[dict[str, Any]]:
    curves = run.curves
    for rule in _RULES:
        members = _members_and_all(run, rule)
        for number, name in enumerate((*CLASSES, ALL)):
            member = members[:, number : number + 1]
            found = bootstrap.ratios(member * curves.nats.T, member)
            for place, (step, tokens) in enumerate(zip(curves.steps, curves.tokens, strict=True)):
                yield {
                    "run": run.name, "rule": rule.value, "class": name, "step": step,
                    "tokens": tokens, "nats": found.value[place],
                    "low": np.maximum(found.low[place], 0), "high": found.high[place],
                }  # fmt: skip


def _excess(run: _Run, bootstrap: DocumentBootstrap) -> Iterator[dict[str, Any]]:
    if run.excess is None or run.selected is None:
        return
    mean, selected = run.excess.mean(axis=0), run.selected.mean(axis=0)
    for rule in _RULES:
        members = _members_and_all(run, rule)
        columns = np.stack([mean, run.excess[0], run.excess[-1], selected], axis=1)
        for number, name in enumerate((*CLASSES, ALL)):
            member = members[:, number : number + 1]
            found = bootstrap.ratios(member * columns, member)
            yield {
                "run": run.name, "rule": rule.value, "class": name, "excess": found.value[0],
                "low": found.low[0], "high": found.high[0], "first": found.value[1],
                "last": found.value[2], "selection_frequency": found.value[3],
            }  # fmt: skip


def _agreements(runs: Sequence[_Run], bootstrap: DocumentBootstrap) -> list[dict[str, Any]]:
    """Return the agreement of every two runs under each rule, and of the two rules in each run."""
    rows = []
    pairs = [
        (f"{one.name} and {other.name}", rule.value, one.classes[rule], other.classes[rule])
        for rule in _RULES
        for one, other in combinations(runs, 2)
    ]
    pairs += [
        (run.name, "fixed and noise", run.classes[Rule.FIXED], run.classes[Rule.NOISE])
        for run in runs
    ]
    for what, rule, first, second in pairs:
        found = agreement(first, second, bootstrap)
        low, high = np.maximum(found.low, [0, -1]), np.minimum(found.high, 1)
        row = {"runs": what, "rule": rule}
        for place, name in enumerate(("agreed", "kappa")):
            row |= {
                name: found.value[place],
                f"{name}_low": low[place],
                f"{name}_high": high[place],
            }
        rows.append(row)
    return rows


def _run_row(run: _Run) -> dict[str, Any]:
    steps = run.curves.steps
    return {
        "run": run.name, "checkpoints": len(steps), "first_step": steps[0], "last_step": steps[-1],
        "mean_last": run.trends.last.mean(), "lag": run.trends.lag,
        "noise_median": np.median(run.thresholds[Rule.NOISE]),
    }  # fmt: skip


def _notes(run: _Run) -> Iterator[str]:
    gaps = np.diff(run.curves.steps)
    if gaps.max() > _UNEVEN * gaps.min():
        yield (
            f"{run.name}: checkpoints are {gaps.min():,} to {gaps.max():,} steps apart, and a "
            "slope is per checkpoint. Name evenly spaced ones in dynamics.steps to compare with "
            "the published shares."
        )
    if run.trends.lag > _LAG_TO_SAY:
        yield (
            f"{run.name}: neighboring checkpoints deviate from the lines alike (correlation "
            f"{run.trends.lag:.2f} above independent noise): losses are curved, or checkpoints are "
            "close together. The noise rule then has another rate of false positives than the "
            "stated one."
        )
