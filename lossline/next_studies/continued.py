"""A study that goes on: its grid with further runs, as the text of a gin file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lossline.cli.configuration import Verb, build_options
from lossline.design import Candidate
from lossline.errors import UserError
from lossline.gin_files.bound_text import bound_text
from lossline.models.resizing import resized
from lossline.next_studies.next_runs_text import StudyText, listed_text, short
from lossline.next_studies.similar_runs import nearest_run
from lossline.studies.grid import INCLUDE, LEVELS, Point, unique
from lossline.studies.planned_run import run_options
from lossline.studies.study import StudyOptions, sources
from lossline.training.components import COMPONENTS
from lossline.training.options import TrainOptions

_SAME = 0.02  # sizes and lengths that differ by less are the same
_TOKENS, _SEED, _SIZE = "tokens", "seed", "size"  # factors of what a new run changes


def continued_study(
    verb: Verb, gin_file: str, table: pd.DataFrame, picks: Sequence[Candidate]
) -> StudyText:
    """Return a gin file that includes a study and adds runs to its grid.

    Each new run is the run of the study with the same facts and the nearest size, with another
    size (the model's proportions stay), number of tokens or seed. Everything else, such as the
    learning rate, is that run's.

    Args:
        verb: the verb ``study``.
        gin_file: the study's gin file.
        table: the study's loss table.
        picks: the runs to add.

    Returns:
        The text, and one line for each thing that a person should look at. The study keeps its
        name: its finished runs are skipped.

    Raises:
        UserError: the file is no study, or the table has no run of it.
    """
    study: StudyOptions = build_options("study", verb, gin_files=[gin_file])
    before = bound_text("study.grid")
    points = {point.name: point for point in unique(study.grid.points())}
    point_of = {
        run: points[name]
        for run in map(str, table["run_id"].unique())
        if (name := run.rpartition("-")[0]) in points
    }
    if not point_of:
        raise UserError(
            f"--study: no run of the table is in the grid of {gin_file} "
            f"({', '.join(list(points)[:3])}, …). Give the study that made the table, or leave "
            "--study out."
        )
    known = table[table["run_id"].isin(list(point_of))]
    grid = _Grid(study, points)
    runs = [grid.added(point_of[nearest_run(known, pick)], pick) for pick in picks]
    scope = _free_scope(before)
    text = (
        f'include "{gin_file}"\n\n'
        f"study.grid = @{scope}/listed()\n"
        f"{scope}/listed.after = {before}  # the runs so far: finished ones are skipped\n"
        f"{listed_text(runs, scope)}"
    )
    return StudyText(text=text, notes=tuple(grid.notes))


def _free_scope(reference: str) -> str:
    """Return next, next_2, …: the first that the grid so far, if it was continued, has not."""
    scope = reference.removeprefix("@").partition("/")[0]
    number = scope.removeprefix("next").lstrip("_") or "1"
    if not scope.startswith("next") or not number.isdigit():
        return "next"
    return f"next_{int(number) + 1}"


class _Grid:
    """The runs of a study, and the new ones so far: names are unique, so are seeds."""

    def __init__(self, study: StudyOptions, points: Mapping[str, Point]) -> None:
        self._study = study
        self._names = set(points)
        self._sizing = _sizing_factor(list(points.values()), self._params)
        self.notes: list[str] = []

    def _options(self, point: Point) -> TrainOptions:
        return run_options(*sources(self._study, point))

    def _params(self, point: Point) -> float:
        return float(self._options(point).model.num_params().total)

    def added(self, like: Point, pick: Candidate) -> dict[str, Any]:
        """Return a new run as an entry of ``listed.runs``."""
        options = self._options(like)
        levels, changed = dict(like.factors), dict(like.bindings)
        sizes = self._sizes(options, pick)
        if sizes:
            old = levels.get(self._sizing, "")
            levels[self._sizing or _SIZE] = "-".join(filter(None, (old, f"N{short(pick.params)}")))
            changed |= sizes
        if abs(pick.tokens / options.total_tokens - 1) > _SAME:
            levels[_TOKENS] = short(pick.tokens)
            changed["train.tokens"] = round(pick.tokens)
            if options.steps is not None:
                changed["train.steps"] = None
        changed |= self._seed(levels, options.seed)
        self._check(like, levels, changed)
        files = like.gin_files
        included = {INCLUDE: files[0] if len(files) == 1 else list(files)} if files else {}
        return {LEVELS: levels, **included, **changed}

    def _sizes(self, options: TrainOptions, pick: Candidate) -> dict[str, Any]:
        model: Any = options.model
        if abs(pick.params / model.num_params().total - 1) <= _SAME:
            return {}
        owner = next(name for name, made in COMPONENTS.items() if made is type(model))
        sizes = resized(model, pick.params)
        found = dataclasses.replace(model, **sizes).num_params().total
        self.notes.append(
            f"A {model.family} of {short(found)} parameters stands for {short(pick.params)}: "
            f"{', '.join(f'{name} {value}' for name, value in sizes.items())}. Its learning rate "
            "and batch are those of the nearest size; check them."
        )
        return {f"{owner}.{name}": value for name, value in sizes.items()}

    def _seed(self, levels: dict[str, str], seed: int) -> dict[str, int]:
        """Give the run another seed if its name exists: it is a replicate then."""
        if (name := _name(levels)) not in self._names:
            self._names.add(name)
            return {}
        while _name(levels) in self._names:
            seed += 1
            levels[_SEED] = f"seed-{seed}"
        self._names.add(_name(levels))
        return {"train.seed": seed}

    def _check(self, like: Point, levels: dict[str, str], bindings: dict[str, Any]) -> None:
        """Note it if the run does not resolve, so that nobody learns it from the study."""
        point = Point(
            levels=tuple(levels.values()),
            gin_files=like.gin_files,
            bindings=bindings,
            factors=levels,
        )
        try:
            self._options(point)
        except UserError as error:
            self.notes.append(f"Edit the run {point.name} before you start: {error}")


def _name(levels: Mapping[str, str]) -> str:
    return "-".join(filter(None, levels.values()))


def _sizing_factor(points: Sequence[Point], params_of: Any) -> str:
    """Return the factor whose level alone decides the number of parameters; "" if none does."""
    params = [params_of(point) for point in points]
    for factor in dict.fromkeys(name for point in points for name in point.factors):
        sizes: dict[str, set[float]] = {}
        for point, size in zip(points, params, strict=True):
            sizes.setdefault(point.factors.get(factor, ""), set()).add(size)
        if len(set(params)) > 1 and all(len(found) == 1 for found in sizes.values()):
            return factor
    return ""
