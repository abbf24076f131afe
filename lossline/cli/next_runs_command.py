"""Implementation of ``python -m lossline.next_runs``: read, plan, write a folder, print."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import pandas as pd

from lossline.cli.table_inputs import (
    BadRows,
    as_paths,
    fingerprint_of,
    provenance,
    read_table,
    say_since,
)
from lossline.design import Candidate, DesignOptions, Plan, Question, Target, propose
from lossline.design.candidates import flops_ratio, model_asked, runs_of
from lossline.design.plan_files import PLAN_FOLDER, save_plan, summary
from lossline.errors import UserError
from lossline.options.identity import identity, not_identity
from lossline.places import to_path
from lossline.tables.frames import nearest_name, nearest_names
from lossline.tables.schema import SHARE, Status, Unit, of_run

# Packages whose code the results depend on.
_ROOMS = (
    "tables", "options", "matching", "laws", "lines", "attribution", "prediction", "mixtures",
    "fits", "design", "studies",
)  # fmt: skip
METRICS = ("loss", "bits_per_byte", "accuracy")
_FORM = '"4e8 8e9 pretraining_data=c4": parameters, tokens, then facts of the run'


class Grid(Protocol):
    """A study of the picks as gin text, and what to look at before starting it."""

    @property
    def text(self) -> str:
        """Text of a gin file."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """One line each."""
        ...


# From the study's gin file ("" if none is known), the table and the picks to their study.
GridMaker = Callable[[str, pd.DataFrame, Sequence[Candidate]], Grid]


def _contents(path: str) -> str:
    """Return a path with the hash of the file, as the study's part of the results' identity."""
    file = to_path(path)
    return f"{path} {hashlib.sha256(file.read_bytes()).hexdigest()}" if file.is_file() else path


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextRunsCommand(DesignOptions):
    """Options of ``lossline.next_runs``: those of ``DesignOptions``, and these.

    Attributes:
        table: loss tables, run directories or folders of run directories.
        question: what is to be known better. "line": a loss on ``y_set`` at a loss on ``x_set``;
            "translation": the difference between two groups' lines; "prediction": a loss or score
            on ``y_set`` at a size; "factor": the move between two levels.
        budget: training FLOPs of all new runs together.
        x_set: evaluation set on the x axis of the line.
        y_set: evaluation set that the question is about.
        unit: "loss" (nats per token) or "bits_per_byte".
        groups: groups of runs that the question is about, such as pretraining sets.
        factor: column of the factor, such as "architecture" or "factor.optimizer".
        levels: the two levels of the factor.
        params: N of the model that is asked about.
        tokens: D of that model; needs ``params``.
        flops: C of that model, in place of ``params`` and ``tokens``.
        loss: the loss on ``x_set`` that is asked about.
        shares: component -> share of the mixture of that model, where runs differ in mixtures.
        metric: of a prediction: "loss", "bits_per_byte" or "accuracy"; default: ``unit``.
        candidates: runs to choose from; default: a lattice of sizes and tokens. (N, D), (N, D,
            {fact: value}), or the same as text: "4e8 8e9 pretraining_data=c4".
        study: gin file of the study that made the table; the printed grid then continues it.
        out: folder for the results; default: only print.
        replace: whether to replace an earlier plan of other inputs at ``out``; other folders are
            never replaced.
        bad_rows: "exclude" (default): leave bad rows out, print one line for each kind, and use the
            rest. "refuse": stop if the table has any.
        report: whether to make the figure and report.html.
    """

    table: str | tuple[str, ...] = not_identity()
    question: Question
    budget: float
    x_set: str = ""
    y_set: str = ""
    unit: Unit = Unit.NATS
    groups: tuple[str, ...] = ()
    factor: str = ""
    levels: tuple[str, ...] = ()
    params: float | None = None
    tokens: float | None = None
    flops: float | None = None
    loss: float | None = None
    shares: dict[str, float] = dataclasses.field(default_factory=dict)
    metric: str = ""
    candidates: tuple[Any, ...] = ()
    study: str = dataclasses.field(default="", metadata={"identity": _contents})
    out: str = not_identity("")
    replace: bool = not_identity(False)
    bad_rows: BadRows = BadRows.EXCLUDE
    report: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.budget) and self.budget > 0):
            raise UserError(
                f"next_runs.budget = {self.budget}: must be training FLOPs above 0, e.g. 1e20."
            )
        for name in ("params", "tokens", "flops", "loss"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UserError(f"next_runs.{name} = {value}: must be a number above 0.")
        needed = {Question.FACTOR: ("factor", "y_set"), Question.LINE: ("x_set", "y_set")}
        for name in needed.get(self.question, ("y_set",)):
            if not getattr(self, name):
                raise UserError(
                    f"missing binding: next_runs.{name}. A question of {self.question} needs "
                    f"--{name}."
                )
        if self.x_set and self.x_set == self.y_set:
            raise UserError(
                f"next_runs.x_set and y_set are both {self.x_set!r}. Give two different sets."
            )
        if self.metric not in ("", *METRICS):
            raise UserError(
                f"next_runs.metric: {self.metric!r} is unknown. Choose {', '.join(METRICS)}."
            )
        for name in ("groups", "levels"):
            given = getattr(self, name)
            if len(set(given)) != len(given):
                raise UserError(
                    f"next_runs.{name}: one of {', '.join(given)} is given twice. Give others."
                )
        if self.levels and len(self.levels) != 2:
            raise UserError(
                f"next_runs.levels: {len(self.levels)} given. Give the two levels to compare."
            )
        object.__setattr__(self, "candidates", tuple(map(parse_candidate, self.candidates)))


def parse_candidate(given: Any) -> tuple[float, float, dict[str, str]]:
    """Return (N, D, {fact: value}) from numbers or from text.

    Args:
        given: a sequence of numbers, optionally with a dictionary; or "4e8 8e9 tokenizer=bpe".

    Raises:
        UserError: the candidate has another form.
    """
    words = given.split() if isinstance(given, str) else list(given)
    facts: dict[str, str] = {}
    try:
        for word in words[2:]:
            if isinstance(word, dict):
                facts |= {str(name): str(value) for name, value in word.items()}
                continue
            name, equals, value = str(word).partition("=")
            if not equals:
                raise ValueError(word)
            facts[name] = value
        params, tokens = float(words[0]), float(words[1])
    except (ValueError, IndexError, TypeError):
        raise UserError(f"next_runs.candidates: {given!r} is no run. Write {_FORM}.") from None
    if not (0 < params < math.inf and 0 < tokens < math.inf):
        raise UserError(f"next_runs.candidates: {given!r}: must be numbers above 0. Write {_FORM}.")
    return params, tokens, facts


def next_runs(options: NextRunsCommand, make_grid: GridMaker) -> Plan | None:
    """Plan the next runs, print the plan with its grid, and write the folder if one is given.

    Args:
        options: what is asked.
        make_grid: makes a study of the picks.

    Returns:
        The plan, or None if the folder is up to date.

    Raises:
        UserError: the table, the question or an option is wrong, or ``out`` contains something
            else.
    """
    paths = as_paths(options.table)
    if options.study and not to_path(options.study).is_file():
        raise UserError(f"--study: no file {options.study}. Give the gin file of the study.")
    table, dropped = read_table(paths, options.bad_rows)
    target = checked_target(table, options)
    started = time.monotonic()
    say = functools.partial(say_since, started)
    plan = functools.partial(_plan, table, target, options, _dropped(dropped), make_grid, say)
    if not options.out:
        found, grid = plan()
        _print(found, grid)
        return found
    out = to_path(options.out, "next_runs.out")
    fingerprint = fingerprint_of(table, options, _ROOMS)
    if PLAN_FOLDER.is_up_to_date(out, fingerprint, replace=options.replace):
        print((out / "summary.txt").read_text(encoding="utf-8").rstrip())
        print(f"{out} is up to date")
        return None
    with PLAN_FOLDER.writing(out, fingerprint) as partial:
        found, grid = plan()
        about, settings = provenance("next_runs", paths, fingerprint), identity(options)
        save_plan(found, partial, grid=grid, settings=settings, provenance=about)
        (partial / "summary.txt").write_text(summary(found) + "\n", encoding="utf-8")
        if options.report:
            from lossline.reporting.next_runs.report import write_plan_report

            say("figure and report")
            write_plan_report(
                found, partial, grid=grid, settings=settings, provenance=about, say=say
            )
    print(summary(found))
    print(f"\nGrid for study: python -m lossline.study --gin_file={out / 'grid.gin'} --dry_run")
    print(f"Results: {out / 'report.html' if options.report else out}", flush=True)
    return found


def _print(plan: Plan, grid: str) -> None:
    print(summary(plan))
    if plan.picks:
        print("\nGrid for study (--out=FOLDER writes it as grid.gin):\n")
        print(grid.rstrip(), flush=True)


def _plan(
    table: pd.DataFrame,
    target: Target,
    options: NextRunsCommand,
    notes: Sequence[str],
    make_grid: GridMaker,
    say: Callable[[str], None],
) -> tuple[Plan, str]:
    """Return the plan and the gin text of its grid."""
    found = propose(
        table,
        target,
        budget=options.budget,
        candidates=_candidates(table, options),
        options=_settings(options),
        say=say,
    )
    grid = make_grid(options.study, table, [pick.candidate for pick in found.picks])
    more = (*_within_note(table, target), *grid.notes, *_study_note(options))
    found = dataclasses.replace(found, notes=(*notes, *found.notes, *more))
    header = f"# Next runs: {found.question}\n# Made by python -m lossline.next_runs\n\n"
    return found, (header + grid.text if found.picks else "")


def _within_note(table: pd.DataFrame, target: Target) -> list[str]:
    """Say that the model asked about is no larger than the runs, if that is so."""
    own = table["pretraining_data"].astype(str).isin(target.groups or table["pretraining_data"])
    runs = runs_of(table[own & (table["status"] == str(Status.OK))])
    model = model_asked(runs, target) if target.question is Question.PREDICTION else None
    if model is None or model.flops > runs["flops"].max():
        return []
    return [
        f"The model asked about ({model.flops:.3g} FLOPs) lies within the fitted runs, which reach "
        f"{runs['flops'].max():.3g} FLOPs: this is an interpolation."
    ]


def _study_note(options: NextRunsCommand) -> list[str]:
    """Say that the table lies in a study's folder, if its gin file is not given."""
    paths = [to_path(path) for path in as_paths(options.table)]
    folders = [path if path.is_dir() else path.parent for path in paths]
    if options.study or not any((folder / "study.json").is_file() for folder in folders):
        return []
    return ["A study made this table: with --study=FILE.gin (its gin file), the grid continues it."]


def checked_target(table: pd.DataFrame, options: NextRunsCommand) -> Target:
    """Return what is asked, after a check of the names of sets and levels.

    Raises:
        UserError: the table has no such set, factor or level, or nothing was measured on a set.
    """
    measured = table[table["status"] == str(Status.OK)]
    if measured.empty:
        raise UserError("next_runs: no usable row with status ok in the table. Measure runs first.")
    for value, metric in (
        (options.x_set, options.unit),
        (options.y_set, options.metric or options.unit),
    ):
        _check_known(table, "eval_set", "set", value)
        _check_measured(measured, value, str(metric))
    for group in options.groups:
        _check_known(table, "pretraining_data", "pretraining set", group)
    levels = _levels(table, options) if options.factor else options.levels
    if options.question is not Question.FACTOR and not options.shares:
        _check_groups(table, options)
    return Target(
        question=options.question,
        x_set=options.x_set,
        y_set=options.y_set,
        unit=options.unit,
        groups=options.groups,
        factor=options.factor,
        levels=levels,
        params=options.params,
        tokens=options.tokens,
        flops=options.flops,
        loss=options.loss,
        shares=options.shares,
        metric=options.metric,
    )


def _check_known(table: pd.DataFrame, column: str, what: str, value: str) -> None:
    known = sorted(table[column].dropna().astype(str).unique())
    if value and value not in known:
        raise UserError(
            f"next_runs: the table has no {what} {value!r}. Near names: "
            f"{nearest_names(value, known)}."
        )


def _check_measured(rows: pd.DataFrame, eval_set: str, metric: str) -> None:
    own = rows[rows["eval_set"] == eval_set] if eval_set else rows
    if own[metric].isna().all():
        known = [name for name in METRICS if own[name].notna().any()]
        raise UserError(
            f"next_runs: the table has no {metric} on {eval_set or 'any set'}. It has "
            f"{', '.join(known) or 'none of its metrics'}: give it with --unit or --metric."
        )


def _check_groups(table: pd.DataFrame, options: NextRunsCommand) -> None:
    """Raise UserError if there are too few or too many groups for the question."""
    known = sorted(table["pretraining_data"].dropna().astype(str).unique())
    given, most = len(options.groups), 1 if options.question is Question.PREDICTION else 2
    least = 2 if options.question is Question.TRANSLATION else min(1, len(known) - 1)
    if not least <= given <= most:
        wanted = f"{least} or {most}" if least < most else str(most)
        raise UserError(
            f"next_runs.groups: {given} given, a question of {options.question} needs {wanted}. "
            f"Add --group and pretraining sets: {nearest_names('', known)}."
        )


def _levels(table: pd.DataFrame, options: NextRunsCommand) -> tuple[str, ...]:
    """Return the two levels of the factor: those given, or all if there are only two."""
    if options.factor not in table or table[options.factor].isna().all():
        known = [str(name) for name in table.columns if table[name].notna().any()]
        raise UserError(
            f"next_runs.factor: the table has no column {options.factor!r} with values"
            f"{nearest_name(options.factor, known) or '. Give a column of the loss table.'}"
        )
    levels = sorted(table[options.factor].dropna().astype(str).unique())
    for level in options.levels:
        if level not in levels:
            raise UserError(
                f"next_runs.levels: {options.factor} has no level {level!r}. "
                f"Levels: {nearest_names(level, levels)}."
            )
    if len(levels) < 2:
        raise UserError(
            f"next_runs.factor: all runs of the table have the {options.factor} {levels[0]!r}. "
            "Give a factor with two levels."
        )
    if not options.levels and len(levels) > 2:
        raise UserError(
            f"next_runs.levels: {options.factor} has {len(levels)} levels. Add --levels and two of "
            f"{nearest_names('', levels)}."
        )
    return options.levels or tuple(levels)


def _candidates(table: pd.DataFrame, options: NextRunsCommand) -> list[Candidate] | None:
    """Return the candidates that were given; None for the default lattice.

    Their FLOPs are 6 N D times what the table's runs need per 6 N D.
    """
    if not options.candidates:
        return None
    for fact, value in {item for _, _, facts in options.candidates for item in facts.items()}:
        if fact.startswith(SHARE):
            continue
        if fact not in table:
            known = of_run(map(str, table.columns))
            raise UserError(
                f"next_runs.candidates: the table has no fact {fact!r}"
                f"{nearest_name(fact, known) or '. Give a column of the loss table.'}"
            )
        _check_known(table, fact, fact, value)
    each = 6 * flops_ratio(runs_of(table))
    # A question about one group: its runs, not the nearest of another group.
    own = {"pretraining_data": options.groups[0]} if len(options.groups) == 1 else {}
    return [
        Candidate(params=params, tokens=tokens, flops=each * params * tokens, facts=own | facts)
        for params, tokens, facts in options.candidates
    ]


def _settings(options: NextRunsCommand) -> DesignOptions:
    """Return the options of the design alone."""
    names = [field.name for field in dataclasses.fields(DesignOptions)]
    return DesignOptions(**{name: getattr(options, name) for name in names})


def _dropped(rows: pd.DataFrame) -> list[str]:
    return [f"{row.what}: {row.reason}" for row in rows.itertuples()]
