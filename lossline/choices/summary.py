"""Selections as text: what ``python -m lossline.select`` prints."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from lossline.choices.files import epochs_of
from lossline.choices.options import ANY, Choice, Choices, ChooseOptions

_NAMED = 4  # domains in one line; the others are counted


def summary(found: Choices, options: ChooseOptions) -> str:
    """Return the selections as text: coefficients, one line per selection, and what to know."""
    parts = [list(_coefficients(found)), list(_lines(found, options)), list(_to_know(found))]
    return "\n\n".join("\n".join(part) for part in parts if part)


def summary_sentences(found: Choices, options: ChooseOptions) -> list[str]:
    """Return the summary without its table, as sentences."""
    lines = [*_coefficients(found), *_to_know(found)]
    return [line.removeprefix("- ") for line in lines] or [
        f"{len(found.choices)} selections of at least {options.budget:,} tokens."
    ]


def subtitle(found: Choices, options: ChooseOptions) -> str:
    """Return in one sentence what was selected from what."""
    if options.pool is None:
        return f"Coefficients of {found.coefficients['domain'].nunique()} domains, without a pool."
    return (
        f"Domains of {options.pool.name}: {len(found.domains)}. Targets: {len(options.targets)}. "
        f"Methods: {len(options.methods)}. Budget: {options.budget:,} tokens."
    )


def selection_rows(found: Choices, options: ChooseOptions) -> list[dict[str, Any]]:
    """Return one row per selection: target, method, pages, tokens, bytes, epochs, …"""
    return [
        {
            "target": choice.target or ANY,
            "method": choice.method,
            "pages": len(choice.cut.order),
            "tokens": choice.cut.tokens,
            "bytes": choice.cut.bytes,
            "epochs": epochs_of(choice, options),
            "largest": _largest(found, choice),
            "quality": quality(choice),
        }
        for choice in found.choices
    ]


def quality(choice: Choice) -> str:
    """Return the quality of the method's classifier in words; "" if it has none."""
    facts = choice.ranking.facts.get("held_out")
    if not facts:
        return ""
    return ", ".join(
        f"{words} {facts[name]:.3f}"
        for name, words in (("auc", "AUC"), ("precision", "precision"), ("recall", "recall"))
        if facts.get(name) is not None
    )


def _coefficients(found: Choices) -> Iterator[str]:
    for (target, method), rows in found.coefficients.groupby(["target", "method"], sort=False):
        included = rows[rows["included"]].sort_values("estimate", ascending=False)
        significant = int(rows["significant"].sum())
        names = ", ".join(
            f"{r.domain} {r.estimate:.2f}{_interval(r.low, r.high)}"
            for r in included.head(_NAMED).itertuples()
        )
        more = f" and {len(included) - _NAMED} more" if len(included) > _NAMED else ""
        heldout = found.heldout[
            (found.heldout["target"] == target) & (found.heldout["method"] == method)
        ]
        order, mean_loss = (
            heldout[["spearman", "mean_loss"]].iloc[0].astype(float)
            if len(heldout)
            else (math.nan, math.nan)
        )
        predicted = (
            "too few models to hold some out"
            if math.isnan(order)
            else f"rank correlation of held-out models {order:.2f}, by the mean loss of all "
            f"domains {mean_loss:.2f}"
        )
        yield (
            f"{target}, {method}: includes {names or 'no domain'}{more}; domains with a "
            f"coefficient beyond chance: {significant} of {len(rows)}; {predicted}"
        )


def _interval(low: float, high: float) -> str:
    """Return an interval in brackets; "" if too few families leave it open."""
    return "" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]"


def _lines(found: Choices, options: ChooseOptions) -> Iterator[str]:
    if not found.choices:
        return
    rows = selection_rows(found, options)
    width = max(len(f"{row['target']}/{row['method']}") for row in rows)
    yield f"Selections ({options.budget:,} tokens):"
    for row in rows:
        name = f"{row['target']}/{row['method']}"
        epochs = f"{row['epochs']:5.2f} epochs  " if row["epochs"] else ""
        yield (
            f"  {name:{width}s}  {row['pages']:>6,} pages  {row['tokens']:>10,} tokens  "
            f"{epochs}{row['largest']}"
        )


def _largest(found: Choices, choice: Choice) -> str:
    rows = found.composition
    mine = rows[
        (rows["part"] == "domain")
        & (rows["method"] == choice.method)
        & (rows["target"] == (choice.target or ANY))
    ].sort_values("share", ascending=False)
    return ", ".join(
        f"{r.level} {r.share:.0%}" for r in mine.head(_NAMED).itertuples() if r.share >= 0.005
    )


def _to_know(found: Choices) -> Iterator[str]:
    yield from (f"- {note}" for note in found.notes)
