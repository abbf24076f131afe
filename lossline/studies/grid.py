"""A grid is data: combinators of axes that yield named sets of gin bindings.

``Axis`` lists the levels of one factor; ``Product`` crosses, ``Zip`` pairs, ``Chain`` appends. Each
is a frozen dataclass with one method, ``points()``, so that a gin file can nest them freely.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lossline.errors import UserError

INCLUDE = "gin_file"
UNNAMED_LEVEL = "default"  # a level with an empty name, in the loss table


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run to be: the level names that make its name, gin files to include, and bindings.

    Attributes:
        levels: names of the chosen levels, in the order of the axes.
        gin_files: files parsed after the study's base run file, in order.
        bindings: gin key -> value, later axes win.
        factors: what the axes vary -> the chosen level; ``factor.<name>`` of the loss table.
    """

    levels: tuple[str, ...] = ()
    gin_files: tuple[str, ...] = ()
    bindings: Mapping[str, Any] = field(default_factory=dict)
    factors: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Readable name: the levels joined by hyphens; levels with an empty name leave no trace."""
        return "-".join(level for level in self.levels if level)

    def joined(self, other: Point) -> Point:
        """This point refined by another: names appended, the other's bindings win."""
        return Point(
            levels=self.levels + other.levels,
            gin_files=self.gin_files + other.gin_files,
            bindings={**self.bindings, **other.bindings},
            factors={**self.factors, **other.factors},
        )


class Grid(Protocol):
    """Anything that yields points."""

    def points(self) -> list[Point]:
        """The runs, in order."""
        ...


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The levels of one factor.

    Attributes:
        factor: what varies. A factor of the loss table: the level of each run stands in the column
            ``factor.<factor>``, and attribution tests it unless the run's recorded facts already
            tell its levels apart.
        levels: level name -> bindings; the key ``gin_file`` names a file (or a list of files) to
            include instead.
    """

    factor: str
    levels: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        if not self.levels:
            raise UserError(
                f"axis.levels of factor {self.factor!r} is empty; give it at least one level"
            )
        if not self.factor.strip():
            raise UserError("axis.factor is empty; name what the levels vary")

    def points(self) -> list[Point]:
        return [self._point(name, dict(bindings)) for name, bindings in self.levels.items()]

    def _point(self, name: str, bindings: dict[str, Any]) -> Point:
        files = bindings.pop(INCLUDE, ())
        files = (files,) if isinstance(files, str) else tuple(files)
        return Point(
            levels=(name,),
            gin_files=files,
            bindings=bindings,
            factors={self.factor: name or UNNAMED_LEVEL},
        )


@dataclass(frozen=True, kw_only=True)
class Product:
    """Every combination of the parts; the last part varies fastest."""

    parts: Sequence[Grid]

    def points(self) -> list[Point]:
        combinations = itertools.product(*(part.points() for part in self.parts))
        return [_join(combination) for combination in combinations]


@dataclass(frozen=True, kw_only=True)
class Zip:
    """The parts side by side: first with first, second with second.

    Raises:
        UserError: parts of different lengths.
    """

    parts: Sequence[Grid]

    def points(self) -> list[Point]:
        columns = [part.points() for part in self.parts]
        lengths = [len(column) for column in columns]
        if len(set(lengths)) > 1:
            raise UserError(f"zip.parts have {lengths} points; they must have equally many")
        return [_join(row) for row in zip(*columns, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Chain:
    """One part after the other."""

    parts: Sequence[Grid]

    def points(self) -> list[Point]:
        return [point for part in self.parts for point in part.points()]


def unique(points: Sequence[Point]) -> list[Point]:
    """The points, checked for names that occur twice.

    Raises:
        UserError: two points of one name (a run's name must tell it from the others).
    """
    seen: dict[str, Point] = {}
    for point in points:
        if point.name in seen:
            raise UserError(
                f"study.grid yields two runs called {point.name!r}; "
                "give their levels different names"
            )
        seen[point.name] = point
    return list(points)


def _join(points: Sequence[Point]) -> Point:
    result = Point()
    for point in points:
        result = result.joined(point)
    return result
