"""Hidden mixtures for ``next_runs.py``: SlimPajama's of three sizes, RegMix's of one.

The question is the loss of one run that is never a candidate. What random runs and the largest runs
tell is the same for all questions about one domain, so that these are fitted once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import predict_slimpajama
import predict_swarms

from lossline import tables
from lossline.design import Candidate, DesignOptions, Question, Target, propose
from lossline.mixtures.catalogue import DEFAULT
from lossline.mixtures.process_law import ProcessLaw
from lossline.mixtures.runs import MixtureFit, MixtureRuns
from lossline.tables.schema import SHARE

Array = np.ndarray

ASKED = 12  # runs asked about, per sweep
DOMAINS = {
    "SlimPajama": ("c4", "arxiv", "github", "openhermes"),
    "RegMix": ("pile_cc", "arxiv", "github"),
}
SEED = 0
# Runs known at first: SlimPajama 10 of 122M and 4 of 310M parameters; RegMix 30 of 1M.
FIRST = {1.22e8: 10, 3.1e8: 4}
REGMIX_FIRST, REGMIX_CANDIDATES = 30, 150
# FLOPs: of SlimPajama times the cost of the largest candidate, of RegMix runs of equal cost.
BUDGETS = {"SlimPajama": (1.0, 3.0), "RegMix": (5.0, 20.0)}


@dataclass(frozen=True, kw_only=True)
class Swarm:
    """A sweep of mixtures, split.

    Attributes:
        name: name of the sweep.
        start: runs known at first.
        hidden: candidates.
        far: runs asked about.
        fit: fits the law of the predictor.
    """

    name: str
    start: MixtureRuns
    hidden: MixtureRuns
    far: MixtureRuns
    fit: Callable[[MixtureRuns], MixtureFit]

    def error(self, domain: str, chosen: Sequence[int]) -> Array:
        """Return |relative error| at each run asked about (T,), with chosen runs known."""
        runs = joined(self.start, self.hidden[np.array(sorted(chosen), int)]).only([domain])
        far = self.far.only([domain])
        found = self.fit(runs).predict(far.shares, params=far.params, tokens=far.tokens)
        return np.abs(found / far.losses - 1)[:, 0]


def joined(one: MixtureRuns, other: MixtureRuns) -> MixtureRuns:
    """Return the runs of both."""
    columns = ("shares", "params", "tokens", "flops", "losses", "runs")
    return replace(
        one, **{c: np.concatenate([getattr(one, c), getattr(other, c)]) for c in columns}
    )


def swarms(folder: Path) -> Iterator[Swarm]:
    """Yield the sweeps."""
    random = np.random.default_rng(SEED)
    runs = predict_slimpajama.read(folder / predict_slimpajama.FILE).last_checkpoints
    small = runs.params < 4e8
    first = np.concatenate(
        [
            random.permutation(np.flatnonzero(np.isclose(runs.params, size)))[:count]
            for size, count in FIRST.items()
        ]
    )
    known = np.isin(np.arange(len(runs)), first)
    far = random.permutation(np.flatnonzero(~small))[:ASKED]
    yield Swarm(
        name="SlimPajama", start=runs[known], hidden=runs[small & ~known], far=runs[far],
        fit=DEFAULT().fit,
    )  # fmt: skip
    files = [folder / f"regmix_{what}_1m.csv" for what in ("mixture", "pile_loss")]
    runs = predict_swarms.read_swarm(*files, key="index", params=1e6, tokens=1e9)
    runs = replace(runs, flops=6.0 * runs.params * runs.tokens)
    order = random.permutation(len(runs))
    ends = np.cumsum([REGMIX_FIRST, REGMIX_CANDIDATES, ASKED])
    start, hidden, far = np.split(order[: ends[-1]], ends[:-1])
    yield Swarm(
        name="RegMix", start=runs[start], hidden=runs[hidden], far=runs[far], fit=ProcessLaw().fit
    )


def table_of(runs: MixtureRuns) -> pd.DataFrame:
    """Return runs as a loss table."""
    rows = []
    for i, run in enumerate(runs.runs):
        shares = {SHARE + c: s for c, s in zip(runs.components, runs.shares[i], strict=True)}
        common = {
            "run_id": str(run), "params": runs.params[i], "tokens": runs.tokens[i],
            "flops": runs.flops[i], "step": 1, "kind": "validation", **shares,
        }  # fmt: skip
        rows += [
            {**common, "eval_set": domain, "loss": loss}
            for domain, loss in zip(runs.domains, runs.losses[i], strict=True)
        ]
    return tables.from_rows(rows)


def rows_of(
    swarm: Swarm, others: Callable[[Array, float], Mapping[str, list[frozenset[int]]]]
) -> Iterator[dict]:
    """Yield one row per domain, budget and run asked about."""
    candidates = [
        Candidate(
            params=float(swarm.hidden.params[i]),
            tokens=float(swarm.hidden.tokens[i]),
            flops=float(swarm.hidden.flops[i]),
            facts={
                **{
                    SHARE + c: str(s)
                    for c, s in zip(swarm.hidden.components, swarm.hidden.shares[i], strict=True)
                },
                "run": str(i),
            },
        )
        for i in range(len(swarm.hidden))
    ]
    for domain in DOMAINS[swarm.name]:
        table = table_of(swarm.start.only([domain]))
        for times in BUDGETS[swarm.name]:
            budget = times * float(swarm.hidden.flops.max())
            errors = {"before": swarm.error(domain, [])}
            for way, sets in others(swarm.hidden.flops, budget).items():
                each = {one: swarm.error(domain, list(one)) for one in set(sets)}
                errors[way] = np.mean([each[one] for one in sets], axis=0)
            for i in range(len(swarm.far)):
                target = Target(
                    question=Question.PREDICTION, y_set=domain,
                    params=float(swarm.far.params[i]), tokens=float(swarm.far.tokens[i]),
                    shares=dict(zip(swarm.far.components, swarm.far.shares[i], strict=True)),
                )  # fmt: skip
                plan = propose(
                    table, target, budget=budget, candidates=candidates,
                    options=DesignOptions(resamples=100, repeats=1),
                )  # fmt: skip
                picked = [int(pick.candidate.facts["run"]) for pick in plan.picks]
                last = plan.picks[-1].half_width if plan.picks else plan.now.half_width
                yield {
                    "sweep": f"{swarm.name} mixtures", "question": "prediction",
                    "case": f"{domain}: {swarm.far.runs[i]}"[:60], "budget": times,
                    "ours": swarm.error(domain, sorted(set(picked)))[i],
                    **{way: values[i] for way, values in errors.items()},
                    "runs": len(picked), "expected": last / plan.now.half_width,
                    "spent": sum(p.candidate.flops for p in plan.picks) / budget,
                    "half_width": plan.now.half_width / plan.now.value, "message": "",
                    "scored": "asked",
                }  # fmt: skip
