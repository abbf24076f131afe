"""The question "factor": the difference between two levels of a factor along matched runs.

The runs of a matched group share one curve in x; the high level lies the move above it; each run
has a deviation of its own (``attribution.comparison``). Given x, the model is linear, with an exact
covariance. The interval is that of ``attribution``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lossline.attribution import AttributionOptions
from lossline.attribution.analysis import begin
from lossline.attribution.comparison import MatchedPoints, comparable
from lossline.attribution.contrasts import Contrast, Kind
from lossline.attribution.matched import Losses, Matched
from lossline.design.asked import Asked, single
from lossline.design.beliefs import Belief
from lossline.design.candidates import runs_of
from lossline.design.plan import Candidate, DesignOptions, Interval, Target
from lossline.errors import UserError
from lossline.matching.groups import Design, MatchedGroup, design, label_of
from lossline.tables.frames import nearest_name
from lossline.tables.schema import Unit

Array = np.ndarray

_WITHIN = 1 / 25  # variance within runs over that between them, as in ``attribution.comparison``
_BENDS_FROM = 8  # points of a group from which its curve is a parabola
_OTHER_LEVEL = 0.1  # distance, in ln N + ln D, that a run of the other level counts more
_VAGUE = 1e6  # variance of a curve's coefficients before any run, in units of the noise's


def ask_factor(
    rows: pd.DataFrame, target: Target, candidates: Sequence[Candidate], options: DesignOptions
) -> Asked:
    """Return the question with numbers.

    Args:
        rows: measured rows of a loss table.
        target: the question.
        candidates: runs of either level.
        options: options of the design.

    Raises:
        UserError: no matched runs of the two levels, or their noise is unknown.
    """
    plan = _checked(design(rows), target)
    contrast, x_set = _contrast(rows, plan, target, options)
    groups = _groups(plan, target, pooled=contrast.pooled_sizes)
    losses = Losses(_points(rows, x_set, target))
    level = {target.levels[0]: 0.0, target.levels[1]: 1.0}
    found = [(group, points) for group in groups if (points := _of(group, losses, level))]
    information = _information([points for _, points in found])
    at_x = dataclasses.replace(target, x_set=x_set)
    design_MxP = _places(candidates, found, rows, at_x, level)
    noise = contrast.run_noise.deviation**2
    ask = np.zeros(design_MxP.shape[1])
    ask[0] = 1.0
    whole = np.vstack([ask, design_MxP])
    covariance = noise * whole @ np.linalg.solve(information, whole.T)
    low, high = contrast.interval()
    if not np.isfinite([low, high, noise]).all():
        raise UserError(
            f"{target.factor}: the noise of its runs is unknown, so that there is no interval to "
            "shrink. Repeat one run with another seed first."
        )
    return Asked(
        words=f"the move of {label_of(target.factor)} from {target.levels[0]} to "
        f"{target.levels[1]} on {target.y_set} at equal {x_set}, in {contrast.comparison.runs} "
        "matched runs",
        unit=target.unit.words,
        now=Interval(value=contrast.move, low=low, high=high),
        belief=Belief(covariance=covariance, noise=np.full(len(candidates), noise * (1 + _WITHIN))),
        choices=single(candidates),
        notes=(
            "The expected half widths hold the quantile of the interval as it is; more runs also "
            "make it smaller. The move is taken to be the same in all matched groups.",
        ),
    )


def factor_candidates(rows: pd.DataFrame, target: Target) -> list[Candidate]:
    """Return every matched run once more at either level.

    Raises:
        UserError: an unknown factor or level, or the levels have no matched runs.
    """
    plan = _checked(design(rows), target)
    groups = _groups(plan, target, pooled=False) or _groups(plan, target, pooled=True)
    if not groups:
        raise UserError(
            f"target.factor: no runs of {' and '.join(target.levels)} differ in {target.factor} "
            "alone. Ask about other levels, or add such runs to the table."
        )
    runs = runs_of(rows).set_index("run_id")
    facts = rows.drop_duplicates("run_id").set_index("run_id")
    found: dict[tuple, Candidate] = {}
    for run in (run for group in groups for run in group.runs if run in runs.index):
        n, d, c = runs.loc[run, ["params", "tokens", "flops"]].astype(float)
        for level in target.levels:
            kept = {
                name: str(facts.loc[run, name])
                for name in ("architecture", "pretraining_data", "tokenizer")
                if pd.notna(facts.loc[run, name])
            }
            kept[target.factor] = level
            place = (round(np.log(n), 2), round(np.log(d), 2), *kept.items())
            found.setdefault(place, Candidate(params=n, tokens=d, flops=c, facts=kept))
    return list(found.values())


def _checked(plan: Design, target: Target) -> Design:
    """Return the design after a check that it has the factor and the two levels.

    Raises:
        UserError: an unknown factor or level.
    """
    known = list(map(str, plan.listed()))
    if target.factor not in known:
        raise UserError(
            f"target.factor: {target.factor!r} does not vary"
            f"{nearest_name(target.factor, known) or '.'} Factors: {', '.join(known)}."
        )
    levels = plan.recorded_levels(target.factor)
    if len(set(target.levels)) != 2 or not set(target.levels) <= set(levels):
        raise UserError(
            f"target.levels = {', '.join(target.levels) or 'none'}: give two levels of "
            f"{target.factor}. It has {', '.join(levels)}."
        )
    return plan


def _contrast(
    rows: pd.DataFrame, plan: Design, target: Target, options: DesignOptions
) -> tuple[Contrast, str]:
    """Return the contrast of the two levels on the y set, and the x set.

    Raises:
        UserError: the levels have no matched runs.
    """
    matched = dataclasses.replace(
        Matched.of(plan, target.factor), pairs=[tuple(target.levels)], number=None
    )
    asked = AttributionOptions(
        x_set=target.x_set or None, y_sets=(target.y_set,), alpha=1 - options.level, resamples=0
    )
    found = begin(rows, asked, plan, (matched,)).wait()
    for contrast in found.contrasts:
        if contrast.kind is Kind.LEVELS and contrast.unit == Unit(target.unit):
            return contrast, found.x_set
    raise UserError(
        f"{target.factor}: no matched runs of {' and '.join(target.levels)} have losses on "
        f"{target.y_set} at equal x. {found.message}".strip()
    )


def _groups(plan: Design, target: Target, *, pooled: bool) -> list[MatchedGroup]:
    """Return the matched groups that have both levels."""
    kept = [g.only(target.levels) for g in plan.groups(target.factor, pool_sizes=pooled)]
    return [group for group in kept if len(group.levels) == 2]


def _points(rows: pd.DataFrame, x_set: str, target: Target) -> pd.DataFrame:
    """Return x and y by run and step."""
    wide = rows.pivot(index=["run_id", "step"], columns="eval_set", values=str(target.unit))
    found = wide[[x_set, target.y_set]].dropna().sort_index()
    return found.set_axis(["x", "y"], axis=1)


def _of(group: MatchedGroup, losses: Losses, level: dict[str, float]) -> MatchedPoints | None:
    """Return the points of a group at the x that both levels cover, with their level as number."""
    d = {run: level[name] for name, runs in group.levels.items() for run in runs}
    points = losses.points(group, d)
    kept = None if points is None else comparable(points)
    return None if points is None or kept is None else points.keep(kept)


def _columns(group: int, groups: int, u: Array, d: Array, degree: int) -> Array:
    """Return the columns (M, P) of points of a group: the level, then each group's curve."""
    curves = np.zeros((len(u), groups, 3))
    curves[:, group, : degree + 1] = u[:, None] ** np.arange(degree + 1)
    return np.column_stack([d, curves.reshape(len(u), -1)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Scale:
    """Unit of x of a group, and the degree of its curve."""

    middle: float
    width: float
    degree: int

    @classmethod
    def of(cls, points: MatchedPoints) -> _Scale:
        distinct = len(np.unique(points.x))
        degree = min(1 + int(len(points.x) >= _BENDS_FROM), distinct // 2)
        width = float(np.ptp(points.x)) or 1.0
        return cls(middle=float(points.x.mean()), width=width, degree=degree)

    def u(self, x: Array) -> Array:
        return (x - self.middle) / self.width


def _information(groups: Sequence[MatchedPoints]) -> Array:
    """Return the information (P, P) of all runs on the move and the curves, at noise 1."""
    parts = []
    for number, points in enumerate(groups):
        scale = _Scale.of(points)
        rows = _columns(number, len(groups), scale.u(points.x), points.d, scale.degree)
        for run in np.unique(points.run):
            of_run = rows[points.run == run]
            covariance = 1.0 + _WITHIN * np.eye(len(of_run))
            parts.append(of_run.T @ np.linalg.solve(covariance, of_run))
    found = np.sum(parts, axis=0)
    return found + np.eye(len(found)) / _VAGUE


def _places(
    candidates: Sequence[Candidate], groups: Sequence[tuple[MatchedGroup, MatchedPoints]],
    rows: pd.DataFrame, target: Target, level: Mapping[str, float],
) -> Array:  # fmt: skip
    """Return the columns (M, P) of each candidate: in the group, and at the x, of its nearest run.

    Raises:
        UserError: a candidate has neither of the two levels.
    """
    runs = runs_of(rows).set_index("run_id")
    ends = rows.sort_values("tokens").drop_duplicates(["run_id", "eval_set"], keep="last")
    known = [
        (number, level[name], np.log(runs.loc[run, ["params", "tokens"]].to_numpy(float)), run)
        for number, (group, _) in enumerate(groups)
        for name, members in group.levels.items()
        for run in members
        if run in runs.index
    ]
    number, d, place, run = (np.array(column) for column in zip(*known, strict=True))
    last_x = ends[ends["eval_set"] == target.x_set].set_index("run_id")[str(target.unit)]
    x = last_x.reindex(run).to_numpy(float)
    usable = np.isfinite(x)
    found = []
    for candidate in candidates:
        name = candidate.facts.get(target.factor, "")
        if name not in level:
            raise UserError(
                f"candidates: a run of {candidate.params:.3g} parameters has {target.factor} = "
                f"{name or 'nothing'}. Give {' or '.join(level)}."
            )
        away = np.abs(place - np.log([candidate.params, candidate.tokens])).sum(axis=1)
        # A run of the same level lies at the same x; else the run of the other level is near.
        away = np.where(usable, away + _OTHER_LEVEL * (d != level[name]), np.inf)
        nearest = int(np.argmin(away))
        group = int(number[nearest])
        scale = _Scale.of(groups[group][1])
        u = scale.u(x[nearest : nearest + 1])
        found.append(_columns(group, len(groups), u, np.array([level[name]]), scale.degree)[0])
    return np.array(found)
