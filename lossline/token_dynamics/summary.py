"""Token dynamics as text: what ``python -m lossline.dynamics`` prints."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from lossline.token_dynamics.classes import CLASSES, PUBLISHED_SHARES, Rule
from lossline.token_dynamics.options import AnalysisOptions
from lossline.token_dynamics.results import TokenDynamics

PUBLISHED = "TinyLlama 1.1B on OpenWebMath, arXiv 2404.07965"


def summary(found: TokenDynamics, options: AnalysisOptions) -> str:
    """Return the results as text: the sample, classes of each run, agreement, what to know."""
    parts = [
        [subtitle(found)],
        [f"  {line}" for line in _shares(found, options)],
        [*_excess(found, options), *_agreement(found)],
        [f"- {note}" for note in found.notes],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def summary_sentences(found: TokenDynamics, options: AnalysisOptions) -> list[str]:
    """Return classes and notes as sentences, for the head of the report; tables have the rest."""
    return [*_shares(found, options), *found.notes]


def subtitle(found: TokenDynamics) -> str:
    """Return in one sentence what was followed."""
    sample = found.sample
    runs = found.runs["run"].tolist()
    what = runs[0] if len(runs) == 1 else f"{len(runs)} runs"
    return (
        f"{len(sample.positions):,} tokens of {sample.store} in "
        f"{pd.unique(sample.documents).size:,} documents, followed over "
        f"{_range(found.runs['checkpoints'])} checkpoints of {what}."
    )


def rule_words(rule: str, options: AnalysisOptions) -> str:
    """Return a rule in words, with its threshold."""
    if rule == Rule.FIXED.value:
        return f"threshold {options.threshold:g} nats"
    return f"threshold scaled to noise ({options.false_positives:.3g} false positives)"


def _shares(found: TokenDynamics, options: AnalysisOptions) -> Iterator[str]:
    for (run, rule), rows in found.classes.groupby(["run", "rule"], sort=False):
        shares = ", ".join(
            f"{row['class']} {_percent(row.share, row.low, row.high)}" for _, row in rows.iterrows()
        )
        yield f"{run}, {rule_words(str(rule), options)}: {shares}."
    published = ", ".join(
        f"{name} {100 * share:.0f}%" for name, share in zip(CLASSES, PUBLISHED_SHARES, strict=True)
    )
    yield f"Published, threshold 0.2 nats: {published} ({PUBLISHED})."


def _excess(found: TokenDynamics, options: AnalysisOptions) -> Iterator[str]:
    if found.excess.empty:
        return
    rows = found.excess[found.excess["rule"] == Rule.NOISE.value]
    for run, part in rows.groupby("run", sort=False):
        shown = ", ".join(
            f"{row['class']} {row.excess:.3f} nats, in {100 * row.selection_frequency:.0f}% of the "
            "selections"
            for _, row in part.iterrows()
            if not math.isnan(row.excess)
        )
        yield (
            f"{run}, mean excess loss over {found.reference}, classes scaled to noise: {shown}. A "
            f"selection takes {100 * options.share:g}% of the tokens."
        )


def _agreement(found: TokenDynamics) -> Iterator[str]:
    for row in found.agreement.itertuples():
        kappa = "undefined" if math.isnan(row.kappa) else f"{row.kappa:.2f}"
        if not math.isnan(row.kappa_low):
            kappa += f" [{row.kappa_low:.2f}, {row.kappa_high:.2f}]"
        subject = f"{row.runs}, classes by {_rule_names(row.rule)}"
        yield f"{subject}: {100 * row.agreed:.0f}% of the tokens agree, kappa {kappa}."


def _rule_names(rule: str) -> str:
    return {
        Rule.FIXED.value: "the fixed threshold",
        Rule.NOISE.value: "the noise threshold",
    }.get(rule, "the two thresholds")


def _percent(value: float, low: float, high: float) -> str:
    shown = f"{100 * value:.1f}%"
    return shown if math.isnan(low) else f"{shown} [{100 * low:.1f}, {100 * high:.1f}]"


def _range(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high}"
