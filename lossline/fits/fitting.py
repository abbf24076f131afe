"""Fit everything that a report shows: lines, laws, held-out predictions, attribution.

Fit a loss table:

    results = fit_table(tables.load("losses.parquet"))
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lossline.attribution import AttributionOptions, attribute, neutral_set
from lossline.errors import UserError
from lossline.fits.results import ComputeLawFit, TableFit
from lossline.laws.bootstrap import Bootstrap, bootstrap_problems
from lossline.laws.compute_laws import Kaplan
from lossline.laws.problems import FitProblem
from lossline.laws.results import FitResult, FitStatus
from lossline.laws.solver import fit_many, has_many_points
from lossline.lines.fitting import Line, LineOptions, fit_specimen
from lossline.lines.groups import GROUP_BY, Group, split
from lossline.lines.heldout import case_of, hold_out
from lossline.lines.rolling_cuts import calibrated
from lossline.lines.specimens import Specimen, within_groups
from lossline.options.identity import not_identity
from lossline.run_order import run_numbers
from lossline.tables.chance import chance_level
from lossline.tables.continued import continued_names, is_continued
from lossline.tables.frames import kinds_of, nearest_name, nearest_names
from lossline.tables.pairing import Measurements
from lossline.tables.schema import OWN_SET, SetKind, Status, Unit
from lossline.terminal import Say, silent
from lossline.workers import Workers

_LAW = Kaplan()
_TOGETHER = 12  # most laws that one worker resamples at a time
_PIECES = 4  # least number of such pieces per worker, if there are enough laws


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableFitOptions:
    """What to fit, and how.

    Attributes:
        group_by: facts that the runs of one line share.
        x_sets: validation sets of the x axis; all by default.
        y_sets: evaluation sets of the y axis; all by default.
        units: "loss" (nats per token) and "bits_per_byte".
        lines: how to fit lines.
        attribution: how to test factors.
        law_resamples: bootstrap resamples for the interval of E of the compute-to-loss laws; 0 for
            none.
        processes: processes that fit laws and lines. The results do not depend on it. A script that
            asks for more than one must guard its entry by ``if __name__ == "__main__"``.

    Raises:
        UserError: a unit is unknown, or ``processes`` is below 1.
    """

    group_by: tuple[str, ...] = GROUP_BY
    x_sets: tuple[str, ...] = ()
    y_sets: tuple[str, ...] = ()
    units: tuple[str, ...] = tuple(map(str, Unit))
    lines: LineOptions = dataclasses.field(default_factory=LineOptions)
    attribution: AttributionOptions = dataclasses.field(default_factory=AttributionOptions)
    law_resamples: int = 100
    processes: int = not_identity(1)

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise UserError(f"fit.processes = {self.processes}: must be at least 1.")
        for unit in self.units:
            if unit not in tuple(Unit):
                raise UserError(f"fit.units: {unit!r} is unknown. Choose from {', '.join(Unit)}.")


def fit_table(
    table: pd.DataFrame, options: TableFitOptions | None = None, *, say: Say = silent
) -> TableFit:
    """Fit everything that a validated loss table allows.

    A group or set that cannot be fitted is in the results with a status and a message; the others
    are fitted.

    Args:
        table: a loss table.
        options: what to fit, and how.
        say: called with a line of progress.

    Raises:
        UserError: an option names a set or a fact that is not in the table, or the table has no
            measurements.
    """
    options = options or TableFitOptions()
    rows = table[table["status"] == str(Status.OK)]
    if rows.empty:
        raise UserError("the loss table has no row with status ok: there is nothing to fit")
    x_sets, y_sets = _sets(rows, options)
    units = [unit for unit in options.units if rows[unit].notna().any()]
    if not units:
        raise UserError(
            f"the loss table has no value in {' or '.join(options.units)}: there is nothing to fit"
        )
    groups = len(split(rows, options.group_by))
    with Workers(options.processes) as workers:
        workers.start(TableFitOptions)
        say(f"compute-to-loss laws of {groups} {'group' if groups == 1 else 'groups'} of runs")
        laws = [law for unit in units for law in _compute_laws(rows, unit, options, workers, say)]
        with_loss = [{n for u in units for n in _measured(rows, s, u)} for s in (x_sets, y_sets)]
        say("lines: {} x sets, {} y sets".format(*map(len, with_loss)))
        specimens = _specimens(rows, x_sets, y_sets, units, options)
        fit_one = functools.partial(fit_specimen, options=options.lines)
        lines = workers.map(fit_one, specimens, say=say, what="lines")
        main = options.attribution.x_set or neutral_set(rows)
        lines = calibrated(lines, specimens, options.lines, x_set=main, workers=workers, say=say)
        say("held-out predictions: runs of largest compute from the others")
        if main is not None and main not in x_sets:
            specimens = _specimens(rows, [main], y_sets, units, options)
        found = [one for one in specimens if one.x_set == main and one.y_set != OWN_SET]
        heldout, lines = _held_out(rows, found, lines, options, workers, say)
        say("attribution: which factors move the lines")
        attribution = attribute(table, _attribution_options(options), workers=workers, say=say)
    return TableFit(
        table=table,
        lines=tuple(lines),
        compute_laws=tuple(laws),
        attribution=attribution,
        heldout=heldout,
        excluded=pd.concat(
            [
                exclusions(table),
                without_line(lines),
                without_loss(rows),
                at_chance(rows),
                without_scale(rows),
            ],
            ignore_index=True,
        ),
        settings=dataclasses.asdict(options),
    )


def _specimens(
    rows: pd.DataFrame,
    x_sets: Sequence[str],
    y_sets: Sequence[str],
    units: Sequence[str],
    options: TableFitOptions,
) -> list[Specimen]:
    """Return the lines between these sets, in every unit."""
    return [
        specimen
        for unit in units
        for specimen in within_groups(
            _in_unit(rows, unit),
            x_sets=_measured(rows, x_sets, unit),
            y_sets=_measured(rows, y_sets, unit),
            group_by=options.group_by,
            unit=unit,
        )
    ]


def _attribution_options(options: TableFitOptions) -> AttributionOptions:
    """Return the attribution options; ``max_x`` defaults to the lines' own."""
    if options.attribution.max_x is not None:
        return options.attribution
    return dataclasses.replace(options.attribution, max_x=options.lines.max_x)


def _sets(rows: pd.DataFrame, options: TableFitOptions) -> tuple[list[str], list[str]]:
    """Return the x sets and the y sets, checked against the table."""
    kinds = kinds_of(rows)
    asked = {
        "fit": (*options.x_sets, *options.y_sets),
        "attribution": (options.attribution.x_set, *options.attribution.y_sets),
    }
    for verb, name in ((verb, name) for verb, names in asked.items() for name in names):
        if name is not None and name not in kinds:
            raise UserError(
                f"{verb}: no evaluation set {name!r} in the table{nearest_name(name, kinds)}; "
                f"it has {nearest_names(name, sorted(kinds))}"
            )
    # A task's loss on the x axis is unusual, but allowed if the user names it.
    x_sets = list(options.x_sets) or [
        name for name, kind in sorted(kinds.items()) if kind == SetKind.VALIDATION
    ]
    return x_sets, list(options.y_sets) or sorted(kinds)


def _measured(rows: pd.DataFrame, names: Sequence[str], unit: str) -> list[str]:
    """Return the names of the sets that have a value in this unit."""
    known = set(rows.loc[rows[unit].notna(), "eval_set"].unique())
    return [name for name in names if name in known]


def _in_unit(rows: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Return the rows that have a value in this unit."""
    return rows[rows[unit].notna()]


# --- compute-to-loss laws ----------------------------------------------------------------------


def _compute_laws(
    rows: pd.DataFrame, unit: str, options: TableFitOptions, workers: Workers, say: Say
) -> list[ComputeLawFit]:
    """Fit the Kaplan-style law of each group on each set, and resample it.

    Laws of few points are fitted in one batch, the others by the workers.
    """
    found = []
    for group in split(rows, options.group_by):
        measured = Measurements(group.table, unit)
        names = sorted(group.table.loc[group.table[unit].notna(), "eval_set"].unique())
        found += [_to_fit(group, name, unit, measured.of_set(name)) for name in names]
    asked = [(problem, runs) for _, problem, runs in found if problem is not None]
    few = [i for i, (problem, _) in enumerate(asked) if not has_many_points(len(problem.target))]
    fits: list[FitResult | None] = [None] * len(asked)
    for i, fitted in zip(few, fit_many(_LAW, [asked[i][0] for i in few]), strict=True):
        fits[i] = fitted
    work = [(*one, fit) for one, fit in zip(asked, fits, strict=True)]
    size = max(1, min(_TOGETHER, math.ceil(len(work) / (_PIECES * options.processes))))
    pieces = [work[i : i + size] for i in range(0, len(work), size)]
    resample = functools.partial(_fitted, resamples=options.law_resamples)
    of_pieces = workers.map(resample, pieces, say=say, what=f"batches of laws resampled ({unit})")
    laws = (law for piece in of_pieces for law in piece)
    return [base if problem is None else _with_law(base, *next(laws)) for base, problem, _ in found]


def _fitted(
    asked: Sequence[tuple[FitProblem, np.ndarray, FitResult | None]], resamples: int
) -> list[tuple[FitResult, Bootstrap | None]]:
    """Return fits and bootstraps of problems, given with the runs of their points.

    Their fits are given if they are known.
    """
    problems, runs, known = zip(*asked, strict=True)
    if not resamples:
        return [
            (fit or fit_many(_LAW, [one])[0], None)
            for one, fit in zip(problems, known, strict=True)
        ]
    found = bootstrap_problems(_LAW, problems, runs=runs, fits=known, resamples=resamples)
    return [(one.fit, one) for one in found]


def _to_fit(
    group: Group, eval_set: str, unit: str, points: pd.DataFrame
) -> tuple[ComputeLawFit, FitProblem | None, np.ndarray]:
    """Return the facts of a law, its problem, and the number of each point's run.

    Runs are numbered by their data, so that their names have no effect on intervals. The problem is
    None if the points cannot determine the law.
    """
    known = points[points["params"].notna() & points["tokens"].notna()]
    base = ComputeLawFit(
        group=dict(group.facts),
        eval_set=eval_set,
        unit=unit,
        law=_LAW.name,
        equation=_LAW.equation,
        status=FitStatus.UNDERDETERMINED.value,
        n_runs=known["run_id"].nunique(),
        n_points=len(known),
    )
    inputs = {"N": known["params"].to_numpy(float), "D": known["tokens"].to_numpy(float)}
    problem = FitProblem(inputs=inputs, target=known["value"].to_numpy(float))
    runs = run_numbers(known["run_id"], *inputs.values(), problem.target)
    sizes = known["params"].nunique()
    if sizes < 2:
        message = f"{sizes} model size: a law in N and D needs at least two"
        if names := continued_names(group.table):
            message += f"; not counted, because they continue another run: {names}"
        return dataclasses.replace(base, message=message), None, runs
    return base, problem, runs


def _with_law(base: ComputeLawFit, found: FitResult, resampled: Bootstrap | None) -> ComputeLawFit:
    """Return the law with its fit, and the 90% interval of E by a bootstrap over runs."""
    message, low, high = "", math.nan, math.nan
    if resampled is not None:
        message = resampled.message
        if resampled.determined:
            low, high = resampled.interval("E", 0.9)
    return dataclasses.replace(
        base,
        status=found.status.value,
        message=found.message or message,
        parameters={name: float(value) for name, value in found.parameters.items()},
        E_low=float(low),
        E_high=float(high),
        r2=found.r2,
    )


# --- hold-out ----------------------------------------------------------------------------------


def _held_out(
    rows: pd.DataFrame,
    specimens: Sequence[Specimen],
    lines: Sequence[Line],
    options: TableFitOptions,
    workers: Workers,
    say: Say,
) -> tuple[pd.DataFrame, list[Line]]:
    """Return predictions of each group's largest fresh runs, and the lines with their mean error.

    The predictions are along the lines of ``specimens``.
    """
    continued = rows.loc[is_continued(rows), "run_id"].unique()
    min_points = options.lines.min_points
    found = [case_of(one, min_points, without=continued) for one in specimens]
    cases = [case for case in found if case is not None]
    scores = hold_out(cases, options.lines, workers=workers, say=say)
    if not len(scores):
        return scores, list(lines)
    return scores, [_scored(line, scores) for line in lines]


def _scored(line: Line, scores: pd.DataFrame) -> Line:
    """Return the line with its mean error on held-out runs."""
    own = (scores["method"] == "line") & (scores["unit"] == line.unit)
    own &= (scores["x_set"] == line.x_set) & (scores["y_set"] == line.y_set)
    for name, value in line.group.items():
        own &= scores[name].isna() if value is None else scores[name] == value
    errors = scores.loc[own, "relative_error"].abs()
    return dataclasses.replace(line, heldout_error=float(errors.mean())) if len(errors) else line


# --- what was left out -------------------------------------------------------------------------


_EXCLUDED = ["what", "rows", "reason"]


def exclusions(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that no fit uses: columns what, rows, reason; one row per set and reason."""
    unused = table[table["status"] != str(Status.OK)]
    if unused.empty:
        return pd.DataFrame(columns=_EXCLUDED)
    reason = unused["message"].astype(object).where(unused["message"].notna(), "no reason given")
    grouped = unused.assign(reason=reason).groupby(["eval_set", "status", "reason"], sort=True)
    lines: list[dict[str, Any]] = []
    for (eval_set, status, why), rows in grouped:
        runs = rows["run_id"].unique()
        named = ", ".join(map(str, runs[:3])) + (f", … ({len(runs)} runs)" if len(runs) > 3 else "")
        lines.append(
            {"what": f"{eval_set}: {named}", "rows": len(rows), "reason": f"{status}: {why}"}
        )
    return pd.DataFrame(lines, columns=_EXCLUDED)


def without_line(lines: Sequence[Line]) -> pd.DataFrame:
    """Return the groups of runs without a trusted line, one row per group and reason."""
    found: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        if not line.drawable:
            group = ", ".join(str(v) for v in line.group.values() if v is not None) or "all runs"
            found.setdefault((group, line.message), []).append(line)
    rows = []
    for (group, message), members in found.items():
        sets = sorted({line.y_set for line in members})
        named = ", ".join(sets[:3]) + (f", … ({len(sets)} sets)" if len(sets) > 3 else "")
        points = max(line.n_points for line in members)
        rows.append({"what": f"{group}: {named}", "rows": points, "reason": f"no line: {message}"})
    return pd.DataFrame(rows, columns=_EXCLUDED)


def without_loss(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the sets that have only accuracies, which get no line."""
    has_loss = rows[[*Unit]].notna().any(axis=1).groupby(rows["eval_set"]).any()
    counts = rows["eval_set"].value_counts()
    reason = "no line: it has only accuracies, and lines need losses"
    found = [
        {"what": str(name), "rows": int(counts[name]), "reason": reason}
        for name in has_loss.index[~has_loss]
    ]
    return pd.DataFrame(found, columns=_EXCLUDED)


def at_chance(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the benchmarks on which no checkpoint is better than guessing.

    Their losses are fitted all the same.
    """
    found = []
    for name, part in rows[rows["accuracy"].notna()].groupby("eval_set"):
        chance = chance_level(str(name), part)
        if chance is not None and (part["accuracy"] <= chance).all():
            reason = (
                f"kept, but at or below chance ({chance:.3g}) at every checkpoint: its loss does "
                "not measure the skill yet"
            )
            found.append({"what": str(name), "rows": len(part), "reason": reason})
    return pd.DataFrame(found, columns=_EXCLUDED)


def without_scale(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that continued another run, which get no law of scale; one row at most."""
    continued = rows[is_continued(rows)]
    if continued.empty:
        return pd.DataFrame(columns=_EXCLUDED)
    reason = (
        "kept in lines, but in no law from scale to loss and no held-out prediction: they started "
        "from another run's parameters, and their tokens and FLOPs count only their own part"
    )
    found = {"what": continued_names(rows), "rows": len(continued), "reason": reason}
    return pd.DataFrame([found], columns=_EXCLUDED)
