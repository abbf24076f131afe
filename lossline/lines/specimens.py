"""Enumerate the lines to fit: every pair of axes of every group, with its points.

A specimen whose losses cannot be paired carries the reason, so that the others are still fitted.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lossline.errors import UserError
from lossline.lines.groups import GROUP_BY, Group, split
from lossline.tables.frames import kinds_of
from lossline.tables.pairing import Measurements, Pairs, pair_groups, same_checkpoints
from lossline.tables.schema import OWN_SET, SetKind


class LineKind(enum.StrEnum):
    """Kind of line, by its axes. "Train" is the validation loss on a run's own pretraining set."""

    TRAIN_TO_TRAIN = "train-to-train"
    TRAIN_TO_TEST = "train-to-test"
    TRAIN_TO_TASK = "train-to-task"
    TEST_TO_TEST = "test-to-test"
    VALIDATION_TO_VALIDATION = "validation-to-validation"
    VALIDATION_TO_TASK = "validation-to-task"
    OTHER = "other"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Specimen:
    """One line to fit.

    Attributes:
        x_set: evaluation set of the x axis.
        y_set: evaluation set of the y axis.
        group: facts of the runs of x.
        kind: kind of line.
        unit: "loss" or "bits_per_byte".
        y_group: facts of the runs of y; empty if they are the same runs.
        pairs: pairs of losses, or None.
        message: why there are no pairs; else empty.
    """

    x_set: str
    y_set: str
    group: Mapping[str, Any]
    kind: LineKind
    unit: str
    y_group: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pairs: Pairs | None = None
    message: str = ""


def _kinds(table: pd.DataFrame, *names: str) -> dict[str, str]:
    """Return the kind of each evaluation set; names must be among them."""
    kinds = kinds_of(table)
    for name in names:
        if name not in kinds:
            known = ", ".join(sorted(map(str, kinds)))
            raise UserError(f"eval_set {name!r} is not in the table; it has {known}")
    return kinds


def kind_of(x_set: str, y_set: str, y_kind: str) -> LineKind:
    """Return the kind of a line between two sets of the same runs."""
    task = y_kind == SetKind.TASK
    if x_set == OWN_SET:
        return LineKind.TRAIN_TO_TASK if task else LineKind.TRAIN_TO_TEST
    return LineKind.VALIDATION_TO_TASK if task else LineKind.VALIDATION_TO_VALIDATION


def within_groups(
    table: pd.DataFrame, *, x_sets: Sequence[str] | None = None,
    y_sets: Sequence[str] | None = None, group_by: Sequence[str] = GROUP_BY, unit: str = "loss",
) -> list[Specimen]:  # fmt: skip
    """Return one specimen per group and (x set, y set), x != y, each from the same checkpoints.

    Args:
        table: a loss table.
        x_sets: sets of the x axis; all validation sets by default.
        y_sets: sets of the y axis; all sets but ``own`` by default.
        group_by: facts that the runs of one line share.
        unit: "loss" or "bits_per_byte".

    Raises:
        UserError: a set or a fact is not in the table.
    """
    kinds = _kinds(table, *(x_sets or ()), *(y_sets or ()))
    if x_sets is None:
        x_sets = sorted(name for name, kind in kinds.items() if kind == SetKind.VALIDATION)
    if y_sets is None:
        y_sets = sorted(name for name in kinds if name != OWN_SET)
    found = []
    for group in split(table, group_by):
        measured = Measurements(group.table, unit)
        rows = {name: _rows(measured, name) for name in {*x_sets, *y_sets}}
        for x_set in x_sets:
            for y_set in y_sets:
                if x_set != y_set:
                    specimen = Specimen(
                        x_set=x_set, y_set=y_set, group=group.facts,
                        kind=kind_of(x_set, y_set, kinds[y_set]), unit=unit,
                    )  # fmt: skip
                    found.append(_within(specimen, rows[x_set], rows[y_set]))
    return found


def _rows(measured: Measurements, eval_set: str) -> pd.DataFrame | UserError:
    """Return the measurements on one set, or the error in them."""
    try:
        return measured.of_set(eval_set)
    except UserError as mistake:
        return mistake


def _within(empty: Specimen, x: pd.DataFrame | UserError, y: pd.DataFrame | UserError) -> Specimen:
    """Return the specimen with the pairs of its two sets, or with the error in one of them."""
    for rows in (x, y):
        if isinstance(rows, UserError):
            return dataclasses.replace(empty, message=str(rows))
    return dataclasses.replace(empty, pairs=same_checkpoints(x, y))


def between_groups(
    table: pd.DataFrame, *, vary: Sequence[str], x_set: str | None = None,
    y_set: str | None = None, group_by: Sequence[str] = GROUP_BY, unit: str = "loss",
) -> list[Specimen]:  # fmt: skip
    """Return one specimen per ordered pair of groups that differ only in facts of ``vary``.

    Their losses are paired at equal (N, D). Both sets default to the runs' own (train-to-train);
    the y set defaults to a named x set (test-to-test).

    Raises:
        UserError: a set or a fact is not in the table, or ``vary`` has a fact that ``group_by``
            lacks.
    """
    x_set = x_set or OWN_SET
    y_set = y_set or x_set
    kinds = _kinds(table, x_set, y_set)
    unknown = [name for name in vary if name not in group_by]
    if unknown or not vary:
        raise UserError(
            f"vary = {', '.join(unknown) or 'empty'}: must name facts of group_by "
            f"({', '.join(group_by)})."
        )
    kind = LineKind.TEST_TO_TEST
    if x_set == OWN_SET:
        kind = LineKind.TRAIN_TO_TRAIN if y_set == OWN_SET else kind_of(x_set, y_set, kinds[y_set])
    fixed = [name for name in group_by if name not in vary]
    groups = split(table, group_by)
    return [
        _between(one, other, x_set, y_set, kind, unit)
        for one in groups
        for other in groups
        if one is not other and all(one.facts[name] == other.facts[name] for name in fixed)
    ]


def _between(
    one: Group, other: Group, x_set: str, y_set: str, kind: LineKind, unit: str
) -> Specimen:
    """Return the specimen of two groups, with pairs or a message."""
    empty = Specimen(
        x_set=x_set, y_set=y_set, group=one.facts, y_group=other.facts, kind=kind, unit=unit
    )
    try:
        pairs = pair_groups(one.table, other.table, x_set, y_set, unit=unit)
    except UserError as mistake:
        return dataclasses.replace(empty, message=str(mistake))
    return dataclasses.replace(empty, pairs=pairs)
