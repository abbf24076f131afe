"""Which run next: the plan of a question about a loss table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from lossline.design.asked import Asked
from lossline.design.beliefs import Belief
from lossline.design.candidates import lattice, runs_of
from lossline.design.lines import ask_line
from lossline.design.picking import Limits, choose, largest_first, runs_to_halve
from lossline.design.plan import Candidate, DesignOptions, Pick, Plan, Question, Target
from lossline.design.predictions import ask_prediction
from lossline.errors import UserError
from lossline.tables.continued import left_out_of_laws
from lossline.tables.schema import Status
from lossline.terminal import Say, silent

Array = np.ndarray
Ask = Callable[[pd.DataFrame, Target, Sequence[Candidate], DesignOptions], Asked]

_ASK: dict[Question, Ask] = {
    Question.LINE: ask_line,
    Question.PREDICTION: ask_prediction,
}


def propose(
    table: pd.DataFrame, target: Target, *, budget: float,
    candidates: Sequence[Candidate] | None = None, options: DesignOptions | None = None,
    say: Say = silent,
) -> Plan:  # fmt: skip
    """Return the runs that shrink the interval of a question most per FLOP.

    Args:
        table: a loss table.
        target: the question.
        budget: FLOPs of all new runs together.
        candidates: runs to choose from; default: a lattice (``candidates.lattice``).
        options: options of the design.
        say: receives a line of progress.

    Raises:
        UserError: the question does not fit the table, the budget pays for no candidate, or nothing
            can be fitted.
    """
    if not (math.isfinite(budget) and budget > 0):
        raise UserError(f"budget = {budget}: must be training FLOPs above 0, e.g. 1e20.")
    options = options or DesignOptions()
    rows = table[table["status"] == str(Status.OK)]
    if candidates is None:
        candidates = default_candidates(rows, target, budget)
    affordable = [candidate for candidate in candidates if candidate.flops <= budget]
    if not affordable:
        least = min((candidate.flops for candidate in candidates), default=math.nan)
        raise UserError(
            f"budget = {budget:.3g} FLOPs: no candidate costs so little; the cheapest costs "
            f"{least:.3g}. Raise the budget or give smaller candidates."
        )
    say(f"uncertainty of {len(affordable)} candidates")
    asked = _ASK[target.question](rows, target, affordable, options)
    say("choose")
    plan = plan_of(asked, affordable, budget, options)
    note = left_out_of_laws(rows)
    return dataclasses.replace(plan, notes=(*plan.notes, *filter(None, [note])))


def default_candidates(rows: pd.DataFrame, target: Target, budget: float) -> list[Candidate]:
    """Return the lattice of a question."""
    own = rows
    if target.groups:
        own = rows[rows["pretraining_data"].astype(str).isin(target.groups)]
    return lattice(runs_of(own), budget, [_facts(own)])


def _facts(rows: pd.DataFrame) -> dict[str, str]:
    """Return the facts that all runs share and that place a new one."""
    found = {}
    for name in ("architecture", "pretraining_data", "tokenizer"):
        values = rows[name].dropna().astype(str).unique()
        if len(values) == 1:
            found[name] = str(values[0])
    return found


def plan_of(
    asked: Asked, candidates: Sequence[Candidate], budget: float, options: DesignOptions
) -> Plan:
    """Return the plan of a question with numbers."""
    limits = Limits(
        cost=np.array([candidate.flops for candidate in candidates]),
        budget=budget,
        repeats=options.repeats,
        most_runs=options.most_runs,
    )
    belief = asked.belief
    chosen = choose(belief, limits)
    halving, left = runs_to_halve(belief, chosen)
    picks = _picks(asked, candidates, chosen)
    return Plan(
        question=asked.words,
        unit=asked.unit,
        now=asked.now,
        picks=picks,
        largest_first=_picks(asked, candidates, largest_first(belief, limits)),
        halving=halving,
        halving_reason=_reason(belief, halving, left, len(chosen)),
        candidates=_table(asked, candidates),
        notes=(*asked.notes, *_ties(picks)),
    )


def _picks(
    asked: Asked, candidates: Sequence[Candidate], chosen: Sequence[int]
) -> tuple[Pick, ...]:
    """Return picks with the expected half width after each."""
    belief, half = asked.belief, asked.now.half_width
    cost = np.array([candidate.flops for candidate in candidates])
    scale = half / belief.width if belief.width > 0 else 0.0
    end = belief
    for pick in chosen:
        end = end.after(pick)
    whole = max(belief.width - end.width, 1e-300)
    picks = []
    for pick in chosen:
        rate = (belief.width - belief.widths()) / cost
        ties = rate * (1 + belief.gain_error()) >= rate[pick] * (1 - belief.gain_error()[pick])
        before, belief = belief.width, belief.after(pick)
        picks.append(
            Pick(
                candidate=candidates[pick],
                half_width=scale * belief.width,
                share=(before - belief.width) / whole,
                per_flop=scale * (before - belief.width) / cost[pick],
                ties=int(ties.sum()) - 1,
            )
        )
    return tuple(picks)


def _reason(belief: Belief, halving: int | None, left: float, chosen: int) -> str:
    """Return what the number of runs means, or why there is none."""
    if not chosen:
        return "No candidate within the budget tells anything about it."
    if halving is not None:
        return f"Made in the proportions of the {chosen} picks; endlessly many leave {left:.0%}."
    floor = np.sqrt(belief.floor) / belief.width
    if floor > 0.5:
        return (
            f"The run-to-run noise of the run asked about is {floor:.0%} of the interval; no other "
            "run reduces it."
        )
    return (
        f"Endlessly many runs like the picks leave {left:.0%} of it: {floor:.0%} by the run-to-run "
        "noise of the run asked about, the rest by the form of the law between the largest of "
        "them and the target. Only larger runs reduce that."
    )


def _ties(picks: Sequence[Pick]) -> list[str]:
    """Return a sentence on candidates that are as good as the first pick."""
    if not picks or not picks[0].ties:
        return []
    return [
        f"{picks[0].ties} other candidates are as good per FLOP as the first pick, within the "
        "error of this estimate: choose among them by what is easiest to run."
    ]


def _table(asked: Asked, candidates: Sequence[Candidate]) -> pd.DataFrame:
    """Return one row per candidate, the best per FLOP first."""
    belief = asked.belief
    scale = asked.now.half_width / belief.width if belief.width > 0 else 0.0
    widths = scale * belief.widths()
    frame = pd.DataFrame(
        [{"params": c.params, "tokens": c.tokens, "flops": c.flops, **c.facts} for c in candidates]
    )
    frame["half_width"] = widths
    frame["gain_per_flop"] = (asked.now.half_width - widths) / frame["flops"]
    return frame.sort_values("gain_per_flop", ascending=False, kind="stable", ignore_index=True)
