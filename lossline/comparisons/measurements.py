"""From a loss table to one loss per target, level and seed, at equal budgets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lossline.comparisons.options import Budget, CompareOptions, Unequal
from lossline.errors import UserError
from lossline.matching.run_facts import run_facts
from lossline.options.roles import FACTS, SIZE, Role, fact_of
from lossline.tables.continued import continued_note
from lossline.tables.frames import nearest_names
from lossline.tables.schema import Status, Unit

ROWS = ("target", "method", "seed", "run_id", "value")
# Relative difference of two equal budgets. Tokens: the last batch may be cut. FLOPs: runs whose
# steps cost differently end at whole steps. Parameters: as tokens.
_SAME = {Budget.TOKENS: 1e-3, Budget.FLOPS: 1e-2}
_FAR = 0.05  # relative difference from compare.at that a note mentions
SELECTION_FLOPS = "selection_flops"  # column: FLOPs of selecting tokens, reference included
_SPENT = "spent"  # how much of the budget a checkpoint has used
_BUDGET = ("params", _SPENT)
_REPLICATES = tuple(fact for fact in FACTS if fact.role is Role.REPLICATE)
# What the compared runs are trained on differs by design, and the size is part of the budget.
_BY_DESIGN = ("pretraining_data", "data_selection", "token_selection", "shape", SIZE)


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """Losses of the runs that can be compared.

    Attributes:
        rows: target, method (level of the factor), seed, run_id, value (loss in the unit).
        left_out: what (a run, and a target), reason.
        notes: what a reader must know about the runs, in sentences.
    """

    rows: pd.DataFrame
    left_out: pd.DataFrame
    notes: tuple[str, ...]


def measure(table: pd.DataFrame, options: CompareOptions) -> Measurements:
    """Return the loss of each run on each target at its last checkpoint, or at ``options.at``.

    Args:
        table: loss table.
        options: what to compare.

    Raises:
        UserError: the table lacks a column or a set, no run has a level, runs differ in their
            budgets, or two runs have one target, level and seed.
    """
    for name in filter(None, (options.factor, options.by, *options.where)):
        if name not in table:
            raise UserError(
                f"compare: the table has no column {name!r}. Near names: "
                f"{nearest_names(name, map(str, table.columns))}."
            )
    left_out: list[dict[str, str]] = []
    table = _selected(table, options, left_out)
    notes = [*_notes(table, options), *_unknown_costs(table, options.budget)]
    table = _of_one_budget(table, options, left_out, notes)
    notes += _far_from(table, options)
    parts = [
        _of_target(table, name, sets, options, left_out, notes)
        for name, sets in _targets(table, options).items()
    ]
    rows = pd.concat(parts, ignore_index=True)
    _check_once(rows, options)
    return Measurements(
        rows=rows,
        left_out=pd.DataFrame(left_out, columns=["what", "reason"]).drop_duplicates(),
        notes=tuple(dict.fromkeys(notes)),
    )


def _selected(
    table: pd.DataFrame, options: CompareOptions, left_out: list[dict[str, str]]
) -> pd.DataFrame:
    """Return the rows of one checkpoint of each run that has a level, with its seed."""
    for name, value in options.where.items():
        table = table[table[name].astype(str) == str(value)]
    table = table.assign(**{_SPENT: _spent(table, options.budget)})
    if options.at is not None:
        table = _with_known_budget(table, options.budget, left_out)
    table = _one_checkpoint(table, options.at)
    has_level = table[options.factor].notna()
    for run in table["run_id"][~has_level].unique():
        left_out.append({"what": run, "reason": f"its {options.factor} is empty"})
    table = table[has_level]
    if table.empty:
        raise UserError(
            f"compare.factor: no run has a level of {options.factor}"
            + (f" where {options.where}" if options.where else "")
            + ". Name another column, or other runs."
        )
    known = sorted({options.shared, *options.targets})
    if options.by:
        level = table[options.by].astype(object).where(table[options.by].notna(), options.shared)
        table = table.assign(**{options.by: level.astype(str)})
        foreign = ~table[options.by].isin(known)
        for run, name in table[foreign].groupby("run_id")[options.by].first().items():
            reason = f"was made for {name!r}, which is not among the targets ({', '.join(known)})"
            left_out.append({"what": str(run), "reason": reason})
        table = table[~foreign]
    return table.assign(
        **{options.factor: table[options.factor].astype(str), "replicate": _seeds(table)}
    )


def _spent(table: pd.DataFrame, budget: Budget) -> pd.Series:
    """Return how much of the budget each row's checkpoint has used."""
    spent = table[budget.value].astype(float)
    if budget is Budget.FLOPS and SELECTION_FLOPS in table:
        spent = spent + table[SELECTION_FLOPS].astype(float).fillna(0.0)
    return spent


def _unknown_costs(table: pd.DataFrame, budget: Budget) -> list[str]:
    """Return a sentence on the runs that select tokens at an unknown cost; none without them."""
    if budget is not Budget.FLOPS or "token_selection" not in table:
        return []
    selects = table["token_selection"].notna() & (table["token_selection"] != "all")
    if SELECTION_FLOPS in table:
        selects &= table[SELECTION_FLOPS].isna()
    runs = sorted(table.loc[selects, "run_id"].unique())
    if not runs:
        return []
    number = f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}"
    return [
        f"{SELECTION_FLOPS} of {number} ({', '.join(runs)}) is not recorded and counts as 0: what "
        "the reference cost is unknown."
    ]


def _with_known_budget(
    table: pd.DataFrame, budget: Budget, left_out: list[dict[str, str]]
) -> pd.DataFrame:
    """Return the rows whose budget is known; runs without any such row are left out by name."""
    known = table[table[_SPENT].notna()]
    for run in sorted(set(table["run_id"]) - set(known["run_id"])):
        reason = f"its {budget.value} are not recorded, so no checkpoint is nearest to compare.at"
        left_out.append({"what": run, "reason": reason})
    return known


def _far_from(table: pd.DataFrame, options: CompareOptions) -> list[str]:
    """Return a sentence if no checkpoint is near ``compare.at``."""
    if options.at is None or table.empty:
        return []
    nearest = min(table[_SPENT], key=lambda spent: abs(spent - options.at))
    if abs(nearest - options.at) <= _FAR * options.at:
        return []
    return [
        f"compare.at = {options.at:.4g}: the nearest compared checkpoint has {nearest:.4g} "
        f"{options.budget.value}."
    ]


def _one_checkpoint(table: pd.DataFrame, at: float | None) -> pd.DataFrame:
    """Return the rows of each run's last checkpoint, or of the one that is nearest to ``at``."""
    far = -table["step"] if at is None else (table[_SPENT] - at).abs()
    nearest = far.groupby(table["run_id"]).transform("min")
    table = table[far == nearest]
    return table[table["step"] == table.groupby("run_id")["step"].transform("max")]


def _seeds(table: pd.DataFrame) -> pd.Series:
    """Return the replicate of each row: the seed, and any other seed that varies."""
    columns = [fact.column for fact in _REPLICATES if fact.column in table]
    used = [name for name in columns if name == "seed" or table[name].nunique() > 1]
    return table[used].astype("string").fillna("not recorded").agg("/".join, axis=1)


def _of_one_budget(
    table: pd.DataFrame,
    options: CompareOptions,
    left_out: list[dict[str, str]],
    notes: list[str],
) -> pd.DataFrame:
    """Return the runs of the most frequent budget; the others are refused or left out."""
    budgets = table.groupby("run_id", sort=True)[list(_BUDGET)].first().astype(float)
    words = {"params": "params", _SPENT: options.budget.value}
    if missing := [words[name] for name in _BUDGET if budgets[name].isna().any()]:
        notes.append(
            f"{' and '.join(missing)} of some runs are not recorded, so equal budgets could not be "
            "checked."
        )
    same = {"params": _SAME[Budget.TOKENS], _SPENT: _SAME[options.budget]}
    digits = budgets.fillna(-1.0).apply(
        lambda values: (np.log(values.clip(lower=1.0)) / same[str(values.name)]).round()
    )
    counts = digits.value_counts()
    frequent = max(counts.index[counts == counts.max()])
    near = ((digits - np.array(frequent)).abs() <= 1).all(axis=1)
    if near.all():
        return table
    usual = budgets[near].iloc[0]
    told = {
        str(run): f"has {_told(row, options)} instead of {_told(usual, options)}"
        for run, row in budgets[~near].iterrows()
    }
    if options.unequal is Unequal.REFUSE:
        run, reason = next(iter(told.items()))
        more = f" (and {len(told) - 1} more runs differ)" if len(told) > 1 else ""
        raise UserError(
            f"compare: budgets differ: {run} {reason}{more}. Finish the runs, compare "
            "earlier checkpoints with compare.at, select runs with compare.where, or leave these "
            'out with compare.unequal = "exclude".'
        )
    left_out += [{"what": run, "reason": reason} for run, reason in told.items()]
    return table[~table["run_id"].isin(list(told))]


def _told(budget: pd.Series, options: CompareOptions) -> str:
    spent = budget[_SPENT]
    amount = f"{spent:,.0f} tokens" if options.budget is Budget.TOKENS else f"{spent:.4g} FLOPs"
    return f"{budget['params']:,.0f} parameters and {amount}"


def _notes(table: pd.DataFrame, options: CompareOptions) -> list[str]:
    """Return a sentence for each other factor that differs between the runs."""
    facts = run_facts(table)
    named = {options.factor, options.by, *_BY_DESIGN}
    runs = table.drop_duplicates("run_id").set_index("run_id").loc[facts.own.index]
    cell = [options.factor, *filter(None, [options.by])]
    notes = [*filter(None, [continued_note(table)])]
    for name in [*facts.factors, *facts.own]:
        levels = facts.own[name] if name in facts.own else facts.factors[name]
        if name in named or levels.nunique(dropna=False) < 2:
            continue
        if name in facts.own and (
            _follows(levels, runs[cell]) or _follows(levels, runs["replicate"])
        ):
            continue  # another name of what is compared, or of the seed
        fact = fact_of(str(name))
        if fact and fact.owner in _BY_DESIGN:
            continue  # a part of what differs by design
        label = fact.label if fact else str(name)
        shown = ", ".join(map(str, list(dict.fromkeys(levels))[:4]))
        notes.append(f"The runs also differ in {label} ({shown}): differences include its effect.")
    return notes


def _follows(levels: pd.Series, from_: pd.Series | pd.DataFrame) -> bool:
    """Return whether the levels are a function of other columns."""
    keys = from_.astype(str).agg("\n".join, axis=1) if isinstance(from_, pd.DataFrame) else from_
    return bool((levels.groupby(keys.to_numpy()).nunique(dropna=False) == 1).all())


def _targets(table: pd.DataFrame, options: CompareOptions) -> Mapping[str, Sequence[str]]:
    known = sorted(table["eval_set"].astype(str).unique())
    if not options.targets:
        return {name: (name,) for name in known}
    for target, sets in options.targets.items():
        for name in sets:
            if name not in known:
                raise UserError(
                    f"compare.targets: the table has no set {name!r} (target {target!r}). Near "
                    f"names: {nearest_names(name, known) or 'none'}."
                )
    return options.targets


def _of_target(
    table: pd.DataFrame,
    target: str,
    sets: Sequence[str],
    options: CompareOptions,
    left_out: list[dict[str, str]],
    notes: list[str],
) -> pd.DataFrame:
    """Return the rows of one target (see ``Measurements.rows``)."""
    if options.by:
        table = table[table[options.by].isin([target, options.shared])]
    rows = table[table["eval_set"].isin(sets)]
    bad = (rows["status"] != str(Status.OK)) | rows[options.unit].isna()
    complete = rows[~bad].groupby("run_id")["eval_set"].nunique()
    kept = complete.index[complete == len(set(sets))]
    for run in sorted(set(table["run_id"]) - set(kept)):
        lacking = sorted(set(sets) - set(rows["eval_set"][(rows["run_id"] == run) & ~bad]))
        reason = f"no {options.unit.words} of {', '.join(lacking)} at the compared checkpoint"
        left_out.append({"what": f"{run} on {target}", "reason": reason})
    rows = rows[rows["run_id"].isin(kept)]
    values, how = _joined(rows, options.unit)
    if len(sets) > 1:
        notes.append(f"{target}: {len(sets)} sets ({', '.join(sets)}), {how}.")
    runs = rows.drop_duplicates("run_id").set_index("run_id")
    found = pd.DataFrame(
        {
            "target": target,
            "method": runs[options.factor],
            "seed": runs["replicate"],
            "run_id": runs.index,
            "value": values.reindex(runs.index),
        }
    )
    return found.reset_index(drop=True)[list(ROWS)]


def _joined(rows: pd.DataFrame, unit: Unit) -> tuple[pd.Series, str]:
    """Return the loss of each run over all sets of a target, and how the sets were joined."""
    below = "target_bytes" if unit is Unit.BITS else "target_tokens"
    sums = rows[["nats", below]].astype(float)
    if sums.notna().all(axis=None) and (sums[below] > 0).all():
        total = sums.groupby(rows["run_id"]).sum()
        scale = math.log(2.0) if unit is Unit.BITS else 1.0
        return total["nats"] / (scale * total[below]), "joined by their sums"
    means = rows[str(unit)].astype(float).groupby(rows["run_id"]).mean()
    return means, "joined by the mean, because some have no sums"


def _check_once(rows: pd.DataFrame, options: CompareOptions) -> None:
    """Check that a target, level and seed have one run.

    Raises:
        UserError: they have two.
    """
    twice = rows[rows.duplicated(["target", "method", "seed"], keep=False)]
    if twice.empty:
        return
    first = twice.iloc[0]
    same = (twice[["target", "method", "seed"]] == first[["target", "method", "seed"]]).all(axis=1)
    names = " and ".join(twice[same]["run_id"].iloc[:2])
    fix = (
        "compare.where" if options.by else "compare.by (which target a run is for) or compare.where"
    )
    raise UserError(
        f"compare: {names} are both {first['method']} with seed {first['seed']} for "
        f"{first['target']}. Tell them apart with {fix}."
    )
