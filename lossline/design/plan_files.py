"""A plan of next runs in sentences, and as files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lossline.design.plan import Candidate, Pick, Plan
from lossline.files import write_json
from lossline.results_folder import ResultsFolder

PLAN_FOLDER = ResultsFolder(verb="next_runs")
_HEADER = ("run", "N", "D", "FLOPs", "data", "half width after", "share of the gain")


def sentences(plan: Plan) -> list[str]:
    """Return the question, its interval now and after the picks, and how many would halve it."""
    now = plan.now
    said = [
        f"Question: {plan.question}",
        f"Now: {now.value:.4g} {plan.unit}, interval [{now.low:.4g}, {now.high:.4g}], "
        f"half width {now.half_width:.3g}.",
    ]
    if plan.picks:
        last = plan.picks[-1].half_width
        spent = sum(pick.candidate.flops for pick in plan.picks)
        runs = "this run" if len(plan.picks) == 1 else f"these {len(plan.picks)} runs"
        said.append(
            f"After {runs} ({spent:.3g} FLOPs): expected half width {last:.3g}, "
            f"{1 - last / now.half_width:.0%} less."
        )
    return [*said, _halving(plan)]


def _halving(plan: Plan) -> str:
    if plan.halving is None:
        return f"Halving the interval: out of reach. {plan.halving_reason}".strip()
    runs = "1 such run halves" if plan.halving == 1 else f"{plan.halving} such runs halve"
    return f"{runs} the interval. {plan.halving_reason}".strip()


def summary(plan: Plan) -> str:
    """Return the plan as text: question, interval, picks as a table, notes."""
    lines = [*sentences(plan), "", *_table(plan.picks)]
    if plan.notes:
        lines += ["", "Notes:", *(f"- {note}" for note in plan.notes)]
    return "\n".join(lines)


def _table(picks: Sequence[Pick]) -> list[str]:
    if not picks:
        return ["No run within the budget narrows the interval."]
    rows = [_HEADER, *(_row(number, pick) for number, pick in enumerate(picks, start=1))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
    data = _HEADER.index("data")
    return [
        "  ".join(
            text.ljust(width) if column == data else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _row(number: int, pick: Pick) -> tuple[str, ...]:
    run = pick.candidate
    return (
        str(number), f"{run.params:.3g}", f"{run.tokens:.3g}", f"{run.flops:.3g}", facts_text(run),
        f"{pick.half_width:.3g}", f"{pick.share:.0%}",
    )  # fmt: skip


def facts_text(run: Candidate) -> str:
    """Return the facts that place a run, such as its pretraining data, as text."""
    return ", ".join(map(str, run.facts.values())) or "any"


def pick_table(plan: Plan) -> pd.DataFrame:
    """Return one row per pick, in order: N, D, FLOPs, facts, and what it is expected to do."""
    return pd.DataFrame(list(_records(plan.picks)))


def _records(picks: Sequence[Pick]) -> Iterator[dict[str, Any]]:
    spent = 0.0
    for number, pick in enumerate(picks, start=1):
        run = pick.candidate
        spent += run.flops
        yield {
            "order": number, "params": run.params, "tokens": run.tokens, "flops": run.flops,
            **run.facts, "flops_spent": spent, "half_width_after": pick.half_width,
            "share_of_gain": pick.share, "gain_per_flop": pick.per_flop,
        }  # fmt: skip


def save_plan(
    plan: Plan,
    folder: Path,
    *,
    grid: str,
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write picks.csv, candidates.csv, grid.gin and plan.json.

    Args:
        plan: the plan.
        folder: an existing folder.
        grid: gin text of a study of the picks.
        settings: options of the plan.
        provenance: origin of the numbers.
    """
    pick_table(plan).to_csv(folder / "picks.csv", index=False)
    plan.candidates.to_csv(folder / "candidates.csv", index=False)
    (folder / "grid.gin").write_text(grid, encoding="utf-8")
    now = plan.now
    write_json(
        folder / "plan.json",
        {
            "question": plan.question,
            "unit": plan.unit,
            "now": {
                "value": now.value, "low": now.low, "high": now.high, "half_width": now.half_width,
            },
            "picks": list(_records(plan.picks)),
            "largest_first": list(_records(plan.largest_first)),
            "runs_to_halve": plan.halving,
            "halving_reason": plan.halving_reason,
            "notes": list(plan.notes),
            "settings": dict(settings),
            "provenance": dict(provenance or {}),
        },
    )  # fmt: skip
