"""Which run next: the plan of a question about a loss table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from lossline.design.asked import Asked, of_groups
from lossline.design.beliefs import Belief
from lossline.design.candidates import lattice, runs_of, shared_facts
from lossline.design.factors import ask_factor, factor_candidates
from lossline.design.lines import ask_line
from lossline.design.mixtures import ask_mixture, mixture_candidates
from lossline.design.picking import (
    MOST_RUNS,
    Limits,
    choose,
    largest_first,
    left_by_all,
    until_halved,
)
from lossline.design.plan import Candidate, DesignOptions, Pick, Plan, Question, Target
from lossline.design.predictions import ask_prediction
from lossline.design.translations import ask_translation
from lossline.errors import UserError
from lossline.tables.continued import left_out_of_laws
from lossline.tables.schema import Status
from lossline.terminal import Say, silent

Array = np.ndarray
_NEARLY_ALL = 0.95  # of the shrinkage
Ask = Callable[[pd.DataFrame, Target, Sequence[Candidate], DesignOptions], Asked]

_ASK: dict[Question, Ask] = {
    Question.LINE: ask_line,
    Question.TRANSLATION: ask_translation,
    Question.PREDICTION: ask_prediction,
    Question.FACTOR: ask_factor,
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
        candidates = default_candidates(rows, target)
    affordable = [candidate for candidate in candidates if candidate.flops <= budget]
    if not affordable:
        least = min((candidate.flops for candidate in candidates), default=math.nan)
        raise UserError(
            f"budget = {budget:.3g} FLOPs: no candidate costs so little; the cheapest costs "
            f"{least:.3g}. Raise the budget or give smaller candidates."
        )
    say(f"uncertainty of {len(affordable)} candidates")
    asked = _asker(target)(rows, target, affordable, options)
    say("choose")
    plan = plan_of(asked, budget, options)
    note = left_out_of_laws(rows)
    return dataclasses.replace(plan, notes=(*plan.notes, *filter(None, [note])))


def _asker(target: Target) -> Ask:
    if target.question is Question.LINE and len(target.groups) == 2:
        return ask_translation
    if target.question is Question.PREDICTION and target.shares:
        return ask_mixture
    return _ASK[target.question]


def default_candidates(rows: pd.DataFrame, target: Target) -> list[Candidate]:
    """Return the runs to choose from where none are given: a lattice, or matched runs again."""
    if target.question is Question.FACTOR:
        return factor_candidates(rows, target)
    if target.question is Question.PREDICTION and target.shares:
        return mixture_candidates(rows, target)
    if not target.groups:
        return lattice(runs_of(rows), [shared_facts(rows)])
    parts = of_groups(rows, target.groups, count=len(target.groups))
    found = lattice(runs_of(parts[0]), [shared_facts(part) for part in parts])
    if len(parts) == 2:
        # Where the source has a run already, one of the target makes a pair.
        found += [
            Candidate(params=n, tokens=d, flops=c, facts=shared_facts(parts[1]))
            for n, d, c in runs_of(parts[0])[["params", "tokens", "flops"]].to_numpy()
        ]
    return found


def plan_of(asked: Asked, budget: float, options: DesignOptions) -> Plan:
    """Return the plan of a question with numbers."""
    limits = Limits(
        cost=_cost(asked),
        budget=budget,
        repeats=options.repeats,
        most_runs=options.most_runs,
        tied=options.tied,
    )
    belief = asked.belief
    chosen = choose(belief, limits)
    halved = until_halved(belief, limits.cost, chosen)
    picks = _picks(asked, chosen)
    return Plan(
        question=asked.words,
        unit=asked.unit,
        now=asked.now,
        picks=picks,
        largest_first=_picks(asked, largest_first(belief, limits)),
        halving=None
        if halved is None or not chosen
        else sum(len(asked.choices[k]) for k in halved),
        halving_reason=_reason(belief, halved, chosen, limits.cost),
        candidates=_table(asked),
        notes=(*asked.notes, *_ties(picks), *_limited(chosen, options), *_enough(picks)),
    )


def _cost(asked: Asked) -> Array:
    """Return the FLOPs of each choice (M,)."""
    return np.array([sum(run.flops for run in runs) for runs in asked.choices])


def _picks(asked: Asked, chosen: Sequence[int]) -> tuple[Pick, ...]:
    """Return picks with the expected half width after each."""
    belief, half = asked.belief, asked.now.half_width
    cost = _cost(asked)
    scale = half / belief.width if belief.width > 0 else 0.0
    end = belief
    for pick in chosen:
        end = end.after(pick)
    whole = max(belief.width - end.width, 1e-300)
    picks: list[Pick] = []
    for pick in chosen:
        rate = (belief.width - belief.widths()) / cost
        ties = rate * (1 + belief.gain_error()) >= rate[pick] * (1 - belief.gain_error()[pick])
        before, belief = belief.width, belief.after(pick)
        *partners, last = asked.choices[pick]
        # Of runs that tell something only together, the last one gets the credit.
        picks += [
            Pick(candidate=run, half_width=scale * before, share=0.0, per_flop=0.0)
            for run in partners
        ]
        picks.append(
            Pick(
                candidate=last,
                half_width=scale * belief.width,
                share=(before - belief.width) / whole,
                per_flop=scale * (before - belief.width) / cost[pick],
                ties=int(ties.sum()) - 1,
            )
        )
    return tuple(picks)


def _reason(
    belief: Belief, halved: Sequence[int] | None, chosen: Sequence[int], cost: Array
) -> str:
    """Return what the number of runs means, or why there is none."""
    if not chosen:
        return "No run within the budget tells anything about it."
    if halved is not None:
        more = "" if len(halved) <= len(chosen) else ", and more chosen in the same way"
        return f"The first of the picks{more}: {cost[list(halved)].sum():.3g} FLOPs together."
    floor, left = np.sqrt(belief.floor) / belief.width, left_by_all(belief)
    if floor > 0.5:
        return (
            f"The run-to-run noise of the run asked about is {floor:.0%} of the interval; no other "
            "run reduces it."
        )
    if left > 0.5:
        return (
            f"All candidates, run endlessly often, leave {left:.0%} of it: {floor:.0%} is the "
            "run-to-run noise of the run asked about, the rest is what these candidates cannot "
            "tell. Candidates nearer to the target may: larger runs (raise the budget), or runs of "
            "the level that has fewest."
        )
    return (
        f"More than {MOST_RUNS} runs would be needed: they tell too little against their own noise."
    )


def _ties(picks: Sequence[Pick]) -> list[str]:
    """Return a sentence on candidates that are as good as the first pick."""
    if not picks or not picks[0].ties:
        return []
    return [
        f"Candidates that may be as good per FLOP as run 1: {picks[0].ties} (the error of this "
        "estimate does not separate them). Each may replace run 1; the other runs stay."
    ]


def _limited(chosen: Sequence[int], options: DesignOptions) -> list[str]:
    """Return a sentence where the largest number of runs ends the plan, not the budget."""
    if len(chosen) < options.most_runs:
        return []
    return [
        f"The plan ends at run {options.most_runs} (next_runs.most_runs), whether the budget is "
        "spent or not: raise that number to plan more small runs."
    ]


def _enough(picks: Sequence[Pick]) -> list[str]:
    """Return a sentence on how many of the picks bring nearly all of the shrinkage."""
    share = np.cumsum([pick.share for pick in picks])
    count = int(np.searchsorted(share, _NEARLY_ALL)) + 1
    if count >= len(picks):
        return []
    runs = "The first run brings" if count == 1 else f"The first {count} runs bring"
    return [
        f"{runs} {share[count - 1]:.0%} of the expected gain. The others spend the rest of the "
        "budget: they help where the law's form is further off than its interval says."
    ]


def _table(asked: Asked) -> pd.DataFrame:
    """Return one row per choice, the best per FLOP first; facts of two runs are joined by " + "."""
    belief = asked.belief
    scale = asked.now.half_width / belief.width if belief.width > 0 else 0.0
    rows = []
    for runs, cost, width in zip(asked.choices, _cost(asked), belief.widths(), strict=True):
        facts = {
            name: " + ".join(dict.fromkeys(run.facts[name] for run in runs if name in run.facts))
            for name in runs[-1].facts
        }
        scales = {"params": runs[-1].params, "tokens": runs[-1].tokens, "flops": cost}
        gain = scale * (belief.width - width)
        rows.append({**scales, **facts, "half_width": scale * width, "gain_per_flop": gain / cost})
    frame = pd.DataFrame(rows)
    return frame.sort_values("gain_per_flop", ascending=False, kind="stable", ignore_index=True)
