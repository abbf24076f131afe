"""Factors of a person's own (``factor.<name>``): which of them say more than the recorded facts.

A grid names what its axes vary. Most axes vary a fact that the table records ("pretraining data"),
several that are tested one by one ("model": architecture and size), or seeds. Such a factor is
tested under the facts' own names. A factor of facts that only change together is tested as one, and
one that changes no recorded fact is a factor like any other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from lossline.matching.changes import Changes
from lossline.matching.run_facts import NOT_RECORDED, RunFacts
from lossline.options.roles import SIZE, Role, fact_of

__all__ = ["own_factors"]

Reduce = Callable[[frozenset[str]], frozenset[str]]


def own_factors(
    facts: RunFacts, reduce: Reduce, changes: frozenset[frozenset[str]]
) -> dict[str, frozenset[str]]:
    """The own factors to test, each with the recorded facts that only change together with it
    (none: no recorded fact tells its levels apart).

    Args:
      facts: of the runs.
      reduce: a set of facts in which two runs differ -> the same without what owners bring along.
      changes: every such set that occurs.
    """
    found: dict[str, frozenset[str]] = {}
    for name in facts.own.columns:
        if _renames_another_role(facts, name):
            continue
        smallest = list(_smallest_changes(facts, name, reduce))
        parts = frozenset(part for change in smallest for part in change) - set(facts.own.columns)
        if not smallest:
            continue
        if parts and all(_is_tested(part) and frozenset({part}) in changes for part in parts):
            continue  # tested one by one
        found[str(name)] = parts
    return found


def _is_tested(column: str) -> bool:
    """Whether a recorded fact is a factor of its own; the shape of a model is not."""
    fact = fact_of(column)
    return column == SIZE or (fact is not None and fact.role is Role.FACTOR)


def _smallest_changes(facts: RunFacts, name: str, reduce: Reduce) -> Iterator[frozenset[str]]:
    """For each two levels of an own factor, what else differs between the two runs of them that are
    most alike."""
    rest = [other for other in facts.own.columns if other != name]
    runs = Changes(pd.concat([facts.factors, facts.own[rest]], axis=1))
    level = facts.own[name].to_numpy(str)
    recorded = sorted(set(level) - {NOT_RECORDED})
    for first, second in itertools.combinations(recorded, 2):
        others = np.flatnonzero(level == second)
        pairs = ((int(row), others) for row in np.flatnonzero(level == first))
        found = [(reduce(change), len(change)) for change in runs.between(pairs)]
        yield min(found, key=lambda item: (len(item[0]), item[1], sorted(item[0])))[0]


def _renames_another_role(facts: RunFacts, name: str) -> bool:
    """Whether the levels are those of a seed, a length or an implementation by another name."""
    own = facts.own[name]
    known = own != NOT_RECORDED
    return any(
        column[known].nunique() == own[known].nunique()
        and bool((column[known].groupby(own[known]).nunique() == 1).all())
        for _, column in facts.others.items()
    )
