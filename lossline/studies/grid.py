"""Grids of runs as data: combinators of axes that yield named sets of gin bindings.

``Axis`` lists the levels of one factor, ``Product`` combines, ``Zip`` pairs, ``Chain`` appends,
``Listed`` names runs one by one. Each is a frozen dataclass with one method, ``points()``, so a
gin file can nest them freely.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lossline.errors import UserError

INCLUDE = "gin_file"
LEVELS = "levels"
UNNAMED_LEVEL = "default"  # name in the loss table of a level whose name is empty


@dataclass(frozen=True, kw_only=True)
class Point:
    """One planned run: level names, gin files to include, and bindings.

    Attributes:
        levels: names of the chosen levels, in the order of the axes.
        gin_files: files parsed after the study's base run file, in order.
        bindings: Gin key -> value; later axes override earlier ones.
        factors: factor of each axis -> chosen level; ``factor.<name>`` in the loss table.
    """

    levels: tuple[str, ...] = ()
    gin_files: tuple[str, ...] = ()
    bindings: Mapping[str, Any] = field(default_factory=dict)
    factors: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Readable name of the run: the non-empty level names, joined by hyphens."""
        return "-".join(level for level in self.levels if level)

    def joined(self, other: Point) -> Point:
        """Return this point combined with another, whose bindings override equal keys."""
        return Point(
            levels=self.levels + other.levels,
            gin_files=self.gin_files + other.gin_files,
            bindings={**self.bindings, **other.bindings},
            factors={**self.factors, **other.factors},
        )


class Grid(Protocol):
    """Interface of everything that yields points."""

    def points(self) -> list[Point]:
        """Return the planned runs, in order."""
        ...


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The levels of one factor.

    Attributes:
        factor: name of the factor. The loss table records each run's level in the column
            ``factor.<factor>``. Attribution tests the factor, unless the run's recorded facts
            already distinguish its levels.
        levels: level name -> bindings. The key ``gin_file`` gives a file (or a list of files) to
            include. In a string, ``{study}`` is the study's folder, and the name of a factor in
            braces is the run's level of it: ``"{study}/stores/{target}-{method}/train"``.
    """

    factor: str
    levels: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        if not self.levels:
            raise UserError(
                f"axis.levels of factor {self.factor!r} is empty. Give it at least one level."
            )
        if not self.factor.strip():
            raise UserError(
                "axis.factor is empty. Give the name of the factor that the levels vary."
            )

    def points(self) -> list[Point]:
        """Return one point per level."""
        return [self._point(name, dict(bindings)) for name, bindings in self.levels.items()]

    def _point(self, name: str, bindings: dict[str, Any]) -> Point:
        return _point({self.factor: name}, bindings)


@dataclass(frozen=True, kw_only=True)
class Product:
    """Every combination of the parts; the last part varies fastest.

    Attributes:
        parts: axes or other grids to combine.
    """

    parts: Sequence[Grid]

    def points(self) -> list[Point]:
        """Return the combinations, in order."""
        combinations = itertools.product(*(part.points() for part in self.parts))
        return [_join(combination) for combination in combinations]


@dataclass(frozen=True, kw_only=True)
class Zip:
    """The parts in parallel: the first point of each, the second of each, and so on.

    Attributes:
        parts: axes or other grids, all with the same number of runs.

    Raises:
        UserError: the parts have different numbers of points.
    """

    parts: Sequence[Grid]

    def points(self) -> list[Point]:
        """Return the joined points, in order."""
        columns = [part.points() for part in self.parts]
        lengths = [len(column) for column in columns]
        if len(set(lengths)) > 1:
            raise UserError(
                f"zip.parts have {lengths} points. Give parts with the same number of points."
            )
        return [_join(row) for row in zip(*columns, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The points of one part after the other.

    Attributes:
        parts: axes or other grids.
    """

    parts: Sequence[Grid]

    def points(self) -> list[Point]:
        """Return the points of all parts, in order."""
        return [point for part in self.parts for point in part.points()]


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Runs written one by one, after those of another grid.

    Attributes:
        runs: one entry per run: ``levels`` gives factor -> level, every other key is a binding, and
            ``gin_file`` a file (or a list of files) to include.
        after: grid whose runs come first, so that these runs continue its study.

    Raises:
        UserError: there is no run, or a run has no levels.
    """

    runs: Sequence[Mapping[str, Any]]
    after: Grid | None = None

    def __post_init__(self) -> None:
        if not self.runs:
            raise UserError("listed.runs is empty. Give it at least one run.")
        for number, run in enumerate(self.runs):
            if not isinstance(run.get(LEVELS), Mapping) or not run[LEVELS]:
                raise UserError(
                    f"listed.runs[{number}] has no {LEVELS!r}. Name its level of each factor: "
                    f'"{LEVELS}": {{"model": "llama-s", …}}.'
                )

    def points(self) -> list[Point]:
        """Return the points of ``after``, then one point per run."""
        before = self.after.points() if self.after else []
        own = [{key: value for key, value in run.items() if key != LEVELS} for run in self.runs]
        return before + [
            _point(run[LEVELS], bindings) for run, bindings in zip(self.runs, own, strict=True)
        ]


def unique(points: Sequence[Point]) -> list[Point]:
    """Return the points as a list, after a check that each has a name of its own.

    Raises:
        UserError: there is no point, one has no name, or two have the same.
    """
    if not points:
        raise UserError("study.grid yields no run. Give it at least one axis with a level.")
    seen: dict[str, Point] = {}
    for point in points:
        if not point.name:
            raise UserError(
                "study.grid yields a run whose levels all have empty names. Name one of them."
            )
        if point.name in seen:
            raise UserError(
                f"study.grid yields two runs called {point.name!r}. "
                "Give their levels different names."
            )
        seen[point.name] = point
    return list(points)


def _point(levels: Mapping[str, str], bindings: dict[str, Any]) -> Point:
    """Return the point of some levels; the binding ``gin_file`` names files to include."""
    for factor, level in levels.items():
        if not isinstance(factor, str) or not isinstance(level, str):
            raise UserError(
                f"level {level!r} of factor {factor!r}: names must be strings. Write it in quotes."
            )
    files = bindings.pop(INCLUDE, ())
    files = (files,) if isinstance(files, str) else files
    if not isinstance(files, Sequence) or not all(isinstance(file, str) for file in files):
        raise UserError(
            f"levels {', '.join(levels.values())}: {INCLUDE} = {files!r}: must be a path or a list "
            "of paths"
        )
    return Point(
        levels=tuple(levels.values()),
        gin_files=tuple(files),
        bindings=bindings,
        factors={factor: name or UNNAMED_LEVEL for factor, name in levels.items()},
    )


def _join(points: Sequence[Point]) -> Point:
    result = Point()
    for point in points:
        result = result.joined(point)
    return result
