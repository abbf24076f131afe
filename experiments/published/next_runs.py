"""Check which-run-next by hiding real runs: are the runs that it picks worth more than others?

    python experiments/published/next_runs.py --data ../shared/data --out runs/published

A case starts from a few small runs of a sweep. All its other runs are hidden: they are the
candidates, except those of largest compute, which are never candidates. At one budget, runs are
revealed three ways: those that ``lossline.design`` picks, random ones (mean over many orders), and
the largest that fit, one after the other. Each time the line or law is fitted again, and predicts
the runs of largest compute. The score of that way is the mean |relative error| there: at the model
asked about and its two neighbours ("asked"), and at all of them ("all": other D/N
than asked about).

Two options were chosen, the roughness of the form's error and the difference of plans that counts
as none. ``--inner`` chose them: the same cases within the smaller budgets of the Kempner sweep,
where its two largest budgets take no part.

Writes next_runs.csv (one row per case and way), next_runs.json (a summary per sweep and question:
geometric mean of the ratio of errors, with a 90% interval from resampled cases).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import ladder
import next_runs_mixtures
import numpy as np
import pandas as pd

from lossline.design import Candidate, DesignOptions, Question, Target, propose
from lossline.design.asked import DATA, Places
from lossline.design.candidates import runs_of
from lossline.design.scale_law import ScaleLaw
from lossline.errors import UserError
from lossline.files import write_json
from lossline.lines.fitting import LineOptions, fit_specimen
from lossline.lines.specimens import Specimen, between_groups, within_groups
from lossline.tables.pairing import Pairs
from lossline.tables.schema import OWN_SET, SetKind
from lossline.tables.sweeps import import_sweep

Array = np.ndarray
Chooser = Callable[[pd.DataFrame], Specimen]

# A hidden run exists once.
ONCE = DesignOptions(repeats=1)
FAST = LineOptions(resamples=0)
NEAR = 3  # farthest runs nearest in N and D to the model asked about, itself one of them
ORDERS = 10  # random orders of the candidates
# Three sets of text, five tasks of different kinds; every set would take an hour.
KEMPNER_SETS = (
    OWN_SET, "c4", "slimpajama", "starcoder", "hellaswag", "arc_easy", "piqa", "mmlu_humanities",
    "openbook_qa",
)  # fmt: skip
# Times the cost of the largest candidate. 3 times would buy nearly all runs of the ladder.
BUDGETS = {"Kempner": (1.0, 3.0), "OLMo ladder": (0.5, 1.0)}
OURS, RANDOM, LARGEST = "ours", "random", "largest first"
KEYS = ["sweep", "question", "budget", "scored"]
# Of ``--inner``: (roughness, tied).
CHOICES = ((0.4, 0.0), (0.4, 0.02), (0.4, 0.05), (0.0, 0.02), (0.1, 0.02), (0.8, 0.02))
FARTHEST, INNER = 7, 5  # budgets of Kempner, from 0: predicted; those below it are candidates


@dataclass(frozen=True, kw_only=True)
class Case:
    """One question about one sweep.

    Attributes:
        sweep: name of the sweep.
        question: the question.
        name: sets and groups.
        start: rows of the runs that are known at first.
        hidden: rows of the candidates.
        target: the question for ``lossline.design``.
        error: mean |relative errors| at the farthest runs, from the rows known: near the model
            asked about, and at all of them (2).
    """

    sweep: str
    question: Question
    name: str
    start: pd.DataFrame
    hidden: pd.DataFrame
    target: Target
    error: Callable[[pd.DataFrame], Array]


def ours(case: Case, budget: float, options: DesignOptions) -> dict[str, Any]:
    """Return the error after the runs that the design picks, and what it expects of them."""
    data = case.hidden.drop_duplicates("run_id").set_index("run_id")[DATA].astype(str)
    runs = runs_of(case.hidden).sort_values("run_id")
    candidates = [
        Candidate(params=n, tokens=d, flops=c, facts={DATA: data[run], "run": run})
        for run, n, d, c in runs[["run_id", "params", "tokens", "flops"]].itertuples(index=False)
    ]
    plan = propose(case.start, case.target, budget=budget, candidates=candidates, options=options)
    last = plan.picks[-1].half_width if plan.picks else plan.now.half_width
    return {
        OURS: revealed(case, {pick.candidate.facts["run"] for pick in plan.picks}),
        "runs": len(plan.picks),
        "spent": sum(pick.candidate.flops for pick in plan.picks) / budget,
        "half_width": plan.now.half_width / plan.now.value,
        "expected": last / plan.now.half_width,
    }


def others(case: Case, budget: float) -> dict[str, Any]:
    """Return the error before any run, after random ones, and after the largest."""
    runs = runs_of(case.hidden).sort_values("run_id", ignore_index=True)
    names = runs["run_id"].to_numpy()
    found = {"before": revealed(case, set())}
    for way, sets in orders(runs["flops"].to_numpy(float), budget).items():
        errors = {one: revealed(case, set(names[list(one)])) for one in set(sets)}
        found[way] = np.mean([errors[one] for one in sets], axis=0)
    return found


def orders(flops: Array, budget: float) -> dict[str, list[frozenset[int]]]:
    """Return the sets of candidates that random and largest-first orders buy.

    Runs of one cost are in random order: "largest first" has no choice among them.
    """
    random = np.random.default_rng(0)
    drawn = [random.permutation(len(flops)) for _ in range(ORDERS)]
    found = {RANDOM: [filled(flops, order, budget) for order in drawn]}
    if np.ptp(flops) > 0:
        largest = [order[np.argsort(-flops[order], kind="stable")] for order in drawn]
        found[LARGEST] = [filled(flops, order, budget) for order in largest]
    return found


def filled(flops: Array, order: Array, budget: float) -> frozenset[int]:
    """Return the runs in this order that the budget still pays for."""
    chosen, left = set(), budget * (1 + 1e-9)
    for run in order:
        if flops[run] <= left:
            chosen.add(int(run))
            left -= flops[run]
    return frozenset(chosen)


def revealed(case: Case, runs: set[str]) -> Array:
    """Return the error with these runs known."""
    known = case.hidden[case.hidden["run_id"].astype(str).isin(runs)]
    return case.error(pd.concat([case.start, known], ignore_index=True))


def scores(predicted: Array, actual: Array, at: Places | Pairs, target: Target) -> Array:
    """Return the mean |relative error| near the model asked about, and everywhere (2)."""
    error = np.abs(predicted / actual - 1)
    assert target.params and target.tokens
    away = np.abs(np.log(at.params / target.params)) + np.abs(np.log(at.tokens / target.tokens))
    return np.array([error[np.argsort(away, kind="stable")[:NEAR]].mean(), error.mean()])


def line_error(known: pd.DataFrame, choose: Chooser, far: Specimen, target: Target) -> Array:
    """Return the errors of a line at the far pairs."""
    line = fit_specimen(choose(known), options=FAST)
    if not line.parameters or far.pairs is None:
        return np.full(2, np.nan)
    at = far.pairs
    predicted = line.predict(at.x, tokens_per_param=at.tokens / at.params)
    return scores(predicted, at.y, at, target)


def law_error(known: pd.DataFrame, far: pd.DataFrame, target: Target) -> Array:
    """Return the errors of the law of scale at the far rows of one set."""
    try:
        law = ScaleLaw.of(known, target.y_set, "loss", DesignOptions(resamples=20), tested=False)
    except UserError:
        return np.full(2, np.nan)
    rows = far[far["eval_set"] == target.y_set]
    at = Places(**{name: rows[name].to_numpy(float) for name in ("params", "tokens", "flops")})
    return scores(law.at(at).center, rows["loss"].to_numpy(float), at, target)


# --- the sweeps --------------------------------------------------------------------------------


def kempner(folder: Path, farthest: int) -> Iterator[Case]:
    """Yield lines, laws and translations of the Kempner sweep, predicted at one of its budgets.

    Known at first: every third size of the two smallest budgets. Translation: all of the source.
    """
    table = import_sweep("kempner", folder / "kempner_sweep.csv").table
    budgets = np.sort(table["flops"].unique())
    far = table[np.isclose(table["flops"], budgets[farthest], rtol=0.01)]
    below = table[table["flops"] < budgets[farthest] * 0.99]
    for data, rows in below.groupby(DATA):
        beyond = far[far[DATA] == data]
        first = thinned(rows[rows["flops"] < budgets[1] * 1.01])
        model = middle_model(beyond)
        common = {
            "sweep": "Kempner", "start": rows[rows["run_id"].isin(first)],
            "hidden": rows[~rows["run_id"].isin(first)],
        }  # fmt: skip
        for y_set in KEMPNER_SETS:
            target = Target(question=Question.PREDICTION, y_set=y_set, groups=(str(data),), **model)
            name = f"{data}: {y_set}"
            if y_set != OWN_SET:
                yield line_case(common, name, target, OWN_SET, beyond)
            yield Case(
                **common, question=Question.PREDICTION, name=name, target=target,
                error=lambda known, far=beyond, target=target: law_error(known, far, target),
            )  # fmt: skip
        for source, other in below.groupby(DATA):
            if source != data:
                pair = {**common, "start": pd.concat([other, common["start"]])}
                pair["hidden"] = measured_by(other, common["hidden"])
                yield translation_case(pair, (str(source), str(data)), model, far)


def thinned(rows: pd.DataFrame) -> list[str]:
    """Return every third run of each budget, by size."""
    runs = runs_of(rows).sort_values(["flops", "params"])
    return [run for _, part in runs.groupby("flops") for run in part["run_id"].iloc[1::3]]


def measured_by(source: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of runs whose N and D a run of the source has: only these make pairs."""
    known = np.log(runs_of(source)[["params", "tokens"]].to_numpy(float))
    runs = runs_of(rows)
    places = np.log(runs[["params", "tokens"]].to_numpy(float))
    paired = (np.abs(places[:, None] - known).max(axis=2) < 1e-3).any(axis=1)
    return rows[rows["run_id"].isin(runs["run_id"][paired])]


def middle_model(rows: pd.DataFrame) -> dict[str, float]:
    """Return N and D of the run of middle size: its loss is not looked at."""
    runs = runs_of(rows).sort_values(["params", "tokens"])
    row = runs.iloc[len(runs) // 2]
    return {"params": float(row["params"]), "tokens": float(row["tokens"])}


def line_case(common: dict, name: str, target: Target, x_set: str, far: pd.DataFrame) -> Case:
    """Return the case of a line within a group."""
    y_set = target.y_set

    def choose(rows: pd.DataFrame) -> Specimen:
        return within_groups(rows, x_sets=[x_set], y_sets=[y_set], group_by=())[0]

    beyond = choose(far)
    return Case(
        **common, question=Question.LINE, name=f"{name} from {x_set}",
        target=replace(target, question=Question.LINE, x_set=x_set),
        error=lambda known: line_error(known, choose, beyond, target),
    )  # fmt: skip


def translation_case(
    common: dict, groups: tuple[str, str], model: dict[str, float], far: pd.DataFrame
) -> Case:
    """Return the case of a line between two groups."""

    def choose(rows: pd.DataFrame) -> Specimen:
        pairs = between_groups(rows, vary=[DATA], x_set=OWN_SET, y_set=OWN_SET, group_by=[DATA])
        return next(s for s in pairs if (s.group[DATA], s.y_group[DATA]) == groups)

    beyond = choose(far)
    target = Target(
        question=Question.TRANSLATION, x_set=OWN_SET, y_set=OWN_SET, groups=groups, **model
    )
    return Case(
        **common, question=Question.TRANSLATION, name=" -> ".join(groups), target=target,
        error=lambda known: line_error(known, choose, beyond, target),
    )  # fmt: skip


def olmo(folder: Path) -> Iterator[Case]:
    """Yield lines and laws of the OLMo ladder: its largest size from the smaller ones.

    Known at first: the smallest size, and the next one at its two smallest D / N.
    """
    table = ladder.final_checkpoints(import_sweep("olmo_ladder", folder / "olmo_ladder.csv").table)
    table = table.assign(**{DATA: table[DATA].fillna("olmo")})
    table["flops"] = table["flops"].fillna(6.0 * table["params"] * table["tokens"])
    sizes = np.sort(table["params"].dropna().unique())
    far = table[table["params"] == sizes[-1]]
    below = table[table["params"] < sizes[-1]]
    runs = runs_of(below)
    second = runs[runs["params"] == sizes[1]].nsmallest(2, "tokens")["run_id"]
    first = [*runs.loc[runs["params"] == sizes[0], "run_id"], *second]
    common = {
        "sweep": "OLMo ladder", "start": below[below["run_id"].isin(first)],
        "hidden": below[~below["run_id"].isin(first)],
    }  # fmt: skip
    kinds = below.drop_duplicates("eval_set").set_index("eval_set")["kind"]
    for y_set in sorted(below["eval_set"].unique()):
        target = Target(question=Question.PREDICTION, y_set=y_set, **middle_model(far))
        name = f"{y_set} ({'task' if kinds[y_set] == SetKind.TASK else 'text'})"
        if y_set != ladder.X_SET:
            yield line_case(common, name, target, ladder.X_SET, far)
        yield Case(
            **common, question=Question.PREDICTION, name=name, target=target,
            error=lambda known, target=target: law_error(known, far, target),
        )  # fmt: skip


# --- the table ---------------------------------------------------------------------------------


def run(cases: Sequence[Case], choices: Sequence[DesignOptions]) -> pd.DataFrame:
    """Return one row per case, budget, options and part of the farthest runs."""
    rows = []
    for case in cases:
        for times in BUDGETS[case.sweep]:
            budget = times * runs_of(case.hidden)["flops"].max()
            facts = {"sweep": case.sweep, "question": str(case.question), "case": case.name}
            facts |= {"budget": times, **others(case, budget)}
            for options in choices:
                row = {**facts, "roughness": options.roughness, "tied": options.tied, "message": ""}
                try:
                    row |= ours(case, budget, options)
                except UserError as mistake:
                    row |= {OURS: np.full(2, np.nan), "message": str(mistake)}
                rows += split(row)
    return pd.DataFrame(rows)


def split(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each part of the farthest runs."""
    return [
        {k: v[i] if isinstance(v, np.ndarray) else v for k, v in row.items()} | {"scored": part}
        for i, part in enumerate(("asked", "all"))
    ]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return, per sweep, question and budget, the ratio of our errors to those of other ways."""
    found = []
    # RegMix has no largest run: all cost the same.
    rows = rows.reindex(columns=list(dict.fromkeys([*rows.columns, LARGEST])))
    for key, part in rows.groupby(KEYS, sort=False):
        usable = part.dropna(subset=[OURS, RANDOM])
        row = dict(zip(KEYS, key, strict=True))
        row |= {"cases": len(usable), "left_out": len(part) - len(usable)}
        row |= {f"error, {w} %": 100 * usable[w].mean() for w in ("before", OURS, RANDOM, LARGEST)}
        row["expected width"] = usable["expected"].mean()
        for way in (RANDOM, LARGEST):
            row |= compared(usable, way)
        found.append(row)
    return pd.DataFrame(found)


def inner_summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return, per choice of options, our errors over those of the other ways (geometric means)."""
    logs = pd.DataFrame(
        {f"ratio to {way}": np.log(rows[OURS] / rows[way]) for way in (RANDOM, LARGEST)}
    )
    keys = [rows[name] for name in ("roughness", "tied", "question", "budget", "scored")]
    each = np.exp(logs.groupby(keys).mean()).reset_index()
    whole = np.exp(logs.groupby(keys[:2]).mean()).reset_index().assign(question="all")
    return pd.concat([whole, each], ignore_index=True)


def compared(rows: pd.DataFrame, way: str) -> dict[str, float]:
    """Return the geometric mean of our error over another way's, its interval, and wins."""
    ratio = np.log(rows[OURS].to_numpy() / rows[way].to_numpy())
    ratio = ratio[np.isfinite(ratio)]
    if not len(ratio):
        return {}
    draws = np.random.default_rng(0).choice(ratio, (2000, len(ratio))).mean(axis=1)
    low, high = np.exp(np.quantile(draws, [0.05, 0.95]))
    return {
        f"ratio to {way}": float(np.exp(ratio.mean())), f"low, {way}": float(low),
        f"high, {way}": float(high), f"better than {way} %": 100 * float((ratio < 0).mean()),
    }  # fmt: skip


def main() -> None:
    """Run the check and write its tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--inner", action="store_true", help="choose the roughness instead")
    parser.add_argument("--only", default="", help="a part of a sweep's name")
    given = parser.parse_args()
    started = time.monotonic()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.inner:
        choices = [replace(ONCE, roughness=r, tied=t, resamples=100) for r, t in CHOICES]
        rows = run(list(kempner(given.data, INNER)), choices)
        table = inner_summary(rows)
        table.to_csv(given.out / "next_runs_inner.csv", index=False)
        print(table.to_string())
        return
    sources = {"Kempner": lambda: kempner(given.data, FARTHEST), "OLMo": lambda: olmo(given.data)}
    parts = [run(list(make()), [ONCE]) for name, make in sources.items() if given.only in name]
    parts += [
        pd.DataFrame(next_runs_mixtures.rows_of(swarm, orders))
        for swarm in next_runs_mixtures.swarms(given.data)
        if given.only in swarm.name
    ]
    rows = pd.concat(parts, ignore_index=True)
    rows.to_csv(given.out / "next_runs.csv", index=False)
    table = summary(rows)
    write_json(
        given.out / "next_runs.json",
        table.astype(object).where(table.notna(), None).to_dict("records"),
    )
    print(table.T.to_string())
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
