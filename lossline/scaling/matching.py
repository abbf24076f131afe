"""Runs that differ in one fact only: the comparisons that a study allows, and the ones it does not.

A factor is tested on groups of runs that agree in every other recorded fact. What never changes
alone is confounded, and is named with the facts that change along.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

__all__ = ["FACTORS", "SIZE", "Design", "MatchedGroup", "design"]

SIZE = "params"

# Column of the loss table -> how a sentence calls it.
FACTORS: dict[str, str] = {
    "pretraining_data": "the pretraining data",
    "tokenizer": "the tokenizer",
    "architecture": "the architecture",
    SIZE: "the model size",
    "context_length": "the context length",
    "optimizer": "the optimizer",
    "learning_rate": "the learning rate",
    "weight_decay": "the weight decay",
    "schedule": "the learning-rate schedule",
    "token_selection": "the token selection",
}
# Numbers: more than three levels of them are compared by a trend in their logarithm instead of pair
# by pair.
NUMERIC = (SIZE, "context_length", "learning_rate", "weight_decay")
# Settings that people choose by size; where they only ever change with it, they are part of
# changing the size.
SETTINGS = ("optimizer", "learning_rate", "weight_decay", "schedule")
_FOLLOW_SIZE = ("context_length", "learning_rate", "weight_decay", "schedule")
# Two runs whose parameter counts differ by less are of one size: architectures never agree to the
# last parameter.
SAME_SIZE = 1.2
NOT_RECORDED = "not recorded"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatchedGroup:
    """Runs that agree in all facts but one: `levels` maps each level of that one to its runs."""

    name: str
    levels: dict[str, tuple[str, ...]]

    def only(self, chosen: Sequence[str]) -> MatchedGroup:
        """The same group with these levels alone."""
        return dataclasses.replace(
            self, levels={k: v for k, v in self.levels.items() if k in chosen}
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """The facts of a study's runs.

    Attributes:
      runs: one row per run (index: run_id), one column per factor, as text; sizes as classes of
        equal size.
      size: parameters per run, the count that `size_column` names.
      changes: every set of facts in which two of the runs differ.
    """

    runs: pd.DataFrame
    size: pd.Series
    size_column: str
    changes: frozenset[frozenset[str]]

    def levels(self, factor: str) -> tuple[str, ...]:
        """Levels that occur: numbers in ascending order, words by frequency."""
        if factor in NUMERIC:
            values = self.value(factor)
            order = values.groupby(self.runs[factor]).min().sort_values(na_position="last")
            return tuple(str(level) for level in order.index)
        counts = self.runs[factor].value_counts()
        return tuple(sorted(map(str, counts.index), key=lambda level: (-counts[level], level)))

    def recorded_levels(self, factor: str) -> tuple[str, ...]:
        return tuple(level for level in self.levels(factor) if level != NOT_RECORDED)

    def value(self, factor: str) -> pd.Series:
        """A numeric factor per run as a number, NaN where not recorded."""
        if factor == SIZE:
            return self.size
        return pd.to_numeric(self.runs[factor], errors="coerce")

    def recorded(self, factor: str) -> bool:
        return bool((self.runs[factor] != NOT_RECORDED).any())

    def followers(self) -> tuple[str, ...]:
        """Settings that change with the size and never without it."""
        settings = {*SETTINGS, *_FOLLOW_SIZE}
        alone = {fact for change in self.changes if change <= settings for fact in change}
        candidates = {fact for fact in _FOLLOW_SIZE if fact not in alone}
        found: set[str] = set()
        for change in self.changes:
            if SIZE in change and change - {SIZE} <= candidates:
                found |= change - {SIZE}
        return tuple(fact for fact in _FOLLOW_SIZE if fact in found)

    def companions(self, factor: str) -> tuple[str, ...]:
        """Other settings of the optimizer that change with `factor`, where it never changes without
        them."""
        if factor not in SETTINGS or frozenset({factor}) in self.changes:
            return ()
        together = [
            change for change in self.changes if factor in change and change <= set(SETTINGS)
        ]
        if not together:
            return ()
        fewest = min(together, key=lambda change: (len(change), sorted(change)))
        return tuple(name for name in SETTINGS if name in fewest and name != factor)

    def stands_for(self, factor: str) -> str:
        """The factor under which settings that only change together are tested: the size, or the
        first of them."""
        if factor in self.followers():
            return SIZE
        companions = self.companions(factor)
        return next((name for name in SETTINGS if name == factor or name in companions), factor)

    def groups(self, factor: str, *, pool_sizes: bool = False) -> list[MatchedGroup]:
        """Groups with at least two levels of `factor`, all else equal.

        With `pool_sizes`, runs of all sizes make up a level's line, as where each model is a single
        point of it.
        """
        free = {factor, *self.companions(factor)}
        if pool_sizes or factor == SIZE:
            free |= {SIZE, *self.followers()}
        others = [name for name in self.runs.columns if name not in free]
        grouped = self.runs.groupby(others, sort=True) if others else [((), self.runs)]
        groups, known = [], self.recorded_levels(factor)
        for key, rows in grouped:
            level_of = rows[factor]
            if level_of.nunique() < 2:
                continue
            levels = {level: tuple(map(str, rows.index[level_of == level])) for level in known}
            levels = {level: runs for level, runs in levels.items() if runs}
            if len(levels) > 1:
                groups.append(MatchedGroup(name=self._name(others, key), levels=levels))
        return groups

    def lines(self) -> list[MatchedGroup]:
        """Runs that agree in everything but size (and what follows it), two at least: the runs of
        one line."""
        free = {SIZE, *self.followers()}
        others = [name for name in self.runs.columns if name not in free]
        return [
            MatchedGroup(name="", levels={"": tuple(map(str, rows.index))})
            for _, rows in self.runs.groupby(others)
            if len(rows) > 1
        ]

    def _name(self, others: Sequence[str], key: object) -> str:
        """In words, facts that are the same for all runs left out."""
        values = key if isinstance(key, tuple) else (key,)
        varied = [
            str(value)
            for name, value in zip(others, values, strict=True)
            if self.runs[name].nunique() > 1 and value != NOT_RECORDED
        ]
        return ", ".join(varied) or "all runs"

    def changes_along(self, factor: str) -> tuple[str, ...]:
        """Facts that change wherever `factor` does, of the two runs that are most alike
        otherwise."""
        with_factor = [change - {factor} for change in self.changes if factor in change]
        if not with_factor:
            return ()
        fewest = min(with_factor, key=lambda change: (len(change), sorted(change)))
        return tuple(name for name in self.runs.columns if name in fewest)


def design(table: pd.DataFrame) -> Design:
    """The facts of the runs of a loss table, prepared for matching."""
    facts = table.drop_duplicates("run_id").set_index("run_id").sort_index()
    columns = {
        name: facts[name].map(_text, na_action=None)
        for name in FACTORS
        if name != SIZE and name in facts
    }
    size_column = (
        "params_non_embedding" if facts["params_non_embedding"].notna().all() else "params"
    )
    size = facts[size_column].astype(float)
    columns[SIZE] = size_classes(size)
    columns["source"] = facts["source"].map(_text, na_action=None)
    runs = pd.DataFrame(columns)[[*FACTORS, "source"]].astype(object)
    return Design(runs=runs, size=size, size_column=size_column, changes=_changes(runs))


def _text(value: object) -> str:
    if value is None or value is pd.NA or value != value:
        return NOT_RECORDED
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}"  # 3e-4 written with rounding errors is still 3e-4
    return str(value)


def size_classes(size: pd.Series) -> pd.Series:
    """Sizes in classes: from the smallest on, whatever is within `SAME_SIZE` of a class's smallest
    belongs to it."""
    labels = pd.Series(NOT_RECORDED, index=size.index, dtype=object)
    members: list[str] = []
    for run, value in size.dropna().sort_values(kind="stable").items():
        if members and value > SAME_SIZE * size[members[0]]:
            labels[members] = _size_label(size[members])
            members = []
        members.append(str(run))
    if members:
        labels[members] = _size_label(size[members])
    return labels


def _size_label(sizes: pd.Series) -> str:
    low, high = _short(float(sizes.min())), _short(float(sizes.max()))
    return low if low == high else f"{low}–{high}"


def _short(value: float) -> str:
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g}{unit}"
    return f"{value:.3g}"


def _changes(runs: pd.DataFrame) -> frozenset[frozenset[str]]:
    kinds = runs.drop_duplicates().to_numpy(dtype=str)
    names = np.array(runs.columns)
    found = set()
    for first, second in itertools.combinations(range(len(kinds)), 2):
        found.add(tuple(kinds[first] != kinds[second]))
    return frozenset(frozenset(names[list(mask)]) for mask in found)
