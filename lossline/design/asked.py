"""A question with numbers: its interval now, and the joint uncertainty with all candidates."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import ndtri

from lossline.design.beliefs import Belief
from lossline.design.plan import Candidate, Interval
from lossline.errors import UserError
from lossline.tables.frames import nearest_names

Array = np.ndarray

DATA = "pretraining_data"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """A question about a table, with numbers.

    Attributes:
        words: the question.
        unit: unit of the interval, in words.
        now: the interval without new runs.
        belief: uncertainty of the quantity and of what each choice would measure.
        choices: runs of each choice (M): one, or two that tell something only together.
        notes: sentences on limits of the answer.
    """

    words: str
    unit: str
    now: Interval
    belief: Belief
    choices: tuple[tuple[Candidate, ...], ...]
    notes: tuple[str, ...] = ()


def single(candidates: Sequence[Candidate]) -> tuple[tuple[Candidate, ...], ...]:
    """Return choices of one run each."""
    return tuple((candidate,) for candidate in candidates)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Places:
    """N, D and C of T models.

    Attributes:
        params: N (T,).
        tokens: D (T,).
        flops: C (T,).
    """

    params: Array
    tokens: Array
    flops: Array

    @classmethod
    def of(cls, models: Sequence[Candidate]) -> Places:
        """Return the places of models."""
        columns = ("params", "tokens", "flops")
        return cls(**{name: np.array([getattr(m, name) for m in models]) for name in columns})


def normal_quantile(level: float) -> float:
    """Return half the width of a normal interval, in standard deviations."""
    return float(ndtri((1 + level) / 2))


def of_groups(rows: pd.DataFrame, groups: Sequence[str], *, count: int) -> list[pd.DataFrame]:
    """Return the rows of each value of pretraining_data.

    Args:
        rows: rows of a loss table.
        groups: the values; none if the table has only as many as are needed.
        count: how many the question needs.

    Raises:
        UserError: a value is not in the table, or their number is wrong.
    """
    known = sorted(rows[DATA].dropna().astype(str).unique())
    if not groups and len(known) <= 1 and count == 1:
        return [rows]
    if missing := [name for name in groups if name not in known]:
        raise UserError(
            f"target.groups: no run with {DATA} = {missing[0]!r}. Near names: "
            f"{nearest_names(missing[0], known) or 'none'}."
        )
    if len(groups) != count:
        raise UserError(
            f"target.groups: {len(groups)} given, {count} needed. Choose from {', '.join(known)}."
        )
    if len(set(groups)) != count:
        raise UserError(f"target.groups: {groups[0]!r} is given twice. Give two different sets.")
    return [rows[rows[DATA].astype(str) == name] for name in groups]


def check_groups_of(candidates: Sequence[Candidate], groups: Sequence[str]) -> None:
    """Raise UserError if a candidate has other pretraining data than the question is about."""
    for candidate in candidates:
        name = candidate.facts.get(DATA, "")
        if groups and name and name not in groups:
            raise UserError(
                f"candidates: a run of {candidate.params:.3g} parameters has {DATA} = {name}. "
                f"Give {' or '.join(groups)}."
            )
