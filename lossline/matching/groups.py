"""Match runs that differ in only one factor.

A factor is tested on groups of runs that agree in every other recorded factor. Some facts always
change together with the tested factor: its own options, and settings that never change without it.
They are named in the sentence. Runs of one level in a group differ only in their seeds, so no other
difference counts as run-to-run noise. A factor that never changes alone is confounded; its sentence
names the facts that change with it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from lossline.matching.changes import change_sets
from lossline.matching.own_factors import own_factors
from lossline.matching.run_facts import (
    NOT_APPLICABLE,
    NOT_RECORDED,
    SHAPE,
    SIZE_COLUMNS,
    run_facts,
)
from lossline.options.roles import FACTS, SIZE, Fact, Role, fact_of

TREND_FROM = 4  # a number with this many levels or more is compared by its trend
# Settings that are often chosen by model size. Where such a setting changes only together with the
# size, it counts as part of the size.
_FOLLOW_SIZE = tuple(f.column for f in FACTS if f.setting and f.role is Role.FACTOR)
# Settings that may change only together; the first one that changes then represents all of them.
SETTINGS = tuple(
    f.column
    for f in FACTS
    if f.role is Role.FACTOR
    and (f.setting or f.column == "optimizer")
    and f.owner != "architecture"
    and f.column != "context_length"
)


def label_of(column: str) -> str:
    """Return the name of a fact in a sentence."""
    fact = fact_of(column)
    names = {"source": "the source of the measurements", SHAPE: "the shape of the model"}
    return names.get(column, column) if fact is None else fact.label


def is_numeric(column: str) -> bool:
    """Return whether the levels of a factor are numbers.

    With at least ``TREND_FROM`` levels, numbers are compared by a trend in their logarithm instead
    of pair by pair.
    """
    fact = fact_of(column)
    return fact is not None and fact.numeric


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatchedGroup:
    """Runs that agree in all facts except one.

    Attributes:
        name: name of the group.
        levels: level of the fact that varies -> its runs.
        facts: fact in which the runs agree -> its level.
    """

    name: str
    levels: dict[str, tuple[str, ...]]
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def runs(self) -> tuple[str, ...]:
        """Runs of all levels."""
        return tuple(run for runs in self.levels.values() for run in runs)

    def only(self, chosen: Sequence[str]) -> MatchedGroup:
        """Return the group with only these levels."""
        return dataclasses.replace(
            self, levels={k: v for k, v in self.levels.items() if k in chosen}
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """Facts of the runs of a study.

    Attributes:
        runs: one row per run (index: run_id), one column per factor, as text. Model sizes are
            classes of nearly equal size.
        size: parameters per run.
        size_column: column of the loss table that ``size`` comes from.
        changes: every set of facts in which two of the runs differ, without the options in
            ``brought``.
        brought: owner (such as the architecture) -> its own options that change with it: options
            that some of its levels do not have, and options with one value per level.
        composite: the user's own factor -> the recorded facts that change only together with it.
    """

    runs: pd.DataFrame
    size: pd.Series
    size_column: str
    changes: frozenset[frozenset[str]]
    brought: Mapping[str, tuple[str, ...]]
    composite: Mapping[str, frozenset[str]]

    @property
    def matched(self) -> list[str]:
        """Columns in which matched runs must agree, except the ones under test."""
        return [name for name in self.runs.columns if name not in self.composite]

    def listed(self) -> list[str]:
        """Return the factors to report.

        These are the principal ones, the others that vary, and the shape of the model if models of
        one size differ in it.
        """
        varied = {fact for change in self.changes for fact in change}
        columns = [f.column for f in FACTS if f.principal] + [
            name
            for name in self.runs.columns
            if (fact := fact_of(name)) is not None
            and fact.role is Role.FACTOR
            and not fact.principal
            and (name in varied or name in self.composite)
            and self.stands_for(name) == name
        ]
        shape = [SHAPE] if frozenset({SHAPE}) in self.changes else []
        return [*sorted(columns, key=_order), *shape]

    def pairs(self, factor: str) -> list[tuple[str, ...]]:
        """Return the pairs of levels to compare; for shapes, only pairs within one model size."""
        pairs: list[tuple[str, ...]] = list(itertools.combinations(self.recorded_levels(factor), 2))
        if factor != SHAPE:
            return pairs
        together = [set(group.levels) for group in self.groups(SHAPE)]
        return [pair for pair in pairs if any(set(pair) <= levels for levels in together)]

    def levels(self, factor: str) -> tuple[str, ...]:
        """Return the levels that occur: numbers in ascending order, words by frequency."""
        if factor not in self.runs:
            return ()
        if is_numeric(factor):
            values = self.value(factor)
            order = values.groupby(self.runs[factor]).min().sort_values(na_position="last")
            return tuple(str(level) for level in order.index)
        counts = self.runs[factor].value_counts()
        return tuple(sorted(map(str, counts.index), key=lambda level: (-counts[level], level)))

    def recorded_levels(self, factor: str) -> tuple[str, ...]:
        """Return the levels that are real values: not "not recorded" or "not applicable"."""
        no_values = (NOT_RECORDED, NOT_APPLICABLE)
        return tuple(level for level in self.levels(factor) if level not in no_values)

    def value(self, factor: str) -> pd.Series:
        """Return a numeric factor per run; NaN where it is not recorded."""
        if factor == SIZE:
            return self.size
        return pd.to_numeric(self.runs[factor], errors="coerce")

    def trend_of(self, factor: str) -> pd.Series | None:
        """Return a numeric factor per run if all its recorded levels are positive, else None."""
        if not is_numeric(factor):
            return None
        recorded = self.runs[factor].isin(self.recorded_levels(factor))
        values = self.value(factor)
        return values if bool((values[recorded] > 0).all()) else None

    def recorded(self, factor: str) -> bool:
        """Return whether at least one run records the factor."""
        return factor in self.runs and bool((self.runs[factor] != NOT_RECORDED).any())

    def followers(self) -> tuple[str, ...]:
        """Return the settings that change with the model size and never without it."""
        settings = {*SETTINGS, *_FOLLOW_SIZE}
        alone = {fact for change in self.changes if change <= settings for fact in change}
        candidates = {fact for fact in _FOLLOW_SIZE if fact not in alone}
        found: set[str] = set()
        for change in self.changes:
            if SIZE in change and change - {SIZE} <= candidates:
                found |= change - {SIZE}
        return tuple(fact for fact in _FOLLOW_SIZE if fact in found)

    def companions(self, factor: str) -> tuple[str, ...]:
        """Return the facts that change with a factor, if it never changes without them."""
        if factor in self.composite:
            return tuple(sorted(self.composite[factor], key=_order))
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
        """Return the factor that represents a group of facts that change only together.

        It is the user's own factor, the model size, the owner of an option, or the first setting of
        the group. A factor that can change alone represents itself.
        """
        if factor in self.composite:
            return factor
        for own, parts in self.composite.items():
            if factor in parts and frozenset({factor}) not in self.changes:
                return own
        if factor in self.followers():
            return SIZE
        fact = fact_of(factor)
        owner = fact.owner if fact is not None else ""
        if factor in self.brought.get(owner, ()) and frozenset({factor}) not in self.changes:
            return self.stands_for(owner)
        companions = self.companions(factor)
        return next((name for name in SETTINGS if name == factor or name in companions), factor)

    def along(self, factor: str) -> tuple[str, ...]:
        """Return the facts that a sentence names as changing along with the factor.

        These are its followers or companions, and those of their own options that every level has.
        """
        named = self.followers() if factor == SIZE else self.companions(factor)
        own = [
            option
            for owner in (factor, *named)
            for option in self.brought.get(owner, ())
            if len(self.recorded_levels(option)) > 1
            and NOT_APPLICABLE not in set(self.runs[option])
            and option not in SIZE_COLUMNS
        ]
        return tuple(dict.fromkeys([*named, *own]))

    def groups(self, factor: str, *, pool_sizes: bool = False) -> list[MatchedGroup]:
        """Return the groups with at least two levels of a factor and everything else equal.

        Args:
            factor: factor under test.
            pool_sizes: let the line of a level hold runs of all model sizes. Needed for tables
                where each model is a single point of a line.
        """
        free, alike = self._freed(factor, pool_sizes=pool_sizes)
        others = [name for name in self.matched if name not in free]
        kind = self._kind([name for name in self.matched if name in alike])
        grouped = self.runs.groupby(others, sort=True) if others else [((), self.runs)]
        found, known = [], self.recorded_levels(factor)
        for key, rows in grouped:
            levels = _runs_of_levels(rows[factor], known, kind)
            if len(levels) > 1:
                values = key if isinstance(key, tuple) else (key,)
                facts = dict(zip(others, map(str, values), strict=True))
                found.append(MatchedGroup(name=self._name(facts), levels=levels, facts=facts))
        names = _unique([group.name for group in found])
        return [
            dataclasses.replace(group, name=name) for name, group in zip(names, found, strict=True)
        ]

    def _freed(self, factor: str, *, pool_sizes: bool) -> tuple[set[str], set[str]]:
        """Facts in which the runs of a group may differ.

        The second set is the part of these in which the runs of one level must still agree.
        """
        tested = {factor, *self.companions(factor)}
        alike = {option for name in tested for option in self.brought.get(name, ())}
        size = {SIZE, *SIZE_COLUMNS, *self.followers()}
        if pool_sizes:
            return tested | alike | size, alike - size
        if factor == SIZE:
            return tested | alike | size, alike | set(SIZE_COLUMNS)
        if "architecture" in tested:
            alike |= set(SIZE_COLUMNS)
        return tested | alike, alike

    def lines(self) -> list[MatchedGroup]:
        """Return the groups of at least two runs that differ only in size and what follows it.

        Each group forms one line.
        """
        free = {SIZE, *SIZE_COLUMNS, *self.followers()}
        others = [name for name in self.matched if name not in free]
        return [
            MatchedGroup(name="", levels={"": tuple(map(str, rows.index))})
            for _, rows in self.runs.groupby(others)
            if len(rows) > 1
        ]

    def _kind(self, columns: Sequence[str]) -> pd.Series:
        """An integer per run that numbers the combinations of these columns, commonest first."""
        if not columns:
            return pd.Series(0, index=self.runs.index)
        texts = self.runs[list(columns)].agg("\n".join, axis=1)
        counts = texts.value_counts()
        ranked = sorted(counts.index, key=lambda text: (-int(counts[text]), text))
        return texts.map({text: rank for rank, text in enumerate(ranked)})

    def _name(self, facts: Mapping[str, str]) -> str:
        """Name of a group; facts that are the same for all runs are left out."""
        varied = [
            value
            if (fact := fact_of(name)) is None or not fact.option or fact.principal
            else f"{fact.option} {value}"
            for name, value in facts.items()
            if name not in SIZE_COLUMNS
            and self.runs[name].nunique() > 1
            and value not in (NOT_RECORDED, NOT_APPLICABLE)
        ]
        return ", ".join(varied) or "all runs"

    def lacking(self, factor: str, runs: Iterable[str]) -> tuple[str, ...]:
        """Return the facts that at least one of these runs does not record.

        They cannot be held equal when a factor is compared.
        """
        rows = self.runs.loc[list(runs)]
        tested = {factor, *self.along(factor), "source", *SIZE_COLUMNS}
        partly = [name for name in self.matched if bool((rows[name] == NOT_RECORDED).any())]
        never = [name for name in self.listed() if not self.recorded(name)]
        return tuple(n for n in dict.fromkeys([*map(str, partly), *never]) if n not in tested)

    def changes_along(self, factor: str) -> tuple[str, ...]:
        """Return the facts that change with a factor between the two most similar runs."""
        with_factor = [change - {factor} for change in self.changes if factor in change]
        if not with_factor:
            return ()
        fewest = min(with_factor, key=lambda change: (len(change), sorted(change)))
        return tuple(name for name in self.runs.columns if name in fewest)


def _runs_of_levels(
    level_of: pd.Series, known: Sequence[str], kind: pd.Series
) -> dict[str, tuple[str, ...]]:
    """Runs of each known level, all of one kind."""
    members = {level: level_of.index[level_of == level] for level in known}
    return {
        level: tuple(map(str, _of_one_kind(runs, kind)))
        for level, runs in members.items()
        if len(runs)
    }


def _of_one_kind(runs: pd.Index, kind: pd.Series) -> pd.Index:
    """The runs of the commonest kind: differences to others would count as run-to-run noise."""
    kinds = kind[runs]
    return runs[(kinds == kinds.min()).to_numpy()]


def _unique(names: Sequence[str]) -> list[str]:
    """The names, with a number added to duplicates."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return result


def _order(column: str) -> int:
    """Position in the list of facts; the user's own factors come last."""
    columns = [fact.column for fact in FACTS]
    return columns.index(column) if column in columns else len(columns)


def design(table: pd.DataFrame) -> Design:
    """Return the facts of the runs of a loss table, prepared for matching."""
    facts = run_facts(table)
    brought = _brought(facts.factors)
    changes = _all_reduced(change_sets(facts.factors), brought)
    own = own_factors(facts, lambda change: _reduced(change, brought), changes)
    runs = pd.concat([facts.factors, facts.own[list(own)]], axis=1)
    composite = {name: parts for name, parts in own.items() if parts}
    if unexplained := [name for name, parts in own.items() if not parts]:
        columns = [*facts.factors.columns, *unexplained]
        changes = _all_reduced(change_sets(runs[columns]), brought)
    return Design(
        runs=runs,
        size=facts.size,
        size_column=facts.size_column,
        changes=changes,
        brought=brought,
        composite=composite,
    )


def _brought(runs: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Map each owner to its own options that change along with it."""
    found: dict[str, list[str]] = {}
    for name in runs.columns:
        fact: Fact | None = fact_of(name)
        if fact is None or not fact.owner or runs[name].nunique() < 2:
            continue
        values = runs[name].groupby(runs[fact.owner])
        lacking = values.apply(lambda level: bool((level == NOT_APPLICABLE).all()))
        if lacking.any() or bool((values.nunique() == 1).all()):
            found.setdefault(fact.owner, []).append(name)
    return {owner: tuple(names) for owner, names in found.items()}


def _all_reduced(
    changes: frozenset[frozenset[str]], brought: Mapping[str, Sequence[str]]
) -> frozenset[frozenset[str]]:
    """Changes, each without the facts that change along with another fact of it.

    A change that is then empty is left out.
    """
    return frozenset(kept for change in changes if (kept := _reduced(change, brought)))


def _reduced(change: frozenset[str], brought: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """A change without the facts that change along.

    Dropped are the own options of an owner that changes, and the dimensions of the model if its
    size or architecture changes.
    """
    along = {option for owner in change for option in brought.get(owner, ())}
    if SIZE in change or "architecture" in change:
        along |= set(SIZE_COLUMNS)
    return change - along
